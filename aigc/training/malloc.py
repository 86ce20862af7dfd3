"""Settings of glibc's allocator for training."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's mallopt(3), from malloc.h."""

LARGEST_BYTES = 1 << 25
"""Largest block that glibc takes from the heap; larger tensors come from the system each time."""


def keep_freed_memory() -> None:
    """Keep freed memory in this process instead of returning it to the system.

    Every batch frees all its activations, and the next one needs as much again. By default glibc
    returns blocks of this size, and the kernel zeroes them page by page when they are used again,
    which takes a few percent of a small model's training on the CPU. Does nothing under another C
    library.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, LARGEST_BYTES)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2 * LARGEST_BYTES)
