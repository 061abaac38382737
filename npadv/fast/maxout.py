"""Maxout, faster: the kernels of ``kernels/maxout.cu`` on CuPy; on NumPy, results written in place.

The kernels have winners of their own form: the number of the winning piece, int32 in the shape of y, and -1 where the maximum
is NaN. Only the functions of this file read winners, so they take both forms.
"""

from __future__ import annotations

from typing import Any

from npadv import kernels
from npadv.backend import xp_of


def maxout(x: Any, *, pieces: int, axis: int) -> Any:
    """Return the maximum, without intermediate arrays."""
    if kernels.takes(x):
        return kernels.maxout(x, pieces, axis=axis)[0]
    return _maximum(x, pieces, axis)


def maxout_with_winners(x: Any, *, pieces: int, axis: int) -> tuple[Any, Any]:
    """Return the maximum and the winners."""
    if kernels.takes(x):
        return kernels.maxout(x, pieces, axis=axis)
    y = _maximum(x, pieces, axis)
    winners, undecided = [], y == y
    for piece in _slices(x, pieces, axis):
        won = piece == y
        won &= undecided
        undecided ^= won
        winners.append(won)
    return y, winners


def maxout_scatter(g: Any, winners: Any, *, pieces: int, axis: int) -> Any:
    """Return g at the winning pieces, each product written where it belongs."""
    if kernels.takes(g) and not isinstance(winners, list):
        return kernels.maxout_grad(g, winners, pieces, axis=axis)
    xp = xp_of(g)
    gx = xp.empty_like(
        g, shape=(*g.shape[:axis], pieces * g.shape[axis], *g.shape[axis + 1 :])
    )  # with g's axes in order
    for piece, won in zip(_slices(gx, pieces, axis), _masks(winners, pieces), strict=True):
        xp.multiply(g, won, out=piece)
    return gx


def maxout_gather(u: Any, winners: Any, *, pieces: int, axis: int) -> Any:
    """Return the values of u at the winning pieces, added up in place."""
    (first, *rest), (first_won, *others) = _slices(u, pieces, axis), _masks(winners, pieces)
    y = first * first_won
    for piece, won in zip(rest, others, strict=True):
        y += piece * won
    return y


def _maximum(x: Any, pieces: int, axis: int) -> Any:
    if pieces == 1 or x.flags.c_contiguous:  # one call, as fast as the loop only in this layout
        return x.reshape(*x.shape[:axis], pieces, x.shape[axis] // pieces, *x.shape[axis + 1 :]).max(axis=axis)
    xp, (first, second, *rest) = xp_of(x), _slices(x, pieces, axis)
    y = xp.maximum(first, second)
    for piece in rest:
        xp.maximum(y, piece, out=y)
    return y


def _slices(x: Any, pieces: int, axis: int) -> list[Any]:
    units = x.shape[axis] // pieces
    before = (slice(None),) * axis
    return [x[(*before, slice(p * units, (p + 1) * units))] for p in range(pieces)]


def _masks(winners: Any, pieces: int) -> list[Any]:
    """Return where each piece won, from either form of the winners."""
    return winners if isinstance(winners, list) else [winners == piece for piece in range(pieces)]
