"""Whole Jacobians and products with Jacobians and Hessians, each built on ``grad`` alone.

Let y = f(x) have the Jacobian J and, if y is a scalar, the Hessian H. One backward pass computes J^T u for a vector u:
``grad``. With u = e_1, e_2, ... it computes the rows of J: ``jacobian``. A second pass through the first computes J v
(``jvp``) and H v (``hvp``); neither forms J or H.
"""

from __future__ import annotations

from typing import Any

from npadv.autodiff.gradient import grad
from npadv.autodiff.tensor import Tensor
from npadv.backend import xp_of


def jacobian(y: Tensor, wrt: Tensor, *, create_graph: bool = False) -> Any:
    """Return all partial derivatives dy_i/dx_j, in an array (Tensor if ``create_graph``) of ``y.shape + wrt.shape``.

    It takes one backward pass for each element of ``y``.

    >>> import npadv
    >>> x = npadv.Tensor([1.0, 2.0], requires_grad=True)
    >>> npadv.jacobian(x * x, x)
    array([[2., 0.],
           [0., 4.]])
    """
    xp = xp_of(y.data)
    basis = xp.eye(y.size, dtype=y.dtype).reshape(y.size, *y.shape)
    rows = [grad(y, [wrt], e, create_graph=create_graph)[0] for e in basis]
    shape = y.shape + wrt.shape
    if not create_graph:
        return xp.stack(rows).reshape(shape) if rows else xp.zeros(shape, dtype=wrt.dtype)
    # Operations such as stack are defined in npadv/ops, which imports this package. So each row is placed by a product.
    column = y.shape + (1,) * wrt.ndim
    return sum(
        (e.reshape(column) * row for e, row in zip(basis, rows, strict=True)),
        start=Tensor(xp.zeros(shape, dtype=wrt.dtype)),
    )


def jvp(y: Tensor, wrt: Tensor, tangent: Any, *, create_graph: bool = False) -> Any:
    """Return the Jacobian-vector product (dy/dx) . ``tangent``, in ``y``'s shape.

    A backward pass computes J^T u only. But J^T u is linear in u, so its Jacobian in u is J^T, and a second backward pass,
    with the tangent as its cotangent, computes (J^T)^T tangent = J tangent.

    >>> import numpy as np
    >>> import npadv
    >>> x = npadv.Tensor([1.0, 2.0], requires_grad=True)
    >>> npadv.jvp(x * x, x, np.array([1.0, 0.5]))
    array([2., 2.])
    """
    u = Tensor(xp_of(y.data).zeros_like(y.data), requires_grad=True)
    transposed = grad(y, wrt, u, create_graph=True)
    return grad(transposed, [u], tangent, create_graph=create_graph, unused="zeros")[0]


def hvp(y: Tensor, wrt: Tensor, vector: Any, *, create_graph: bool = False) -> Any:
    """Return the Hessian-vector product (d2y/dx2) . ``vector`` of a scalar ``y``, exactly, by two backward passes.

    >>> import numpy as np
    >>> import npadv
    >>> x = npadv.Tensor([1.0, 2.0], requires_grad=True)
    >>> npadv.hvp((x * x * x).sum(), x, np.array([1.0, 1.0]))
    array([ 6., 12.])
    """
    gradient = grad(y, wrt, create_graph=True)
    return grad(gradient, [wrt], vector, create_graph=create_graph, unused="zeros")[0]
