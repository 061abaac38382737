"""Convolution as neural networks mean it (cross-correlation), and its two gradients: three primitives, one family.

For images x (N, C, H, W), filters w (K, C/groups, KH, KW) and y (N, K, OH, OW), with stride s, padding p and dilation d,

    y[n, k, a, b] = sum over c, i, j of  w[k, c, i, j] * x[n, c, a*s + i*d - p, b*s + j*d - p].

This is linear in x and in w, so its gradients are linear in what they are given, and the three close upon themselves: the
rules of each are the other two. That is all it takes to differentiate a convolutional network to any order.

Each can be had from one matrix product over *columns*, every window of x laid out as a row of a matrix (im2col). That is
the plain way, below the primitives here. What they run on NumPy is ``fast/``, the same sums in an order that suits a
processor; on CuPy, the kernels of ``kernels/conv2d_*.cu``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from npadv import kernels
from npadv.autodiff import defvjp, primitive
from npadv.backend import sliding_windows, xp_of
from npadv.fast import conv as fast
from npadv.fast.layout import Problem, images

Pair = tuple[int, int]
Shape = tuple[int, ...]


def conv2d(
    x: Any,
    w: Any,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    crop: int | Pair = 0,
) -> Any:
    """Return the cross-correlation of images with filters.

    Parameters
    ----------
    x : (N, C, H, W)
        Images.
    w : (K, C / groups, KH, KW)
        Filters; filter k sees only the channels of its own group.
    stride, padding, dilation : int or (int, int)
        Steps between windows, zeros around the image, steps between the taps of a filter; for (H, W) each.
    groups : int
        In how many groups channels and filters are divided; must divide both.
    crop : int or (int, int)
        Rows and columns of the result, at its lower and right edge, that nobody will look at and that are left out.

    Returns
    -------
    (N, K, OH, OW), OH = (H + 2 padding - dilation (KH - 1) - 1) // stride + 1 - crop.

    Examples
    --------
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d(x, np.ones((1, 1, 2, 2)))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    geometry = conv_geometry(stride, padding, dilation, groups, crop, _winograd.get())
    output_shape(x.shape, w.shape, geometry)
    return conv2d_forward(x, w, geometry=geometry)


_winograd: ContextVar[bool] = ContextVar("winograd", default=False)


@contextmanager
def winograd() -> Iterator[None]:
    """Let ``conv2d``, within, in this thread or task, multiply less where that is faster, for a digit of precision.

    On a CPU, filters of up to 5 x 5 over many channels then go Winograd's way (``fast/winograd.py``): in float32, errors of
    results and gradients are some 4e-6 of the largest element instead of 4e-7. Steps of training are taken so
    (``train.gradient_update``); what is outside keeps all digits, as an adversarial example may hang on the last.

    >>> with winograd():
    ...     y = conv2d(np.ones((8, 32, 12, 12), np.float32), np.ones((32, 32, 5, 5), np.float32))
    >>> bool(abs(y - 800).max() < 0.01)
    True
    """
    token = _winograd.set(True)
    try:
        yield
    finally:
        _winograd.reset(token)


def conv_transpose2d(
    x: Any,
    w: Any,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Any:
    """Return the adjoint of ``conv2d`` applied to x: each pixel of x paints a filter, scaled, on a larger image.

    x (N, K, H, W), w (K, C / groups, KH, KW) give (N, C, OH, OW) with
    OH = (H - 1) stride - 2 padding + dilation (KH - 1) + 1 + output_padding. Several image sizes have the same size after
    a strided convolution; ``output_padding`` (less than the stride or the dilation) says which one is meant.
    """
    geometry = conv_geometry(stride, padding, dilation, groups)
    if x.ndim != 4 or w.ndim != 4 or x.shape[1] != w.shape[0]:
        raise ValueError(
            f"conv_transpose2d: expected x (N, K, H, W) and w (K, C/groups, KH, KW), got {x.shape} and {w.shape}"
        )
    extra = pair(output_padding, "output_padding", least=0)
    size = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1 + e
        for n, s, p, d, k, e in zip(x.shape[2:], *geometry[:3], w.shape[2:], extra, strict=True)
    ]
    shape = (x.shape[0], w.shape[1] * groups, *size)
    if output_shape(shape, w.shape, geometry) != x.shape:
        raise ValueError(f"output_padding: expected less than the stride or the dilation, got {output_padding!r}")
    return conv2d_input_grad(x, w, shape=shape, geometry=geometry)


# The three primitives -------------------------------------------------------------------------------------------------


