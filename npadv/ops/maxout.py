"""Maxout, the maximum over each unit's pieces (Goodfellow et al. 2013), differentiable to any order.

    y[n,u] = max over p of x[n, p * units + u]          x (N, pieces * units, ...), y (N, units, ...)

The first pieces of all units lie side by side, then all the second ones, and so on: y is the maximum of ``pieces`` slices of x.

The piece that wins does not change near x. So the gradient is ``maxout_scatter``, which puts each cotangent at the winning
piece, and the gradient of that is ``maxout_gather``, which reads the value there. At ties the first piece wins.
"""

from __future__ import annotations

from typing import Any

from npadv.autodiff import defvjp, primitive, value_of
from npadv.backend import xp_of
from npadv.fast import faster, if_enabled
from npadv.fast import maxout as fast
from npadv.shapes import maxout_slices


@primitive
@faster(fast.maxout)
def maxout(x: Any, *, pieces: int, axis: int) -> Any:
    """Return the maximum over the pieces of each unit; ``axis`` is that of the features, at least 0."""
    return xp_of(x).stack(maxout_slices(x, pieces, axis)).max(axis=0)


@primitive
@faster(fast.maxout_scatter)
def maxout_scatter(g: Any, winners: Any, *, pieces: int, axis: int) -> Any:
    """Return g at the winning pieces and 0 at the others: (N, units, ...) to (N, pieces * units, ...)."""
    return xp_of(g).concatenate([g * won for won in winners], axis=axis)


@primitive
@faster(fast.maxout_gather)
def maxout_gather(u: Any, winners: Any, *, pieces: int, axis: int) -> Any:
    """Return the values of u at the winning pieces: (N, pieces * units, ...) to (N, units, ...)."""
    return sum(piece * won for piece, won in zip(maxout_slices(u, pieces, axis), winners, strict=True))


def winners_of(x: Any, pieces: int, axis: int) -> Any:
    """Return, for each piece, a mask (N, units, ...): whether it is the first that equals the maximum."""
    xp = xp_of(x)
    stacked = xp.stack(maxout_slices(x, pieces, axis))
    equal = stacked == stacked.max(axis=0)
    return equal & (xp.cumsum(equal, axis=0) == 1)


def _rule(g: Any, y: Any, x: Any, pieces: int, axis: int, residuals: Any = None) -> Any:
    winners = winners_of(value_of(x), pieces, axis) if residuals is None else residuals
    return maxout_scatter(g, winners, pieces=pieces, axis=axis)


defvjp(maxout, _rule, forward_with_residuals=if_enabled(fast.maxout_with_winners))
defvjp(maxout_scatter, lambda u, y, g, winners, pieces, axis: maxout_gather(u, winners, pieces=pieces, axis=axis), None)
defvjp(maxout_gather, lambda g, y, u, winners, pieces, axis: maxout_scatter(g, winners, pieces=pieces, axis=axis), None)
