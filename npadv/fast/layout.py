"""The order of images in memory: (H, W, N, C), pixel after pixel.

Images are (N, C, H, W) to the user. For NumPy's matrix products another order in memory is better: pixel after pixel, at each
pixel all images, of each image all channels. A row of pixels is then a matrix (W * N, C) that a product reads in place.
``to_hwnc`` gives that order, as a view where the images lie so already, and ``to_nchw`` is the view back; so a network pays
for the order once, at its input.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv.backend import xp_of
from npadv.fast.memory import CACHE_LINE
from npadv.shapes import Shape

PAGE = 4096  # bytes


def to_hwnc(x: Any) -> Any:
    """Return images (N, C, H, W) as a contiguous array (H, W, N, C): a view, if they lie so in memory."""
    return np.ascontiguousarray(avoid_aliasing(x).transpose(2, 3, 0, 1))


def to_nchw(p: Any) -> Any:
    """Return pixels (H, W, N, C) as images (N, C, H, W), a view."""
    return p.transpose(2, 3, 0, 1)


def empty_hwnc(shape: Shape, dtype: Any) -> Any:
    """Return an uninitialised array (H, W, N, C) for images of a shape (N, C, H, W)."""
    n, c, h, w = shape
    return np.empty((h, w, n, c), dtype=dtype)


def as_matrix(p: Any) -> Any:
    """Return pixels (H, W, N, C) as one matrix (H * W * N, C), a view."""
    return p.reshape(-1, p.shape[3])


def avoid_aliasing(x: Any) -> Any:
    """Return images that a cache can hold a pixel of all at once: a copy with gaps where the images lie 4 KiB apart.

    A cache keeps addresses that differ by a multiple of 4 KiB in the same few places. Images of 32 x 32 pixels in float32
    lie exactly so, and reading them pixel by pixel takes ten times as long as reading images of 28 x 28.
    """
    n = len(x)
    if not x.size or x.strides[0] % PAGE or not x.flags.c_contiguous:
        return x
    size, gap = x.size // n, CACHE_LINE // x.itemsize
    copy = np.empty((n, size + gap), x.dtype)[:, :size].reshape(x.shape)
    copy[...] = x
    return copy


def full_images(shape: Shape, value: float | None, like: Any) -> Any:
    """Return images (N, C, H, W) of one value, or uninitialised ones; on NumPy they lie in the order (H, W, N, C)."""
    xp = xp_of(like)
    out = to_nchw(empty_hwnc(shape, like.dtype)) if xp is np else xp.empty(shape, like.dtype)
    if value is not None:
        out[...] = value
    return out
