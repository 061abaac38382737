"""Sums that keep their digits in every memory layout.

NumPy adds pairwise along the axis whose elements are adjacent in memory, so that the error grows with log(n). Along any other
axis it adds one element after the other, and the error grows with n: a bias gradient over 64 images of 112 x 112 pixels in
the order (H, W, N, C) would be off by a percent in float32. ``accurate_sum`` adds over one axis at a time, and over a long
axis in blocks: no number takes part in more than a few dozen additions. Sums of float16 are computed in float32, where
they do not overflow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

BLOCK = 16
"""Elements along an axis that are added one after the other."""

SMALL = 128
"""Elements of an array whose sums need no care."""


def accurate_sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Return ``x.sum(axis, keepdims=keepdims)``; of float16 in float32.

    >>> import numpy as np
    >>> x = np.full((1 << 20, 2), 0.1, np.float32)
    >>> [abs(float(y[0]) - 104857.6) < 0.1 for y in (accurate_sum(x, axis=0), x.sum(axis=0))]
    [True, False]
    """
    if type(x) is not np.ndarray or x.dtype.kind != "f":  # CuPy adds in a tree, integers are exact
        return x.sum(axis=axis, keepdims=keepdims)
    if x.dtype == np.float16:
        x = x.astype(np.float32)
    if x.size <= SMALL or (axis is None and (x.flags.c_contiguous or x.flags.f_contiguous)):
        return x.sum(axis=axis, keepdims=keepdims)
    axes = range(x.ndim) if axis is None else [a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))]
    shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    for a in sorted(axes, key=lambda a: abs(x.strides[a])):  # the elements that are nearest in memory first
        x = _sum_over(x, a)
    return x if keepdims else x.reshape([n for a, n in enumerate(shape) if a not in axes])


def _sum_over(x: Any, axis: int) -> Any:
    """Return the sum over one axis, which stays with length one."""
    n, stride = x.shape[axis], x.strides[axis]
    if n <= BLOCK or abs(stride) == x.itemsize:  # along adjacent elements, NumPy adds pairwise
        return x.sum(axis=axis, keepdims=True)
    blocks, rest = divmod(n, BLOCK)
    before = (slice(None),) * axis
    head = x[(*before, slice(n - rest))]
    head = head.reshape(*x.shape[:axis], blocks, BLOCK, *x.shape[axis + 1 :]).sum(axis=axis + 1)
    total = _sum_over(head, axis)
    return total + x[(*before, slice(n - rest, None))].sum(axis=axis, keepdims=True) if rest else total
