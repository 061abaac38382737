"""The matrix product, of matrices, vectors and stacks of matrices.

For matrices Y = A B and a cotangent G of Y's shape: dA = G B^T and dB = A^T G. Stacks broadcast, so their gradients are
summed back; a vector is a matrix of one row (on the left) or one column (on the right), whose axis is dropped again.
"""

from __future__ import annotations

from typing import Any

from npadv.autodiff import defvjp, primitive
from npadv.fast import faster
from npadv.fast import linalg as fast
from npadv.ops.shape import expand_dims, reshape, sum_to, swap_last_axes, unbroadcast


@primitive
@faster(fast.matmul)
def matmul(a: Any, b: Any) -> Any:
    """Return the matrix product a @ b, by NumPy's rules for one, two and more dimensions."""
    return a @ b


def _left(g: Any, y: Any, a: Any, b: Any) -> Any:
    """Return G B^T."""
    if a.ndim == b.ndim == 2:
        return matmul(g, b.T)
    g, a_matrix, b_matrix = _as_matrices(g, a, b)
    return reshape(unbroadcast(matmul(g, swap_last_axes(b_matrix)), a_matrix), shape=a.shape)


def _right(g: Any, y: Any, a: Any, b: Any) -> Any:
    """Return A^T G."""
    if a.ndim == b.ndim == 2:
        return matmul(a.T, g)
    g, a_matrix, b_matrix = _as_matrices(g, a, b)
    return reshape(unbroadcast(matmul(swap_last_axes(a_matrix), g), b_matrix), shape=b.shape)


def _as_matrices(g: Any, a: Any, b: Any) -> tuple[Any, Any, Any]:
    """Give vectors their missing axis, and the cotangent the axes that the product dropped."""
    if b.ndim == 1:
        g, b = expand_dims(g, -1), expand_dims(b, -1)
    if a.ndim == 1:
        g, a = expand_dims(g, -2), expand_dims(a, 0)
    return g, a, b


defvjp(matmul, _left, _right)


@primitive
@faster(fast.affine)
def affine(x: Any, w: Any, b: Any) -> Any:
    """Return x @ w + b for matrices x (N, D), w (D, K) and a row b (K,): a dense layer in one operation."""
    return x @ w + b


defvjp(
    affine,
    lambda g, y, x, w, b: matmul(g, w.T),
    lambda g, y, x, w, b: matmul(x.T, g),
    lambda g, y, x, w, b: sum_to(g, shape=b.shape),
)
