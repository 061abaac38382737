"""Whole Jacobians and products with Jacobians and Hessians, each built on ``grad`` alone.

For y = f(x) with Jacobian J and, where y is a scalar, Hessian H: one walk gives J^T u, a row at a time gives J, and
differentiating a gradient once more gives J v and H v without ever forming J or H.
"""

from __future__ import annotations

from typing import Any

from npadv.autodiff.gradient import grad
from npadv.autodiff.tensor import Tensor
from npadv.backend import xp_of


def jacobian(y: Tensor, wrt: Tensor, *, create_graph: bool = False) -> Any:
    """Return all partial derivatives dy_i/dx_j, in an array (Tensor if ``create_graph``) of ``y.shape + wrt.shape``.

    One walk per element of ``y``.

    >>> import numpy as np
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
    # Stacking is an operation, and those live a floor above: place each row by an outer product instead.
    column = y.shape + (1,) * wrt.ndim
    return sum(
        (e.reshape(column) * row for e, row in zip(basis, rows, strict=True)),
        start=Tensor(xp.zeros(shape, dtype=wrt.dtype)),
    )


def jvp(y: Tensor, wrt: Tensor, tangent: Any, *, create_graph: bool = False) -> Any:
    """Return the Jacobian-vector product (dy/dx) . ``tangent``, in ``y``'s shape.

    The walk goes backward only, but u -> grad(y, x, u) = J^T u is linear in u, and the gradient of *that*, weighted by
    the tangent, is J . tangent: differentiating twice turns the walk around.

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
    """Return the Hessian-vector product (d2y/dx2) . ``vector`` of a scalar ``y``, exactly, at the cost of two walks.

    >>> import numpy as np
    >>> import npadv
    >>> x = npadv.Tensor([1.0, 2.0], requires_grad=True)
    >>> npadv.hvp((x * x * x).sum(), x, np.array([1.0, 1.0]))
    array([ 6., 12.])
    """
    gradient = grad(y, wrt, create_graph=True)
    return grad(gradient, [wrt], vector, create_graph=create_graph, unused="zeros")[0]
