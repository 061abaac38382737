"""The layers of a network whose whole training step runs in this library's own kernels, forward and backward.

=================  ==============================  ============================
layer              forward, backward               source
=================  ==============================  ============================
matrix product     ``matmul`` for each             ``kernels/matmul.cu``
maxout             ``maxout``, ``maxout_grad``     ``kernels/maxout.cu``
max pooling        ``max_pool2d``, ``..._grad``    ``kernels/max_pool.cu``
softmax, its loss  ``cross_entropy``, ``..._grad`` ``kernels/cross_entropy.cu``
=================  ==============================  ============================

None of them allocates anything but its result, waits for the device or looks at a value on the host, so all can be
captured in a CUDA graph. Beside each stands its ``_reference``, the same as array expressions of NumPy or CuPy. Arrays
are float32 or float64, all of a call of one dtype on one device, and made contiguous if they are not. A wrong argument is
a TypeError or ValueError that names it, and nothing has been launched; without CuPy or a GPU there is a RuntimeError.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from npadv.backend import Array, xp_of
from npadv.kernels.checks import check_companion, check_shape, pair
from npadv.kernels.launch import INT_MAX, THREADS, check_arrays, contiguous, covering, empty, integer, launch

__all__ = [
    "cross_entropy",
    "cross_entropy_grad",
    "cross_entropy_grad_reference",
    "cross_entropy_reference",
    "matmul",
    "matmul_reference",
    "max_pool2d",
    "max_pool2d_grad",
    "max_pool2d_grad_reference",
    "max_pool2d_reference",
    "maxout",
    "maxout_grad",
    "maxout_grad_reference",
    "maxout_reference",
]

Pair = tuple[int, int]
_TILE = 64  # of the product in matmul.cu, both ways
_WARP = 32


# ---------------------------------------------------------------------------------------------- matrix product


def matmul_reference(
    a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False, bias: Array = None
) -> Array:
    """Return what :func:`matmul` computes, as array expressions.

    >>> matmul_reference(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), transpose_b=True, bias=np.array([0.5]))
    array([[11.5]])
    """
    c = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
    return c if bias is None else c + bias


def matmul(a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False, bias: Array = None) -> Array:
    """Return ``op(a) @ op(b) + bias``, where ``op`` transposes if it is asked to.

    The backward of a dense layer ``y = x w + b`` is this function again: ``dx = g w^T``, ``dw = x^T g``, and ``db`` is a row
    of ones times ``g``. A transposed view such as ``w.T`` is read where it lies.

    Parameters
    ----------
    a : cupy.ndarray, (M, K), or (K, M) with ``transpose_a``
    b : cupy.ndarray, (K, N), or (N, K) with ``transpose_b``
    bias : cupy.ndarray, (N,), optional
        Added to every row.

    Returns
    -------
    cupy.ndarray, (M, N)
        Each element summed in the order of K: the same bits on every run.
    """
    name = "matmul"
    check_arrays(name, {"a": a, "b": b} if bias is None else {"a": a, "b": b, "bias": bias})
    for which, matrix in (("a", a), ("b", b)):
        if matrix.ndim != 2:
            raise ValueError(f"{name}: {which} must be a matrix, got shape {matrix.shape}")
    (M, K), (depth, N) = a.shape[:: -1 if transpose_a else 1], b.shape[:: -1 if transpose_b else 1]
    if depth != K:
        raise ValueError(f"{name}: b must have the K of a, {K}, got {depth} of shape {b.shape}")
    if bias is not None:
        check_shape(name, "bias", bias, (N,), "the shape (N,)")
        bias = contiguous(bias)
    (a, flip_a), (b, flip_b) = _as_stored(a, transpose_a), _as_stored(b, transpose_b)
    c = empty(a, (M, N))
    kernel = f"matmul_{'nt'[flip_a]}{'nt'[flip_b]}"
    tiles = -(-M // _TILE) * -(-N // _TILE)
    args = {"a": a, "b": b, "bias": bias, "c": c, "M": M, "N": N, "K": K}
    launch("matmul", kernel, args, blocks=covering(tiles * THREADS))
    return c


def _as_stored(matrix: Array, transposed: bool) -> tuple[Array, bool]:
    """Return a matrix that is contiguous, and whether it is to be read transposed."""
    if matrix.flags.f_contiguous and not matrix.flags.c_contiguous:
        return matrix.T, not transposed
    return contiguous(matrix), bool(transposed)


# ------------------------------------------------------------------------------------------------------ maxout


def maxout_reference(x: Array, pieces: int, *, axis: int = 1) -> tuple[Array, Array]:
    """Return what :func:`maxout` computes, as array expressions.

    >>> y, winners = maxout_reference(np.array([[1.0, 5.0, 3.0, 2.0]]), pieces=2)
    >>> y.tolist(), winners.tolist()
    ([[3.0, 5.0]], [[1, 0]])
    """
    xp = xp_of(x)
    split = x.reshape(*x.shape[:axis], pieces, x.shape[axis] // pieces, *x.shape[axis + 1 :])
    winners = split.argmax(axis=axis)  # the first; NaN is the largest
    y = xp.take_along_axis(split, xp.expand_dims(winners, axis), axis=axis).squeeze(axis)
    return y, winners.astype(np.int32)


def maxout_grad_reference(g: Array, winners: Array, pieces: int, *, axis: int = 1) -> Array:
    """Return what :func:`maxout_grad` computes, as array expressions."""
    xp = xp_of(g)
    split = xp.stack([xp.where(winners == p, g, 0) for p in range(pieces)], axis=axis)
    return split.reshape(*g.shape[:axis], pieces * g.shape[axis], *g.shape[axis + 1 :])


def maxout(x: Array, pieces: int, *, axis: int = 1) -> tuple[Array, Array]:
    """Return the largest of each unit's pieces, and which it is: the pieces of unit u lie at u, u + units, u + 2 units, ...

    At a tie the first wins. NaN counts as larger than every number.

    Parameters
    ----------
    x : cupy.ndarray, (N, pieces * units, ...)
    pieces : int
        At least 1.
    axis : int
        Where the features are.

    Returns
    -------
    y : cupy.ndarray, (N, units, ...)
    winners : cupy.ndarray of int32, (N, units, ...)
        The winning pieces, from 0: what :func:`maxout_grad` needs.
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


