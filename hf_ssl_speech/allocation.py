"""What the C library does with memory that is freed: it stays with the process, or goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time

import psutil

# glibc's numbers for `mallopt`.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
LARGE_BYTES = 2**17  # its own threshold, before it rises
KERNELS = 128  # more than a step of the largest model takes
# The gaps of the heap are given back when the process has grown by half since the last time.
MAY_GROW, CHECK_SECONDS = 1.5, 5.0


def keep_memory() -> bool:
    """Lets what a step frees stay with the process, for the next step.

    glibc gives large blocks back to the system at once and takes them anew, page by page, in every step: a sixth of the
    CPU time of a small model. A thread gives memory back when the process has grown by half: arrays of ever other
    lengths leave gaps. What the environment variable GLIBC_TUNABLES says of `glibc.malloc` comes first.

    Returns:
        Whether it was done: on Linux with glibc.
    """
    if sys.platform != "linux" or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    kept = bool(library.mallopt(MMAP_MAX, 0)) and bool(library.mallopt(TRIM_THRESHOLD, -1))
    if kept:
        threading.Thread(target=trim_gaps, args=[library], name="trim_gaps", daemon=True).start()
    return kept


def trim_gaps(library: ctypes.CDLL):
    """Gives the gaps of the heap back whenever they have made the process `MAY_GROW` times as large; never ends."""
    process, needed = psutil.Process(), 0
    while True:
        time.sleep(CHECK_SECONDS)
        if own_bytes(process) > MAY_GROW * needed:
            library.malloc_trim(0)
            time.sleep(CHECK_SECONDS)  # meanwhile the steps take what they need
            needed = own_bytes(process)


def own_bytes(process: psutil.Process) -> int:
    """Resident memory without files, such as the cache of decoded audio."""
    memory = process.memory_info()
    return memory.rss - memory.shared


def keep_few_kernels():
    """Has oneDNN keep the kernels of the last steps only, for work in which every batch has another length.

    oneDNN keeps 1,024 of them, and torch as many beside: megabytes each, which over hundreds of batches come to more
    than all else, and serve again only where lengths do. What the environment says comes first; torch must not have
    been imported.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KERNELS))


def give_large_arrays_back():
    """Makes the C library return the memory of every large array when it is freed, so that memory stays flat.

    glibc keeps larger and larger arrays in its heap, whose gaps then grow with arrays of ever other lengths.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE_BYTES)
