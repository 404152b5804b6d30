"""Makes the model card of a pretrained encoder, a CTC model or a unit set from the records in its folder.

    hf-ssl-speech card runs/ctc
    hf-ssl-speech card runs/ctc --license apache-2.0 --language en --datasets openslr/librispeech_asr=cc-by-4.0

Writes `README.md` into the folder, unless a README written by hand is there. `hf-ssl-speech push` makes the card too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_ssl_speech.commands.command_parser import CommandParser, path_type


def main(argv: list[str]):
    """The card, and where it is."""
    parser = CommandParser(about=__doc__)
    parser.add_argument("folder", type=path_type, help="Folder of the model, or of the unit set.")
    parser.add_argument("--repo_id", help="Repository on the Hub, for the card's code example.")
    parser.add_argument("--output_file", type=path_type, help="Another file to write the card to.")
    add_metadata(parser)
    args = parser.parse_args(argv)
    from hf_ssl_speech.hub.card_edits import is_hand_written
    from hf_ssl_speech.hub.cards import CARD_FILE, create_model_card

    file = Path(args.output_file or Path(args.folder, CARD_FILE))
    if file.exists() and is_hand_written(file.read_text(encoding="utf-8")):
        raise ValueError(f"{file} was written by hand and is left as it is: name another --output_file.")
    create_model_card(args.folder, repo_id=args.repo_id, **card_metadata(args)).save(file)
    print(f"The card is in {file}")


def add_metadata(parser: argparse.ArgumentParser):
    """Adds what a card can't know from the records."""
    parser.add_argument("--license", help="Licence of the model, such as apache-2.0.")
    parser.add_argument("--language", nargs="+", help="Codes of the speech's languages, such as en.")
    parser.add_argument(
        "--datasets", nargs="+", default=[], metavar="NAME[=LICENCE]", help="Training data, with licences."
    )


def card_metadata(args: argparse.Namespace) -> dict[str, Any]:
    """The same, as `create_model_card` takes it."""
    datasets = {name: licence or None for name, licence in pairs(args.datasets)}
    return {"license": args.license, "language": args.language, "datasets": datasets}


def pairs(named: list[str]) -> list[tuple[str, str]]:
    """`name=value` as a name and a value, which is empty where none is given."""
    return [(name, value) for name, _, value in (each.partition("=") for each in named)]
