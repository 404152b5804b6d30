"""Runs all trials in full and writes their table to docs/torture.md: `make torture`, some minutes on two cores."""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import datasets

from hf_ssl_speech.markdown import table
from hf_ssl_speech.records import now, versions
from torture.damage import damage_checkpoints
from torture.files import lose_files
from torture.inputs import torment_kind
from torture.kills import kill_runs
from torture.memory import grow
from torture.processes import Trial, apart, fork
from torture.runs import RUNS, finish, make_speech

PAGE = Path(__file__).parents[2] / "docs" / "torture.md"
KINDS = ("audio", "json", "yaml", "arpa", "safetensors")
HEADER = """# Torture

`make torture` (seed {seed}) kills runs, damages checkpoints and files, mutates whatever is read, and watches memory.
The default test suite runs short forms of the same trials (`tests/test_torture.py`, `tests/test_malformed_files.py`).
A failure is: a final weight that differs in a bit from the uninterrupted run's; a damaged checkpoint that is used, or
passed over without a word; a file that is lost without damage, or damaged and not lost by name; an error that is no
sentence with the name of the file or setting, or takes more than 2 s or 1 GB; memory that grows by more than 16 MB.

Run on {date} in {minutes:.1f} minutes: {cpu}, {cores} cores; {versions}.

{tables}
"""


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def all_trials(kills: int, mutations: int, files: int, updates: int, seed: int) -> dict[str, partial]:
    """Name of a folder -> the trials that are done in it; the slowest come first."""
    works = {"memory": partial(grow, name="wav2vec 2.0, 2 workers", early=updates // 6, late=updates)}
    for number, name in enumerate(("wav2vec 2.0, 2 processes", "wav2vec 2.0", "CTC")):
        works[f"damage-{number}"] = partial(damage_checkpoints, name=name)
    for number, name in enumerate(RUNS):
        works[f"kill-{number}"] = partial(kill_runs, name=name, kills=kills, seed=seed)
    works["files"] = partial(lose_files, number=files)
    return works | {kind: partial(torment_kind, kind=kind, number=mutations, seed=seed) for kind in KINDS}


def matrix(trials: list[Trial], part: str, what: str) -> str:
    """Trials of a part as a table: a row for each kind of run, a column for each kind of trial, and the sum above."""
    chosen = [trial for trial in trials if trial.part.startswith(f"{part}: ")]
    kinds = list(dict.fromkeys(trial.kind for trial in chosen))
    rows: dict[str, list[str]] = {}
    for trial in chosen:
        cell = f"{trial.tries}" + (f", **{len(trial.failures)} failed**" if trial.failures else "")
        rows.setdefault(trial.part.partition(": ")[2], []).append(cell)
    return f"{total(chosen, what)}\n\n{table(['', *kinds], [[name, *cells] for name, cells in sorted(rows.items())])}"


def listing(trials: list[Trial], parts: tuple[str, ...], what: str) -> str:
    """Trials of some parts as a table: a row for each, with what was measured, and the sum above."""
    chosen = [trial for trial in trials if trial.part.endswith(parts)]
    rows = [[trial.kind, f"{trial.tries:,}", str(len(trial.failures)), trial.remark] for trial in chosen]
    return f"{total(chosen, what)}\n\n{table(['', 'Number', 'Failures', 'Measured'], rows)}"


def total(trials: list[Trial], what: str) -> str:
    """How many there were and how many failed, in bold."""
    tries, failures = (sum(numbers) for numbers in zip(*((trial.tries, len(trial.failures)) for trial in trials)))
    return f"**{tries:,} {what}, {failures} failures.**"


def tables(trials: list[Trial]) -> str:
    """What all trials came to."""
    return "\n\n".join(
        [
            matrix(trials, "Killed", "starts ended with SIGKILL, by kind of run and moment"),
            matrix(trials, "Damaged", "checkpoints damaged, by kind of run and damage"),
            listing(trials, (" files",), "files read in three ways together, one in a hundred damaged"),
            listing(trials, ("Mutated",), "mutated files read"),
            listing(trials, ("Memory",), "updates, resident memory of all processes"),
        ]
    )


def main():
    """Does all trials, as many at a time as there are cores, and ends with 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="of each kind of run at each kind of moment")
    parser.add_argument("--mutations", type=int, default=2_000, help="of each kind of file")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--updates", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, default=PAGE, help="where to write the tables")
    arguments = vars(parser.parse_args())
    page, started, cores = arguments.pop("page"), time.time(), len(os.sched_getaffinity(0))

    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    datasets.config.HF_DATASETS_CACHE = folder / "datasets"
    (folder / "speech").mkdir()
    log = folder / "speech.log"
    finish([fork(lambda: make_speech(folder / "speech"), log)], log)
    trials = apart(all_trials(**arguments), folder, cores)
    libraries = versions("torch", "transformers", "datasets").items()
    text = HEADER.format(
        seed=arguments["seed"],
        date=now()[:10],
        minutes=(time.time() - started) / 60,
        cpu=cpu(),
        cores=cores,
        versions=", ".join(f"{name} {number}" for name, number in libraries),
        tables=tables(trials),
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text)
    print(text)
    failures = [f"{trial.part}, {trial.kind}: {failure}" for trial in trials for failure in trial.failures]
    if failures:
        sys.exit("\n".join([*failures, f"What they left is in {folder}"]))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
