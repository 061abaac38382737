"""Layers whose forward and backward are one launch each: maxout, max pooling, softmax with its loss.

=================  ==================================  ============================
layer              forward and backward                source
=================  ==================================  ============================
maxout             ``maxout``, ``maxout_grad``         ``kernels/maxout.cu``
max pooling        ``max_pool2d``, ``..._grad``        ``kernels/max_pool.cu``
softmax, its loss  ``cross_entropy``, ``..._grad``     ``kernels/cross_entropy.cu``
=================  ==================================  ============================

None of them allocates anything but its result or synchronises with the host, so all can be captured in a CUDA graph. Arrays
are float32 or float64, all arrays of a call of one dtype and on one device; they are made contiguous if they are not. A wrong
argument is a TypeError or ValueError that names it, and nothing has been launched; without CuPy or a GPU there is a
RuntimeError.
"""

import math
from typing import Any

import numpy as np

from npadv.backend import Array
from npadv.kernels.checks import check_companion, check_shape
from npadv.kernels.launch import INT_MAX, check_arrays, contiguous, covering, empty, integer, launch
from npadv.shapes import PoolShapes

__all__ = [
    "cross_entropy",
    "cross_entropy_grad",
    "max_pool2d",
    "max_pool2d_grad",
    "maxout",
    "maxout_grad",
]

_WARP = 32


# ------------------------------------------------------------------------------------------------------ maxout


