"""Command lines: parses `[CONFIG] [--name value ...]` into dataclasses, with readable help and errors."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from hf_ssl_speech.commands.command_parser import Sentences, path_type
from hf_ssl_speech.commands.help import help_text
from hf_ssl_speech.commands.launching import LAUNCH_OPTIONS
from hf_ssl_speech.commands.named_configs import config, configs
from hf_ssl_speech.files import naming_the_file, read_yaml

# Settings that are or may be paths: `~` and environment variables in them are expanded.
PATHS = {
    "output_dir", "output_file", "train_data", "validation_data", "data", "text", "words", "model_name_or_path",
    "model", "models", "processor", "units", "encoder", "teacher", "decoder", "language_model",
    "resume_from_checkpoint", "deepspeed", "fsdp_config", "accelerator_config",
}  # fmt: skip
# Settings of our configurations that hold only for the data they were made for.
OF_ITS_DATA = (
    "validation_data", "test_data", "train_split", "validation_split", "test_split", "dataset_config",
)  # fmt: skip


def parse_arguments(
    argv: Sequence[str], *kinds: type, about: str | None = None, launched: bool = False
) -> tuple[Any, ...]:
    """Reads `[CONFIG] [--name value ...]` into one object of each dataclass; the command line overrides CONFIG.

    With `--train_data`, the splits, validation and test data of a configuration that comes with the package are
    ignored. An empty value, as in `--units ''`, removes the YAML's value of an optional argument.

    Args:
        argv: The command's arguments; CONFIG is a YAML file, or the name of one that comes with the package.
        kinds: The dataclasses.
        about: The text at the beginning of `--help`.
        launched: Whether `--help` also shows how several processes are started.
    Raises:
        ValueError: If a name is unknown (the closest known one is named), a value can't be understood, or the YAML is
            malformed.
    """
    parser = _DataclassParser(kinds, about, launched)
    tokens = list(argv)
    if tokens and not tokens[0].startswith("-"):
        path = config(tokens.pop(0))
        with naming_the_file(path, "settings of this command"):
            found = read_yaml(path)
            if path in configs().values() and gives(tokens, "train_data"):
                found = {name: value for name, value in found.items() if name not in OF_ITS_DATA}
            settings = [token for name, value in found.items() for token in parser.as_tokens(name, value)]
            parser.check_names(settings)
        tokens = settings + tokens
    parser.check_names(tokens)
    tokens = parser.take_back(tokens)
    return parser.parse_args_into_dataclasses(tokens, look_for_args_file=False)


class _DataclassParser(Sentences, HfArgumentParser):
    """A parser for dataclasses whose help begins with our own settings; those of Trainer take `--help-all`."""

    def __init__(self, kinds: Sequence[type], about: str | None, launched: bool):
        super().__init__(kinds, add_help=False)
        self.about, self.launched = about, launched
        self.add_argument("-h", "--help", action=_Help)
        self.add_argument("--help-all", action=_Help)
        for action in self._actions:
            if action.type is int:
                action.type, action.metavar = whole_number, "N"
            elif action.dest in PATHS:
                action.type = path_type
        if "--bf16" in self._option_string_actions:  # HfArgumentParser takes one type alone: bool
            bf16 = self._option_string_actions["--bf16"]
            bf16.type, bf16.metavar = bool_or_auto, "true|false|auto"
        if any(hasattr(kind, "fills_memory") for kind in kinds):  # those of a training
            batches = self._option_string_actions["--batch_seconds"]
            batches.type, batches.metavar = number_or_auto, "NUMBER|auto"

    def as_tokens(self, name: str, value: Any) -> list[str]:
        """A YAML entry as command-line tokens; a mapping where several values are expected becomes NAME=VALUE."""
        action = self._option_string_actions.get(f"--{name}")
        if isinstance(value, dict) and action is not None and action.nargs == "+":
            several = {key: each if isinstance(each, list) else [each] for key, each in value.items()}
            value = [f"{key}={one}" for key, ones in several.items() for one in ones]
        return as_tokens(name, value)

    def take_back(self, tokens: Sequence[str]) -> list[str]:
        """The tokens without settings that a later empty value resets to their defaults.

        An argument whose default is a string takes the empty string as its value.
        """
        stray: list[str] = []
        given: dict[str, list[str]] = {}
        values, known = stray, self._option_string_actions
        for token in tokens:
            if token.startswith("--"):
                name, equals, value = token.partition("=")
                name = known[name].option_strings[0] if name in known else name
                values = given[name] = [value] if equals else []
            else:
                values.append(token)
        kept = list(stray)
        for name, values in given.items():
            default = known[name].default if name in known else ""
            if values == [""] and (default is None or isinstance(default, list)):
                continue
            # One token for one value, which may begin with a dash.
            kept += [f"{name}={values[0]}"] if len(values) == 1 else [name, *values]
        return kept


class _Help(argparse.Action):
    """Prints the help and ends the program."""

    def __init__(self, option_strings, dest, **kwargs):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS)

    def __call__(self, parser, namespace, values, option_string=None):
        actions = {
            field.name: parser._option_string_actions[f"--{field.name}"]
            for kind in parser.dataclass_types
            for field in dataclasses.fields(kind)
            if field.init
        }
        everything = option_string == "--help-all"
        launch = LAUNCH_OPTIONS if parser.launched else {}
        print(help_text(parser.dataclass_types, actions, parser.about, launch, everything))
        parser.exit()


def whole_number(text: str) -> int:
    """A whole number in any common spelling: 400000, 400_000, 4e5.

    Raises:
        argparse.ArgumentTypeError: If it is not a whole number.
    """
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        if float(text).is_integer():
            return int(float(text))
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")


def gives(tokens: Sequence[str], name: str) -> bool:
    """Whether an argument is among the tokens, in either spelling."""
    return any(token.partition("=")[0].replace("-", "_") == f"__{name}" for token in tokens)


def bool_or_auto(text: str) -> bool | str:
    """`auto` as it is, anything else as true or false."""
    return text if text == "auto" else string_to_bool(text)


def number_or_auto(text: str) -> float | str:
    """`auto` as it is, anything else as a number."""
    return text if text == "auto" else float(text)


def as_tokens(name: str, value: Any) -> list[str]:
    """A YAML entry as command-line tokens."""
    if isinstance(value, dict):
        return [f"--{name}", json.dumps(typed(value))]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [] if value is None else [f"--{name}={value}"]


def typed(value: Any) -> Any:
    """Converts scalars inside a mapping, which were read as strings, as in JSON: numbers, true, false, else strings."""
    if isinstance(value, dict):
        return {name: typed(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [typed(entry) for entry in value]
    for read in (json.loads, float):
        with contextlib.suppress(TypeError, ValueError):
            return read(value)
    return value
