"""Dropout on CuPy arrays, by ``kernels/dropout.cu``: the mask is computed where it is needed and never stored."""

from __future__ import annotations

from typing import Any

from npadv import kernels
from npadv.backend import Array


def dropout(x: Array, *, rate: float, draw: Any, rescale: bool = True) -> Array:
    """Return the result of ``ops.dropout``."""
    return kernels.dropout(x, rate, draw.state, draw=draw.number, rescale=rescale)
