"""The matrix product, of matrices, vectors and stacks of matrices.

For matrices Y = A B and a cotangent G of Y's shape: dA = G B^T and dB = A^T G. Stacks broadcast, so their gradients are
summed back; a vector is a matrix of one row (on the left) or one column (on the right), whose axis is dropped again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv import capture, kernels
from npadv.autodiff import Tensor, defvjp, primitive
from npadv.backend import xp_of
from npadv.fast import parallel
from npadv.fast.blas import one_thread
from npadv.ops.shape import expand_dims, reshape, sum_to, swap_last_axes, transpose, unbroadcast


@primitive
def matmul(a: Any, b: Any) -> Any:
    """Return the matrix product a @ b, by NumPy's rules for one, two and more dimensions."""
    return _product(a, b)


def _product(a: Any, b: Any) -> Any:
    if type(a) is np.ndarray and a.ndim == 2 == b.ndim:
        if len(a) > 1 and a.size * b.shape[1] >= MEDIUM:
            return _shared_product(a, b)
        return a.dot(b)  # the same as a @ b for matrices, at half the price of a small one
    if capture.active() and a.ndim == 2 == b.ndim and xp_of(a, b) is not np:  # CuPy does not let cuBLAS be recorded
        dtype = np.result_type(a.dtype, b.dtype)
        return kernels.matmul(a.astype(dtype, copy=False), b.astype(dtype, copy=False))
    return a @ b


MEDIUM, LARGE = 1 << 18, 1 << 21
"""Multiplications from which BLAS would take several threads, and from which our own are worth waking.

BLAS's threads keep a core busy for a while after a product, looking for the next one; ours, which the convolutions use,
would have to wait for it. So where the work is more than BLAS gives to one thread, it is we who divide it.
"""


def _shared_product(a: Any, b: Any) -> Any:
    """Return a @ b for matrices, by halves."""
    (m, k), n = a.shape, b.shape[1]
    if b.shape[0] != k or a.dtype != b.dtype or m * k * n < LARGE:
        with one_thread():
            return a @ b
    y = np.empty((m, n), dtype=a.dtype)

    def part(i: int) -> None:
        if m > n:
            half = slice(m * i // 2, m * (i + 1) // 2)
            np.matmul(a[half], b, out=y[half])
        else:
            half = slice(n * i // 2, n * (i + 1) // 2)
            np.matmul(a, b[:, half], out=y[:, half])

    parallel.run(part, 2)
    return y


def _left(g: Any, y: Any, a: Any, b: Any) -> Any:
    if a.ndim == b.ndim == 2:
        return matmul(g, _transposed(b))
    g, a_matrix, b_matrix = _as_matrices(g, a, b)
    return reshape(unbroadcast(matmul(g, swap_last_axes(b_matrix)), a_matrix), shape=a.shape)


def _right(g: Any, y: Any, a: Any, b: Any) -> Any:
    if a.ndim == b.ndim == 2:
        return matmul(_transposed(a), g)
    g, a_matrix, b_matrix = _as_matrices(g, a, b)
    return reshape(unbroadcast(matmul(swap_last_axes(a_matrix), g), b_matrix), shape=b.shape)


def _as_matrices(g: Any, a: Any, b: Any) -> tuple[Any, Any, Any]:
    """Give vectors their missing axis, and the cotangent the axes that the product dropped."""
    if b.ndim == 1:
        g, b = expand_dims(g, -1), expand_dims(b, -1)
    if a.ndim == 1:
        g, a = expand_dims(g, -2), expand_dims(a, 0)
    return g, a, b


def _transposed(m: Any) -> Any:
    return transpose(m) if isinstance(m, Tensor) else m.T


defvjp(matmul, _left, _right)


@primitive
def affine(x: Any, w: Any, b: Any) -> Any:
    """Return x @ w + b for matrices x (N, D), w (D, K) and a row b (K,): what a dense layer computes, in one operation."""
    y = _product(x, w)
    if b.dtype != y.dtype:
        return y + b
    y += b if len(y) > 1 else b[None]  # of equal shapes, NumPy adds small arrays in half the time
    return y


defvjp(
    affine,
    lambda g, y, x, w, b: matmul(g, _transposed(w)) if isinstance(g, Tensor) else _product(g, w.T),
    lambda g, y, x, w, b: matmul(_transposed(x), g),
    lambda g, y, x, w, b: sum_to(g, shape=b.shape),
)
