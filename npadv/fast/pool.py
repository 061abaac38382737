"""Pooling, fast: each tap is read once, in the memory order of the convolutions, and two threads share the rows.

The winners of a maximum are found in the same pass as the maximum and kept as residuals for the gradient: a mask for each tap.
On CuPy a maximum and its gradient are one kernel each (``kernels/max_pool.cu``). The kernels use another form of the winners,
the index of the winning pixel in its image: int32 in the shape of y, and -1 where y is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv import kernels
from npadv.backend import xp_of
from npadv.fast import plain
from npadv.fast.layout import full_images
from npadv.fast.on_cupy import is_from_kernel
from npadv.fast.parallel import halves
from npadv.shapes import PoolShapes


def max_pool2d(x: Any, *, shapes: PoolShapes) -> Any:
    """Return the maximum over the taps."""
    if kernels.takes(x):
        return kernels.max_pool2d(x, shapes)[0]
    if x.dtype.kind != "f":
        return plain(max_pool2d)(x, shapes=shapes)
    first, *rest = shapes.taps(_with_border(x, shapes, -np.inf))
    y = xp_of(x).empty_like(first)
    _by_rows(_maximum, y, first, *rest)
    return y


def max_pool2d_with_winners(x: Any, *, shapes: PoolShapes) -> tuple[Any, Any]:
    """Return the maximum, and for each tap a mask (N, C, OH, OW): whether it is the first that equals the maximum."""
    if kernels.takes(x):
        return kernels.max_pool2d(x, shapes)
    xp = xp_of(x)
    taps = shapes.taps(_with_border(x, shapes, -np.inf))
    y = xp.empty_like(taps[0])
    winners = [xp.empty_like(y, dtype=bool) for _ in taps]
    _by_rows(_maximum_and_winners, y, *taps, *winners)
    if shapes.padded != shapes.x:
        _exclude_border(y, winners, shapes)
    return y, tuple(winners)


def max_unpool2d(g: Any, winners: Any, *, shapes: PoolShapes) -> Any:
    """Return an image with each g added at the tap that won."""
    if is_from_kernel(winners) and kernels.takes(g):
        return kernels.max_pool2d_grad(g, winners, shapes)
    winners = _masks(winners, shapes)
    tiling = shapes.stride == shapes.size  # then only the pixels right of and below the windows stay 0
    padded = full_images(shapes.padded, None if tiling else 0.0, g)
    if tiling:
        padded[:, :, shapes.size[0] * shapes.y[2] :] = 0
        padded[:, :, :, shapes.size[1] * shapes.y[3] :] = 0
    taps = shapes.taps(padded)
    if shapes.disjoint:
        _by_rows(_put, g, *taps, *winners)
    else:  # a row of the image may belong to windows of both halves
        for tap, won in zip(taps, winners, strict=True):
            tap += g * won
    return padded[shapes.inside]


def max_pick2d(u: Any, winners: Any, *, shapes: PoolShapes) -> Any:
    """Return, for each window, the value of u at the tap that won."""
    winners = _masks(winners, shapes)
    first, *rest = shapes.taps(_with_border(u, shapes, 0.0))
    y = first * winners[0]
    for tap, won in zip(rest, winners[1:], strict=True):
        y += tap * won
    return y


def avg_pool2d(x: Any, *, shapes: PoolShapes) -> Any:
    """Return the mean over the taps."""
    if x.dtype.kind != "f":
        return plain(avg_pool2d)(x, shapes=shapes)
    first, *rest = shapes.taps(_with_border(x, shapes, 0.0))
    y = xp_of(x).copy(first, order="K")
    for tap in rest:
        y += tap
    return y / shapes.area


def avg_unpool2d(g: Any, *, shapes: PoolShapes) -> Any:
    """Return an image with each g spread evenly over its window."""
    padded = full_images(shapes.padded, 0.0, g)
    g = g / shapes.area
    for tap in shapes.taps(padded):
        tap += g
    return padded[shapes.inside]


# Parts ----------------------------------------------------------------------------------------------------------------


def _maximum(y: Any, first: Any, *rest: Any) -> None:
    """Compute the maximum of taps in y."""
    xp = xp_of(y)
    xp.copyto(y, first)
    for tap in rest:
        xp.maximum(y, tap, out=y)


def _maximum_and_winners(y: Any, *taps_and_winners: Any) -> None:
    """Compute the maximum and the winners: a tap that exceeds all before it wins, unless a later one does."""
    xp, half = xp_of(y), len(taps_and_winners) // 2
    (first, *taps), (first_wins, *winners) = taps_and_winners[:half], taps_and_winners[half:]
    xp.copyto(y, first)
    for tap, wins in zip(taps, winners, strict=True):
        xp.greater(tap, y, out=wins)
        xp.maximum(y, tap, out=y)
    free = y == y  # NaN has no winner
    for wins in reversed(winners):
        wins &= free
        free ^= wins
    xp.copyto(first_wins, free)


def _exclude_border(y: Any, winners: list[Any], shapes: PoolShapes) -> None:
    """Correct the winners of windows in which all pixels are -inf, as the border is: the first pixel wins."""
    lowest = y == -np.inf
    if not lowest.any():
        return
    free = lowest.copy()
    border = xp_of(y).zeros(shapes.padded, dtype=bool)
    border[shapes.inside] = True
    for wins, is_pixel in zip(winners, shapes.taps(border), strict=True):
        first = free & is_pixel
        wins &= ~lowest
        wins |= first
        free ^= first


def _put(g: Any, *taps_and_winners: Any) -> None:
    """Write to each tap the cotangents of the windows that it won, and 0 elsewhere."""
    taps, winners = taps_and_winners[: len(taps_and_winners) // 2], taps_and_winners[len(taps_and_winners) // 2 :]
    for tap, won in zip(taps, winners, strict=True):
        xp_of(g).multiply(g, won, out=tap)


def _masks(winners: Any, shapes: PoolShapes) -> Any:
    """Return a mask for each tap, from either form of the winners."""
    if not is_from_kernel(winners):
        return winners
    xp, (_, _, h, w) = xp_of(winners), shapes.x
    index = xp.arange(h * w, dtype=winners.dtype).reshape(1, 1, h, w)
    padded = xp.full((1, 1, *shapes.padded[2:]), -2, dtype=winners.dtype)  # no pixel, and no winner
    padded[shapes.inside] = index
    return [winners == tap for tap in shapes.taps(padded)]


def _with_border(x: Any, shapes: PoolShapes, value: float) -> Any:
    """Return x within a border of a constant value."""
    if shapes.padded == shapes.x:
        return x
    padded = full_images(shapes.padded, value, x)
    padded[shapes.inside] = x
    return padded


def _by_rows(function: Callable[..., None], *images: Any) -> None:
    """Call a function on the upper and the lower half of images (N, C, H, W), at the same time."""
    halves(function, *(x.transpose(2, 3, 0, 1) for x in images))
