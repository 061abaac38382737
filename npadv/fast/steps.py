"""The steps of attacks on CuPy arrays: each one launch of a kernel of ``kernels/``."""

from __future__ import annotations

from npadv import kernels
from npadv.backend import Array, xp_of


def l2_direction(g: Array) -> Array:
    """Return the result of ``norms.l2_direction``: a step of length 1 from 0."""
    return kernels.l2_step(xp_of(g).zeros(g.shape, g.dtype), g, 1.0)


def l1_direction(g: Array) -> Array:
    """Return the result of ``norms.l1_direction``: a step of length 1 from 0."""
    return kernels.l1_step(xp_of(g).zeros(g.shape, g.dtype), g, 1.0)


def linf_step(x: Array, g: Array, eps: float, bounds: tuple[float, float] | None) -> Array:
    """Return the result of ``norms.linf_step``."""
    return kernels.sign_step(x.copy(), g, eps, bounds=bounds)
