"""What noise in pretraining buys: HuBERT with and without it, at equal updates, measured on noise it never heard.

python benchmarks/noise.py --corpora SPEECH --seeds 0 1 2        (again and again, until it says that all is done)
python benchmarks/noise.py --corpora SPEECH --updates 400 --ctc_updates 200 --rows 60        (a small trial)

SPEECH is the folder of the corpora, with `librispeech-mini` and `english-pool`. The noise is made of these: babble of
several speakers, and noise with the spectrum of speech; that of training and that of measuring share no speaker. Each
model gets units of a layer, fitted on clean audio, and a CTC head from ten minutes of clean labels. On validation rows
with noise over the whole of them, at each level: agreement of the units with those of the clean rows (normalised mutual
information), PNMI with the phones, and character errors. `results.json` and a table hold all of it. Every command goes
on where it stopped.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from datasets import Dataset
from measuring import run_commands, words

from hf_ssl_speech import (
    CharacterErrorRate,
    HiddenFeatures,
    KMeansUnits,
    UnitQuality,
    load_recognizer,
    load_speech,
    prepare_speech,
    transcribe,
)
from hf_ssl_speech.audio import to_int16
from hf_ssl_speech.data.distortion import scale_for
from hf_ssl_speech.data.features import rows_of
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.files import write_json
from hf_ssl_speech.markdown import table
from hf_ssl_speech.units.layers import first_hours
from hf_ssl_speech.units.quality import phones_to_frames, unit_agreement

LEVELS = (0, 5, 10, 20)
SOUND_SECONDS, SOUNDS, VOICES = 20, 12, 5
SAMPLE_RATE = 16_000
UNITS, LAYER = 100, 3


def make_noise(folder: Path, source: str, seed: int) -> Path:
    """Writes babble, and noise with the spectrum of speech, from the rows of a source."""
    if folder.exists():
        return folder
    rows, generator = load_speech(source), np.random.default_rng(seed)
    rows, _ = prepare_speech(rows.select(generator.permutation(len(rows))[: SOUNDS * VOICES * 6]), min_seconds=1.0)
    waves = iter([row_waveform(row) for row in rows])
    folder.mkdir(parents=True)
    for number in range(SOUNDS):
        voices = [np.resize(np.concatenate([next(waves) for _ in range(6)]), SOUND_SECONDS * SAMPLE_RATE)
                  for _ in range(VOICES)]  # fmt: skip
        sound = sum(voice / np.sqrt(np.square(voice).mean()) for voice in voices)
        if number % 2:  # the same spectrum, without its phases nobody speaks
            spectrum = np.abs(np.fft.rfft(sound))
            sound = np.fft.irfft(spectrum * np.exp(2j * np.pi * generator.random(len(spectrum))), len(sound))
        soundfile.write(folder / f"{number}.wav", 0.3 * sound / np.abs(sound).max(), SAMPLE_RATE)
    return folder


def commands(arm: str, seed: int, args: argparse.Namespace) -> dict[str, list[str]]:
    """Units of MFCC, HuBERT on them, and a recogniser of ten minutes, by name."""
    folder, mini = args.output_dir, args.corpora / "librispeech-mini"
    validation = {"validation_data": f"{mini}/validation*.parquet"}
    audio = validation | {"train_data": f"{mini}/train*.parquet", "cache_audio": True}
    labels = validation | {"train_data": f"{mini}/train_10min*.parquet"}
    run = folder / f"{arm}-{seed}"
    heard = {"data": [str(folder / "noise-train")], "share": 0.5, "utterances": 0.2}
    noise = {} if arm == "clean" else {"noise": heard}
    return {
        "units": words("units", num_units=UNITS, center=True, restarts=1, output_dir=folder / "units", **audio),
        "hubert": words(
            "pretrain", "hubert_tiny", units=folder / "units", output_dir=run / "hubert", max_steps=args.updates,
            warmup_steps=0.1, eval_strategy="no", save_steps=100, seed=seed, disable_tqdm=True, crop_to_frames=16,
            bf16="auto", **audio, **noise,
        ),
        "ctc": words(
            "finetune", "ctc_tiny", model_name_or_path=run / "hubert", output_dir=run / "ctc",
            max_steps=args.ctc_updates, seed=seed, eval_steps=args.ctc_updates, save_steps=args.ctc_updates,
            disable_tqdm=True, bf16="auto", **labels,
        ),
    }  # fmt: skip


class Noisy:
    """Adds noise, over the whole of a waveform, at a level; the row decides which."""

    def __init__(self, sounds: list[np.ndarray], level: float):
        self.sounds = sounds
        self.level = level

    def __call__(self, waveform: np.ndarray, sample_id: int) -> np.ndarray:
        generator = np.random.default_rng(sample_id)
        sound = self.sounds[int(generator.integers(len(self.sounds)))]
        sound = np.resize(np.roll(sound, int(generator.integers(len(sound)))), len(waveform))
        return (waveform + scale_for(waveform, sound, self.level) * sound).astype(np.float32)


def noisy(row: dict[str, Any], change: Noisy) -> dict[str, Any]:
    """A prepared row with other audio."""
    samples = to_int16(change(row_waveform(row), row["sample_id"]))
    return {"name": row["name"], "sample_id": row["sample_id"], "num_samples": len(samples), "samples": samples}


def measure(run: Path, rows: Dataset, train: Dataset, sounds: list[np.ndarray]) -> list[dict[str, Any]]:
    """The figures of a model at each level; None is the clean audio."""
    source = HiddenFeatures.from_pretrained(str(run / "hubert"), LAYER, center=True, device="cpu")
    units = KMeansUnits.fit(train, source, UNITS, share=1.0, restarts=1, progress=False)
    clean = [row for batch in rows.iter(16) for row in units.predict_rows(rows_of(batch), source)]
    phones = [phones_to_frames(row["phones"], len(found), **units.features.times) for row, found in zip(rows, clean)]
    recognizer, errors = load_recognizer(str(run / "ctc")), CharacterErrorRate()
    measured = []
    for level in (None, *LEVELS):
        change = None if level is None else Noisy(sounds, level)
        heard = source if change is None else source.with_changed_audio(change)
        found = [row for batch in rows.iter(16) for row in units.predict_rows(rows_of(batch), heard)]
        spoken = list(rows) if change is None else [noisy(row, change) for row in rows]
        said = [each.text for each in transcribe(*recognizer, spoken)]
        measured.append(
            {
                "level": level,
                "agreement": unit_agreement(np.concatenate(clean), np.concatenate(found)),
                "pnmi": UnitQuality().compute(predictions=found, references=phones, num_clusters=UNITS)["pnmi"],
                "cer": errors.compute(predictions=said, references=[text.lower() for text in rows["text"]])["cer"],
            }
        )
    return measured


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/noise"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--updates", type=int, default=5000)
    parser.add_argument("--ctc_updates", type=int, default=800)
    parser.add_argument("--rows", type=int, default=250, help="validation rows to measure on (default: all)")
    args = parser.parse_args(argv)
    pool, mini = args.corpora / "english-pool", args.corpora / "librispeech-mini"
    make_noise(args.output_dir / "noise-train", f"{pool}/commonvoice-00000*.parquet", 0)
    unheard = make_noise(args.output_dir / "noise-test", f"{pool}/speechocean*.parquet", 1)
    sounds = [soundfile.read(file, dtype="float32")[0] for file in sorted(unheard.glob("*.wav"))]
    rows, _ = prepare_speech(load_speech(f"{mini}/validation*.parquet"), min_seconds=1.0, keep=["phones", "text"])
    rows = rows.select(range(min(args.rows, len(rows))))
    train, _ = prepare_speech(load_speech(f"{mini}/train*.parquet"), min_seconds=1.0)
    results = []
    for seed in args.seeds:
        for arm in ("clean", "noise"):
            run = args.output_dir / f"{arm}-{seed}"
            run_commands(commands(arm, seed, args), run)
            if not (run / "measured.json").exists():
                write_json(measure(run, rows, first_hours(train, 0.3, 0), sounds), run / "measured.json")
            results += [{"arm": arm, "seed": seed, **each} for each in json.loads((run / "measured.json").read_text())]
    settings = {
        "updates": args.updates,
        "ctc_updates": args.ctc_updates,
        "rows": len(rows),
        "units": UNITS,
        "layer": LAYER,
    }
    write_json({"settings": settings, "results": results}, args.output_dir / "results.json")
    print(shown(results))


def shown(results: list[dict[str, Any]]) -> str:
    """The mean over seeds of each figure, a row for each level."""
    lines = []
    for level in (None, *LEVELS):
        cells = ["clean" if level is None else f"{level} dB"]
        for figure in ("agreement", "pnmi", "cer"):
            for arm in ("clean", "noise"):
                values = [each[figure] for each in results if (each["arm"], each["level"]) == (arm, level)]
                cells.append(f"{np.mean(values):.3f}")
        lines.append(cells)
    head = [f"{figure}, {arm}" for figure in ("agreement", "PNMI", "CER") for arm in ("without", "with")]
    return table(["level", *head], lines)


if __name__ == "__main__":
    main()
