"""Operations that reduce axes: sum, mean, max and min, logsumexp, and what a classifier makes of its logits.

``axis`` is None (all axes), an integer or a tuple of integers, as in NumPy. Where several elements share the maximum,
the gradient goes to the first, in the order the elements are read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv.autodiff import Tensor, defvjp, primitive, value_of
from npadv.backend import xp_of
from npadv.ops.elementwise import exp
from npadv.ops.shape import broadcast_to, reshape

Axis = int | tuple[int, ...] | None


@primitive
def sum(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the sum over the given axes."""
    return x.sum(axis=axis, keepdims=keepdims)


@primitive
def mean(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the arithmetic mean over the given axes, which must not be empty."""
    count = _count(x, axis)
    if count == 0:
        raise ValueError(f"mean: expected at least one element to average, got shape {x.shape} over axis {axis}")
    return x.sum(axis=axis, keepdims=keepdims) / count


@primitive
def max(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the maximum over the given axes; at ties the gradient goes to the first."""
    return x.max(axis=axis, keepdims=keepdims)


@primitive
def logsumexp(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return log(sum(exp(x))) without overflow; its gradient is the softmax.

    >>> import numpy as np
    >>> float(logsumexp(np.array([1000.0, 1000.0])))
    1000.6931471805599
    """
    xp = xp_of(x)
    top = x.max(axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))  # an infinite maximum would give inf - inf
    y = xp.log(xp.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return y if keepdims else y.reshape(_reduced(x, axis))


defvjp(sum, lambda g, y, x, axis=None, keepdims=False: _spread(g, x, axis))
defvjp(mean, lambda g, y, x, axis=None, keepdims=False: _spread(g / _count(x, axis), x, axis))
defvjp(
    max,
    lambda g, y, x, axis=None, keepdims=False: _spread(g, x, axis) * _first_maximum(value_of(x), value_of(y), axis),
)
defvjp(
    logsumexp,
    lambda g, y, x, axis=None, keepdims=False: _kept(g, x, axis) * exp(x - _kept(y, x, axis)),
)


@primitive
def softmax(x: Any, *, axis: int = -1) -> Any:
    """Return exp(x) / sum(exp(x)) along an axis, without overflow."""
    y = xp_of(x).exp(x - x.max(axis=axis, keepdims=True))
    y /= y.sum(axis=axis, keepdims=True)
    return y


@primitive
def softmax_cross_entropy(x: Any, *, labels: Any, reduction: str) -> Any:
    """Return -log(softmax(x)[label]) for logits x (N, K) and classes (N,): as (N,), or their ``"sum"`` or ``"mean"``.

    One operation for the end of every classifier: its gradient, softmax(x) - one_hot(labels), needs none of the steps
    between.
    """
    return _softmax_cross_entropy(x, labels, reduction)[0]


def _softmax_cross_entropy(x: Any, labels: Any, reduction: str) -> tuple[Any, Any]:
    """Return the cross-entropy, and the softmax's numerators and denominators."""
    xp = xp_of(x)
    shifted = x - _tops(x)
    exps = xp.exp(shifted)
    sums = exps.sum(axis=1)
    losses = xp.log(sums) - shifted.reshape(-1)[_places(labels, x)]
    if reduction != "none":
        losses = losses.sum() if len(x) != 1 else losses.reshape(())
    return losses / len(x) if reduction == "mean" else losses, (exps, sums)


def _tops(x: Any) -> Any:
    """Return the maximum of each row (N, 1); of a single row as a number, which NumPy finds and subtracts in half the time."""
    return x.item(x.argmax()) if type(x) is np.ndarray and len(x) == 1 else x.max(axis=1, keepdims=True)


def _softmax_cross_entropy_rule(g: Any, y: Any, x: Any, labels: Any, reduction: str, residuals: Any) -> Any:
    xp = xp_of(labels)
    if isinstance(x, Tensor):
        error = softmax(x, axis=1) - (labels[:, None] == xp.arange(x.shape[1]))
    else:
        exps, sums = residuals
        error = xp.ascontiguousarray(exps / (sums.reshape(()) if len(x) == 1 else sums[:, None]))
        elements, places = error.reshape(-1), _places(labels, x)
        elements[places] -= 1
    if reduction == "mean":
        g = g / len(x)
    return error * (reshape(g, shape=(len(x), 1)) if reduction == "none" else g)


def _places(labels: Any, x: Any) -> Any:
    """Return where each row's label stands among all elements of x (N, K): one index is faster than two."""
    n, k = x.shape
    labels = labels.astype(np.intp, copy=False)
    return labels if n == 1 else labels + xp_of(x).arange(0, n * k, k)


defvjp(softmax, lambda g, y, x, axis=-1: y * (g - sum(g * y, axis=axis, keepdims=True)))
defvjp(softmax_cross_entropy, _softmax_cross_entropy_rule, forward_with_residuals=_softmax_cross_entropy)


def min(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the minimum over the given axes; at ties the gradient goes to the first."""
    return -max(-x, axis=axis, keepdims=keepdims)


def _axes(x: Any, axis: Axis) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(x.ndim))
    return tuple(a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,)))


def _count(x: Any, axis: Axis) -> int:
    count = 1
    for a in _axes(x, axis):
        count *= x.shape[a]
    return count


def _reduced(x: Any, axis: Axis) -> tuple[int, ...]:
    gone = _axes(x, axis)
    return tuple(n for a, n in enumerate(x.shape) if a not in gone)


def _kept(g: Any, x: Any, axis: Axis) -> Any:
    """Return a reduced result with the reduced axes put back as ones."""
    gone = _axes(x, axis)
    return reshape(g, shape=tuple(1 if a in gone else n for a, n in enumerate(x.shape)))


def _spread(g: Any, x: Any, axis: Axis) -> Any:
    """Return the gradient of a sum: each element of x receives its sum's."""
    return broadcast_to(_kept(g, x, axis), shape=x.shape)


def _first_maximum(x: Any, y: Any, axis: Axis) -> Any:
    """Return a mask of x's shape that is true at one maximum per reduction, the first read; y is the maxima."""
    xp = xp_of(x)
    gone = _axes(x, axis)
    if len(gone) == 1 < x.ndim and x.shape[gone[0]] <= FEW:
        return _first_of_few(xp.moveaxis(x, gone[0], 0), y.reshape(_reduced(x, axis)), gone[0])
    stay = tuple(a for a in range(x.ndim) if a not in gone)
    order = stay + gone
    rows = x.transpose(order).reshape(*(x.shape[a] for a in stay), _count(x, axis))
    mask = xp.arange(rows.shape[-1]) == rows.argmax(axis=-1)[..., None]
    back = tuple(sorted(range(x.ndim), key=order.__getitem__))
    return mask.reshape([x.shape[a] for a in order]).transpose(back)


FEW = 16
"""Elements among which comparing with the maximum, one whole slice of x after the other, is quicker than searching."""


def _first_of_few(slices: Any, y: Any, axis: int) -> Any:
    xp = xp_of(y)
    mask = xp.empty((*y.shape[:axis], len(slices), *y.shape[axis:]), dtype=bool)
    free = y == y  # maxima that no slice before has claimed
    for x, won in zip(slices, xp.moveaxis(mask, axis, 0), strict=True):
        xp.equal(x, y, out=won)
        won &= free
        free ^= won
    return mask
