"""Max and average pooling over windows of images (N, C, H, W), differentiable to any order.

A window has one *tap* per position in it; pooling walks the taps and combines whole images of them, which is a handful of
array operations however many windows there are. Both are handled through a pair of adjoints:

- average: ``avg_pool2d_forward`` and ``avg_unpool2d``, which spreads each mean over its window;
- maximum: where the maximum was found is constant nearby, so the gradient goes through ``max_unpool2d`` (put each value
  back where it was found; at ties, the first in reading order) and that one's through ``max_pick2d`` (read it there).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from npadv.autodiff import defvjp, primitive, value_of
from npadv.backend import xp_of
from npadv.ops.conv import Pair, full_images, padded_images, pair


class Windows(NamedTuple):
    """Where the windows lie: each setting for (H, W)."""

    size: Pair
    stride: Pair
    padding: Pair
    out: Pair
    beyond: Pair  # rows and columns past the padding that the last windows still cover (ceil_mode)

    def taps(self, padded: Any) -> Iterator[Any]:
        """Yield, for each position in a window, the view (N, C, OH, OW) of what all windows see there."""
        for i in range(self.size[0]):
            for j in range(self.size[1]):
                rows = slice(i, i + self.stride[0] * self.out[0], self.stride[0])
                columns = slice(j, j + self.stride[1] * self.out[1], self.stride[1])
                yield padded[:, :, rows, columns]

    def pad(self, x: Any, value: float) -> Any:
        """Return x with its border."""
        return padded_images(x, self.padding, beyond=self.beyond, value=value)

    @property
    def disjoint(self) -> bool:
        """Whether no pixel lies in two windows."""
        return self.stride[0] >= self.size[0] and self.stride[1] >= self.size[1]

    def scatter(self, shape: tuple[int, ...], g: Any, shares: Iterable[Any]) -> Any:
        """Return an image of the given shape with ``g * share`` (N, C, OH, OW) added at each tap."""
        n, c, h, w = shape
        ph, pw = self.padding
        padded = full_images((n, c, h + 2 * ph + self.beyond[0], w + 2 * pw + self.beyond[1]), 0.0, g)
        for tap, share in zip(self.taps(padded), shares, strict=True):
            if self.disjoint:
                xp_of(g).multiply(g, share, out=tap)
            else:
                tap += g * share
        return padded[:, :, ph : ph + h, pw : pw + w]


def windows(
    shape: tuple[int, ...],
    size: int | Pair,
    stride: int | Pair | None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
) -> Windows:
    """Return the windows over images of a shape; ``ceil_mode`` keeps a last, partly empty window."""
    if len(shape) != 4:
        raise ValueError(f"pooling(x): expected images (N, C, H, W), got shape {shape}")
    size = pair(size, "size", least=1)
    stride = size if stride is None else pair(stride, "stride", least=1)
    padding = pair(padding, "padding", least=0)
    if any(2 * p > k for p, k in zip(padding, size, strict=True)):
        raise ValueError(f"padding: expected at most half the window {size}, got {padding}")
    out, beyond = [], []
    for n, k, s, p in zip(shape[2:], size, stride, padding, strict=True):
        span = n + 2 * p - k
        if span < 0:
            raise ValueError(f"pooling: a window of {size} is larger than the image {shape[2:]} with padding {padding}")
        steps = -(-span // s) if ceil_mode else span // s
        if ceil_mode and steps * s >= n + p:  # the last window would see nothing of the image
            steps -= 1
        out.append(steps + 1)
        beyond.append(max(0, steps * s - span))
    return Windows(size, stride, padding, (out[0], out[1]), (beyond[0], beyond[1]))


# Maximum --------------------------------------------------------------------------------------------------------------


def max_pool2d(
    x: Any, size: int | Pair, *, stride: int | Pair | None = None, padding: int | Pair = 0, ceil_mode: bool = False
) -> Any:
    """Return the maximum of each window: (N, C, H, W) to (N, C, OH, OW). The stride is the window's size by default.

    >>> import numpy as np
    >>> max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """
    return max_pool2d_forward(x, where=windows(x.shape, size, stride, padding, ceil_mode))


@primitive
def max_pool2d_forward(x: Any, *, where: Windows) -> Any:
    """Return the maximum over the taps."""
    xp = xp_of(x)
    first, *rest = where.taps(where.pad(x, -xp.inf))
    y = xp.copy(first, order="K")
    for tap in rest:
        xp.maximum(y, tap, out=y)
    return y


@primitive
def max_unpool2d(g: Any, winners: Any, *, where: Windows, shape: tuple[int, ...]) -> Any:
    """Return an image of the given shape with each g added at the tap that won."""
    return where.scatter(shape, g, winners)


@primitive
def max_pick2d(u: Any, winners: Any, *, where: Windows) -> Any:
    """Return, for each window, the value of u at the tap that won."""
    taps = where.taps(where.pad(u, 0.0))
    y = next(taps) * winners[0]
    for tap, won in zip(taps, winners[1:], strict=True):
        y += tap * won
    return y


def _winners(x: Any, y: Any, where: Windows) -> list[Any]:
    """Return one boolean (N, C, OH, OW) per tap; over all taps exactly one is true, the first that equals the maximum."""
    masks = []
    free = y == y
    for tap in where.taps(where.pad(x, -xp_of(x).inf)):
        won = tap == y
        won &= free
        free ^= won
        masks.append(won)
    return masks


defvjp(
    max_pool2d_forward,
    lambda g, y, x, where: max_unpool2d(g, _winners(value_of(x), value_of(y), where), where=where, shape=x.shape),
)
defvjp(max_unpool2d, lambda u, y, g, winners, where, shape: max_pick2d(u, winners, where=where), None)
defvjp(max_pick2d, lambda g, y, u, winners, where: max_unpool2d(g, winners, where=where, shape=u.shape), None)


# Average --------------------------------------------------------------------------------------------------------------


def avg_pool2d(x: Any, size: int | Pair, *, stride: int | Pair | None = None, padding: int | Pair = 0) -> Any:
    """Return the mean of each window (zeros of the padding counted): (N, C, H, W) to (N, C, OH, OW).

    >>> import numpy as np
    >>> avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)
    array([[[[ 2.5,  4.5],
             [10.5, 12.5]]]])
    """
    return avg_pool2d_forward(x, where=windows(x.shape, size, stride, padding))


@primitive
def avg_pool2d_forward(x: Any, *, where: Windows) -> Any:
    """Return the mean over the taps."""
    taps = where.taps(where.pad(x, 0.0))
    y = xp_of(x).copy(next(taps), order="K")
    for tap in taps:
        y += tap
    return y / (where.size[0] * where.size[1])


@primitive
def avg_unpool2d(g: Any, *, where: Windows, shape: tuple[int, ...]) -> Any:
    """Return an image of the given shape with each g spread evenly over its window."""
    taps = where.size[0] * where.size[1]
    return where.scatter(shape, g / taps, taps * [1])


defvjp(avg_pool2d_forward, lambda g, y, x, where: avg_unpool2d(g, where=where, shape=x.shape))
defvjp(avg_unpool2d, lambda u, y, g, where, shape: avg_pool2d_forward(u, where=where))
