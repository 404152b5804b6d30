"""How a program ends: with a message if something went wrong, and in some cases without the interpreter's teardown."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading

from hf_ssl_speech.files import unwritable_cache
from hf_ssl_speech.training.outcomes import AlreadyComplete, Interrupted, LostProcess, UnhealthyRun


@contextlib.contextmanager
def tidy_errors(*more: type[Exception]):
    """Around a program: a user's mistake, a full disk, a missing extra or an unhealthy run ends it with a message.

    A run that is already complete is not an error: its message is printed, and the program ends with exit code 0. A run
    that was asked to stop ends with exit code 143, like a process that was ended by SIGTERM.
    Where several processes have trained together, the program ends here: nothing that follows the block is run.

    Args:
        more: Further error types whose message needs no traceback.
    """
    exit_code = 0
    try:
        yield
    except AlreadyComplete as message:
        print(message)
    except Interrupted as message:
        print(message)
        exit_code = message.exit_code
    except LostProcess as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        end_process(1)  # the process group can't be shut down cleanly any more
    except (ValueError, OSError, ImportError, UnhealthyRun, *more) as error:
        cause = unwritable_cache() if isinstance(error, OSError) else None
        raise SystemExit(f"\n{type(error).__name__}: {cause or error}") from error
    except Exception as error:
        if not is_a_refused_config(error):
            raise
        raise SystemExit(f"\n{type(error).__name__}: {error}") from error
    torch = sys.modules.get("torch")  # a program that never needed torch need not import it now
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        end_process(exit_code)
    if exit_code:
        raise SystemExit(exit_code)


def is_a_refused_config(error: Exception) -> bool:
    """Whether a field of a model's config was refused, which is a user's mistake like any other."""
    from huggingface_hub.errors import StrictDataclassError  # takes half a second: imported only after an error

    return isinstance(error, StrictDataclassError)


def end_process(exit_code: int):
    """Ends a process whose work is done, without the teardown of the interpreter.

    DistributedDataParallel keeps Gloo's threads alive after `destroy_process_group`. If such a thread still has to
    release a tensor of the last collective, it waits for the interpreter's lock; Python ends threads that ask for the
    lock during its teardown, and C++ takes that for a fatal error and aborts the process. Everything else that happens
    at an exit happens here too: threads are joined, exit functions (as those of trackers) run, and output is flushed.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