class Geometry(NamedTuple):
    """The settings of a convolution, in pairs for (H, W): what its primitives take and hand to one another."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    crop: Pair = (0, 0)
    winograd: bool = False


@primitive
def conv2d_forward(x: Any, w: Any, *, geometry: Geometry) -> Any:
    """Return y, as above."""
    shape = output_shape(x.shape, w.shape, geometry)
    if xp_of(x, w) is not np:
        return kernels.conv2d(x, w, **_whole(geometry))[:, :, : shape[2], : shape[3]]
    return fast.conv2d(x, w, Problem(x.shape, w.shape, shape, geometry))


@primitive
def conv2d_input_grad(g: Any, w: Any, *, shape: Shape, geometry: Geometry) -> Any:
    """Return d(sum(g * y))/dx, of the given shape: every output hands its share back to the pixels of its window."""
    if xp_of(g, w) is not np:
        return kernels.conv2d_input_grad(_uncropped(g, geometry), w, shape, **_whole(geometry))
    return fast.input_grad(g, w, Problem(shape, w.shape, g.shape, geometry))


@primitive
def conv2d_weight_grad(x: Any, g: Any, *, shape: Shape, geometry: Geometry) -> Any:
    """Return d(sum(g * y))/dw, of the given shape: every tap correlates what it read with what came of it."""
    if xp_of(x, g) is not np:
        return kernels.conv2d_weight_grad(x, _uncropped(g, geometry), shape, **_whole(geometry))
    return fast.weight_grad(x, g, Problem(x.shape, shape, g.shape, geometry))


def _whole(geometry: Geometry) -> dict[str, Any]:
    """Return the settings that the kernels know: the first four."""
    return dict(zip(geometry._fields[:4], geometry, strict=False))


def _uncropped(g: Any, geometry: Geometry) -> Any:
    """Return a cotangent with zeros where the result was cropped."""
    rows, columns = geometry.crop
    return xp_of(g).pad(g, ((0, 0), (0, 0), (0, rows), (0, columns))) if rows or columns else g


defvjp(
    conv2d_forward,
    lambda g, y, x, w, geometry: conv2d_input_grad(g, w, shape=x.shape, geometry=geometry),
    lambda g, y, x, w, geometry: conv2d_weight_grad(x, g, shape=w.shape, geometry=geometry),
)
defvjp(
    conv2d_input_grad,
    lambda u, dx, g, w, shape, geometry: conv2d_forward(u, w, geometry=geometry),
    lambda u, dx, g, w, shape, geometry: conv2d_weight_grad(u, g, shape=w.shape, geometry=geometry),
)
defvjp(
    conv2d_weight_grad,
    lambda v, dw, x, g, shape, geometry: conv2d_input_grad(g, v, shape=x.shape, geometry=geometry),
    lambda v, dw, x, g, shape, geometry: conv2d_forward(x, v, geometry=geometry),
)


# The same, plainly ------------------------------------------------------------------------------------------------------
#
# All windows of all images become the rows of one matrix (im2col), and each of the three is one product with it. This is
# how convolution is best understood; the fast ways of ``fast/`` are tested against it.


def plain_conv2d(x: Any, w: Any, geometry: Geometry) -> Any:
    """Return what ``conv2d_forward`` returns, by one matrix product."""
    n, k, oh, ow = output_shape(x.shape, w.shape, geometry)
    products = _columns(x, w.shape, (oh, ow), geometry) @ _filter_matrix(
        w, geometry.groups
    )  # (groups, N*OH*OW, K/groups)
    return products.transpose(1, 0, 2).reshape(n, oh, ow, k).transpose(0, 3, 1, 2)


def plain_input_grad(g: Any, w: Any, shape: Shape, geometry: Geometry) -> Any:
    """Return what ``conv2d_input_grad`` returns, by one matrix product and its windows added up."""
    columns = _rows(g, geometry.groups) @ _filter_matrix(w, geometry.groups).swapaxes(1, 2)
    return _add_columns(columns, shape, w.shape, g.shape, geometry)


def plain_weight_grad(x: Any, g: Any, shape: Shape, geometry: Geometry) -> Any:
    """Return what ``conv2d_weight_grad`` returns, by one matrix product."""
    (k, c, kh, kw), groups = shape, geometry.groups
    products = _columns(x, shape, g.shape[2:], geometry).swapaxes(1, 2) @ _rows(
        g, groups
    )  # (groups, KH*KW*C/groups, K/groups)
    return products.reshape(groups, kh, kw, c, k // groups).transpose(0, 4, 3, 1, 2).reshape(shape)


def _columns(x: Any, filters: Shape, out: Shape, geometry: Geometry) -> Any:
    """Return the windows of x as (groups, N * OH * OW, KH * KW * C/groups)."""
    stride, padding, dilation, groups, *_ = geometry
    _, c, kh, kw = filters
    extent = (dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1)
    windows = sliding_windows(padded_images(x, padding).transpose(0, 2, 3, 1), extent, axis=(1, 2))
    windows = windows[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]  # (N, OH, OW, C, KH, KW)
    windows = windows[:, : out[0], : out[1]]
    n, oh, ow = windows.shape[:3]
    windows = windows.reshape(n, oh, ow, groups, c, kh, kw)  # splitting an axis copies nothing
    return windows.transpose(3, 0, 1, 2, 5, 6, 4).reshape(groups, n * oh * ow, kh * kw * c)


def _add_columns(columns: Any, images: Shape, filters: Shape, outputs: Shape, geometry: Geometry) -> Any:
    """Return the adjoint of ``_columns``: each row added back onto the window it came from, tap by tap."""
    (sh, sw), (ph, pw), (dh, dw), groups, *_ = geometry
    (n, channels, h, w), (_, c, kh, kw), (_, _, oh, ow) = images, filters, outputs
    taps = columns.reshape(groups, n, oh, ow, kh, kw, c)
    padded = np.zeros((n, h + 2 * ph, w + 2 * pw, groups, c), dtype=columns.dtype)
    for i in range(kh):
        for j in range(kw):
            window = padded[:, i * dh : i * dh + sh * oh : sh, j * dw : j * dw + sw * ow : sw]
            window += taps[:, :, :, :, i, j].transpose(1, 2, 3, 0, 4)
    return padded[:, ph : ph + h, pw : pw + w].reshape(n, h, w, channels).transpose(0, 3, 1, 2)


def _filter_matrix(w: Any, groups: int) -> Any:
    """Return the filters as (groups, KH * KW * C/groups, K/groups), rows in the order of the columns."""
    k, c, kh, kw = w.shape
    return w.reshape(groups, k // groups, c, kh, kw).transpose(0, 3, 4, 2, 1).reshape(groups, kh * kw * c, k // groups)


def _rows(g: Any, groups: int) -> Any:
    """Return outputs (N, K, OH, OW) as (groups, N * OH * OW, K/groups)."""
    n, k, oh, ow = g.shape
    return g.transpose(0, 2, 3, 1).reshape(n * oh * ow, groups, k // groups).transpose(1, 0, 2)


# Shapes and settings --------------------------------------------------------------------------------------------------


def padded_images(x: Any, padding: Pair, *, beyond: Pair = (0, 0), value: float = 0.0) -> Any:
    """Return x within a border: ``padding`` on both sides, ``beyond`` more below and to the right."""
    n, c, h, w = x.shape
    (ph, pw), (bh, bw) = padding, beyond
    if ph == pw == bh == bw == 0:
        return x
    out = full_images((n, c, h + 2 * ph + bh, w + 2 * pw + bw), value, x)
    out[:, :, ph : ph + h, pw : pw + w] = x
    return out


def full_images(shape: Shape, value: float | None, like: Any) -> Any:
    """Return images (N, C, H, W) of one value, or not yet of any, in the order of memory that is best where ``like`` lies.

    On NumPy that is (H, W, N, C), see ``fast/``; the kernels on CuPy take (N, C, H, W) as it stands.
    """
    n, c, h, w = shape
    xp = xp_of(like)
    out = images(np.empty((h, w, n, c), like.dtype)) if xp is np else xp.empty(shape, like.dtype)
    if value is not None:
        out[...] = value
    return out


def conv_geometry(
    stride: Any, padding: Any, dilation: Any, groups: int, crop: Any = 0, winograd: bool = False
) -> Geometry:
    """Return the settings of a convolution as pairs, or say which one is wrong."""
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups: expected an integer of at least 1, got {groups!r}")
    return Geometry(
        pair(stride, "stride", least=1),
        pair(padding, "padding", least=0),
        pair(dilation, "dilation", least=1),
        groups,
        pair(crop, "crop", least=0),
        bool(winograd),
    )


def pair(value: Any, name: str, *, least: int) -> Pair:
    """Return an integer or a pair of integers as a pair."""
    two = (
        (value, value)
        if isinstance(value, int | np.integer)
        else tuple(value)
        if isinstance(value, tuple | list)
        else ()
    )
    if len(two) != 2 or any(not isinstance(v, int | np.integer) or v < least for v in two):
        raise ValueError(f"{name}: expected an integer of at least {least}, or two of them, got {value!r}")
    return int(two[0]), int(two[1])


def output_shape(x: Shape, w: Shape, geometry: Geometry) -> Shape:
    """Return the shape of ``conv2d``'s result, or say what does not fit."""
    stride, padding, dilation, groups, crop, _ = geometry
    if len(x) != 4:
        raise ValueError(f"conv2d(x): expected images (N, C, H, W), got shape {x}")
    if len(w) != 4:
        raise ValueError(f"conv2d(w): expected filters (K, C/groups, KH, KW), got shape {w}")
    if x[1] != w[1] * groups or w[0] % groups:
        raise ValueError(
            f"conv2d: {w[0]} filters over {w[1]} channels in {groups} group(s) need {w[1] * groups} channels "
            f"and a multiple of {groups} filters; got images of {x[1]} channels"
        )
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(x[2:], padding, dilation, w[2:], stride, strict=True)
    ]
    if min(size) < 1:
        raise ValueError(
            f"conv2d: a filter of {w[2:]} (dilation {dilation}) is larger than the image {x[2:]} with padding {padding}"
        )
    if any(n <= less for n, less in zip(size, crop, strict=True)):
        raise ValueError(f"crop: expected less than the result's {tuple(size)}, got {crop}")
    return (x[0], w[0], size[0] - crop[0], size[1] - crop[1])
