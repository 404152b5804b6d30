"""Memory that stays with a process that trains."""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's numbers for `mallopt`.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def keep_memory() -> bool:
    """Lets what a step frees stay with the process, for the next step.

    glibc gives large blocks back to the system at once and takes them anew, page by page, in every step: a sixth of the
    CPU time of a small model. The process holds as much memory as at its peak, which it needs in every step anyway.
    What the environment variable GLIBC_TUNABLES says of `glibc.malloc` comes first.

    Returns:
        Whether it was done: on Linux with glibc.
    """
    if sys.platform != "linux" or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    return bool(library.mallopt(MMAP_MAX, 0)) and bool(library.mallopt(TRIM_THRESHOLD, -1))
