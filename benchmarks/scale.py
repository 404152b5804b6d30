"""Tens of thousands of hours, rehearsed: what a run does before its first update, on a made index.

python benchmarks/scale.py --hours 600 6000 60000 --output_file scale.json

The index has the lengths of speech that was cut at pauses, and three corpora of the sizes of Libri-light's; behind
every row lies one file of near silence. Each stage runs in a process of its own, which tells the seconds that it
computed and the memory that it took: preparing (reading headers), the facts of the record, mixing (an epoch's rows by
weights), batching, the sample for k-means, and preflight with a tiny model. Headers are read of a hundredth of the
hours: each row is read alone. The table tells how time and memory grow from size to size, and what a cluster would wait
for.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
from datasets import Dataset, disable_progress_bars
from measuring import processor

from hf_ssl_speech.data.batching import DurationBatchSampler
from hf_ssl_speech.data.data_facts import SkipReport, split_facts
from hf_ssl_speech.data.mixing import mixture_of
from hf_ssl_speech.data.preparing import prepare_speech
from hf_ssl_speech.data.rows import numbers
from hf_ssl_speech.files import write_json
from hf_ssl_speech.markdown import table
from hf_ssl_speech.units.kmeans_units import _choose

SAMPLE_RATE = 16_000
SHARES = {"small": 0.01, "medium": 0.09, "large": 0.9}  # of unlab-600, unlab-6k and unlab-60k, each without the former
WEIGHTS = {"small": 1.0, "medium": 2.0, "large": 7.0}
ROWS_AT_ONCE = 1_000_000
BOOK_SECONDS = 3600  # of the file behind the rows
BATCH_SECONDS, MAX_SECONDS, HEADERS = 87.5, 15.6, 0.01
GPUS = (8, 64, 512)
STAGES = ("preparing", "facts", "mixing", "batching", "sampling", "preflight")


def make_index(folder: Path, hours: float) -> Path:
    """Writes prepared rows of so many hours, as `prepare_speech` gives them; nothing is held as a whole."""
    path, generator, row = folder / f"{hours:g}.arrow", np.random.default_rng(0), 0
    if path.exists():
        return path
    book = str(folder / "book.flac")
    if not Path(book).exists():
        noise = np.random.default_rng(1).integers(-2, 3, BOOK_SECONDS * SAMPLE_RATE).astype(np.int16)
        soundfile.write(book, noise, SAMPLE_RATE)
    schema = pa.schema([("name", pa.string()), ("sample_id", pa.int64()), ("num_samples", pa.int64()),
                        ("start", pa.int64()), ("audio", pa.string()), ("corpus", pa.string())])  # fmt: skip
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for corpus, share in SHARES.items():
            missing = share * hours * 3600
            while missing > 0:
                # Four of five pieces are nearly as long as they may be, the others end with a chapter or a long pause.
                number = min(ROWS_AT_ONCE, int(missing / 11.4) + 1)
                long = generator.random(number) < 0.8
                seconds = np.where(long, generator.uniform(10, MAX_SECONDS, number), generator.uniform(2, 10, number))
                samples = (seconds * SAMPLE_RATE).astype(np.int64)
                starts = generator.integers(0, (BOOK_SECONDS - 20) * SAMPLE_RATE, number)
                names = [f"{corpus}/{each // 300} at {each % 300}" for each in range(row, row + number)]
                columns = [names, np.arange(row, row + number), samples, starts, [book] * number, [corpus] * number]
                writer.write_batch(pa.record_batch(list(map(pa.array, columns)), schema=schema))
                missing, row = missing - seconds.sum(), row + number
    return path


def run_stage(stage: str, path: Path) -> dict[str, Any]:
    """Does what a run does, and tells what it took."""
    disable_progress_bars()
    rows = Dataset.from_file(str(path))
    if stage == "preparing":
        rows = rows.select(np.arange(int(len(rows) * HEADERS)))
        starts, lengths = (np.array(rows[column][:]) / SAMPLE_RATE for column in ("start", "num_samples"))
        parts = {"segment_start": starts, "segment_end": starts + lengths}
        rows = Dataset.from_dict({"id": rows["name"][:], "audio": rows["audio"][:], **parts})
    started, before = time.process_time(), most_memory()
    if stage == "preparing":
        prepare_speech(rows, min_seconds=2.0, max_seconds=MAX_SECONDS)
    elif stage == "facts":
        split_facts("index", rows, SkipReport(len(rows)))
    elif stage == "mixing":
        mixture_of(rows, WEIGHTS, {}, MAX_SECONDS).draw(1, seed=0)
    elif stage == "batching":
        lengths = numbers(rows, "num_samples")
        settings = {"batch_seconds": BATCH_SECONDS, "max_seconds": MAX_SECONDS}
        next(iter(DurationBatchSampler(lengths, **settings, mixture=mixture_of(rows, WEIGHTS, {}, MAX_SECONDS))))
    elif stage == "sampling":
        _choose(rows, 0.1, 0, mixture_of(rows, WEIGHTS, {}, MAX_SECONDS).repeats())
    else:
        run_preflight(rows)
    seconds, gigabytes = time.process_time() - started, most_memory() - before
    return {"seconds": seconds, "rows": len(rows), "gigabytes": gigabytes}


def most_memory() -> float:
    """The most gigabytes that this process had in memory at one time; what it read of the index on the disk counts."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def run_preflight(rows: Dataset):
    """All checks before a pretraining, with the trainer that they look at."""
    from hf_ssl_speech import SpeechPreTrainer, SpeechPreTrainingArguments, SSLWav2Vec2Config, SSLWav2Vec2ForPreTraining
    from hf_ssl_speech.recipes.running import preflight
    from hf_ssl_speech.training.resume import run_identity

    with tempfile.TemporaryDirectory() as folder:
        args = SpeechPreTrainingArguments(
            output_dir=folder, use_cpu=True, max_steps=1000, batch_seconds=BATCH_SECONDS, weights=WEIGHTS,
            disable_tqdm=True, dataloader_num_workers=0,
        )  # fmt: skip
        model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config.preset("tiny"))
        trainer = SpeechPreTrainer(model, args, rows)
        facts = {"train": split_facts("index", rows, SkipReport(len(rows)))}
        identity = run_identity(model.config, {"train": facts["train"]["fingerprint"]}, args)
        preflight(trainer, {"identity": identity, "data": facts})


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, nargs="+", default=[600, 6000, 60000])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "scale"))
    parser.add_argument("--output_file", type=Path, help="what was measured is added to it")
    parser.add_argument("--only", nargs=2, metavar=("STAGE", "INDEX"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.only:
        print(json.dumps(run_stage(args.only[0], Path(args.only[1]))))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    found = json.loads(args.output_file.read_text()) if args.output_file and args.output_file.exists() else {}
    for hours in args.hours:
        index = make_index(args.folder, hours)
        for stage in args.stages:
            environment = os.environ | {"HF_DATASETS_CACHE": tempfile.mkdtemp(dir=args.folder)}
            words = [sys.executable, __file__, "--only", stage, str(index)]
            result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
            if result.returncode:
                raise SystemExit(result.stderr[-2000:])
            cache = Path(environment["HF_DATASETS_CACHE"])
            written = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
            measured = json.loads(result.stdout.splitlines()[-1]) | {"disk_gigabytes": written / 1e9}
            found.setdefault("stages", {}).setdefault(stage, {})[f"{hours:g}"] = measured
            found |= {"processor": processor(), "headers_share": HEADERS}
            print(f"{hours:,.0f} h, {stage}: {measured}", flush=True)
            if args.output_file:
                write_json(found, args.output_file)
    print(shown(found))


def shown(found: dict[str, Any]) -> str:
    """A row for each stage, and what clusters would wait for before the first update of the largest index."""
    sizes = sorted({float(size) for stage in found["stages"].values() for size in stage})
    lines = []
    for stage, measured in found["stages"].items():
        cells = [measured.get(f"{size:g}") for size in sizes]
        lines.append(
            [stage, *(f"{each['seconds']:.1f} s, {each['gigabytes']:.1f} GB" if each else "" for each in cells)]
        )
    text = table(["stage", *(f"{size:,.0f} hours" for size in sizes)], lines)
    last = {
        stage: measured[f"{sizes[-1]:g}"] for stage, measured in found["stages"].items() if f"{sizes[-1]:g}" in measured
    }
    if {"batching", "preflight"} <= set(last):
        wait = sum(last[stage]["seconds"] for stage in ("batching", "preflight"))
        waits = [f"{gpus} GPUs: {gpus * wait / 3600:.1f} GPU hours" for gpus in GPUS]
        text += f"\n\nEvery process waits {wait:.0f} s before the first update: {', '.join(waits)}."
    if "preparing" in last:
        rows = last["preparing"]["rows"]
        text += f"\n{rows / last['preparing']['seconds']:,.0f} headers a second and process are read, once."
    return text


if __name__ == "__main__":
    main()
