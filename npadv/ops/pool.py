"""Max and average pooling over windows of images (N, C, H, W), differentiable to any order.

For each position in a window, the pixels that all windows have there form an image (N, C, OH, OW), a *tap*. A window of 2 x 2
has four taps, and pooling is their maximum or their mean: a few array operations for any number of windows.

- Average: the adjoint of ``avg_pool2d_forward`` is ``avg_unpool2d``, which spreads each mean over its window.
- Maximum: the position of the maximum in its window does not change near x. So the gradient is ``max_unpool2d``, which puts
  each cotangent at that position, and the gradient of that is ``max_pick2d``, which reads the value there. At ties the first
  position wins, row by row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv.autodiff import defvjp, primitive, value_of
from npadv.backend import xp_of
from npadv.fast import faster, if_enabled
from npadv.fast import pool as fast
from npadv.shapes import Pair, PoolShapes, pool_shapes

# Maximum --------------------------------------------------------------------------------------------------------------


def max_pool2d(
    x: Any, size: int | Pair, *, stride: int | Pair | None = None, padding: int | Pair = 0, ceil_mode: bool = False
) -> Any:
    """Return the maximum of each window: (N, C, H, W) to (N, C, OH, OW). The stride is the window's size by default.

    ``padding`` is a border that never wins; ``ceil_mode`` keeps a last window that lies partly outside. A ValueError says
    which setting does not fit.

    >>> import numpy as np
    >>> max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """
    return max_pool2d_forward(x, shapes=pool_shapes(x.shape, size, stride, padding, ceil_mode))


@primitive
@faster(fast.max_pool2d)
def max_pool2d_forward(x: Any, *, shapes: PoolShapes) -> Any:
    """Return the maximum over the taps."""
    return _taps(x, shapes, border=_lowest(x.dtype)).max(axis=0)


@primitive
@faster(fast.max_unpool2d)
def max_unpool2d(g: Any, winners: Any, *, shapes: PoolShapes) -> Any:
    """Return an image with each g added at the tap that won."""
    return _add_taps([g * won for won in winners], shapes)


@primitive
@faster(fast.max_pick2d)
def max_pick2d(u: Any, winners: Any, *, shapes: PoolShapes) -> Any:
    """Return, for each window, the value of u at the tap that won."""
    return sum(tap * won for tap, won in zip(_taps(u, shapes, border=0), winners, strict=True))


def winners_of(x: Any, shapes: PoolShapes) -> Any:
    """Return, for each tap, a mask (N, C, OH, OW): whether it is the first pixel that equals the maximum."""
    xp = xp_of(x)
    taps = _taps(x, shapes, border=_lowest(x.dtype))
    pixels = _taps(xp.ones_like(x, dtype=bool), shapes, border=False)
    equal = (taps == taps.max(axis=0)) & pixels
    return equal & (xp.cumsum(equal, axis=0) == 1)


def _max_rule(g: Any, y: Any, x: Any, shapes: PoolShapes, residuals: Any = None) -> Any:
    winners = winners_of(value_of(x), shapes) if residuals is None else residuals
    return max_unpool2d(g, winners, shapes=shapes)


defvjp(max_pool2d_forward, _max_rule, forward_with_residuals=if_enabled(fast.max_pool2d_with_winners))
defvjp(max_unpool2d, lambda u, y, g, winners, shapes: max_pick2d(u, winners, shapes=shapes), None)
defvjp(max_pick2d, lambda g, y, u, winners, shapes: max_unpool2d(g, winners, shapes=shapes), None)


# Average --------------------------------------------------------------------------------------------------------------


def avg_pool2d(x: Any, size: int | Pair, *, stride: int | Pair | None = None, padding: int | Pair = 0) -> Any:
    """Return the mean of each window (zeros of the padding counted): (N, C, H, W) to (N, C, OH, OW).

    >>> import numpy as np
    >>> avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)
    array([[[[ 2.5,  4.5],
             [10.5, 12.5]]]])
    """
    return avg_pool2d_forward(x, shapes=pool_shapes(x.shape, size, stride, padding))


@primitive
@faster(fast.avg_pool2d)
def avg_pool2d_forward(x: Any, *, shapes: PoolShapes) -> Any:
    """Return the mean over the taps."""
    return _taps(x, shapes, border=0).mean(axis=0)


@primitive
@faster(fast.avg_unpool2d)
def avg_unpool2d(g: Any, *, shapes: PoolShapes) -> Any:
    """Return an image with each g spread evenly over its window."""
    return _add_taps([g / shapes.area] * shapes.area, shapes)


defvjp(avg_pool2d_forward, lambda g, y, x, shapes: avg_unpool2d(g, shapes=shapes))
defvjp(avg_unpool2d, lambda u, y, g, shapes: avg_pool2d_forward(u, shapes=shapes))


# Taps -----------------------------------------------------------------------------------------------------------------


def _taps(x: Any, shapes: PoolShapes, border: Any) -> Any:
    """Return the taps of images within a border of a constant value: (taps, N, C, OH, OW)."""
    padded = xp_of(x).full(shapes.padded, border, dtype=x.dtype)
    padded[shapes.inside] = x
    return xp_of(x).stack(shapes.taps(padded))


def _add_taps(parts: list[Any], shapes: PoolShapes) -> Any:
    """Return the adjoint of ``_taps``: an image with each part added at its tap."""
    padded = xp_of(*parts).zeros(shapes.padded, dtype=parts[0].dtype)
    for tap, part in zip(shapes.taps(padded), parts, strict=True):
        tap += part
    return padded[shapes.inside]


def _lowest(dtype: Any) -> Any:
    """Return the smallest value of a dtype, as a border that never exceeds a pixel."""
    if dtype.kind == "f":
        return -np.inf
    return False if dtype.kind == "b" else np.iinfo(dtype).min
