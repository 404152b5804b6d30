"""Checkpoints with a damaged file are passed over with a word, and the run ends with the weights that it would have."""

import shutil
from collections.abc import Callable
from pathlib import Path

from torture.processes import Trial
from torture.runs import RUNS, finish, start, weights


def flip_a_bit(path: Path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[:-9])


def take_from_the_one_before(path: Path):
    before = sorted(path.parent.parent.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))[-2]
    shutil.copy(before / path.name, path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a file cut short": truncate,
    "a file emptied": lambda path: path.write_bytes(b""),
    "a bit flipped": flip_a_bit,
    "a file missing": Path.unlink,
    "a file of the checkpoint before": take_from_the_one_before,
}


def damage_checkpoints(folder: Path, name: str, damages: list[str] | None = None, only: str = "*") -> list[Trial]:
    """Damages the newest checkpoint of a run that was stopped, one file in one way at a time, and goes on.

    Args:
        folder: Holds the data in `speech` beside it.
        name: Which of `RUNS`.
        damages: Names from `DAMAGES`; all, if left out.
        only: Files to damage, as a pattern.
    Returns:
        A trial for each kind of damage.
    """
    run, speech, whole = RUNS[name], folder.parent / "speech", folder / "whole"
    finish(start(run, speech, whole), whole.with_suffix(".log"))
    expected = weights(whole)
    stopped = stop_after_the_last_checkpoint(whole, folder / "stopped")
    newest = max(stopped.glob("checkpoint-*"), key=lambda checkpoint: int(checkpoint.name.split("-")[1]))
    files = sorted(path.name for path in newest.glob(only))
    trials = []
    for kind in damages or DAMAGES:
        trial = Trial(f"Damaged: {name}", kind, 0)
        for file in files:
            output = shutil.copytree(stopped, folder / "damaged")
            path = output / newest.name / file
            before = path.read_bytes()
            DAMAGES[kind](path)
            if not path.exists() or path.read_bytes() != before:  # else the one before has the same
                trial.tries += 1
                trial.failures += [f"{file}: {problem}" for problem in go_on(run, speech, output, newest, expected)]
            shutil.rmtree(output)
            output.with_suffix(".log").unlink(missing_ok=True)
        trial.remark = f"{len(files)} files of {newest.name}"
        trials.append(trial)
    output = shutil.copytree(stopped, folder / "damaged")
    for checkpoint in output.glob("checkpoint-*"):
        truncate(checkpoint / "optimizer.pt")
    problems = go_on(run, speech, output, newest, expected)
    return [*trials, Trial(f"Damaged: {name}", "all checkpoints: begun anew", 1, problems)]


def stop_after_the_last_checkpoint(whole: Path, stopped: Path) -> Path:
    """What a run leaves that is killed after its last checkpoint and before its end."""
    stopped.mkdir()
    for checkpoint in whole.glob("checkpoint-*"):
        shutil.copytree(checkpoint, stopped / checkpoint.name)
    record = (whole / "run.json").read_text()
    (stopped / "run.json").write_text(record.replace('"status": "complete"', '"status": "running"'))
    return stopped


def go_on(run, speech: Path, output: Path, newest: Path, expected: bytes) -> list[str]:
    """In words, what is wrong with how a run goes on whose newest checkpoint is damaged."""
    log = output.with_suffix(".log")
    try:
        finish(start(run, speech, output), log)
    except RuntimeError as error:
        return [str(error)]
    problems = []
    if f"Passed over {output / newest.name}" not in log.read_text():
        problems.append("the damaged checkpoint was not passed over with a word")
    if weights(output) != expected:
        problems.append("the weights differ from those of the run that was never stopped")
    return problems
