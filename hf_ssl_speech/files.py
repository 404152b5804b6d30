"""Reads and writes files that users edit or that may be damaged; errors name the file and the fault."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

Settings = TypeVar("Settings")


class _AsWritten(yaml.SafeLoader):
    """YAML whose scalars are read as strings, as written: YAML 1.1 reads `no` as false, `0123` as 83, `1e3` as text."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value]
        twice = {str(name) for name in names if names.count(name) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"{', '.join(sorted(twice))} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_AsWritten.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])


@contextmanager
def naming_the_file(source: str | os.PathLike, what: str) -> Iterator[None]:
    """A block that reads a file: malformed content becomes an error that names the file and the fault.

    Args:
        source: The file, or the folder or Hub id that it belongs to.
        what: What it should hold, such as "a run's record".
    Raises:
        ValueError: If the content is malformed, whichever error a library makes of that.
        OSError, ImportError: As they come: the file can't be opened, or a package is missing.
    """
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(source) in str(error):
            raise
        raise ValueError(f"{source} does not hold {what} ({type(error).__name__}: {error}).") from error


def unwritable_cache() -> str | None:
    """What is wrong with the folder that Hugging Face's libraries keep their files in, None if it can be written."""
    from datasets.config import HF_DATASETS_CACHE  # which only an error has to wait for

    folders = {"HF_HOME": HF_HOME, "HF_HUB_CACHE": HF_HUB_CACHE, "HF_DATASETS_CACHE": HF_DATASETS_CACHE}
    for name, folder in folders.items():
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            return f"{name} is {folder}, which can't be written ({error.strerror}): set {name} to a folder that can."
    return None


def read_json(path: str | os.PathLike, what: str, kind: type = dict) -> Any:
    """The content of a JSON file.

    Args:
        path: The file.
        what: What it should hold, for the error.
        kind: Type of its top level.
    Raises:
        ValueError: If the file holds something else.
        OSError: If it can't be opened.
    """
    with naming_the_file(path, what):
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found, kind):
            raise TypeError(f"expected {kind.__name__} at the top level, but found {type(found).__name__}")
        return found


def as_dataclass(kind: type[Settings], fields: dict[str, Any]) -> Settings:
    """The object that these fields, read from a file, make.

    Raises:
        TypeError: If a field is of another type than the class says, missing, or foreign.
    """
    hints = get_type_hints(kind)
    for name, value in fields.items():
        if name in hints and not _fits(value, hints[name]):
            raise TypeError(f"{name} is {value!r}, but should be {hints[name]}")
    return kind(**fields)


def _fits(value: Any, hint: Any) -> bool:
    options = get_args(hint) or (hint,)
    if get_origin(hint) is Literal:
        return value in options
    if isinstance(value, bool):
        return bool in options
    return isinstance(value, options) or (isinstance(value, int) and float in options)


def write_json(content: Any, path: str | os.PathLike):
    """Writes a JSON file atomically: a killed process leaves the old file or the new one.

    Raises:
        OSError: If the disk is full or the folder can't be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    partial.replace(path)


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """The settings of a YAML file, each scalar as a string, as written; None for an empty value.

    Raises:
        ValueError: If the file is malformed, names a setting twice, or is no mapping of names to values.
        OSError: If it can't be opened.
    """
    with naming_the_file(path, "YAML settings"):
        try:
            found = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_AsWritten)
        except yaml.MarkedYAMLError as error:
            place = error.problem_mark or error.context_mark
            where = f"line {place.line + 1}, column {place.column + 1}: " if place else ""
            raise ValueError(f"{where}{error.problem}") from error
        if not isinstance(found, dict | None):
            raise TypeError(f"expected `name: value` lines, but found {type(found).__name__}")
        return found or {}
