"""One run in one folder: a second process that wants the same folder is refused."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TextIO

from hf_ssl_speech.data.processes import failing_together, rank_and_size
from hf_ssl_speech.records import now

LOCK_FILE = ".run.lock"  # hidden, so that code that looks for data in the folder ignores it
_held: dict[Path, TextIO] = {}


def hold(folder: str | os.PathLike):
    """Locks a folder for this run until its process ends, for any reason; all processes of a run call this.

    Everything that works for minutes before it writes its result calls this first: trainings, and the scripts that make
    units, speech, scores, decoders and alignments. The folder is created if missing.

    Raises:
        ValueError: In all of them, if another run has the folder, which is named, or it can't be written to.
    """
    with failing_together():
        if rank_and_size()[0] == 0:
            _lock(Path(folder).resolve())


def _lock(folder: Path):
    if folder in _held or os.name != "posix":
        return
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK_FILE, "a+")  # noqa: SIM115 open as long as the process lives
    except OSError as error:
        raise ValueError(f"Nothing can be written to {folder} ({error.strerror}): use another output_dir.") from error
    try:
        # Of this process alone: loader workers, which are forked, can't keep it when the run is killed.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise ValueError(
            f"Another run is using {folder} ({owner}): wait for its end, stop it, or use another output_dir."
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}, since {now()}\n")
    file.flush()
    _held[folder] = file
