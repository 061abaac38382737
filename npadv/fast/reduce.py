"""Reductions, fast: the gradient of a maximum over few elements, and the softmax cross-entropy with residuals.

The forward pass of the cross-entropy computes exp(x - max) and its sums. They are kept as residuals, and the gradient,
softmax(x) - one_hot(labels), divides one by the other instead of computing both again. On CuPy the loss and its gradient are
one kernel each (``kernels/cross_entropy.cu``); the gradient's kernel reads x again and needs no residuals.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv import kernels
from npadv.autodiff import Tensor
from npadv.backend import accurate_sum, xp_of
from npadv.fast import plain

MAX_SLICES = 16
"""Elements along an axis up to which comparing slice by slice with the maximum is quicker than ``argmax``."""


def first_maximum(x: Any, y: Any, axes: tuple[int, ...]) -> Any:
    """Return a mask of x's shape that is true at the first maximum of each reduction."""
    if len(axes) != 1 or x.ndim == 1 or x.shape[axes[0]] > MAX_SLICES:
        return plain(first_maximum)(x, y, axes)
    xp, axis = xp_of(x), axes[0]
    mask = xp.empty(x.shape, dtype=bool)
    maxima = y.reshape(x.shape[:axis] + x.shape[axis + 1 :])
    free = maxima == maxima  # maxima that no earlier slice has claimed; NaN has none
    for slice_, claimed in zip(xp.moveaxis(x, axis, 0), xp.moveaxis(mask, axis, 0), strict=True):
        xp.equal(slice_, maxima, out=claimed)
        claimed &= free
        free ^= claimed
    return mask


def softmax_cross_entropy(x: Any, *, labels: Any, reduction: str) -> Any:
    """Return -log(softmax(x)[label])."""
    return softmax_cross_entropy_with_residuals(x, labels=labels, reduction=reduction)[0]


def softmax_cross_entropy_with_residuals(x: Any, *, labels: Any, reduction: str) -> tuple[Any, Any]:
    """Return the cross-entropy, and the softmax's numerators (N, K) and denominators (N,)."""
    residuals = None
    if kernels.takes(x):
        losses = kernels.cross_entropy(x, labels.astype(np.int64, copy=False))
    else:
        xp = xp_of(x)
        x = x if x.dtype.kind == "f" else x.astype(np.float64)
        shifted = x - _row_maxima(x)
        exps = xp.exp(shifted)
        sums = exps.sum(axis=1)
        losses = xp.log(sums) - shifted.reshape(-1)[_flat_index(labels, x)]
        residuals = exps, sums
    if reduction != "none":
        losses = accurate_sum(losses) if len(x) != 1 else losses.reshape(())
    if reduction == "mean":
        losses = losses / len(x)
    return losses.astype(x.dtype) if x.itemsize == 2 else losses, residuals  # of float16, in float16 again


def softmax_error(x: Any, labels: Any, residuals: Any = None) -> Any:
    """Return softmax(x) - one_hot(labels)."""
    if not isinstance(x, Tensor) and kernels.takes(x):
        return kernels.cross_entropy_grad(x, labels.astype(np.int64, copy=False))
    if residuals is None or isinstance(x, Tensor):
        return plain(softmax_error)(x, labels)
    exps, sums = residuals
    error = xp_of(x).ascontiguousarray(exps / (sums.reshape(()) if len(x) == 1 else sums[:, None]))
    elements, index = error.reshape(-1), _flat_index(labels, x)
    elements[index] -= 1
    return error


def _row_maxima(x: Any) -> Any:
    """Return the maximum of each row (N, 1); of a single row as a number, which NumPy finds and subtracts in half the time."""
    return x.item(x.argmax()) if type(x) is np.ndarray and len(x) == 1 else x.max(axis=1, keepdims=True)


def _flat_index(labels: Any, x: Any) -> Any:
    """Return the index of each row's label among all elements of x (N, K): one index is faster than two."""
    n, k = x.shape
    labels = labels.astype(np.intp, copy=False)
    return labels if n == 1 else labels + xp_of(x).arange(0, n * k, k)
