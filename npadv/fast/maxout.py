"""Maxout, fast: the kernels of ``kernels/maxout.cu`` on CuPy; on NumPy, fewer passes over memory.

The forward pass finds the winners and keeps them as residuals for the gradient: a mask for each piece. The kernels use another
form, the number of the winning piece: int32 in the shape of y, and -1 where y is NaN.
"""

from __future__ import annotations

from typing import Any

from npadv import kernels
from npadv.backend import xp_of
from npadv.fast.on_cupy import is_from_kernel
from npadv.shapes import maxout_slices


def maxout(x: Any, *, pieces: int, axis: int) -> Any:
    """Return the maximum over the pieces."""
    if kernels.takes(x):
        return kernels.maxout(x, pieces, axis=axis)[0]
    if pieces == 1 or x.flags.c_contiguous:  # one call, as fast as the loop only in this layout
        return x.reshape(*x.shape[:axis], pieces, x.shape[axis] // pieces, *x.shape[axis + 1 :]).max(axis=axis)
    xp, (first, second, *rest) = xp_of(x), maxout_slices(x, pieces, axis)
    y = xp.maximum(first, second)
    for piece in rest:
        xp.maximum(y, piece, out=y)
    return y


def maxout_with_winners(x: Any, *, pieces: int, axis: int) -> tuple[Any, Any]:
    """Return the maximum and the winners: the first piece that equals it."""
    if kernels.takes(x):
        return kernels.maxout(x, pieces, axis=axis)
    y = maxout(x, pieces=pieces, axis=axis)
    winners, free = [], y == y  # where no earlier piece has won; NaN has no winner
    for piece in maxout_slices(x, pieces, axis):
        won = piece == y
        won &= free
        free ^= won
        winners.append(won)
    return y, tuple(winners)


def maxout_scatter(g: Any, winners: Any, *, pieces: int, axis: int) -> Any:
    """Return g at the winning pieces and 0 at the others."""
    if is_from_kernel(winners) and kernels.takes(g):
        return kernels.maxout_grad(g, winners, pieces, axis=axis)
    xp = xp_of(g)
    gx = xp.empty_like(g, shape=(*g.shape[:axis], pieces * g.shape[axis], *g.shape[axis + 1 :]))  # in g's memory order
    for piece, won in zip(maxout_slices(gx, pieces, axis), _masks(winners, pieces), strict=True):
        xp.multiply(g, won, out=piece)
    return gx


def maxout_gather(u: Any, winners: Any, *, pieces: int, axis: int) -> Any:
    """Return the values of u at the winning pieces."""
    (first, *rest), (first_won, *others) = maxout_slices(u, pieces, axis), _masks(winners, pieces)
    y = first * first_won
    for piece, won in zip(rest, others, strict=True):
        y += piece * won
    return y


def _masks(winners: Any, pieces: int) -> Any:
    """Return a mask for each piece, from either form of the winners."""
    return [winners == piece for piece in range(pieces)] if is_from_kernel(winners) else winners
