"""Makes a speech corpus on the spot, for a first run with no download: 30 minutes take seconds on one CPU core.

    pip install "hf_ssl_speech[demo]"
    python examples/make_speech.py speech --minutes 30

Writes `train` and `validation` Parquet files with texts and phones, no speaker in both, for `load_dataset("speech")`.
Smaller still: `python examples/make_speech.py speech --minutes 2 --languages en --speakers 10`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from datasets import Dataset

from hf_ssl_speech.demo.sentences import LANGUAGES
from hf_ssl_speech.demo.synthetic import SILENCE, synthesize_speech
from hf_ssl_speech.training.arguments import tidy_errors
from hf_ssl_speech.training.lock import hold


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Reads the command line; every argument but the folder is one of `synthesize_speech`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_folder", type=Path, help="Folder for the Parquet files; made if it is not there.")
    parser.add_argument("--minutes", type=float, default=30, help="Speech to make, both splits together.")
    parser.add_argument(
        "--languages", nargs="+", choices=list(LANGUAGES), default=["en", "de", "es", "fr", "it"], help="To be spoken."
    )
    parser.add_argument("--speakers", type=int, default=50, help="Voices; about one in ten goes to validation.")
    parser.add_argument("--seed", type=int, default=0, help="Another seed gives other voices and texts.")
    return parser.parse_args(argv)


def split_by_speaker(speech: Dataset) -> dict[str, Dataset]:
    """The last tenth of the speakers, at least one, for validation; the others for training."""
    row_speakers = list(speech["speaker"])
    speakers = list(dict.fromkeys(row_speakers))
    if len(speakers) < 2:
        raise SystemExit(f"Only {len(speakers)} speaker was heard, two splits need two: raise --minutes or --speakers.")
    held_out = set(speakers[-max(1, len(speakers) // 10) :])
    rows = range(len(speech))
    return {
        "train": speech.select([row for row in rows if row_speakers[row] not in held_out]),
        "validation": speech.select([row for row in rows if row_speakers[row] in held_out]),
    }


def describe(split: Dataset) -> str:
    """One line on what a split holds."""
    phones = {phone["phone"] for row in split["phones"] for phone in row} - {SILENCE}
    return (
        f"{len(split)} utterances, {sum(split['duration']) / 60:.1f} minutes, {len(set(split['speaker']))} speakers, "
        f"{len(phones)} phones, languages {' '.join(sorted(set(split['language'])))}"
    )


def main(argv: list[str]):
    """Makes the speech, unless the folder holds it already."""
    arguments = vars(parse_arguments(argv))
    folder = arguments.pop("output_folder")
    # Written last, so that an interrupted run is no finished one; hidden from `load_dataset` by its name.
    finished = folder / ".make_speech.json"
    if finished.exists() and json.loads(finished.read_text()) == arguments:
        print(f"{folder} holds this speech already.")
        return

    hold(folder)
    splits = split_by_speaker(synthesize_speech(**arguments))
    finished.unlink(missing_ok=True)
    for name, split in splits.items():
        split.to_parquet(folder / f"{name}-00000-of-00001.parquet")
        print(f"{name}: {describe(split)}")
    finished.write_text(json.dumps(arguments))


if __name__ == "__main__":
    with tidy_errors():
        main(sys.argv[1:])
