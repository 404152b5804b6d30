"""Puts a pretrained encoder, a CTC model or a unit set on the Hub, with a card made from its records.

    hf auth login
    python examples/push_to_hub.py runs/wav2vec2-tiny me/wav2vec2-tiny --license apache-2.0 --language en \
        --datasets openslr/librispeech_asr=cc-by-4.0
    python examples/push_to_hub.py runs/wav2vec2-tiny me/wav2vec2-tiny-stock --stock      (loads without this package)
    python examples/push_to_hub.py runs/wav2vec2-tiny me/wav2vec2-tiny --card             (looks at the card only)
"""

from __future__ import annotations

import argparse
import logging
import sys

from hf_ssl_speech import create_model_card
from hf_ssl_speech.hub.publishing import PushFailed, push_to_hub
from hf_ssl_speech.training.arguments import tidy_errors


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Reads the command line. There is no option for the token: commands end up in histories and records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="Folder of the model, or of the unit set.")
    parser.add_argument("repo_id", help="Repository, `name` or `owner/name`; made if it is not there.")
    parser.add_argument("--stock", action="store_true", help="Push transformers' own form, instead of ours.")
    parser.add_argument("--encoder", help="Units of a hidden layer: the repository of their encoder.")
    parser.add_argument("--private", action="store_true", default=None, help="Make a new repository private.")
    parser.add_argument("--license", help="Of the model, such as apache-2.0.")
    parser.add_argument("--language", nargs="+", help="Codes of the speech's languages, such as en.")
    parser.add_argument(
        "--datasets", nargs="+", default=[], metavar="NAME[=LICENCE]", help="Training data, with its licences."
    )
    parser.add_argument(
        "--benchmarks", nargs="+", default=[], metavar="DATASET=TASK", help="Leaderboards to put the error rates on."
    )
    parser.add_argument("--revision", help="Branch to push to, made if it is not there.")
    parser.add_argument("--commit_message", help="Of the commit.")
    parser.add_argument("--create_pr", action="store_true", help="Open a pull request in a repository that is there.")
    parser.add_argument("--replace_card", action="store_true", help="Replace a card that was edited on the Hub.")
    parser.add_argument("--card", action="store_true", help="Print the card and push nothing.")
    return parser.parse_args(argv)


def pairs(named: list[str]) -> list[tuple[str, str]]:
    """`name=value` as a name and a value, which is empty where none is given."""
    return [(name, value) for name, _, value in (each.partition("=") for each in named)]


def main(argv: list[str]):
    """The card, what goes up, the upload, and where it went."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    arguments = vars(parse_arguments(argv))
    folder, repo_id = arguments.pop("folder"), arguments.pop("repo_id")
    card = {name: arguments.pop(name) for name in ("license", "language")}
    card["datasets"] = {name: licence or None for name, licence in pairs(arguments.pop("datasets"))}
    arguments["benchmarks"] = dict(pairs(arguments["benchmarks"]))
    if arguments.pop("card"):
        print(create_model_card(folder, repo_id=repo_id, **card))
        return
    pushed = push_to_hub(folder, repo_id, **arguments, **card)
    print(f"{len(pushed.files)} files are there.")
    if pushed.removed:
        print(f"Left by an earlier push, and removed: {', '.join(pushed.removed)}.")
    print(f"{pushed.repository}\n{pushed.commit}")


if __name__ == "__main__":
    with tidy_errors(PushFailed):
        main(sys.argv[1:])
