"""Max and average pooling over windows of images (N, C, H, W), differentiable to any order.

A window has one *tap* per position in it; pooling walks the taps and combines whole images of them, which is a handful of
array operations however many windows there are. Both are handled through a pair of adjoints:

- average: ``avg_pool2d_forward`` and ``avg_unpool2d``, which spreads each mean over its window;
- maximum: where the maximum was found is constant nearby, so the gradient goes through ``max_unpool2d`` (put each value
  back where it was found; at ties, the first in reading order) and that one's through ``max_pick2d`` (read it there).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from npadv.autodiff import defvjp, primitive
from npadv.backend import xp_of
from npadv.fast.parallel import halves
from npadv.ops.conv import Pair, full_images, padded_images, pair


class Windows(NamedTuple):
    """Where the windows lie: each setting for (H, W)."""

    size: Pair
    stride: Pair
    padding: Pair
    out: Pair
    beyond: Pair  # rows and columns past the padding that the last windows still cover (ceil_mode)

    def taps(self, padded: Any) -> list[Any]:
        """Return, for each position in a window, the view (N, C, OH, OW) of what all windows see there."""
        (height, width), (sh, sw), (oh, ow) = self.size, self.stride, self.out
        return [padded[:, :, i : i + sh * oh : sh, j : j + sw * ow : sw] for i in range(height) for j in range(width)]

    def pad(self, x: Any, value: float) -> Any:
        """Return x with its border."""
        return padded_images(x, self.padding, beyond=self.beyond, value=value)

    @property
    def disjoint(self) -> bool:
        """Whether no pixel lies in two windows."""
        return self.stride[0] >= self.size[0] and self.stride[1] >= self.size[1]

    def scatter(self, shape: tuple[int, ...], g: Any, masks: list[Any] | None = None) -> Any:
        """Return an image of the given shape with g (N, C, OH, OW), times its mask if it has one, added at each tap."""
        n, c, h, w = shape
        (ph, pw), (bh, bw) = self.padding, self.beyond
        tiling = masks is not None and self.stride == self.size  # then only what is right of and below them stays 0
        padded = full_images((n, c, h + 2 * ph + bh, w + 2 * pw + bw), None if tiling else 0.0, g)
        if tiling:
            padded[:, :, self.size[0] * self.out[0] :] = 0
            padded[:, :, :, self.size[1] * self.out[1] :] = 0
        taps = self.taps(padded)
        if masks is None:
            for tap in taps:
                tap += g
        elif self.disjoint:
            by_rows(_put, g, *taps, *masks)
        else:  # a row of the image may belong to windows of both halves
            for tap, mask in zip(taps, masks, strict=True):
                tap += g * mask
        return padded[:, :, ph : ph + h, pw : pw + w]


def _put(g: Any, *taps_and_masks: Any) -> None:
    taps, masks = taps_and_masks[: len(taps_and_masks) // 2], taps_and_masks[len(taps_and_masks) // 2 :]
    for tap, mask in zip(taps, masks, strict=True):
        xp_of(g).multiply(g, mask, out=tap)


def by_rows(function: Callable[..., None], *images: Any) -> None:
    """Call a function on the upper and the lower half of images (N, C, H, W), side by side."""
    halves(function, *(x.transpose(2, 3, 0, 1) for x in images))


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
    first, *rest = where.taps(where.pad(x, -xp_of(x).inf))
    y = xp_of(x).empty_like(first)
    by_rows(_maximum, y, first, *rest)
    return y


def _maximum(y: Any, first: Any, *rest: Any) -> None:
    xp = xp_of(y)
    xp.copyto(y, first)
    for tap in rest:
        xp.maximum(y, tap, out=y)


def _maximum_and_winners(x: Any, where: Windows) -> tuple[Any, list[Any]]:
    """Return the maximum, and one boolean (N, C, OH, OW) per tap: whether it is the first that equals the maximum."""
    xp = xp_of(x)
    taps = where.taps(where.pad(x, -xp.inf))
    y = xp.empty_like(taps[0])
    winners = [xp.empty_like(y, dtype=bool) for _ in taps]
    by_rows(_find, y, *taps, *winners)
    return y, winners


def _find(y: Any, *taps_and_winners: Any) -> None:
    """Compute the maximum and who wins, each tap read once: the last that is larger than all before it."""
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


@primitive
def max_unpool2d(g: Any, winners: Any, *, where: Windows, shape: tuple[int, ...]) -> Any:
    """Return an image of the given shape with each g added at the tap that won."""
    return where.scatter(shape, g, winners)


@primitive
def max_pick2d(u: Any, winners: Any, *, where: Windows) -> Any:
    """Return, for each window, the value of u at the tap that won."""
    first, *rest = where.taps(where.pad(u, 0.0))
    y = first * winners[0]
    for tap, won in zip(rest, winners[1:], strict=True):
        y += tap * won
    return y


defvjp(
    max_pool2d_forward,
    lambda g, y, x, where, residuals: max_unpool2d(g, residuals, where=where, shape=x.shape),
    forward_with_residuals=_maximum_and_winners,
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
    first, *rest = where.taps(where.pad(x, 0.0))
    y = xp_of(x).copy(first, order="K")
    for tap in rest:
        y += tap
    return y / (where.size[0] * where.size[1])


@primitive
def avg_unpool2d(g: Any, *, where: Windows, shape: tuple[int, ...]) -> Any:
    """Return an image of the given shape with each g spread evenly over its window."""
    taps = where.size[0] * where.size[1]
    return where.scatter(shape, g / taps)


defvjp(avg_pool2d_forward, lambda g, y, x, where: avg_unpool2d(g, where=where, shape=x.shape))
defvjp(avg_unpool2d, lambda u, y, g, where, shape: avg_pool2d_forward(u, where=where))
