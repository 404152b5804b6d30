"""The records of runs, `run.json`: how they are written and read, and the facts that every kind of them tells."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RECORD_FILE = "run.json"


def read_record(folder: str | os.PathLike) -> dict[str, Any] | None:
    """The record of the run in a folder, None if there is none.

    Raises:
        ValueError: If the file is not a record.
    """
    path = Path(folder, RECORD_FILE)
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not a run record ({error}). Move it away, or use another output folder."
        ) from error


def write_record(record: dict[str, Any], folder: str | os.PathLike):
    """Writes the record in one stroke: a killed process leaves the old one or the new one."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder, RECORD_FILE)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2, default=str) + "\n")
    partial.replace(path)


def command_line() -> str:
    """The command of this process, as a shell takes it; a token given there is not told."""
    words = list(sys.argv)
    for place, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name.startswith("--") and name.endswith("token"):
            if equals:
                words[place] = f"{name}=..."
            elif place + 1 < len(words):
                words[place + 1] = "..."
    return shlex.join(words)


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of these packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def device_name(device: torch.device) -> str:
    """A device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"


def machine(device: torch.device, processes: int) -> dict[str, Any]:
    """What a stage or run was computed on."""
    return {"device": device_name(device), "processes": processes, "threads": torch.get_num_threads()}


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
