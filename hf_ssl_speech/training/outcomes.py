"""How a run ends, other than with a trained model: each message tells a user what happened and what to do."""

import signal
from collections.abc import Sequence


class UnhealthyRun(RuntimeError):
    """A run was stopped because going on would only spoil it. The message names the cause and the way out."""


class AlreadyComplete(ValueError):
    """What was asked for is there already, finished with the same settings: nothing is left to do."""


class Interrupted(RuntimeError):
    """A run was asked to stop, and has saved a checkpoint. The message says where it goes on."""

    exit_code = 128 + signal.SIGTERM


class LostProcess(RuntimeError):
    """A process of the run, or a loader worker, died or does not answer. The message names it.

    Args:
        message: Who is lost, and the way out.
        missing: Ranks that do not answer any more; none if it is a loader worker that is lost.
    """

    def __init__(self, message: str, missing: Sequence[int] = ()):
        super().__init__(message)
        self.missing = tuple(missing)