class _Windows(NamedTuple):
    """The integers that both kernels of max_pool.cu take."""

    H: int
    W: int
    KH: int
    KW: int
    OH: int
    OW: int
    sh: int
    sw: int
    ph: int
    pw: int


def max_pool2d_reference(
    x: Array, size: Pair, *, stride: Pair | None = None, padding: Pair = (0, 0), ceil_mode: bool = False
) -> tuple[Array, Array]:
    """Return what :func:`max_pool2d` computes, as array expressions: position after position of the window.

    >>> y, winners = max_pool2d_reference(np.arange(16.0).reshape(1, 1, 4, 4), (2, 2))
    >>> y.tolist(), winners.tolist()
    ([[[[5.0, 7.0], [13.0, 15.0]]]], [[[[5, 7], [13, 15]]]])
    """
    xp, s = xp_of(x), _windows("max_pool2d_reference", "x", x.shape, size, stride, padding, ceil_mode)
    rows, columns = (xp.arange(n) * step - pad for n, step, pad in ((s.OH, s.sh, s.ph), (s.OW, s.sw, s.pw)))
    y = xp.full((*x.shape[:2], s.OH, s.OW), -xp.inf, x.dtype)
    winners = xp.full(y.shape, -1)  # none yet
    for kh in range(s.KH):
        for kw in range(s.KW):
            ih, iw = (rows + kh)[:, None], (columns + kw)[None, :]
            inside = (ih >= 0) & (ih < s.H) & (iw >= 0) & (iw < s.W)  # the rest is padding, which never wins
            seen = x[:, :, ih.clip(0, s.H - 1), iw.clip(0, s.W - 1)]
            better = inside & ((winners < 0) | (seen > y) | ((seen != seen) & (y == y)))
            y, winners = xp.where(better, seen, y), xp.where(better, ih * s.W + iw, winners)
    return y, winners.astype(np.int32)


def max_pool2d_grad_reference(g: Array, winners: Array, input_shape: tuple[int, ...]) -> Array:
    """Return what :func:`max_pool2d_grad` computes, as array expressions (on CuPy, its additions in any order)."""
    N, C, H, W = input_shape
    xp = xp_of(g)
    gx, planes = xp.zeros((N * C, H * W), g.dtype), xp.arange(N * C)[:, None, None]
    xp.add.at(gx, (planes, winners.reshape(N * C, *g.shape[2:])), g.reshape(N * C, *g.shape[2:]))
    return gx.reshape(input_shape)


def max_pool2d(
    x: Array, size: Pair, *, stride: Pair | None = None, padding: Pair = (0, 0), ceil_mode: bool = False
) -> tuple[Array, Array]:
    """Return the maximum of each window, and where in its image it is.

    At a tie the first in reading order wins. NaN counts as larger than every number; padding never wins.

    Parameters
    ----------
    x : cupy.ndarray, (N, C, H, W)
        Images of at least one pixel.
    size, stride, padding : (int, int)
        Of height and width. The stride is the size unless given; padding is on both sides, at most half the size.
    ceil_mode : bool
        Keep a last window that hangs over the edge, if it begins in the image or its padding before it.

    Returns
    -------
    y : cupy.ndarray, (N, C, OH, OW)
    winners : cupy.ndarray of int32, (N, C, OH, OW)
        ``row * W + column`` of each maximum: what :func:`max_pool2d_grad` needs.
    """
    name = "max_pool2d"
    check_arrays(name, {"x": x})
    s = _windows(name, "x", x.shape, size, stride, padding, ceil_mode)
    shape = (*x.shape[:2], s.OH, s.OW)
    y, winner = empty(x, shape), empty(x, shape, np.int32)
    args = {"x": contiguous(x), "y": y, "winner": winner, "planes": math.prod(x.shape[:2]), **s._asdict()}
    launch("max_pool", "max_pool_forward", args, blocks=covering(y.size))
    return y, winner


