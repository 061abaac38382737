"""Convolution on a CPU, fast: the sums of ``conv.py`` in an order that suits a processor.

``conv.py`` says what a convolution is and computes it the plain way, which everything here is tested against. This package
computes the same on NumPy arrays several times faster. What carries it:

*Memory.* Images are (N, C, H, W) to everybody else; here they lie as (H, W, N, C): pixel after pixel, at each pixel all
images, of each image all channels. ``pixels(x)`` is that view, copied only if x came in another order, and what is returned
is a view the other way, so a network pays for the order once, at its input. Pooling and activations like it too: what they
combine are whole pixels, long contiguous runs.

*Four ways*, by how much there is to multiply at a pixel:

- ``winograd.py``, many channels and filters of up to 5 by 5: by fewer multiplications than the definition has, where that is
  faster and where it is allowed, because it costs a digit of precision (``ops.winograd``). Training allows it: its steps
  are not that exact, but whether an adversarial example is one may hang on the last digit. ``NPADV_WINOGRAD=off`` does
  without.
- ``taps.py``, many channels: moving along a row by j pixels is moving down its matrix by j * N rows, so each tap of the
  filters is a product that reads and writes in place. Nothing is copied; over the padding a product is shorter, or absent.
- ``rows.py``, fewer: the same, but the taps of a row of the filters together, on images unfolded along their rows.
- ``columns.py``, one or three channels, strides along the row, groups: windows laid out as columns, a block at a time.

*Threads.* Tiles, taps and blocks are independent of each other, and shared out (``npadv/fast/parallel.py``).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from npadv.fast import im2col, row_im2col, shifted_gemm, winograd
from npadv.fast.layout import Problem, empty_pixels, flat, images, pixels

LARGE = 3_000_000  # multiplications in a product that is worth a call of its own
FEW_CHANNELS = 12  # with less, on either side, products along the rows are too thin
FEW_ROWS = 64  # the same of pixels in a row times images
WINOGRAD = os.environ.get("NPADV_WINOGRAD") != "off"


def conv2d(x: Any, w: Any, problem: Problem) -> Any:
    """Return what ``conv.conv2d_forward`` returns."""
    if thin(problem):
        return im2col.forward(x, w, problem)
    if fewer(problem):
        return winograd.forward(x, w, problem)
    x, w = pixels(x), shifted_gemm.matrices(w)
    if not large(problem):
        x, problem = row_im2col.unfolded(x, problem), row_im2col.narrow(problem)
        w = w.reshape(problem.w[2], problem.w[1], problem.w[0])
    y = empty_pixels(problem.y, np.result_type(x, w))
    shifted_gemm.gather(flat(x), w, flat(y), shifted_gemm.tiles(problem, backward=False))
    return images(y)


def input_grad(g: Any, w: Any, problem: Problem) -> Any:
    """Return what ``conv.conv2d_input_grad`` returns."""
    if thin(problem):
        return im2col.input_grad(g, w, problem)
    if fewer(problem):
        return winograd.input_grad(g, w, problem)
    g, small, fold = pixels(g), problem, False
    if large(problem):
        w = shifted_gemm.matrices(w.swapaxes(0, 1))
    elif row_im2col.shorter(problem):
        g, w, small = row_im2col.turned(g, w, problem)
    else:
        small, fold = row_im2col.narrow(problem), True
        w = np.ascontiguousarray(w.transpose(2, 0, 3, 1)).reshape(small.w[2], small.w[0], small.w[1])
    dx = empty_pixels(small.x, np.result_type(g, w))
    shifted_gemm.gather(flat(g), w, flat(dx), shifted_gemm.tiles(small, backward=True))
    return images(row_im2col.folded(dx, problem) if fold else dx)


def weight_grad(x: Any, g: Any, problem: Problem) -> Any:
    """Return what ``conv.conv2d_weight_grad`` returns."""
    if thin(problem):
        return im2col.weight_grad(x, g, problem)
    if fewer(problem):
        return winograd.weight_grad(x, g, problem)
    k, c, kh, kw = problem.w
    x, g = pixels(x), pixels(g)
    if not large(problem):
        x, problem = row_im2col.unfolded(x, problem), row_im2col.narrow(problem)
    dw = shifted_gemm.gather_weights(flat(x), flat(g), problem)
    return dw.reshape(kh, kw, c, k).transpose(3, 2, 0, 1)


def thin(problem: Problem) -> bool:
    """Whether products along the rows are not worth their calls: then whole windows are laid out."""
    (n, k, _, width), (_, c, _, _) = problem.y, problem.x
    return problem.geometry.groups > 1 or min(c, k) < FEW_CHANNELS or n * width < FEW_ROWS


def fewer(problem: Problem) -> bool:
    """Whether to compute with fewer multiplications."""
    return WINOGRAD and problem.geometry.winograd and winograd.wins(problem)


def large(problem: Problem) -> bool:
    """Whether even the product of one tap is worth its call."""
    (n, k, _, width), (_, c, _, _) = problem.y, problem.x
    return problem.geometry.stride[1] == 1 and n * width * c * k >= LARGE
