"""Operations that reduce axes: sum, mean, max and min, logsumexp, and the softmax and cross-entropy of a classifier's logits.

``axis`` is None (all axes), an integer or a tuple of integers, as in NumPy. Where several elements equal the maximum, the
gradient goes to the first of them, in the order of the indices. On integers, functions that NumPy also has return the same as
NumPy's; the others compute in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from npadv.autodiff import defvjp, primitive, value_of
from npadv.backend import accurate_sum, as_floating, xp_of
from npadv.fast import faster, if_enabled
from npadv.fast import reduce as fast
from npadv.ops.elementwise import exp, where
from npadv.ops.shape import broadcast_to, reshape

Axis = int | tuple[int, ...] | None


@primitive
def sum(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the sum over the given axes, as accurate as pairwise summation in every memory layout."""
    return _like_input(accurate_sum(x, axis, keepdims), x)


@primitive
def mean(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the arithmetic mean over the given axes, which must not be empty."""
    count = _count(x, axis)
    if count == 0:
        raise ValueError(f"mean: expected at least one element to average, got shape {x.shape} over axis {axis}")
    return _like_input(accurate_sum(x, axis, keepdims) / count, x)


@primitive
def max(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the maximum over the given axes; at ties the gradient goes to the first."""
    return x.max(axis=axis, keepdims=keepdims)


@primitive
def min(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the minimum over the given axes; at ties the gradient goes to the first."""
    return x.min(axis=axis, keepdims=keepdims)


@primitive
def logsumexp(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return log(sum(exp(x))) without overflow; its gradient is the softmax.

    >>> import numpy as np
    >>> float(logsumexp(np.array([1000.0, 1000.0])))
    1000.6931471805599
    """
    xp, x = xp_of(x), as_floating(x)
    top = x.max(axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))  # an infinite maximum would give inf - inf
    y = _like_input(xp.log(accurate_sum(xp.exp(x - top), axis, keepdims=True)) + top, x)
    return y if keepdims else y.reshape(_reduced_shape(x, axis))


defvjp(sum, lambda g, y, x, axis=None, keepdims=False: _spread(g, x, axis))
defvjp(mean, lambda g, y, x, axis=None, keepdims=False: _spread(g / _count(x, axis), x, axis))
defvjp(
    max,
    lambda g, y, x, axis=None, keepdims=False: (
        _spread(g, x, axis) * first_maximum(value_of(x), value_of(y), reduced_axes(x, axis))
    ),
)
defvjp(
    min,
    lambda g, y, x, axis=None, keepdims=False: (
        _spread(g, x, axis) * first_maximum(-value_of(x), -value_of(y), reduced_axes(x, axis))
    ),
)
defvjp(
    logsumexp,
    lambda g, y, x, axis=None, keepdims=False: _with_axes(g, x, axis) * exp(x - _with_axes(_finite(y), x, axis)),
)


@faster(fast.first_maximum)
def first_maximum(x: Any, y: Any, axes: tuple[int, ...]) -> Any:
    """Return a mask of x's shape that is true at the first maximum of each reduction; y holds the maxima."""
    xp = xp_of(x)
    stay = tuple(a for a in range(x.ndim) if a not in axes)
    order = stay + axes
    rows = x.transpose(order).reshape(*(x.shape[a] for a in stay), _count(x, axes))
    mask = xp.arange(rows.shape[-1]) == rows.argmax(axis=-1)[..., None]
    back = tuple(sorted(range(x.ndim), key=order.__getitem__))
    return mask.reshape([x.shape[a] for a in order]).transpose(back)


# A classifier's logits ------------------------------------------------------------------------------------------------


@primitive
def softmax(x: Any, *, axis: int = -1) -> Any:
    """Return exp(x) / sum(exp(x)) along an axis, without overflow."""
    x = as_floating(x)
    exps = xp_of(x).exp(x - x.max(axis=axis, keepdims=True))
    return _like_input(exps / accurate_sum(exps, axis, keepdims=True), x)


defvjp(softmax, lambda g, y, x, axis=-1: y * (g - sum(g * y, axis=axis, keepdims=True)))


@primitive
@faster(fast.softmax_cross_entropy)
def softmax_cross_entropy(x: Any, *, labels: Any, reduction: str) -> Any:
    """Return -log(softmax(x)[label]) for logits x (N, K) and classes (N,): as (N,), or their ``"sum"`` or ``"mean"``.

    The loss of a classifier is one operation, because its gradient, softmax(x) - one_hot(labels), is simpler than those of
    its steps.
    """
    xp, x = xp_of(x), as_floating(x)
    shifted = x - x.max(axis=1, keepdims=True)
    losses = xp.log(xp.exp(shifted).sum(axis=1)) - shifted[xp.arange(len(x)), labels]
    if reduction == "none":
        return losses
    total = accurate_sum(losses)
    return _like_input(total if reduction == "sum" else total / len(x), x)


def _cross_entropy_rule(g: Any, y: Any, x: Any, labels: Any, reduction: str, residuals: Any = None) -> Any:
    error = softmax_error(x, labels, residuals)
    if reduction == "mean":
        g = g / len(x)
    return error * (reshape(g, shape=(len(x), 1)) if reduction == "none" else g)


@faster(fast.softmax_error)
def softmax_error(x: Any, labels: Any, residuals: Any = None) -> Any:
    """Return softmax(x) - one_hot(labels)."""
    return softmax(x, axis=1) - (labels[:, None] == xp_of(labels).arange(x.shape[1]))


defvjp(
    softmax_cross_entropy,
    _cross_entropy_rule,
    forward_with_residuals=if_enabled(fast.softmax_cross_entropy_with_residuals),
)


# Axes -----------------------------------------------------------------------------------------------------------------


def reduced_axes(x: Any, axis: Axis) -> tuple[int, ...]:
    """Return the reduced axes, counted from 0."""
    if axis is None or x.ndim == 0:  # NumPy allows axis 0 and -1 of an array without axes
        return tuple(range(x.ndim))
    return normalize_axis_tuple(axis, x.ndim)


def _count(x: Any, axis: Axis) -> int:
    """Return the number of elements that are reduced to one."""
    return math.prod(x.shape[a] for a in reduced_axes(x, axis))


def _reduced_shape(x: Any, axis: Axis) -> tuple[int, ...]:
    """Return the shape of x without the reduced axes."""
    reduced = reduced_axes(x, axis)
    return tuple(n for a, n in enumerate(x.shape) if a not in reduced)


def _with_axes(g: Any, x: Any, axis: Axis) -> Any:
    """Return a reduced result with the reduced axes put back, each of length one."""
    reduced = reduced_axes(x, axis)
    return reshape(g, shape=tuple(1 if a in reduced else n for a, n in enumerate(x.shape)))


def _finite(y: Any) -> Any:
    """Return y with 0 for -inf. Where all x are -inf, so is y; exp(x - y) would be NaN there, exp(x - 0) is 0."""
    lowest = value_of(y) == -float("inf")
    return y if xp_of(lowest) is np and not lowest.any() else where(lowest, 0.0, y)  # on a GPU, any() would wait


def _like_input(y: Any, x: Any) -> Any:
    """Return a result of float16, which was computed in float32, in float16 again."""
    return y.astype(x.dtype) if x.dtype == np.float16 else y


def _spread(g: Any, x: Any, axis: Axis) -> Any:
    """Return the gradient of a sum: each element of x receives the cotangent of its sum."""
    return broadcast_to(_with_axes(g, x, axis), shape=x.shape)