def max_pool2d_grad(
    g: Array,
    winners: Array,
    input_shape: tuple[int, ...],
    size: Pair,
    *,
    stride: Pair | None = None,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
) -> Array:
    """Return ``dL/dx``, of shape ``input_shape``, from ``g = dL/dy`` where ``y, winners = max_pool2d(x, ...)``.

    An element that won several windows gets the sum of their gradients, added in reading order: the same bits on every
    run.
    """
    name = "max_pool2d_grad"
    check_arrays(name, {"g": g})
    shape = tuple(integer(name, "input_shape", n) for n in input_shape)
    s = _windows(name, "input_shape", shape, size, stride, padding, ceil_mode)
    check_shape(name, "g", g, (*shape[:2], s.OH, s.OW), "the shape of max_pool2d(x)")
    _check_winners(name, winners, g)
    gx = empty(g, shape)
    args = {"g": contiguous(g), "winner": contiguous(winners), "gx": gx, "planes": math.prod(shape[:2]), **s._asdict()}
    launch("max_pool", "max_pool_backward", args, blocks=covering(gx.size))
    return gx


def _windows(
    name: str, which: str, shape: tuple[int, ...], size: Any, stride: Any, padding: Any, ceil_mode: bool
) -> _Windows:
    """Work out a pooling's integers, as npadv.ops.pool does for arrays, or say what is wrong."""
    if len(shape) != 4:
        raise ValueError(f"{name}: {which} must be images (N, C, H, W), got shape {shape}")
    sides = shape[2:]
    if min(sides) < 1 or math.prod(sides) > INT_MAX:
        raise ValueError(f"{name}: {which} must have images of 1 to 2**31 - 1 pixels, got {sides[0]}x{sides[1]}")
    size = pair(name, "size", size, least=1)
    stride = size if stride is None else pair(name, "stride", stride, least=1)
    padding = pair(name, "padding", padding, least=0)
    out = []
    for n, k, step, p in zip(sides, size, stride, padding, strict=True):
        if 2 * p > k:
            raise ValueError(f"{name}: padding must be at most half the window {size}, got {padding}")
        if n + 2 * p > INT_MAX:
            raise ValueError(f"{name}: padding must keep the image's sides below 2**31, got {n + 2 * p}")
        span = n + 2 * p - k
        if span < 0:
            raise ValueError(f"{name}: size must fit in the image {sides} with its padding {padding}, got {size}")
        steps = -(-span // step) if ceil_mode else span // step
        if ceil_mode and steps * step >= n + p:  # the last window would see nothing of the image
            steps -= 1
        out.append(steps + 1)
    return _Windows(*sides, *size, *out, *stride, *padding)


# ----------------------------------------------------------------------------------------------- cross-entropy


def cross_entropy_reference(logits: Array, labels: Array) -> Array:
    """Return what :func:`cross_entropy` computes, as array expressions.

    >>> cross_entropy_reference(np.zeros((2, 4)), np.array([0, 4])).round(4)  # log 4; no class 4
    array([1.3863,    nan])
    """
    xp = xp_of(logits)
    n, classes = logits.shape
    shifted = logits - logits.max(axis=1, keepdims=True)
    known = (labels >= 0) & (labels < classes)
    losses = xp.log(xp.exp(shifted).sum(axis=1)) - shifted[xp.arange(n), xp.where(known, labels, 0)]
    return xp.where(known, losses, xp.nan)


def cross_entropy_grad_reference(logits: Array, labels: Array, g: Array) -> Array:
    """Return what :func:`cross_entropy_grad` computes, as array expressions."""
    xp = xp_of(logits)
    classes = xp.arange(logits.shape[1])
    exponentials = xp.exp(logits - logits.max(axis=1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    known = (labels >= 0) & (labels < logits.shape[1])
    return xp.where(known, g, xp.nan)[:, None] * (softmax - (labels[:, None] == classes))


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return the cross-entropy ``-log p(label)`` of a softmax classifier for each example.

    Logits of any size overflow nothing. A label outside 0..K-1, a NaN or a maximum of inf makes its example's loss NaN;
    labels are not looked at on the host, where that would be an error, since looking would wait for the device.

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


def cross_entropy_grad(logits: Array, labels: Array, g: Array) -> Array:
    """Return ``dL/dlogits``, (N, K), from ``g = dL/dloss``, (N,): ``g * (softmax(logits) - one_hot(labels))``.

    For the gradient of the mean loss, ``g`` is 1 / N everywhere. Labels and NaN as in :func:`cross_entropy`.
    """
    name = "cross_entropy_grad"
    check_arrays(name, {"logits": logits, "g": g})
    args = _check_classification(name, logits, labels)
    check_shape(name, "g", g, logits.shape[:1], "the shape (N,)")
    gz = empty(logits, logits.shape)
    args.update(g=contiguous(g), gz=gz)
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
