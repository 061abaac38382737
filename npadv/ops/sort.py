"""Sorting, and the indices of the largest and smallest elements.

Sorting only moves elements, so it is ``take_along_axis`` with the indices that sort, and has the gradient rule of that. Equal
elements keep their order; of several maxima, ``topk`` and ``argmax`` take the first. Indices are plain integer arrays, which
have no gradient.
"""

from __future__ import annotations

from typing import Any

from numpy.lib.array_utils import normalize_axis_index

from npadv.autodiff import value_of
from npadv.backend import xp_of
from npadv.ops.rearrange import ravel
from npadv.ops.shape import take_along_axis


def sort(x: Any, axis: int | None = -1) -> Any:
    """Return the elements in ascending order along an axis, or of the whole array for None.

    >>> import numpy as np
    >>> sort(np.array([3.0, 1.0, 2.0])).tolist()
    [1.0, 2.0, 3.0]
    """
    if axis is None:
        return sort(ravel(x), 0)
    axis = normalize_axis_index(axis, x.ndim)
    return take_along_axis(x, argsort(x, axis), axis=axis)


def argsort(x: Any, axis: int | None = -1) -> Any:
    """Return the indices that sort along an axis; equal elements keep their order."""
    values = value_of(x)
    return xp_of(values).argsort(values, axis=axis, kind="stable")


def topk(x: Any, k: int, axis: int = -1) -> tuple[Any, Any]:
    """Return the k largest elements along an axis in descending order, and their indices; of equal ones the first.

    >>> import numpy as np
    >>> values, indices = topk(np.array([1.0, 3.0, 3.0, 2.0]), 2)
    >>> values.tolist(), indices.tolist()
    ([3.0, 3.0], [1, 2])
    """
    axis = normalize_axis_index(axis, x.ndim)
    n = x.shape[axis]
    if not 0 <= k <= n:
        raise ValueError(f"topk(k): expected an integer from 0 to {n}, the length of axis {axis}, got {k}")
    before = (slice(None),) * axis
    descending = (*before, slice(None, None, -1))
    # The reversed array is sorted in ascending order, and the result is reversed: of equal elements the first stays first.
    order = n - 1 - argsort(value_of(x)[descending], axis)[descending]
    indices = order[(*before, slice(k))]
    return take_along_axis(x, indices, axis=axis), indices


def argmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """Return the index of the maximum along an axis, the first of several; a plain integer array."""
    return value_of(x).argmax(axis=axis, keepdims=keepdims)


def argmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """Return the index of the minimum along an axis, the first of several; a plain integer array."""
    return value_of(x).argmin(axis=axis, keepdims=keepdims)
