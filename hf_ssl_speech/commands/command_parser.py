"""Parsers whose errors are sentences; this file imports nothing that takes time."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hf_ssl_speech.file_names import expanded


def program() -> str:
    """The program as the user typed it: `hf-ssl-speech pretrain`, or a script's name."""
    name = Path(sys.argv[0]).name
    return " ".join([name, *sys.argv[1:2]]) if name == "hf-ssl-speech" else name


def path_type(text: str) -> str:
    """The type of an argument that is a path, as `expanded` gives it.

    Raises:
        argparse.ArgumentTypeError: If it names what is not set; the parser tells of which argument.
    """
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


class Sentences:
    """Errors that are one sentence, for `tidy_errors`, and not a page of usage."""

    def error(self, message: str):
        message = re.sub(r"(--\w+)/--[\w-]+", r"\1", message)  # one of the two spellings
        raise ValueError(f"{message[:1].upper()}{message[1:]}. `--help` lists the arguments.")

    def check_names(self, tokens: Sequence[str]):
        """Raises a ValueError if a name is unknown; the closest known one is named."""
        known = self._option_string_actions
        for token in tokens:
            name = token.partition("=")[0]
            if token.startswith("--") and name not in known and name.replace("-", "_") not in known:
                closest = difflib.get_close_matches(name, known, n=1)
                raise ValueError(
                    f"There is no argument {name}."
                    + (f" Did you mean {closest[0]}?" if closest else " `--help` lists the arguments.")
                )


class CommandParser(Sentences, argparse.ArgumentParser):
    """A parser for commands of few arguments.

    Args:
        about: The text at the beginning of `--help`.
    """

    def __init__(self, about: str):
        super().__init__(prog=program(), description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("--help-all", action="help", help=argparse.SUPPRESS)  # as the other commands have it

    def parse_args(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments, by name.

        Raises:
            ValueError: If they can't be parsed; for an unknown option, the closest known one is named.
        """
        self.check_names(argv)
        return super().parse_args(argv)
