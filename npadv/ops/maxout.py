"""Maxout, the maximum over each unit's pieces (Goodfellow et al. 2013), differentiable to any order.

    y[n,u] = max over p of x[n, p * units + u]          x (N, pieces * units, ...), y (N, units, ...)

Unit u has the pieces u, u + units, u + 2 units, ... So the first pieces of all units lie side by side, then all the second
ones, and the maximum runs over ``pieces`` slices of x.

Which piece is the maximum does not change nearby. So the gradient is ``maxout_scatter``, which puts each value back at the
winning piece, and the gradient of that is ``maxout_gather``, which reads it there. They are adjoints, as in max pooling. The
winners are a list of booleans (N, units, ...), one for each piece. At ties the first piece wins; NaN has no winner.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

from npadv.autodiff import defvjp, primitive
from npadv.backend import xp_of
from npadv.fast import faster
from npadv.fast import maxout as fast


@primitive
@faster(fast.maxout)
def maxout(x: Any, *, pieces: int, axis: int) -> Any:
    """Return the maximum over the pieces of each unit; ``axis`` is that of the features, at least 0."""
    return reduce(xp_of(x).maximum, slices(x, pieces, axis))


@faster(fast.maxout_with_winners)
def maxout_with_winners(x: Any, *, pieces: int, axis: int) -> tuple[Any, Any]:
    """Return the maximum and the winners: for each piece, where it is the first that equals the maximum."""
    y = reduce(xp_of(x).maximum, slices(x, pieces, axis))
    winners, undecided = [], y == y
    for piece in slices(x, pieces, axis):
        winners.append((piece == y) & undecided)
        undecided = undecided ^ winners[-1]
    return y, winners


@primitive
@faster(fast.maxout_scatter)
def maxout_scatter(g: Any, winners: Any, *, pieces: int, axis: int) -> Any:
    """Return g at the winning pieces and 0 at the others: (N, units, ...) to (N, pieces * units, ...)."""
    return xp_of(g).concatenate([g * won for won in winners], axis=axis)


@primitive
@faster(fast.maxout_gather)
def maxout_gather(u: Any, winners: Any, *, pieces: int, axis: int) -> Any:
    """Return the values of u at the winning pieces: (N, pieces * units, ...) to (N, units, ...)."""
    first, *rest = (piece * won for piece, won in zip(slices(u, pieces, axis), winners, strict=True))
    return sum(rest, start=first)


defvjp(
    maxout,
    lambda g, y, x, pieces, axis, residuals: maxout_scatter(g, residuals, pieces=pieces, axis=axis),
    forward_with_residuals=maxout_with_winners,
)
defvjp(maxout_scatter, lambda u, y, g, winners, pieces, axis: maxout_gather(u, winners, pieces=pieces, axis=axis), None)
defvjp(maxout_gather, lambda g, y, u, winners, pieces, axis: maxout_scatter(g, winners, pieces=pieces, axis=axis), None)


def slices(x: Any, pieces: int, axis: int) -> list[Any]:
    """Return views of x: the first pieces of all units, the second ones, and so on, each (N, units, ...)."""
    units = x.shape[axis] // pieces
    before = (slice(None),) * axis
    return [x[(*before, slice(p * units, (p + 1) * units))] for p in range(pieces)]
