"""Reading audio, and the batches of very many rows: CPU time of one thread.

    python benchmarks/loading.py --output_file docs/measured/loading.json

A minute of noise at 16 kHz is encoded in several formats, and decoded by libsndfile and by FFmpeg (PyAV); of formats
without loss both must give the same samples. Beside them are 16-bit samples, as the cache of decoded audio has them.
The batches are those of one of 64 ranks in an epoch of 15 million rows, 52,000 hours, in a process of its own.
"""

import io
import json
import resource
import subprocess
import sys
import time

import numpy as np
import soundfile
import soxr
import torch
from datasets import Dataset
from measuring import arguments, machine, side_by_side, write_results

from hf_ssl_speech.audio import INT16_SCALE, SAMPLE_RATE, to_int16
from hf_ssl_speech.data.batching import DurationBatchSampler
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.decoders import AvDecoder, EncodedBytes, SoundFileDecoder

FORMATS = {"WAV": ("WAV", "PCM_16"), "FLAC": ("FLAC", "PCM_16"), "MP3": ("MP3", None), "Opus": ("OGG", "OPUS")}
LOSSY = ("MP3", "Opus")
ROWS, RANKS, BATCH_SECONDS, MAX_SECONDS = 15_000_000, 64, 87.5, 15.6


def decode(decoder: type, encoded: bytes) -> np.ndarray:
    opened = decoder(EncodedBytes(encoded))
    waveform = np.concatenate(list(opened.blocks(0, None, None)))
    return soxr.resample(waveform, opened.rate, SAMPLE_RATE)  # FFmpeg decodes Opus at 48 kHz


def measure_format(name: str, waveform: np.ndarray, calls: int, rounds: int) -> dict:
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format=FORMATS[name][0], subtype=FORMATS[name][1])
    encoded = file.getvalue()
    one, other = decode(SoundFileDecoder, encoded), decode(AvDecoder, encoded)
    difference = float(np.abs(one[: len(other)] - other[: len(one)]).max())
    if name not in LOSSY and (len(one) != len(other) or difference > 1 / INT16_SCALE):
        raise SystemExit(f"{name}: libsndfile and FFmpeg differ by {difference:.1e}.")
    variants = {
        label: lambda decoder=decoder: [decode(decoder, encoded) for _ in range(calls)]
        for label, decoder in {"libsndfile": SoundFileDecoder, "FFmpeg": AvDecoder}.items()
    }
    return side_by_side(name, variants, rounds, 1, audio_seconds=calls * len(waveform) / SAMPLE_RATE)


def measure_cache(waveform: np.ndarray, calls: int, rounds: int) -> dict:
    row = {"name": "0", "sample_id": 0, "num_samples": len(waveform), "samples": to_int16(waveform)}
    rows = Dataset.from_list([row] * calls).with_format("numpy", ["samples"], output_all_columns=True, dtype="int16")
    read = {"the cache": lambda: [row_waveform(each) for each in rows]}
    return side_by_side("decoded, 16 bits", read, rounds, 1, audio_seconds=calls * len(waveform) / SAMPLE_RATE)


def measure_batches(rows: int) -> dict:
    """Runs in a process of its own, whose peak of memory is that of the batches."""
    torch.set_num_threads(1)
    lengths = np.random.default_rng(0).gamma(6, 2.1, rows).clip(1, 30)
    hours, lengths = lengths.sum() / 3600, (lengths * SAMPLE_RATE).astype(np.int64)
    start = time.process_time()
    settings = dict(batch_seconds=BATCH_SECONDS, max_seconds=MAX_SECONDS, num_replicas=RANKS, rank=RANKS // 2)
    batches = sum(1 for _ in DurationBatchSampler(lengths, **settings))
    seconds = time.process_time() - start
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "work": f"an epoch of {rows:,} rows, {hours:,.0f} hours, for one of {RANKS} ranks",
        "seconds": {"ours": {"median": seconds, "minimum": seconds, "maximum": seconds}},
        "times_as_fast": {},
        "rounds": 1,
        "batches": batches,
        "peak_gigabytes": gigabytes,
    }


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv, __doc__, 5, only_batches=dict(type=int, metavar="ROWS", help="of so many rows, as JSON"))
    if args.only_batches:
        print(json.dumps(measure_batches(args.only_batches)))
        return
    seconds, calls = (2, 1) if args.quick else (60, 10)
    waveform = (0.1 * np.random.default_rng(0).normal(size=seconds * SAMPLE_RATE)).astype(np.float32)
    cases = [measure_format(name, waveform, calls, args.rounds) for name in FORMATS]
    cases.append(measure_cache(waveform, calls, args.rounds))
    rows = 20_000 if args.quick else ROWS
    done = subprocess.run([sys.executable, __file__, "--only_batches", str(rows)], check=True, stdout=subprocess.PIPE)
    print(done.stdout.decode())
    settings = {"batch_seconds": BATCH_SECONDS, "max_seconds": MAX_SECONDS}
    results = {"machine": machine("soundfile", "av"), "settings": settings, "cases": cases}
    write_results(args.output_file, results | {"batches": json.loads(done.stdout)})


if __name__ == "__main__":
    main()
