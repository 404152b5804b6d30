"""A long training takes no more memory than a short one."""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from torture.kills import wait_for
from torture.processes import Trial
from torture.runs import RUNS, finish, start

# A batch that is kept by mistake is 256 kB, so that a leak of one an update shows after 64 updates. Within this bound
# stays what the allocator keeps back.
MOST_GROWTH = 16e6


def grow(folder: Path, name: str, early: int, late: int) -> list[Trial]:
    """Compares the memory of a run, its loader workers included, after some updates and after many.

    Args:
        folder: Holds the data in `speech` beside it.
        name: Which of `RUNS`.
        early, late: Updates after which the resident memory is read.
    """
    settings = ("--max_steps", str(late + 1), "--save_steps", str(early), "--logging_steps", "50")
    run, output = RUNS[name], folder / "run"
    run = replace(run, arguments=(*run.arguments, *settings))
    reading, writing = os.pipe()
    children = start(run, folder.parent / "speech", output, writing)
    os.close(writing)
    sizes = [resident(children[0]) for updates in (early, late - early) if wait_for(reading, "u", updates)]
    wait_for(reading, "l", 1)
    os.close(reading)
    finish(children, output.with_suffix(".log"))
    growth = sizes[1] - sizes[0]
    problems = [f"memory grows by {growth / 1e6:.1f} MB"] if growth > MOST_GROWTH else []
    remark = f"{sizes[0] / 1e6:.0f} MB after {early:,}, {growth / 1e6:+.1f} MB after {late:,} (bound: +16 MB)"
    return [Trial("Memory", name, late, problems, remark)]


def resident(leader: int) -> int:
    """Bytes that the processes of a group have in memory, what they share counted in each."""
    pages = 0
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if os.getpgid(int(entry.name)) == leader:
                pages += int((entry / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
