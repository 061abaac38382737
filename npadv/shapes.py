"""The shapes of convolutions, pooling and maxout: checked and computed once, for all functions that need them.

``conv_shapes`` and ``pool_shapes`` turn the arguments of a user (integers or pairs) into a record of all shapes, and of all
settings as pairs for (H, W). The plain operations in ``ops/``, the fast ones in ``fast/`` and the gradient rules take this
record.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Pair = tuple[int, int]
Shape = tuple[int, ...]


class ConvShapes(NamedTuple):
    """The shapes of a convolution, and its settings as pairs for (H, W)."""

    x: Shape  # images (N, C, H, W)
    w: Shape  # filters (K, C/groups, KH, KW)
    y: Shape  # result (N, K, OH, OW)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    allow_winograd: bool = False  # whether a digit of precision may be given up for speed

    def cropped(self, rows: int, columns: int) -> ConvShapes:
        """Return the shapes without the last rows and columns of the result, which are then not computed."""
        n, k, height, width = self.y
        return self._replace(y=(n, k, height - rows, width - columns))


def conv_shapes(
    x: Shape, w: Shape, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> ConvShapes:
    """Return the shapes of the convolution of images x with filters w, or raise a ValueError that names the misfit.

    The height of the result is (H + 2 padding - dilation (KH - 1) - 1) // stride + 1, and so its width.

    >>> conv_shapes((1, 3, 28, 28), (16, 3, 5, 5), padding=2, stride=2).y
    (1, 16, 14, 14)
    """
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups: expected an integer of at least 1, got {groups!r}")
    stride = pair(stride, "stride", least=1)
    padding = pair(padding, "padding", least=0)
    dilation = pair(dilation, "dilation", least=1)
    return _conv_shapes(x, w, stride, padding, dilation, groups)


@lru_cache(maxsize=1024)
def _conv_shapes(x: Shape, w: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> ConvShapes:
    if len(x) != 4:
        raise ValueError(f"conv2d(x): expected images (N, C, H, W), got shape {x}")
    if len(w) != 4:
        raise ValueError(f"conv2d(w): expected filters (K, C/groups, KH, KW), got shape {w}")
    if x[1] != w[1] * groups or w[0] % groups:
        raise ValueError(
            f"conv2d: {w[0]} filters over {w[1]} channels in {groups} group(s) need {w[1] * groups} channels "
            f"and a multiple of {groups} filters; got images of {x[1]} channels"
        )
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(x[2:], padding, dilation, w[2:], stride, strict=True)
    )
    if min(height, width) < 1:
        raise ValueError(
            f"conv2d: a filter of {w[2:]} (dilation {dilation}) is larger than the image {x[2:]} with padding {padding}"
        )
    return ConvShapes(x, w, (x[0], w[0], height, width), stride, padding, dilation, groups)


class PoolShapes(NamedTuple):
    """The shapes of a pooling, and its settings as pairs for (H, W)."""

    x: Shape  # images (N, C, H, W)
    y: Shape  # result (N, C, OH, OW)
    size: Pair
    stride: Pair
    padding: Pair
    beyond: Pair = (0, 0)  # rows and columns past the padding that the last windows still cover (ceil_mode)

    @property
    def area(self) -> int:
        """The number of elements in a window."""
        return self.size[0] * self.size[1]

    @property
    def disjoint(self) -> bool:
        """Whether no pixel lies in two windows."""
        return self.stride[0] >= self.size[0] and self.stride[1] >= self.size[1]

    @property
    def padded(self) -> Shape:
        """The shape of the images with their border."""
        (n, c, h, w), (ph, pw), (bh, bw) = self.x, self.padding, self.beyond
        return (n, c, h + 2 * ph + bh, w + 2 * pw + bw)

    @property
    def inside(self) -> tuple[slice, ...]:
        """The index of the images within their border."""
        (_, _, h, w), (ph, pw) = self.x, self.padding
        return (slice(None), slice(None), slice(ph, ph + h), slice(pw, pw + w))

    def taps(self, padded: Any) -> list[Any]:
        """Return, for each position in a window, the view (N, C, OH, OW) of the pixels that all windows have there."""
        (height, width), (sh, sw), (oh, ow) = self.size, self.stride, self.y[2:]
        return [padded[:, :, i : i + sh * oh : sh, j : j + sw * ow : sw] for i in range(height) for j in range(width)]


def pool_shapes(x: Shape, size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False) -> PoolShapes:
    """Return the shapes of a pooling of images x, or raise a ValueError that names the misfit.

    The stride is the window's size by default; ``ceil_mode`` keeps a last window that lies partly beyond the image.

    >>> pool_shapes((1, 3, 7, 7), 2).y, pool_shapes((1, 3, 7, 7), 2, ceil_mode=True).y
    ((1, 3, 3, 3), (1, 3, 4, 4))
    """
    if len(x) != 4:
        raise ValueError(f"pooling(x): expected images (N, C, H, W), got shape {x}")
    size = pair(size, "size", least=1)
    stride = size if stride is None else pair(stride, "stride", least=1)
    padding = pair(padding, "padding", least=0)
    return _pool_shapes(x, size, stride, padding, bool(ceil_mode))


@lru_cache(maxsize=1024)
def _pool_shapes(x: Shape, size: Pair, stride: Pair, padding: Pair, ceil_mode: bool) -> PoolShapes:
    if any(2 * p > k for p, k in zip(padding, size, strict=True)):
        raise ValueError(f"padding: expected at most half the window {size}, got {padding}")
    out, beyond = [], []
    for n, k, s, p in zip(x[2:], size, stride, padding, strict=True):
        span = n + 2 * p - k
        if span < 0:
            raise ValueError(f"pooling: a window of {size} is larger than the image {x[2:]} with padding {padding}")
        steps = -(-span // s) if ceil_mode else span // s
        if ceil_mode and steps * s >= n + p:  # the last window would cover nothing of the image
            steps -= 1
        out.append(steps + 1)
        beyond.append(max(0, steps * s - span))
    return PoolShapes(x, (x[0], x[1], *out), size, stride, padding, (beyond[0], beyond[1]))


def maxout_slices(x: Any, pieces: int, axis: int) -> list[Any]:
    """Return views of x, each (N, units, ...): the first pieces of all units, the second ones, and so on.

    >>> [piece.tolist() for piece in maxout_slices(np.array([[1, 2, 3, 4]]), 2, 1)]
    [[[1, 2]], [[3, 4]]]
    """
    units = x.shape[axis] // pieces
    before = (slice(None),) * axis
    return [x[(*before, slice(p * units, (p + 1) * units))] for p in range(pieces)]


def pair(value: Any, name: str, *, least: int) -> Pair:
    """Return an integer or a pair of integers as a pair, or raise a ValueError if one of them is less than ``least``."""
    values = (value, value) if isinstance(value, int | np.integer) else value
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise ValueError(f"{name}: expected an integer of at least {least}, or two of them, got {value!r}")
    if any(not isinstance(v, int | np.integer) or v < least for v in values):
        raise ValueError(f"{name}: expected an integer of at least {least}, or two of them, got {value!r}")
    return int(values[0]), int(values[1])
