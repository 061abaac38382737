"""Memory: freed memory is kept for the next array, and weights begin at a cache line.

A training step makes the same large arrays as the step before. The C library returns each of them to the system when it is
freed. The system then gives new memory for the next array, and clears each page of 4 KiB when it is first accessed. For arrays
of megabytes that takes as long as computing their values. Two settings of glibc's ``mallopt`` keep freed memory in the process
instead, for all arrays, a user's own included. After the first step, no new memory is taken from the system.

The process keeps at most the memory that it once needed. ``import npadv`` makes these settings where there is glibc, unless
an environment variable says otherwise: any ``MALLOC_...`` setting is respected, ``NPADV_MALLOC=system`` leaves everything as
it is, and so does ``NPADV_FAST=off``.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np

from npadv.fast import ENABLED

KEPT = 1 << 30
"""Bytes: larger arrays, and free memory beyond this, still go back to the system."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD


def keep_freed() -> bool:
    """Ask the C library to keep freed memory; return whether it will."""
    user_setting = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if not ENABLED or user_setting or os.environ.get("NPADV_MALLOC") == "system":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; on Windows, None is no library
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_MMAP_THRESHOLD, KEPT)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))


CACHE_LINE = 64
"""Bytes that a processor's cache loads at a time, and that its widest instructions read."""


def aligned(x: Any) -> Any:
    """Return a copy of an array that begins at a cache line (of a CuPy or non-contiguous array: a plain copy).

    NumPy's arrays begin at multiples of 16 bytes, so three of four reads of 64 bytes touch two cache lines. That makes the
    product of one row with a matrix, which takes as long as reading the matrix, a tenth slower.

    >>> aligned(np.arange(5.0)).ctypes.data % CACHE_LINE
    0
    """
    if not ENABLED or type(x) is not np.ndarray or not x.flags.c_contiguous:
        return x.copy()
    memory = np.empty(x.nbytes + CACHE_LINE, np.uint8)
    copy = np.ndarray(x.shape, x.dtype, memory, -memory.ctypes.data % CACHE_LINE)
    copy[...] = x
    return copy
