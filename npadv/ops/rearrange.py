"""Functions that rearrange elements, each composed of the operations of ``shape.py``, so without a gradient rule.

The arguments and their defaults are those of NumPy's functions of the same names.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from npadv.autodiff import value_of
from npadv.backend import like
from npadv.ops.shape import broadcast_to, concatenate, getitem, reshape, transpose

Axes = int | tuple[int, ...] | None

# Axes -----------------------------------------------------------------------------------------------------------------


def ravel(x: Any) -> Any:
    """Return the elements of x along one axis, the last index changing fastest."""
    return reshape(x, shape=(-1,))


def squeeze(x: Any, axis: Axes = None) -> Any:
    """Return x without its axes of length one: all of them, or the given ones.

    >>> squeeze(np.ones((1, 3, 1))).shape
    (3,)
    """
    ones = tuple(a for a, n in enumerate(x.shape) if n == 1)
    dropped = ones if axis is None else all_axes(axis, x.ndim)
    if not set(dropped) <= set(ones):
        raise ValueError(f"squeeze(axis={axis}): expected axes of length 1, got an array of shape {x.shape}")
    return reshape(x, shape=tuple(n for a, n in enumerate(x.shape) if a not in dropped))


def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """Return x with two axes exchanged."""
    a, b = (normalize_axis_index(axis, x.ndim) for axis in (axis1, axis2))
    order = list(range(x.ndim))
    order[a], order[b] = b, a
    return transpose(x, axes=tuple(order))


def moveaxis(x: Any, source: Axes, destination: Axes) -> Any:
    """Return x with some axes moved to other places; the rest keep their order."""
    sources = all_axes(source, x.ndim)
    destinations = all_axes(destination, x.ndim)
    if len(sources) != len(destinations):
        raise ValueError(f"moveaxis: expected as many destinations as sources, got {source} and {destination}")
    order = [a for a in range(x.ndim) if a not in sources]
    for place, axis in sorted(zip(destinations, sources, strict=True)):
        order.insert(place, axis)
    return transpose(x, axes=tuple(order))


def all_axes(axis: Axes, ndim: int) -> tuple[int, ...]:
    """Return axes counted from 0, all of them for None."""
    return tuple(range(ndim)) if axis is None else normalize_axis_tuple(axis, ndim)


# Parts ----------------------------------------------------------------------------------------------------------------


def split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    """Return the parts of x along an axis: a number of equal parts, or the parts between the given indices.

    >>> [part.tolist() for part in split(np.arange(5), [2, 3])]
    [[0, 1], [2], [3, 4]]
    """
    axis = normalize_axis_index(axis, x.ndim)
    length = x.shape[axis]
    if isinstance(indices_or_sections, Sequence | np.ndarray):
        inner = [operator.index(i) for i in indices_or_sections]
    else:
        sections = operator.index(indices_or_sections)
        if sections < 1 or length % sections:
            raise ValueError(f"split: expected a number of equal parts of an axis of length {length}, got {sections}")
        inner = list(range(length // sections, length, length // sections)) if length else [0] * (sections - 1)
    bounds = [0, *inner, length]
    return [_along(x, axis, slice(start, stop)) for start, stop in pairwise(bounds)]


def flip(x: Any, axis: Axes = None) -> Any:
    """Return x with the order of the elements reversed along some axes, all by default."""
    axes = all_axes(axis, x.ndim)
    return getitem(x, index=tuple(slice(None, None, -1) if a in axes else slice(None) for a in range(x.ndim)))


def roll(x: Any, shift: int | tuple[int, ...], axis: Axes = None) -> Any:
    """Return x with its elements shifted along some axes; those shifted out at the end come in at the start.

    Without an axis, the elements are shifted as in ``ravel(x)``, and the shape stays.

    >>> roll(np.arange(5), 2).tolist()
    [3, 4, 0, 1, 2]
    """
    if axis is None:
        return reshape(roll(ravel(x), shift, 0), shape=x.shape)
    for step, a in np.broadcast(shift, axis):  # an axis may be named twice
        a = normalize_axis_index(a, x.ndim)
        start = -int(step) % max(x.shape[a], 1)
        if start:
            x = concatenate([_along(x, a, slice(start, None)), _along(x, a, slice(start))], axis=a)
    return x


def _along(x: Any, axis: int, part: Any) -> Any:
    """Return x[:, ..., part, ...] with the index at the given axis."""
    return getitem(x, index=(slice(None),) * axis + (part,))


# Repetition -----------------------------------------------------------------------------------------------------------


def tile(x: Any, reps: int | Sequence[int]) -> Any:
    """Return copies of x side by side, ``reps`` of them along each axis; missing axes are added in front.

    >>> tile(np.array([1, 2]), (2, 2)).tolist()
    [[1, 2, 1, 2], [1, 2, 1, 2]]
    """
    times = [operator.index(r) for r in (reps if isinstance(reps, Sequence) else (reps,))]
    times = [1] * (x.ndim - len(times)) + times
    shape = [1] * (len(times) - x.ndim) + list(x.shape)
    pairs = list(zip(times, shape, strict=True))
    spread = broadcast_to(
        reshape(x, shape=tuple(m for _, n in pairs for m in (1, n))), shape=tuple(m for pair in pairs for m in pair)
    )
    return reshape(spread, shape=tuple(r * n for r, n in pairs))


def repeat(x: Any, repeats: int | Sequence[int], axis: int | None = None) -> Any:
    """Return x with each element repeated ``repeats`` times: a number for all, or one for each position along the axis.

    Without an axis, the elements are those of ``ravel(x)``.

    >>> repeat(np.array([1, 2]), 2).tolist(), repeat(np.array([1, 2]), [1, 3]).tolist()
    ([1, 1, 2, 2], [1, 2, 2, 2])
    """
    if axis is None:
        return repeat(ravel(x), repeats, 0)
    axis = normalize_axis_index(axis, x.ndim)
    before, n, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    if isinstance(repeats, Sequence | np.ndarray):
        return _along(x, axis, like(np.repeat(np.arange(n), repeats), value_of(x)))
    times = operator.index(repeats)
    if times < 0:
        raise ValueError(f"repeat: expected a number of times, at least 0, got {times}")
    spread = broadcast_to(reshape(x, shape=(*before, n, 1, *after)), shape=(*before, n, times, *after))
    return reshape(spread, shape=(*before, n * times, *after))
