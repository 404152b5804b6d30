"""Work in forked children: what one of them breaks, fills or leaves behind, the next does not see."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Trial:
    """What one kind of trial came to.

    Attributes:
        part, kind: What was tried.
        tries: How often.
        failures: Each in a sentence; none is the aim.
        remark: What else was measured.
    """

    part: str
    kind: str
    tries: int
    failures: list[str] = field(default_factory=list)
    remark: str = ""


def fork(work: Callable[[], Any], log: Path) -> int:
    """Runs `work` in a child that leads a group of its own; its output goes to `log`, and is the end it came to.

    Returns:
        The child's process id. It ends with 0, or with 1 where `work` raised something.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        torch.set_num_threads(1)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def apart(work: Callable[..., list[Trial]], folder: Path, *arguments: Any) -> list[Trial]:
    """Runs `work(folder, *arguments)` in a forked child and gives what it returns.

    Raises:
        RuntimeError: If the child ended otherwise; the end of its log is told.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found, log = folder / "trials.json", folder / "log.txt"

    def run():
        found.write_text(json.dumps([vars(trial) for trial in work(folder, *arguments)]))

    _, status = os.waitpid(fork(run, log), 0)
    if status:
        raise RuntimeError(f"{work.__name__} ended with status {status}: {log.read_text(errors='replace')[-3000:]}")
    return [Trial(**trial) for trial in json.loads(found.read_text())]
