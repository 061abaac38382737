"""The order of images in memory: (H, W, N, C), pixel after pixel.

Images are (N, C, H, W) to the user. For NumPy's matrix products another memory order is better: pixel after pixel, at each
pixel all images, of each image all channels. A row of pixels is then a matrix (W * N, C), which a product reads in place.
``to_hwnc`` returns that order, as a view if the images have it already, and ``to_nchw`` is the view back. So a
network's input is copied into this order once, and its layers keep the order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv.backend import xp_of
from npadv.fast.memory import CACHE_LINE
from npadv.shapes import Shape

PAGE = 4096  # bytes


def to_hwnc(x: Any) -> Any:
    """Return images (N, C, H, W) as a contiguous array (H, W, N, C): a view if they have this memory order."""
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
    """Return images that lie a multiple of 4 KiB apart as a copy with gaps between them, and others unchanged.

    A cache keeps addresses that differ by a multiple of 4 KiB in the same few places. The distance of images of 32 x 32
    pixels in float32 is such a multiple: reading one pixel of all images, then the next, takes ten times as long as for
    images of 28 x 28.
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
