"""Batches of vectors, x (N, ...) with one vector for each example: functions that norms and projections share."""

from __future__ import annotations

import math
from typing import Any

from npadv import ops
from npadv.backend import Array, xp_of

NORMS = ("l1", "l2", "linf")


def as_rows(x: Any) -> Any:
    """Return (N, ...) as a matrix (N, D)."""
    if x.ndim < 1:
        raise ValueError("norm: expected a batch of vectors (N, ...), got a scalar")
    return ops.reshape(x, shape=(x.shape[0], math.prod(x.shape[1:])))


def largest(rows: Array) -> Array:
    """Return the largest |element| of each row, or 1 for a row of zeros: (N, D) to (N, 1).

    Divide rows by it before you square and sum them: then no square overflows, and not all of them underflow.
    """
    xp = xp_of(rows)
    top = xp.abs(rows).max(axis=1, keepdims=True) if rows.shape[1] else xp.zeros((rows.shape[0], 1), dtype=rows.dtype)
    return xp.where(top > 0, top, xp.ones_like(top))


def check_norm(kind: str) -> None:
    """Raise a ValueError unless ``kind`` names one of the three norms."""
    if kind not in NORMS:
        raise ValueError(f"norm: expected one of {', '.join(NORMS)}, got {kind!r}")
