"""Dropout, fast: on CuPy the kernel of ``kernels/dropout.cu``, which computes the mask of each element where it uses it."""

from __future__ import annotations

from typing import Any

from npadv import kernels
from npadv.fast import plain


def dropout(x: Any, *, rate: float, draw: Any, rescale: bool = True) -> Any:
    """Return x with each element zeroed with probability ``rate``."""
    if kernels.takes(x):
        return kernels.dropout(x, rate, draw.state, draw=draw.number, rescale=rescale)
    return plain(dropout)(x, rate=rate, draw=draw, rescale=rescale)
