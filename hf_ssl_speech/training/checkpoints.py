"""Whole checkpoints: a manifest, written last, holds size and checksum of every file that every rank has written."""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path

from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import sort_checkpoints

from hf_ssl_speech.files import read_json, write_json

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
BYTES_AT_ONCE = 2**24


def checksum(path: str | os.PathLike) -> str:
    """CRC-32 of a file, in hexadecimal: it detects damage, not forgery, at about the speed of the disk."""
    found = 0
    with open(path, "rb") as file:
        while block := file.read(BYTES_AT_ONCE):
            found = zlib.crc32(block, found)
    return f"{found:08x}"


def files_of(checkpoint: str | os.PathLike) -> dict[str, Path]:
    """The files of a checkpoint but its manifest, by their path inside it."""
    folder = Path(checkpoint)
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in files if path.name != MANIFEST_FILE}


def write_manifest(checkpoint: str | os.PathLike):
    """Marks a checkpoint as whole, by writing its manifest; call this when all ranks have written their files.

    The files are flushed to the disk first, so that a manifest can be trusted even after a power cut.
    """
    entries = {}
    for name, path in files_of(checkpoint).items():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        entries[name] = {"bytes": path.stat().st_size, "crc32": checksum(path)}
    write_json({"format": 1, "files": entries}, Path(checkpoint, MANIFEST_FILE))


def damage(checkpoint: str | os.PathLike) -> str | None:
    """Why a checkpoint is not whole, in words; None if it is."""
    path = Path(checkpoint, MANIFEST_FILE)
    if not path.exists():
        return f"it has no {MANIFEST_FILE}: it was not written to its end"
    try:
        entries = read_json(path, "the files of a checkpoint").get("files")
    except ValueError as error:
        return str(error)
    files = files_of(checkpoint)
    if not isinstance(entries, dict) or not entries:
        return f"{path} names no files"
    for name, expected in entries.items():
        if name not in files:
            return f"{name} is missing"
        if not isinstance(expected, dict) or files[name].stat().st_size != expected.get("bytes"):
            return f"{name} has another size than when it was written"
        if checksum(files[name]) != expected.get("crc32"):
            return f"{name} has changed since it was written"
    return None


def holds_weights_alone(checkpoint: str | os.PathLike) -> bool:
    """Whether a checkpoint lacks the optimizer and schedule, without which a run can't be resumed."""
    folder = Path(checkpoint)
    # Sharded optimizers are folders of their own, such as `optimizer_0`.
    return not (folder / SCHEDULER_NAME).exists() or not any(folder.glob("optimizer*"))


def newest_whole(folder: str | os.PathLike, *, to_resume: bool = False) -> str | None:
    """The newest whole checkpoint in a run's folder, or None; checkpoints that are not whole are named in the log.

    Args:
        to_resume: Whether it must have optimizer and schedule too.
    """
    for checkpoint in reversed(sort_checkpoints(str(folder))):
        problem = damage(checkpoint)
        if problem is None and to_resume and holds_weights_alone(checkpoint):
            problem = "it holds the weights without optimizer and schedule"
        if problem is None:
            return checkpoint
        logger.warning("Passed over %s: %s.", checkpoint, problem)
    return None
