"""Convolution by row im2col: the taps of one row of the filters make one matrix product together.

With few channels, the product of a single tap (``shifted_gemm.py``) takes less time than its call. So the images are first
unfolded along their rows: each pixel then holds the KW * C values that one row of a filter reads there. The remaining
convolution has filters one pixel wide, and ``shifted_gemm.py`` computes it.

The gradient of the images is computed in one of two ways. ``folded`` is the adjoint of ``unfolded``: it adds each value to the
pixel that it was copied from. Where padding makes the rows of the result longer than those of the images, it is cheaper to
unfold the gradient of the result instead, and to convolve it with the flipped filters (``flipped``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.fast import parallel
from npadv.shapes import ConvShapes, Shape

WORTH_TWO_THREADS = 1 << 20  # elements


def unfolded(p: Any, shapes: ConvShapes) -> Any:
    """Return pixels (H, W, N, C) as (H, OW, N, KW * C), zero where a tap lies beyond the edge."""
    height, _, n, c = p.shape
    width, kw = shapes.y[3], shapes.w[3]
    out = np.empty((height, width, n, kw, c), dtype=p.dtype)

    def part(rows: slice) -> None:
        for j in range(kw):
            inside, seen = _tap_ranges(shapes, j)
            out[rows, : inside.start, :, j] = 0
            out[rows, inside, :, j] = p[rows, seen]
            out[rows, inside.stop :, :, j] = 0

    _by_halves(part, height, out.size)
    return out.reshape(height, width, n, kw * c)


def folded(u: Any, shapes: ConvShapes) -> Any:
    """Return the adjoint of ``unfolded``: (H, OW, N, KW * C) added back to pixels (H, W, N, C)."""
    (n, c, height, width), kw = shapes.x, shapes.w[3]
    u = u.reshape(height, shapes.y[3], n, kw, c)
    out = np.zeros((height, width, n, c), dtype=u.dtype)

    def part(rows: slice) -> None:
        for j in range(kw):
            inside, seen = _tap_ranges(shapes, j)
            out[rows, seen] += u[rows, inside, :, j]

    _by_halves(part, height, u.size)
    return out


def after_unfolding(shapes: ConvShapes) -> ConvShapes:
    """Return the shapes of the convolution that remains when the images have been unfolded."""
    (n, c, height, _), (k, _, kh, kw), y = shapes.x, shapes.w, shapes.y
    return _one_pixel_wide(shapes, (n, kw * c, height, y[3]), (k, kw * c, kh, 1), y)


def flip_is_cheaper(shapes: ConvShapes) -> bool:
    """Whether the rows of images are shorter than those of results, so that unfolding the latter saves work."""
    return shapes.stride[1] == 1 and shapes.x[3] < shapes.y[3]


def flipped(g: Any, w: Any, shapes: ConvShapes) -> tuple[Any, Any, ConvShapes]:
    """Return the input gradient as another convolution: g unfolded, the flipped filters as matrices, and its shapes.

    g (OH, OW, N, K) and w (K, C, KH, KW) are turned into (OH, W, N, KW * K) and (KH, KW * K, C). Along the rows, the input
    gradient is a convolution of g with the filters flipped, and with (KW - 1) dilation - padding zeros around it.
    """
    (n, c, _, width), (k, _, kh, kw), (_, _, y_height, _) = shapes.x, shapes.w, shapes.y
    dilation = shapes.dilation[1]
    padding = (kw - 1) * dilation - shapes.padding[1]
    along_rows = ConvShapes(
        shapes.y, (c, k, kh, kw), (n, c, y_height, width), padding=(0, padding), dilation=(1, dilation)
    )
    matrices = np.ascontiguousarray(w.transpose(2, 3, 0, 1)[:, ::-1]).reshape(kh, kw * k, c)
    narrow = _one_pixel_wide(shapes, shapes.x, (kw * k, c, kh, 1), (n, kw * k, y_height, width))
    return unfolded(g, along_rows), matrices, narrow


def _one_pixel_wide(shapes: ConvShapes, x: Shape, w: Shape, y: Shape) -> ConvShapes:
    """Return a convolution with filters one pixel wide, with the settings that ``shapes`` has along the columns."""
    (sh, _), (ph, _), (dh, _) = shapes.stride, shapes.padding, shapes.dilation
    return ConvShapes(x, w, y, stride=(sh, 1), padding=(ph, 0), dilation=(dh, 1))


def _tap_ranges(shapes: ConvShapes, j: int) -> tuple[slice, slice]:
    """Return, along a row, the outputs whose j-th tap lies inside the image, and the pixels that this tap reads."""
    stride, padding, dilation = shapes.stride[1], shapes.padding[1], shapes.dilation[1]
    width, out = shapes.x[3], shapes.y[3]
    shift = j * dilation - padding
    first = min(out, max(0, -(shift // stride)))
    last = max(first, min(out, (width - 1 - shift) // stride + 1))
    if first == last:
        return slice(first, first), slice(0, 0)
    return slice(first, last), slice(first * stride + shift, (last - 1) * stride + shift + 1, stride)


def _by_halves(part: Callable[[slice], None], height: int, elements: int) -> None:
    """Call ``part`` on the upper and the lower rows side by side, or on all rows where there is little to do."""
    cuts = [0, height // 2, height] if elements > WORTH_TWO_THREADS else [0, height]
    parallel.run(lambda i: part(slice(cuts[i], cuts[i + 1])), len(cuts) - 1)
