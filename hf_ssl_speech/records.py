"""Records of runs: how they are read and written, and the facts that every record has."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

import torch

from hf_ssl_speech.files import naming_the_file, read_json, write_json

RECORD_FILE = "run.json"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_SECRETS = (
    re.compile(r"(\bhf_)[A-Za-z0-9]{20,}"),
    re.compile(r"(\b[a-z][\w+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)", re.IGNORECASE),
    re.compile(r"([?&][^\s=&]*(?:token|key|secret|signature|password|credential|sig)=)[^\s&]+", re.IGNORECASE),
)


class Machine(TypedDict):
    """What a run or stage was computed on."""

    device: str | None
    processes: int | None
    threads: int | None


class Skipped(TypedDict):
    """Rows that could not be used: how many of how many, and their names by reason."""

    total: int | None
    num_skipped: int | None
    skipped: dict[str, list[str]]


class UnitFacts(TypedDict):
    """Facts about a unit set: where it is, what it was made from and how it was fitted."""

    source: str | None
    num_units: int | None
    features: Any
    layer: int | None
    seed: int | None
    share: float | None
    inertia: float | None
    iterations: int | None
    frames: int | None
    utterances: int | None
    hours: float | None
    versions: dict[str, str]


class UnitColumns(TypedDict):
    """Which units the rows of a split have."""

    columns: list[str]
    fingerprint: str | None
    sets: list[UnitFacts]


class CorpusFacts(TypedDict):
    """One part of the training data: a corpus, or what has one value in the columns that are mixed by."""

    rows: int | None
    hours: float | None
    share: float | None
    repeats_each_epoch: float | None
    hours_seen: float | None
    repeats: float | None


class SplitFacts(TypedDict):
    """Facts about the rows of one split."""

    source: str | list[str] | None
    split: str | None
    fingerprint: str | None
    rows: int | None
    hours: float | None
    skipped: Skipped
    units: UnitColumns
    corpora: dict[str, CorpusFacts]


class Start(TypedDict):
    """What a fine-tuning started from, and the record of that pretraining."""

    source: str | None
    record: Record | None


class Record(TypedDict):
    """`run.json` of a run, of a stage of HuBERT's iterations or of a unit set; each fills in the fields it has."""

    format: int | None
    status: str | None
    cause: str | None
    task: str | None
    command: str | None
    started: str | None
    updated: str | None
    seconds: float | None
    versions: dict[str, str]
    machine: Machine
    identity: dict[str, Any]
    data: dict[str, SplitFacts]
    # Of a training.
    parameters: int | None
    recipe: dict[str, Any]
    updates: int | None
    kept_update: int | None
    hours_seen: float | None
    seconds_per_update: float | None
    skipped_while_training: dict[str, str]
    curves: list[dict[str, float]]
    start: Start
    text: dict[str, Any]
    # Of a cell of label efficiency: errors in each test row. Of a probe: task, classes, error rate, weights of layers.
    test: dict[str, Any]
    probe: dict[str, Any]
    # Of units, and of the choice of a layer.
    units: UnitFacts
    quality: dict[str, Any]
    criterion: str | None
    layer: int | None
    layers: list[dict[str, Any]]
    skipped: dict[str, str]
    example: dict[str, Any]


class Rate(TypedDict):
    """An error rate with its interval."""

    value: float | None
    low: float | None
    high: float | None
    confidence: float | None


