"""Convolution, fast: the choice between four algorithms on a CPU, and the CUDA kernels for CuPy arrays.

``ops/conv.py`` defines a convolution and computes it with one large matrix product. The tests compare this module with it.
This module is several times faster:

- Images lie pixel after pixel in memory (``layout.py``), so that rows of pixels are matrices.
- The algorithm depends on the number of multiplications at each pixel:

  * ``winograd.py``: filters of up to 5 x 5 over many channels, with fewer multiplications than the definition has. It costs
    a digit of precision and runs only where ``ops.winograd()`` allows it: in training, since an attack's success may
    depend on the last digit. ``NPADV_WINOGRAD=off`` never uses it.
  * ``shifted_gemm.py``: many channels. Each tap of the filters is a matrix product that reads and writes pixels in place.
  * ``row_im2col.py``: fewer channels. The taps of one row of the filters make one product together.
  * ``im2col.py``: one or three channels, strides, groups. Whole windows are copied into columns, a block at a time.

- The work is divided among threads (``parallel.py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from npadv import kernels
from npadv.backend import xp_of
from npadv.fast import im2col, row_im2col, shifted_gemm, winograd
from npadv.fast.layout import as_matrix, empty_hwnc, to_hwnc, to_nchw
from npadv.shapes import ConvShapes, conv_shapes

GEMM_MULTIPLICATIONS = 3_000_000  # from which the product of a single tap takes longer than its call
MIN_CHANNELS = 12  # with fewer channels on either side, products along the rows are too thin
MIN_ROWS = 64  # with fewer pixels in a row, times images, they are too short
WINOGRAD = os.environ.get("NPADV_WINOGRAD") != "off"


def conv2d(x: Any, w: Any, *, shapes: ConvShapes) -> Any:
    """Return the result of ``ops.conv.conv2d_forward``."""
    if xp_of(x, w) is not np:
        return kernels.conv2d(x, w, **_settings(shapes))[:, :, : shapes.y[2], : shapes.y[3]]
    if use_im2col(shapes):
        return im2col.forward(x, w, shapes)
    if use_winograd(shapes):
        return winograd.forward(x, w, shapes)
    x, w = to_hwnc(x), shifted_gemm.tap_matrices(w)
    if not use_gemm_per_tap(shapes):
        x, shapes = row_im2col.unfolded(x, shapes), row_im2col.after_unfolding(shapes)
        w = w.reshape(shapes.w[2], shapes.w[1], shapes.w[0])
    y = empty_hwnc(shapes.y, np.result_type(x, w))
    shifted_gemm.sum_products(as_matrix(x), w, as_matrix(y), shifted_gemm.tiles(shapes, backward=False))
    return to_nchw(y)


def conv2d_input_grad(g: Any, w: Any, *, shapes: ConvShapes) -> Any:
    """Return the result of ``ops.conv.conv2d_input_grad``."""
    if xp_of(g, w) is not np:
        return kernels.conv2d_input_grad(_uncropped(g, shapes), w, shapes.x, **_settings(shapes))
    if use_im2col(shapes):
        return im2col.input_grad(g, w, shapes)
    if use_winograd(shapes):
        return winograd.input_grad(g, w, shapes)
    g, narrow, fold = to_hwnc(g), shapes, False
    if use_gemm_per_tap(shapes):
        w = shifted_gemm.tap_matrices(w.swapaxes(0, 1))
    elif row_im2col.flip_is_cheaper(shapes):
        g, w, narrow = row_im2col.flipped(g, w, shapes)
    else:
        narrow, fold = row_im2col.after_unfolding(shapes), True
        w = np.ascontiguousarray(w.transpose(2, 0, 3, 1)).reshape(narrow.w[2], narrow.w[0], narrow.w[1])
    dx = empty_hwnc(narrow.x, np.result_type(g, w))
    shifted_gemm.sum_products(as_matrix(g), w, as_matrix(dx), shifted_gemm.tiles(narrow, backward=True))
    return to_nchw(row_im2col.folded(dx, shapes) if fold else dx)


def conv2d_weight_grad(x: Any, g: Any, *, shapes: ConvShapes) -> Any:
    """Return the result of ``ops.conv.conv2d_weight_grad``."""
    if xp_of(x, g) is not np:
        return kernels.conv2d_weight_grad(x, _uncropped(g, shapes), shapes.w, **_settings(shapes))
    if use_im2col(shapes):
        return im2col.weight_grad(x, g, shapes)
    if use_winograd(shapes):
        return winograd.weight_grad(x, g, shapes)
    k, c, kh, kw = shapes.w
    x, g = to_hwnc(x), to_hwnc(g)
    if not use_gemm_per_tap(shapes):
        x, shapes = row_im2col.unfolded(x, shapes), row_im2col.after_unfolding(shapes)
    dw = shifted_gemm.tap_gradients(as_matrix(x), as_matrix(g), shapes)
    return dw.reshape(kh, kw, c, k).transpose(3, 2, 0, 1)


# The choice -----------------------------------------------------------------------------------------------------------


def use_im2col(shapes: ConvShapes) -> bool:
    """Whether products along the rows are so small that the calls would take most of the time."""
    (n, k, _, width), c = shapes.y, shapes.x[1]
    return shapes.groups > 1 or min(c, k) < MIN_CHANNELS or n * width < MIN_ROWS


def use_winograd(shapes: ConvShapes) -> bool:
    """Whether Winograd's algorithm is allowed, possible and faster."""
    return WINOGRAD and shapes.allow_winograd and winograd.is_faster(shapes)


def use_gemm_per_tap(shapes: ConvShapes) -> bool:
    """Whether even the product of a single tap takes much longer than its call."""
    (n, k, _, width), c = shapes.y, shapes.x[1]
    return shapes.stride[1] == 1 and n * width * c * k >= GEMM_MULTIPLICATIONS


_winograd_allowed: ContextVar[bool] = ContextVar("winograd_allowed", default=False)


@contextmanager
def allow_winograd() -> Iterator[None]:
    """Allow Winograd's algorithm within a ``with`` block, in this thread or task: ``ops.winograd``."""
    token = _winograd_allowed.set(True)
    try:
        yield
    finally:
        _winograd_allowed.reset(token)


def with_winograd(shapes: ConvShapes) -> ConvShapes:
    """Return the shapes, with ``allow_winograd`` set if this call is within a block of ``allow_winograd()``.

    The gradient rules receive the same shapes, so they use the same algorithm even after the block.
    """
    return shapes._replace(allow_winograd=True) if _winograd_allowed.get() else shapes


# CuPy -----------------------------------------------------------------------------------------------------------------


def _settings(shapes: ConvShapes) -> dict[str, Any]:
    """Return the settings that the kernels take."""
    return {name: getattr(shapes, name) for name in ("stride", "padding", "dilation", "groups")}


def _uncropped(g: Any, shapes: ConvShapes) -> Any:
    """Return a cotangent with zeros where the result was cropped."""
    whole = conv_shapes(shapes.x, shapes.w, **_settings(shapes)).y
    if g.shape == whole:
        return g
    padded = xp_of(g).zeros(whole, dtype=g.dtype)
    padded[:, :, : g.shape[2], : g.shape[3]] = g
    return padded
