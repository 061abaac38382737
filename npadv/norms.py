"""The three norms of perturbations, and the direction of steepest ascent in each.

Every argument is a batch: x (N, ...) holds N vectors, and a norm returns N numbers. Only :func:`norm` is differentiable; the
other functions take and return arrays. The projections onto the balls of the norms are defined in ``projections.py`` and can be
imported from here.

The linear function <g, d> is largest under ||d|| <= 1 in the direction of steepest ascent. Its largest value is the *dual*
norm of g:

    ============  =============================  ================
    norm          direction                      gain <g, d>
    ============  =============================  ================
    l1            sign(g) at the largest |g|     max |g|
    l2            g / ||g||_2                    ||g||_2
    linf          sign(g)                        ||g||_1
    ============  =============================  ================
"""

from __future__ import annotations

from typing import Any

from npadv import ops
from npadv.autodiff import value_of
from npadv.backend import Array, as_floating, xp_of
from npadv.fast import steps as fast
from npadv.fast.on_cupy import on_cupy
from npadv.projections import maximise_linear, project, smallest_step
from npadv.vectors import NORMS, as_rows, check_norm, largest

__all__ = [
    "DUAL",
    "NORMS",
    "check_norm",
    "maximise_linear",
    "norm",
    "project",
    "sign_step",
    "smallest_step",
    "steepest_ascent_direction",
]

DUAL = {"l1": "linf", "l2": "l2", "linf": "l1"}


def norm(x: Any, kind: str) -> Any:
    """Return the norm of each of N vectors: x (N, ...) to (N,). The derivative of the l2 norm at 0 is taken to be 0.

    An unknown ``kind`` raises a ValueError.

    >>> import numpy as np
    >>> [float(norm(np.array([[3.0, -4.0]]), kind)[0]) for kind in NORMS]
    [7.0, 5.0, 4.0]
    """
    check_norm(kind)
    rows = as_rows(as_floating(x))
    if kind == "l1" or rows.shape[1] == 0:
        return ops.sum(ops.abs(rows), axis=1)
    if kind == "linf":
        return ops.max(ops.abs(rows), axis=1)
    scale = largest(value_of(rows))  # the norm does not depend on it, so it is a constant
    squares = ops.sum(ops.square(rows / scale), axis=1)
    nonzero = value_of(squares) > 0
    return ops.sqrt(ops.where(nonzero, squares, 1.0)) * (scale[:, 0] * nonzero)


def steepest_ascent_direction(g: Array, kind: str) -> Array:
    """Return argmax <g, d> over ||d|| <= 1 for each of N gradients: d of g's shape, 0 where g is 0.

    >>> import numpy as np
    >>> steepest_ascent_direction(np.array([[3.0, -4.0]]), "l1")
    array([[ 0., -1.]])
    """
    check_norm(kind)
    return {"l1": l1_direction, "l2": l2_direction, "linf": linf_direction}[kind](as_floating(g))


def linf_direction(g: Array) -> Array:
    """Return sign(g)."""
    return xp_of(g).sign(g)


@on_cupy(fast.l2_direction)
def l2_direction(g: Array) -> Array:
    """Return g / ||g||_2 for each row, 0 for a row of zeros."""
    xp, rows = xp_of(g), as_rows(g)
    scaled = rows / largest(rows)
    length = xp.sqrt((scaled * scaled).sum(axis=1, keepdims=True))
    return (scaled / xp.where(length > 0, length, 1)).reshape(g.shape)


@on_cupy(fast.l1_direction)
def l1_direction(g: Array) -> Array:
    """Return sign(g) at the largest |g| of each row, the first of several, and 0 elsewhere."""
    xp, rows = xp_of(g), as_rows(g)
    if rows.size == 0:
        return xp.sign(g)
    at = xp.arange(rows.shape[1]) == xp.abs(rows).argmax(axis=1)[:, None]
    return (xp.sign(rows) * at).reshape(g.shape)


def sign_step(x: Array, g: Array, eps: float, bounds: tuple[float, float] | None = None) -> Array:
    """Return x + eps * sign(g), clipped to the box: the steepest-ascent step in the maximum norm.

    >>> import numpy as np
    >>> sign_step(np.array([[0.5, 0.95]]), np.array([[-2.0, 0.1]]), 0.1, bounds=(0.0, 1.0))
    array([[0.4, 1. ]])
    """
    x = as_floating(x)
    return linf_step(x, g.astype(x.dtype, copy=False), eps, bounds)


@on_cupy(fast.linf_step)
def linf_step(x: Array, g: Array, eps: float, bounds: tuple[float, float] | None) -> Array:
    """Return the result of ``sign_step``, for x and g of one floating-point dtype."""
    xp = xp_of(x)
    moved = x + float(eps) * xp.sign(g)
    return moved if bounds is None else xp.clip(moved, float(bounds[0]), float(bounds[1]))
