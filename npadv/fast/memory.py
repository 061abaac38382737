"""Where arrays lie: memory that is freed is kept for the next one, and what is read again and again begins at a cache line.

A training step makes the same large arrays as the one before. The C library's allocator gives each of them back to the
system when it is freed, and the system hands out the next one page by page, cleared, at the first touch of every 4 KiB: for
arrays of megabytes that costs as much as computing what is in them. Two settings of glibc's ``mallopt`` change its mind,
and then all arrays of all operations, yours included, live in memory that the step before has used: after the first, a step
takes no new memory from the system. The allocator is safe under threads and re-entry, as it always was.

The process keeps at most what it once needed. ``import npadv`` does this where there is glibc, unless the environment has
an opinion: any ``MALLOC_...`` setting of yours stands, and ``NPADV_MALLOC=system`` says to leave everything as it is.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np

KEPT = 1 << 30
"""Bytes: larger arrays, and what lies free beyond this, still go back to the system."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD


def keep_freed() -> bool:
    """Ask the C library to keep freed memory; return whether it will."""
    asked = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if asked or os.environ.get("NPADV_MALLOC") == "system":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; on Windows, None is no library
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_MMAP_THRESHOLD, KEPT)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))


LINE = 64
"""Bytes that a processor's cache takes in at a time, and that its widest instructions read."""


def aligned(x: Any) -> Any:
    """Return a copy of an array that begins at a cache line; of one that is not NumPy's, or lies in no simple order, any copy.

    NumPy's arrays begin at multiples of 16 bytes. The product of one row with a matrix, which takes as long as reading the
    matrix, takes a tenth longer then, since three of four reads touch two lines.

    >>> aligned(np.arange(5.0)).ctypes.data % LINE
    0
    """
    if type(x) is not np.ndarray or not x.flags.c_contiguous:
        return x.copy()
    memory = np.empty(x.nbytes + LINE, np.uint8)
    copy = np.ndarray(x.shape, x.dtype, memory, -memory.ctypes.data % LINE)
    copy[...] = x
    return copy
