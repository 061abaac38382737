"""Convolution as neural networks mean it (cross-correlation), and its two gradients: three primitives.

For images x (N, C, H, W), filters w (K, C/groups, KH, KW) and y (N, K, OH, OW), with stride s, padding p and dilation d,

    y[n, k, a, b] = sum over c, i, j of  w[k, c, i, j] * x[n, c, a*s + i*d - p, b*s + j*d - p].

Write each window of x as a row of a matrix X, the *columns* of x (im2col), each filter as a column of a matrix W, and the
results of each window as a row of a matrix Y. With the cotangent G of Y, the three primitives are three matrix products:

    Y = X W                 ``conv2d_forward``
    dX = G W^T              ``conv2d_input_grad``, which then adds each row of dX back to the pixels of its window
    dW = X^T G              ``conv2d_weight_grad``

With groups, there are as many such matrices, in a stack. The convolution is linear in x and in w. Therefore the gradient rules
of each primitive are the other two, and a convolutional network can be differentiated to any order.

``npadv/fast/conv.py`` computes the same sums faster: on a CPU in another order, on a GPU with the project's kernels.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from npadv.autodiff import defvjp, primitive
from npadv.backend import as_floating, sliding_windows, xp_of
from npadv.fast import conv as fast
from npadv.fast import faster
from npadv.shapes import ConvShapes, Pair, conv_shapes, pair


@primitive
@faster(fast.conv2d)
def conv2d_forward(x: Any, w: Any, *, shapes: ConvShapes) -> Any:
    """Return y: each window of x times each filter."""
    n, k, oh, ow = shapes.y
    y = _columns(x, shapes) @ _filter_matrix(w, shapes.groups)  # (groups, N*OH*OW, K/groups)
    return y.transpose(1, 0, 2).reshape(n, oh, ow, k).transpose(0, 3, 1, 2)


@primitive
@faster(fast.conv2d_input_grad)
def conv2d_input_grad(g: Any, w: Any, *, shapes: ConvShapes) -> Any:
    """Return d(sum(g * y))/dx: each cotangent times its filter, added to the pixels of its window."""
    columns = _rows(g, shapes.groups) @ _filter_matrix(w, shapes.groups).swapaxes(1, 2)
    return _add_columns(columns, shapes)


@primitive
@faster(fast.conv2d_weight_grad)
def conv2d_weight_grad(x: Any, g: Any, *, shapes: ConvShapes) -> Any:
    """Return d(sum(g * y))/dw: for each weight, the pixels that it multiplies times the cotangents of their results."""
    (k, c, kh, kw), groups = shapes.w, shapes.groups
    dw = _columns(x, shapes).swapaxes(1, 2) @ _rows(g, groups)  # (groups, KH*KW*C/groups, K/groups)
    return dw.reshape(groups, kh, kw, c, k // groups).transpose(0, 4, 3, 1, 2).reshape(shapes.w)


defvjp(
    conv2d_forward,
    lambda g, y, x, w, shapes: conv2d_input_grad(g, w, shapes=shapes),
    lambda g, y, x, w, shapes: conv2d_weight_grad(x, g, shapes=shapes),
)
defvjp(
    conv2d_input_grad,
    lambda u, dx, g, w, shapes: conv2d_forward(u, w, shapes=shapes),
    lambda u, dx, g, w, shapes: conv2d_weight_grad(u, g, shapes=shapes),
)
defvjp(
    conv2d_weight_grad,
    lambda v, dw, x, g, shapes: conv2d_input_grad(g, v, shapes=shapes),
    lambda v, dw, x, g, shapes: conv2d_forward(x, v, shapes=shapes),
)


# Matrices -------------------------------------------------------------------------------------------------------------


def _columns(x: Any, shapes: ConvShapes) -> Any:
    """Return X: the windows of x as rows, (groups, N * OH * OW, KH * KW * C/groups)."""
    (sh, sw), (ph, pw), (dh, dw) = shapes.stride, shapes.padding, shapes.dilation
    (n, channels, h, w), (_, c, kh, kw), (_, _, oh, ow) = shapes.x, shapes.w, shapes.y
    padded = xp_of(x).zeros((n, h + 2 * ph, w + 2 * pw, channels), dtype=x.dtype)
    padded[:, ph : ph + h, pw : pw + w] = x.transpose(0, 2, 3, 1)
    windows = sliding_windows(padded, (dh * (kh - 1) + 1, dw * (kw - 1) + 1), axis=(1, 2))
    windows = windows[:, ::sh, ::sw, :, ::dh, ::dw][:, :oh, :ow]  # (N, OH, OW, C, KH, KW)
    windows = windows.reshape(n, oh, ow, shapes.groups, c, kh, kw)  # splitting an axis copies nothing
    return windows.transpose(3, 0, 1, 2, 5, 6, 4).reshape(shapes.groups, n * oh * ow, kh * kw * c)


def _add_columns(columns: Any, shapes: ConvShapes) -> Any:
    """Return the adjoint of ``_columns``: each row added to the pixels of its window, one position in the filter at a time."""
    (sh, sw), (ph, pw), (dh, dw) = shapes.stride, shapes.padding, shapes.dilation
    (n, channels, h, w), (_, c, kh, kw), (_, _, oh, ow) = shapes.x, shapes.w, shapes.y
    taps = columns.reshape(shapes.groups, n, oh, ow, kh, kw, c)
    padded = xp_of(columns).zeros((n, h + 2 * ph, w + 2 * pw, shapes.groups, c), dtype=columns.dtype)
    for i in range(kh):
        for j in range(kw):
            window = padded[:, i * dh : i * dh + sh * oh : sh, j * dw : j * dw + sw * ow : sw]
            window += taps[:, :, :, :, i, j].transpose(1, 2, 3, 0, 4)
    return padded[:, ph : ph + h, pw : pw + w].reshape(n, h, w, channels).transpose(0, 3, 1, 2)


def _filter_matrix(w: Any, groups: int) -> Any:
    """Return W: the filters as columns, (groups, KH * KW * C/groups, K/groups)."""
    k, c, kh, kw = w.shape
    return w.reshape(groups, k // groups, c, kh, kw).transpose(0, 3, 4, 2, 1).reshape(groups, kh * kw * c, k // groups)


def _rows(g: Any, groups: int) -> Any:
    """Return G: the cotangents (N, K, OH, OW) as rows, (groups, N * OH * OW, K/groups)."""
    n, k, oh, ow = g.shape
    return g.transpose(0, 2, 3, 1).reshape(n * oh * ow, groups, k // groups).transpose(1, 0, 2)


# For users ------------------------------------------------------------------------------------------------------------


def conv2d(
    x: Any, w: Any, *, stride: int | Pair = 1, padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1
) -> Any:
    """Return the cross-correlation of images with filters.

    Parameters
    ----------
    x : (N, C, H, W)
        Images; integers are converted to float64.
    w : (K, C / groups, KH, KW)
        Filters; filter k reads only the channels of its group.
    stride, padding, dilation : int or (int, int)
        Steps between windows, zeros around the image, steps between the taps of a filter; for (H, W) each.
    groups : int
        The number of groups that channels and filters are divided into; must divide both.

    Returns
    -------
    (N, K, OH, OW), OH = (H + 2 padding - dilation (KH - 1) - 1) // stride + 1.

    Raises
    ------
    ValueError
        The shapes do not fit each other or the settings.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d(x, np.ones((1, 1, 2, 2)))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    shapes = conv_shapes(x.shape, w.shape, stride, padding, dilation, groups)
    return conv2d_forward(as_floating(x), as_floating(w), shapes=fast.with_winograd(shapes))


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
    """Return the adjoint of ``conv2d`` applied to x: each pixel of x adds a scaled filter to a larger image.

    x (N, K, H, W), w (K, C / groups, KH, KW) give (N, C, OH, OW) with
    OH = (H - 1) stride - 2 padding + dilation (KH - 1) + 1 + output_padding. Several image sizes have the same size after
    a strided convolution; ``output_padding``, less than the stride or the dilation, selects one of them. Shapes and settings
    that do not fit raise a ValueError.

    >>> import numpy as np
    >>> conv_transpose2d(np.array([[[[1.0, 10.0]]]]), np.array([[[[1.0, 2.0]]]]))  # two filters, one pixel apart
    array([[[[ 1., 12., 20.]]]])
    """
    if x.ndim != 4 or w.ndim != 4 or x.shape[1] != w.shape[0]:
        raise ValueError(
            f"conv_transpose2d: expected x (N, K, H, W) and w (K, C/groups, KH, KW), got {x.shape} and {w.shape}"
        )
    stride, padding = pair(stride, "stride", least=1), pair(padding, "padding", least=0)
    dilation, extra = pair(dilation, "dilation", least=1), pair(output_padding, "output_padding", least=0)
    size = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1 + e
        for n, s, p, d, k, e in zip(x.shape[2:], stride, padding, dilation, w.shape[2:], extra, strict=True)
    ]
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ValueError(f"output_padding: expected less than the stride or the dilation, got {output_padding!r}")
    shapes = conv_shapes((x.shape[0], w.shape[1] * groups, *size), w.shape, stride, padding, dilation, groups)
    shapes = shapes._replace(y=x.shape)  # without the rows and columns that a convolution would find in the extra ones
    return conv2d_input_grad(as_floating(x), as_floating(w), shapes=fast.with_winograd(shapes))


def winograd() -> AbstractContextManager[None]:
    """Allow ``conv2d``, within a ``with`` block, to give up a digit of precision where that is faster.

    On a CPU, filters of up to 5 x 5 over many channels then use Winograd's algorithm (``fast/winograd.py``). In float32, the
    errors of results and gradients are then about 4e-6 of the largest element instead of 4e-7. Training allows it
    (``train.gradient_update``). Attacks do not, because the success of an adversarial example may depend on the last digit.

    >>> import numpy as np
    >>> with winograd():
    ...     y = conv2d(np.ones((8, 32, 12, 12), np.float32), np.ones((32, 32, 5, 5), np.float32))
    >>> bool(abs(y - 800).max() < 0.01)
    True
    """
    return fast.allow_winograd()
