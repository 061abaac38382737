"""Operations that move elements: each is linear, so its gradient rule is its adjoint, and adjoints come in pairs.

====================  =======================
operation             its adjoint
====================  =======================
reshape, transpose    the reshape, the transpose, back
broadcast_to          sum_to
getitem               scatter_add
take_along_axis       scatter_along_axis
pad                   getitem of the middle
concatenate           getitem of a part
====================  =======================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from npadv.autodiff import defvjp, primitive, value_of
from npadv.backend import accurate_sum, add_at, xp_of
from npadv.fast import faster
from npadv.fast import shape as fast

# Axes -----------------------------------------------------------------------------------------------------------------


@primitive
def reshape(x: Any, *, shape: tuple[int, ...]) -> Any:
    """Return the elements of x, in the same order, in another shape."""
    return x.reshape(shape)


@primitive
def transpose(x: Any, *, axes: tuple[int, ...] | None = None) -> Any:
    """Return x with its axes permuted (reversed by default); a view."""
    return x.transpose(axes)


@faster(fast.reshape_back)
def reshape_back(g: Any, x: Any) -> Any:
    """Return the cotangent of a reshaped x in x's shape."""
    return reshape(g, shape=x.shape)


defvjp(reshape, lambda g, y, x, shape: reshape_back(g, x))
defvjp(transpose, lambda g, y, x, axes=None: transpose(g, axes=None if axes is None else _inverse(axes)))


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the permutation that undoes another."""
    return tuple(int(i) for i in np.argsort([a % len(axes) for a in axes]))


def swap_last_axes(x: Any) -> Any:
    """Return x with its last two axes exchanged: the transpose of a stack of matrices."""
    return transpose(x, axes=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def expand_dims(x: Any, axis: int) -> Any:
    """Return x with a new axis of length one at position ``axis``."""
    axis = normalize_axis_index(axis, x.ndim + 1)
    return reshape(x, shape=(*x.shape[:axis], 1, *x.shape[axis:]))


# Broadcasting ---------------------------------------------------------------------------------------------------------


@primitive
def broadcast_to(x: Any, *, shape: tuple[int, ...]) -> Any:
    """Return x repeated to a larger shape, by NumPy's rules."""
    return xp_of(x).broadcast_to(x, shape)


@primitive
def sum_to(x: Any, *, shape: tuple[int, ...]) -> Any:
    """Return x summed over the axes along which ``shape`` would be broadcast to x's shape.

    >>> sum_to(np.ones((2, 3)), shape=(3,))
    array([2., 2., 2.])
    """
    lead = x.ndim - len(shape)
    stretched = tuple(lead + i for i, n in enumerate(shape) if n == 1 and x.shape[lead + i] != 1)
    return accurate_sum(x, (*range(lead), *stretched)).reshape(shape).astype(x.dtype, copy=False)


defvjp(broadcast_to, lambda g, y, x, shape: sum_to(g, shape=x.shape))
defvjp(sum_to, lambda g, y, x, shape: broadcast_to(g, shape=x.shape))


def unbroadcast(g: Any, x: Any) -> Any:
    """Return the cotangent of a broadcast argument x: that of the result, g, summed to x's shape."""
    return g if g.shape == x.shape else sum_to(g, shape=x.shape)


# Picking --------------------------------------------------------------------------------------------------------------


@primitive
def getitem(x: Any, *, index: Any) -> Any:
    """Return x[index] for any index NumPy takes: integers, slices, None, ..., integer and boolean arrays."""
    return x[index]


@primitive
def scatter_add(values: Any, *, index: Any, shape: tuple[int, ...]) -> Any:
    """Return zeros of the given shape with ``values`` added at ``index``; an element named twice receives both.

    >>> scatter_add(np.array([1.0, 2.0, 3.0]), index=np.array([0, 2, 2]), shape=(4,))
    array([1., 0., 5., 0.])
    """
    out = xp_of(values).zeros(shape, dtype=values.dtype)
    if _is_basic(index):
        out[index] = values
    else:
        add_at(out, index, values)
    return out


