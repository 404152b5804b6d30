"""What the C library does with memory that is freed: it stays with the process, or goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

# glibc's numbers for `mallopt`.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
LARGE_BYTES = 2**17  # its own threshold, before it rises
# oneDNN's own cache of kernels, and torch's beside it; a step of any size, tiny to LARGE, takes 65 to 74 of them.
FEW_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}


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


def keep_few_kernels():
    """Has oneDNN keep the kernels of the last steps only, for work in which every batch has another length.

    oneDNN keeps 1,024 of them, and torch as many beside: megabytes each, which over hundreds of batches come to more
    than all else, and serve again only where lengths do. What the environment says comes first; torch must not have
    been imported.
    """
    for name, capacity in FEW_KERNELS.items():
        os.environ.setdefault(name, capacity)


def give_large_arrays_back():
    """Makes the C library return the memory of every large array when it is freed, so that memory stays flat.

    glibc keeps larger and larger arrays in its heap, whose gaps then grow with arrays of ever other lengths.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE_BYTES)
