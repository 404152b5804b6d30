"""Several processes on the same task: each has its part of the data, and an error in one is raised in all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


def rank_and_size() -> tuple[int, int]:
    """The number of this process and how many there are: (0, 1) where torch.distributed is not initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def in_several_processes() -> bool:
    """Whether torch.distributed is initialised with more than one process."""
    return rank_and_size()[1] > 1


@contextmanager
def failing_together() -> Iterator[None]:
    """Every process enters this block and waits for the others at its end; an error in one is raised in all of them.

    Without it, the others would wait forever in their next exchange with the one that failed. Nothing is exchanged
    inside.

    Raises:
        ValueError: If that is what a process raised; it names the process.
        RuntimeError: If it was another exception.
    """
    if not in_several_processes():
        yield
        return
    problem = None
    try:
        yield
    except Exception as error:
        problem = error
    is_value_error = isinstance(problem, ValueError)
    report = problem and (is_value_error, str(problem) if is_value_error else f"{type(problem).__name__}: {problem}")
    reports: list[tuple[bool, str] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(reports, report)
    for process, found in enumerate(reports):
        if found:
            kind = ValueError if found[0] else RuntimeError
            raise kind(f"In process {process}: {found[1]}") from problem