defvjp(getitem, lambda g, y, x, index: scatter_add(g, index=index, shape=x.shape))
defvjp(scatter_add, lambda g, y, values, index, shape: getitem(g, index=index))


def _is_basic(index: Any) -> bool:
    """Whether an index names no element twice: integers, slices, None and ... only."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(p is None or p is Ellipsis or isinstance(p, slice | int | np.integer) for p in parts)


@primitive
def take_along_axis(x: Any, indices: Any, *, axis: int) -> Any:
    """Return, along one axis, the elements that an integer array names: ``numpy.take_along_axis``."""
    return xp_of(x).take_along_axis(x, indices, axis)


@primitive
def scatter_along_axis(values: Any, indices: Any, *, axis: int, shape: tuple[int, ...]) -> Any:
    """Return zeros of the given shape with ``values`` added where ``take_along_axis`` would read them."""
    xp = xp_of(values)
    out = xp.zeros(shape, dtype=values.dtype)
    grid = list(xp.ogrid[tuple(slice(n) for n in shape)])
    grid[axis] = indices
    add_at(out, tuple(grid), values)
    return out


defvjp(
    take_along_axis,
    lambda g, y, x, indices, axis: scatter_along_axis(g, value_of(indices), axis=axis, shape=x.shape),
    None,
)
defvjp(
    scatter_along_axis,
    lambda g, y, values, indices, axis, shape: take_along_axis(g, value_of(indices), axis=axis),
    None,
)


# Joining --------------------------------------------------------------------------------------------------------------


@primitive
def pad(x: Any, *, widths: tuple[tuple[int, int], ...], value: float = 0.0) -> Any:
    """Return x with (before, after) elements of a constant value around it, along each axis, in x's memory order.

    >>> pad(np.array([1.0, 2.0]), widths=((1, 2),))
    array([0., 1., 2., 0., 0.])
    """
    if len(widths) != x.ndim or min(map(min, widths), default=0) < 0:
        raise ValueError(
            f"pad(widths): expected (before, after), at least 0, for each of {x.ndim} axes, got {widths!r}"
        )
    shape = tuple(before + n + after for (before, after), n in zip(widths, x.shape, strict=True))
    y = xp_of(x).full_like(x, value, shape=shape)
    y[tuple(slice(before, before + n) for (before, _), n in zip(widths, x.shape, strict=True))] = x
    return y


defvjp(
    pad,
    lambda g, y, x, widths, value=0.0: getitem(
        g, index=tuple(slice(before, before + n) for (before, _), n in zip(widths, x.shape, strict=True))
    ),
)


@primitive
def concatenate_args(*xs: Any, axis: int = 0) -> Any:
    """Return the arguments joined along an existing axis: ``concatenate`` of single arguments in place of a sequence."""
    return xp_of(*xs).concatenate(xs, axis=axis)


def _concatenate_rule(argnum: int, g: Any, y: Any, *xs: Any, axis: int = 0) -> Any:
    axis %= y.ndim
    start = sum(x.shape[axis] for x in xs[:argnum])
    return getitem(g, index=(slice(None),) * axis + (slice(start, start + xs[argnum].shape[axis]),))


defvjp(concatenate_args, _concatenate_rule, variadic=True)


def concatenate(xs: Sequence[Any], axis: int = 0) -> Any:
    """Return a sequence of arrays or Tensors joined along an existing axis."""
    return concatenate_args(*xs, axis=axis)


def stack(xs: Sequence[Any], axis: int = 0) -> Any:
    """Return a sequence of arrays or Tensors of one shape joined along a new axis.

    >>> from npadv import Tensor
    >>> stack([Tensor([1.0, 2.0]), Tensor([3.0, 4.0])]).shape
    (2, 2)
    """
    return concatenate([expand_dims(x, axis) for x in xs], axis=axis)
