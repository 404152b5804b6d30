"""How a run ends, other than with a trained model: each message tells a user what happened and what to do."""

import signal
from collections.abc import Sequence


class UnhealthyRun(RuntimeError):
    """A run was stopped because it had gone wrong. The message names the cause and what to do."""


class AlreadyComplete(ValueError):
    """The requested result already exists, complete and with the same settings."""


class Interrupted(RuntimeError):
    """A run was asked to stop, and has saved a checkpoint. The message says how to continue."""

    exit_code = 128 + signal.SIGTERM


class LostProcess(RuntimeError):
    """A process of the run, or a loader worker, died or does not answer. The message names it.

    Args:
        message: Which process is lost, and what to do.
        missing: Ranks that do not answer any more; empty if a loader worker is lost.
    """

    def __init__(self, message: str, missing: Sequence[int] = ()):
        super().__init__(message)
        self.missing = tuple(missing)
