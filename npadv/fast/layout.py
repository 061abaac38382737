"""How images lie in memory for the fast paths, and what a convolution's three functions are told."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from npadv.fast.memory import LINE

PAGE = 4096  # bytes

Shape = tuple[int, ...]
Geometry = Any  # conv.Geometry: stride, padding, dilation (pairs for H, W), groups, crop


class Problem(NamedTuple):
    """What all three functions are told: the shapes of images, filters and results, and how they lie to each other."""

    x: Shape
    w: Shape
    y: Shape
    geometry: Geometry


def pixels(x: Any) -> Any:
    """Return images (N, C, H, W) as a contiguous array (H, W, N, C): a view, if they lie so in memory."""
    return np.ascontiguousarray(apart(x).transpose(2, 3, 0, 1))


def apart(x: Any) -> Any:
    """Return images such that a pixel of all of them can be read at once: a copy with gaps, if a cache had no room for it.

    A cache keeps what lies a multiple of 4 KiB apart in the same few places. Images of 32 by 32 pixels lie so, one after the
    other, and to read them a pixel at a time takes ten times as long as those of 28 by 28.
    """
    n = len(x)
    if not x.size or x.strides[0] % PAGE or not x.flags.c_contiguous:
        return x
    size, gap = x.size // n, LINE // x.itemsize
    copy = np.empty((n, size + gap), x.dtype)[:, :size].reshape(x.shape)
    copy[...] = x
    return copy


def images(p: Any) -> Any:
    """Return pixels (H, W, N, C) as images (N, C, H, W), a view."""
    return p.transpose(2, 3, 0, 1)


def empty_pixels(shape: Shape, dtype: Any) -> Any:
    """Return an array (H, W, N, C) for images of a shape (N, C, H, W)."""
    n, c, h, w = shape
    return np.empty((h, w, n, c), dtype=dtype)


def flat(p: Any) -> Any:
    """Return pixels (H, W, N, C) as one matrix (H * W * N, C)."""
    return p.reshape(-1, p.shape[3])
