"""The matrix product, of matrices, vectors and stacks of matrices; and the products that are built on it.

For matrices Y = A B and a cotangent G of Y's shape, dA = G B^T and dB = A^T G. Stacks of matrices broadcast, and their
gradients are summed back (``unbroadcast``). A vector is treated as a matrix of one row (on the left) or one column (on the
right), and the result drops that axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from numpy.lib.array_utils import normalize_axis_tuple

from npadv.autodiff import defvjp, primitive, value_of
from npadv.backend import shape_of
from npadv.fast import faster
from npadv.fast import linalg as fast
from npadv.ops.elementwise import multiply
from npadv.ops.shape import expand_dims, reshape, sum_to, swap_last_axes, transpose, unbroadcast


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
    """Return all three as matrices: vectors with the missing axis, the cotangent with the axes that the product dropped."""
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


# Built on it ----------------------------------------------------------------------------------------------------------


def tensordot(a: Any, b: Any, axes: int | Sequence[Any] = 2) -> Any:
    """Return the product summed over pairs of axes: the last ``axes`` of a with the first of b, or those in two lists.

    >>> import numpy as np
    >>> tensordot(np.ones((2, 3, 4)), np.ones((4, 3)), axes=([2, 1], [0, 1])).tolist()
    [12.0, 12.0]
    """
    summed_a, summed_b = _paired_axes(a, b, axes)
    if [a.shape[i] for i in summed_a] != [b.shape[i] for i in summed_b]:
        raise ValueError(f"tensordot(axes={axes}): the lengths of paired axes differ in shapes {a.shape} and {b.shape}")
    rows = tuple(i for i in range(a.ndim) if i not in summed_a)
    columns = tuple(i for i in range(b.ndim) if i not in summed_b)
    inner = math.prod(a.shape[i] for i in summed_a)
    shape_a, shape_b = tuple(a.shape[i] for i in rows), tuple(b.shape[i] for i in columns)
    left = reshape(transpose(a, axes=rows + summed_a), shape=(math.prod(shape_a), inner))
    right = reshape(transpose(b, axes=summed_b + columns), shape=(inner, math.prod(shape_b)))
    return reshape(matmul(left, right), shape=shape_a + shape_b)


def _paired_axes(a: Any, b: Any, axes: int | Sequence[Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes of a and of b that a tensordot sums over, in pairs."""
    if isinstance(axes, Sequence):
        in_a, in_b = axes
        pairs = normalize_axis_tuple(in_a, a.ndim), normalize_axis_tuple(in_b, b.ndim)
        if len(pairs[0]) != len(pairs[1]):
            raise ValueError(f"tensordot(axes={axes}): expected as many axes of a as of b")
        return pairs
    if not 0 <= axes <= min(a.ndim, b.ndim):
        raise ValueError(f"tensordot(axes={axes}): the operands have {a.ndim} and {b.ndim} axes")
    return tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes))


def dot(a: Any, b: Any) -> Any:
    """Return a . b by NumPy's rules: the sum over the last axis of a and the last but one of b (or its only one).

    >>> import numpy as np
    >>> float(dot(np.array([1.0, 2.0]), np.array([3.0, 4.0])))
    11.0
    """
    ndim_a, ndim_b = (len(shape_of(value_of(x))) for x in (a, b))
    if ndim_a == 0 or ndim_b == 0:
        return multiply(a, b)
    if ndim_a <= 2 and ndim_b <= 2:
        return matmul(a, b)
    return tensordot(a, b, axes=([-1], [-1 if ndim_b == 1 else -2]))


def outer(a: Any, b: Any) -> Any:
    """Return the matrix of all products a_i b_j.

    >>> import numpy as np
    >>> outer(np.array([1.0, 2.0]), np.array([3.0, 4.0])).tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """
    return multiply(reshape(a, shape=(-1, 1)), reshape(b, shape=(1, -1)))
