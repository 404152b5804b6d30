"""Runs that are killed at every kind of moment and started again end with the weights of one that never was."""

import itertools
import json
import os
import random
import select
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from torture.processes import Trial
from torture.runs import RUNS, Run, finish, start, weights

# When to kill: an event of the run (see `Announce`; none is the start of the process), how many of them to wait for at
# the most, and how many seconds after that at the most.
MOMENTS = {
    "during the first batches": ("b", 1, 0.15),
    "between logs": ("u", 4, 0.05),
    "while saving": ("s", 2, 0.06),
    "around an epoch's end": ("e", 3, 0.05),
    "at any moment": ("", 0, 1.5),
    'after the last checkpoint, before "complete"': ("l", 1, 0.15),
}
SLOWEST_START = 120


def kill_runs(
    folder: Path, name: str, kills: int, seed: int = 0, moments: Sequence[str] = tuple(MOMENTS)
) -> list[Trial]:
    """Kills runs of one kind, each several times, and compares their weights bit by bit.

    Args:
        folder: Holds the data in `speech`, and the runs in the end.
        name: Which of `RUNS`.
        kills: How many starts to end with SIGKILL at each kind of moment.
        moments: Which of `MOMENTS`.
    Returns:
        A trial for each kind of moment.
    """
    run, draw, done = RUNS[name], random.Random(f"{seed} {name}"), Counter()
    speech, whole = folder.parent / "speech", folder / "whole"
    finish(start(run, speech, whole), whole.with_suffix(".log"))
    expected, failures = weights(whole), {moment: [] for moment in moments}
    for number in itertools.count():
        missing = [moment for moment in moments if done[moment] < kills]
        if not missing:
            break
        output, survived = folder / f"killed-{number}", []
        try:
            for moment in missing:
                if kill_once(run, speech, output, moment, draw):
                    done[moment] += 1
                    survived.append(moment)
            end(run, speech, output, expected)
            shutil.rmtree(output)
        except RuntimeError as problem:
            failures[survived[-1] if survived else missing[0]].append(f"{output} (killed {survived}): {problem}")
    return [Trial(f"Killed: {name}", moment, done[moment], failures[moment]) for moment in moments]


def kill_once(run: Run, speech: Path, output: Path, moment: str, draw: random.Random) -> bool:
    """Starts a run, or goes on with it, and kills it at a moment. Whether it was still alive then.

    Raises:
        RuntimeError: If it had failed before.
    """
    event, most, delay = MOMENTS[moment]
    reading, writing = os.pipe()
    children = start(run, speech, output, writing)
    os.close(writing)
    seen = wait_for(reading, event, draw.randint(1, max(most, 1)))
    if seen:
        time.sleep(draw.uniform(0, delay))
    os.close(reading)
    draw.shuffle(children)  # of several ranks, any may be the first to die
    for child in children:
        # Loader workers lose their parent, as when the system kills a process that took too much memory.
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    killed = any(map(os.WIFSIGNALED, statuses))
    if any(statuses) and not killed:
        raise RuntimeError(f"it ended by itself with {statuses}: {tail(output)}")
    return killed


def tail(output: Path) -> str:
    """The end of a run's log."""
    return output.with_suffix(".log").read_text(errors="replace")[-3000:]


def wait_for(pipe: int, event: str, times: int) -> bool:
    """Reads events until one has come so many times; False if the run ends before that."""
    while event and times:
        ready, _, _ = select.select([pipe], [], [], SLOWEST_START)
        letter = os.read(pipe, 1) if ready else b""
        if not letter:
            return False
        times -= letter.decode() == event
    return True


def end(run: Run, speech: Path, output: Path, expected: bytes):
    """Starts a run for the last time.

    Raises:
        RuntimeError: If it ends otherwise than one that was never killed.
    """
    finish(start(run, speech, output), output.with_suffix(".log"))
    record = json.loads((output / "run.json").read_text())
    if record["status"] != "complete":
        raise RuntimeError(f"its record says {record['status']}")
    if weights(output) != expected:
        raise RuntimeError("its weights differ from those of the run that was never killed")