def in_percent(rate: Rate) -> str:
    """A rate with its interval, in percent: `12.3 [8.7, 16.0]`."""
    value, low, high = (100 * rate[name] for name in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


class Score(TypedDict):
    """An entry of `scores.json`: one model on one set of data."""

    model: str | None
    data: SplitFacts
    normalization: dict[str, Any]
    decoder: dict[str, Any]
    wer: Rate
    cer: Rate
    groups: dict[str, dict[str, Any]]
    real_time_factor: float | None
    device: str | None
    parameters: int | None
    command: str | None
    date: str | None
    versions: dict[str, str]


def complete(kind: type, found: Mapping[str, Any]) -> Any:
    """What was read, with all fields of a typed form: where nothing was told, None, or empty if the form says so.

    Raises:
        TypeError: If it holds something else where fields, or a list, should be.
    """
    if not isinstance(found, Mapping):
        raise TypeError(f"expected the fields of a {kind.__name__}, but found {found!r:.50}")
    return {**found, **{name: _completed(hint, found.get(name)) for name, hint in get_type_hints(kind).items()}}


def _completed(hint: Any, value: Any) -> Any:
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kind, origin = options[0], get_origin(options[0])
    if value is None and type(None) in options:
        return None
    if is_typeddict(kind):
        return complete(kind, {} if value is None else value)
    if origin is None:
        return value
    value = origin() if value is None else value
    if not isinstance(value, dict if origin is dict else (list, tuple)):
        raise TypeError(f"expected a {origin.__name__}, but found {value!r:.50}")
    inner = get_args(kind)[-1]
    if origin is dict:
        return {name: _completed(inner, each) for name, each in value.items()}
    return [_completed(inner, each) for each in value]


def as_record(found: Mapping[str, Any]) -> Record:
    """A record, or part of one, with all its fields; what earlier versions called otherwise is where it is today.

    Raises:
        TypeError: If it holds something else.
    """
    record: Record = complete(Record, found)
    if record["seconds"] is None:
        record["seconds"] = found.get("train_seconds")
    if record["machine"]["processes"] is None:
        record["machine"]["processes"] = found.get("processes")
    if not record["data"]:
        fingerprints = record["identity"].get("data") or {}
        record["data"] = {split: complete(SplitFacts, {"fingerprint": each}) for split, each in fingerprints.items()}
    record["data"] = {"train": complete(SplitFacts, {}), **record["data"]}
    record["versions"] = record["versions"] or record["units"]["versions"]
    if record["start"]["record"]:
        record["start"]["record"] = as_record(record["start"]["record"])
    return record


def read_record(folder: str | os.PathLike) -> Record | None:
    """The record of the run in a folder, None if there is none.

    Raises:
        ValueError: If the file is not a record.
    """
    path = Path(folder, RECORD_FILE)
    if not path.exists():
        return None
    with naming_the_file(path, "a run's record"):
        return as_record(read_json(path, "a run's record"))


def write_record(record: Mapping[str, Any], folder: str | os.PathLike):
    """Writes the record of the run in a folder."""
    write_json(record, Path(folder, RECORD_FILE))


def new_record(
    status: str, identity: dict[str, Any], *, seconds: float, device: torch.device, processes: int, **found: Any
) -> Record:
    """The fields that every record has, and the results.

    Args:
        status: `running`, `complete`, `stopped` or `failed`.
        identity: All settings that decide the result.
        seconds: What it took, by the clock.
        device, processes: What it was computed on.
        found: More fields of `Record`.
    """
    return {
        "format": 1,
        "status": status,
        "command": command_line(),
        "updated": now(),
        "seconds": seconds,
        "versions": versions("torch", "transformers", "datasets", "accelerate", "hf_ssl_speech"),
        "machine": {"device": device_name(device), "processes": processes, "threads": torch.get_num_threads()},
        "identity": identity,
        **found,
    }


def command_line() -> str:
    """The command of this process, as a shell takes it; tokens and passwords in it are hidden."""
    words = list(sys.argv)
    for place, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name.startswith("--") and name.endswith("token"):
            if equals:
                words[place] = f"{name}=..."
            elif place + 1 < len(words):
                words[place + 1] = "..."
    return shlex.join(map(without_secrets, words))


def as_path(source: str) -> str:
    """A source as records tell it: what lies on this disk, but reads like an id on the Hub, by its whole path."""
    is_here = HUB_ID.fullmatch(source) is not None and Path(source).exists()
    return str(Path(source).resolve()) if is_here else source


def without_secrets(text: str) -> str:
    """A text whose access tokens, and whose URLs' passwords and signatures, are replaced by dots."""
    for secret in _SECRETS:
        text = secret.sub(r"\1...", text)
    return text


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python and of these packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def device_name(device: torch.device) -> str:
    """A device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
