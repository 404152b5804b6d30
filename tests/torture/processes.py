"""Work in forked children: what one of them breaks, fills or leaves behind, the next does not see."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
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
        sys.stdout, sys.stderr = os.fdopen(1, "w", 1, closefd=False), os.fdopen(2, "w", 1, closefd=False)
        torch.set_num_threads(1)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def apart(works: dict[str, Callable[[Path], list[Trial]]], folder: Path, jobs: int = 1) -> list[Trial]:
    """Does each work in a forked child and a folder of its own, some at a time, and gives all trials.

    Args:
        works: By the name of the folder, which they get.
        folder: Where these folders are made.
        jobs: How many at a time.
    Raises:
        RuntimeError: If a child ended without trials; the end of its log is told.
    """
    waiting, running, trials = dict(works), {}, []
    while waiting or running:
        while waiting and len(running) < jobs:
            name = next(iter(waiting))
            (folder / name).mkdir(parents=True)
            work = partial(_keep, waiting.pop(name), folder / name)
            running[fork(work, folder / name / "log.txt")] = name, time.time()
        child, status = os.wait()
        name, started = running.pop(child)
        if status:
            log = (folder / name / "log.txt").read_text(errors="replace")
            raise RuntimeError(f"{name} ended with status {status}: {log[-3000:]}")
        found = [Trial(**trial) for trial in json.loads((folder / name / "trials.json").read_text())]
        failures = sum(len(trial.failures) for trial in found)
        print(f"{name}: {len(found)} trials in {time.time() - started:.0f} s, {failures} failures", flush=True)
        trials += found
    return trials


def _keep(work: Callable[[Path], list[Trial]], folder: Path):
    (folder / "trials.json").write_text(json.dumps([vars(trial) for trial in work(folder)]))