def maxout(x: Array, pieces: int, *, axis: int = 1) -> tuple[Array, Array]:
    """Return the maximum over each unit's pieces, and which piece it is; unit u has the pieces u, u + units, u + 2 units, ...

    At a tie the first wins. NaN counts as larger than every number, and has no winner.

    Parameters
    ----------
    x : cupy.ndarray, (N, pieces * units, ...)
    pieces : int
        At least 1.
    axis : int
        The axis of the features.

    Returns
    -------
    y : cupy.ndarray, (N, units, ...)
    winners : cupy.ndarray of int32, (N, units, ...)
        The number of the winning piece, from 0, or -1 where y is NaN; :func:`maxout_grad` needs it.
    """
    name = "maxout"
    check_arrays(name, {"x": x})
    axis = _axis(name, axis, x.ndim)
    pieces = integer(name, "pieces", pieces, least=1)
    if x.shape[axis] % pieces:
        raise ValueError(f"{name}: pieces must divide the {x.shape[axis]} features on axis {axis}, got {pieces}")
    shape = (*x.shape[:axis], x.shape[axis] // pieces, *x.shape[axis + 1 :])
    y, winner = empty(x, shape), empty(x, shape, np.int32)
    sizes = {"rows": math.prod(shape[:axis]), "pieces": pieces, "run": math.prod(shape[axis:])}
    args = {"x": contiguous(x), "y": y, "winner": winner, **sizes}
    launch("maxout", "maxout_forward", args, blocks=covering(y.size))
    return y, winner


def maxout_grad(g: Array, winners: Array, pieces: int, *, axis: int = 1) -> Array:
    """Return ``dL/dx``, (N, pieces * units, ...), from ``g = dL/dy`` where ``y, winners = maxout(x, pieces)``."""
    name = "maxout_grad"
    check_arrays(name, {"g": g})
    axis = _axis(name, axis, g.ndim)
    pieces = integer(name, "pieces", pieces, least=1)
    _check_winners(name, winners, g)
    gx = empty(g, (*g.shape[:axis], pieces * g.shape[axis], *g.shape[axis + 1 :]))
    sizes = {"rows": math.prod(g.shape[:axis]), "pieces": pieces, "run": math.prod(g.shape[axis:])}
    args = {"g": contiguous(g), "winner": contiguous(winners), "gx": gx, **sizes}
    launch("maxout", "maxout_backward", args, blocks=covering(gx.size))
    return gx


def _axis(name: str, axis: Any, ndim: int) -> int:
    return integer(name, "axis", axis, least=-ndim, most=ndim - 1) % ndim


def _check_winners(name: str, winners: Array, g: Array) -> None:
    check_companion(name, "winners", winners, np.int32, ("g", g))
    check_shape(name, "winners", winners, g.shape, "the shape of g")


# ------------------------------------------------------------------------------------------------- max pooling


def max_pool2d(x: Array, shapes: PoolShapes) -> tuple[Array, Array]:
    """Return the maximum of each window, and its index in its image.

    At a tie the first in reading order wins; padding never wins. NaN counts as larger than every number, and has no winner.

    Parameters
    ----------
    x : cupy.ndarray, (N, C, H, W)
        Images of at least one pixel.
    shapes : PoolShapes
        ``npadv.shapes.pool_shapes(x.shape, size, ...)``.

    Returns
    -------
    y : cupy.ndarray, (N, C, OH, OW)
    winners : cupy.ndarray of int32, (N, C, OH, OW)
        ``row * W + column`` of each maximum, or -1 where y is NaN; :func:`max_pool2d_grad` needs it.
    """
    name = "max_pool2d"
    check_arrays(name, {"x": x})
    windows = _windows(name, shapes)
    check_shape(name, "x", x, shapes.x, "the shape in shapes")
    y, winner = empty(x, shapes.y), empty(x, shapes.y, np.int32)
    args = {"x": contiguous(x), "y": y, "winner": winner, **windows}
    launch("max_pool", "max_pool_forward", args, blocks=covering(y.size))
    return y, winner


def max_pool2d_grad(g: Array, winners: Array, shapes: PoolShapes) -> Array:
    """Return ``dL/dx`` from ``g = dL/dy`` where ``y, winners = max_pool2d(x, shapes)``.

    An element that is the maximum of several windows gets the sum of their gradients, added in reading order: the same bits
    on every run.
    """
    name = "max_pool2d_grad"
    check_arrays(name, {"g": g})
    windows = _windows(name, shapes)
    check_shape(name, "g", g, shapes.y, "the shape of max_pool2d(x)")
    _check_winners(name, winners, g)
    gx = empty(g, shapes.x)
    args = {"g": contiguous(g), "winner": contiguous(winners), "gx": gx, **windows}
    launch("max_pool", "max_pool_backward", args, blocks=covering(gx.size))
    return gx


def _windows(name: str, shapes: PoolShapes) -> dict[str, int]:
    """Return the integers that both kernels of max_pool.cu take, or raise if an index of a pixel might not fit in an int."""
    (N, C, H, W), (_, _, OH, OW) = shapes.x, shapes.y
    if min(H, W) < 1 or H * W > INT_MAX:
        raise ValueError(f"{name}: x must have images of 1 to 2**31 - 1 pixels, got {H}x{W}")
    if max(shapes.padded) > INT_MAX:
        raise ValueError(f"{name}: padding must keep the image's sides below 2**31, got {max(shapes.padded)}")
    (KH, KW), (sh, sw), (ph, pw) = shapes.size, shapes.stride, shapes.padding
    sizes = {"H": H, "W": W, "KH": KH, "KW": KW, "OH": OH, "OW": OW, "sh": sh, "sw": sw, "ph": ph, "pw": pw}
    return {"planes": N * C, **sizes}


# ----------------------------------------------------------------------------------------------- cross-entropy


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return the cross-entropy ``-log p(label)`` of a softmax classifier for each example.

    Logits of any size overflow nothing. A label outside 0..K-1, a NaN or a maximum of inf makes its example's loss NaN;
    labels are not checked on the host, because that would wait for the device.

    Parameters
    ----------
    logits : cupy.ndarray, (N, K)
        K is at least 1.
    labels : cupy.ndarray of int64, (N,)

    Returns
    -------
    cupy.ndarray, (N,)
    """
    name = "cross_entropy"
    args = _check_classification(name, logits, labels)
    loss = empty(logits, logits.shape[:1])
    launch("cross_entropy", "cross_entropy_forward", {**args, "loss": loss}, blocks=covering(_WARP * loss.size))
    return loss


def cross_entropy_grad(logits: Array, labels: Array, g: Array = None) -> Array:
    """Return ``dL/dlogits``, (N, K), from ``g = dL/dloss``, (N,): ``g * (softmax(logits) - one_hot(labels))``.

    Without ``g`` it is 1 for every example. Labels and NaN as in :func:`cross_entropy`.
    """
    name = "cross_entropy_grad"
    check_arrays(name, {"logits": logits} if g is None else {"logits": logits, "g": g})
    args = _check_classification(name, logits, labels)
    if g is not None:
        check_shape(name, "g", g, logits.shape[:1], "the shape (N,)")
        g = contiguous(g)
    gz = empty(logits, logits.shape)
    args.update(g=g, gz=gz)
    launch("cross_entropy", "cross_entropy_backward", args, blocks=covering(_WARP * logits.shape[0]))
    return gz


def _check_classification(name: str, logits: Array, labels: Array) -> dict[str, Any]:
    check_arrays(name, {"logits": logits})
    if logits.ndim != 2 or logits.shape[1] < 1:
        raise ValueError(f"{name}: logits must be (N, K) of at least one class, got {logits.shape}")
    N, K = logits.shape
    check_companion(name, "labels", labels, np.int64, ("logits", logits))
    check_shape(name, "labels", labels, (N,), "the shape (N,)")
    return {"logits": contiguous(logits), "labels": contiguous(labels), "N": N, "K": K}
