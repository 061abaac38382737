"""Steepest ascent within the tangent plane of the data: the worst change, to first order, that keeps to the data's manifold.

    Delta = argmax <grad_x J(x, y), Delta>  over  Delta in span B_x, ||Delta||_2 <= r  =  r * P g / ||P g||_2    [SYN] eq. 13

P is the orthogonal projection onto the span of B_x, a basis of the directions in which the data's manifold runs at x: for
example the Jacobian of an autoencoder, or small shifts and rotations. Training against this attack teaches a network the
same invariance as the manifold tangent classifier.

Reference: Shaham, Yamada and Negahban, "Understanding Adversarial Training" [SYN], section 4, after Rifai et al. 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks.checks import check_inputs
from npadv.attacks.result import AttackResult, Bounds, Model, first_predictions, loss_gradient, make_result, records
from npadv.backend import Array, is_array, like, to_numpy, xp_of
from npadv.norms import steepest_ascent_direction


@dataclass(frozen=True)
class TangentResult(AttackResult):
    """The result of the attack, and the part of the gradient that lay in the tangent plane.

    ``flags["left_plane"]``: the box clipped the step, so that it is no longer in the plane.

    Attributes
    ----------
    share : (N,)
        ||P g||_2 / ||g||_2, in [0, 1]; 0 where g is 0.
    """

    share: Array


@records
def tangent(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    basis: Array,
    eps: float | Array,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> TangentResult:
    """Take the step of l2 length eps within the tangent plane that raises the linearised loss most.

    Parameters
    ----------
    model, x, y, targeted, bounds : see npadv.attacks
    basis : (N, m, ...) array, or (m, ...) for all examples
        Directions that span the plane, each of the shape of one example. They need not be orthogonal, of length 1 or
        linearly independent.
    eps : float, or (N,) array
        Length of the step in l2, in units of x. The step is then clipped to the box.

    Returns
    -------
    TangentResult
        ``distance`` is in l2; 3 queries an example. ``flags["zero_gradient"]``: no part of the gradient lay in the plane,
        and nothing was moved.

    Examples
    --------
    The gradient points along the diagonal, the data lie along the first axis:

    >>> weights = np.array([[1.0, -1.0], [1.0, -1.0]])
    >>> result = tangent(
    ...     lambda x: x @ weights, np.array([[0.5, 0.5]]), np.array([1]), basis=np.array([[2.0, 0.0]]), eps=0.2
    ... )
    >>> result.x_adv.round(12), result.share.round(3)
    (array([[0.7, 0.5]]), array([0.707]))
    """
    eps, bounds = check_inputs(x, eps=eps, kind="l2", bounds=bounds, eps_per_example=True)
    directions = _orthonormal(basis, x)
    _, y, before = first_predictions(model, x, y, targeted=targeted)
    xp = xp_of(x)

    g, flags = loss_gradient(model, x, y)
    step, share = _project_unit(-g if targeted else g, directions)
    none = share == 0
    moved = x + eps * step
    x_adv = xp.clip(moved, *bounds)

    left = (x_adv != moved).reshape(len(x), -1).any(axis=1)
    result = make_result(
        model,
        x,
        x_adv,
        y,
        kind="l2",
        targeted=targeted,
        queries=2,
        before=before,
        flags={**flags, "zero_gradient": none, "left_plane": left},
    )
    return TangentResult(**vars(result), share=share)


def _project_unit(g: Array, directions: Array) -> tuple[Array, Array]:
    """Return P g / ||P g||_2 and ||P g||_2 / ||g||_2 for orthonormal directions, 0 where only rounding lies in the plane."""
    xp = xp_of(g)
    # Scaled to length 1 first: P g is then small only where little of g lies in the plane.
    unit = steepest_ascent_direction(g, "l2").reshape(len(g), 1, -1)
    coordinates = (directions * unit).sum(axis=2, keepdims=True)
    share = xp.sqrt((coordinates * coordinates).sum(axis=(1, 2)))
    none = share <= 100 * np.finfo(g.dtype).eps
    projected = (directions * coordinates).sum(axis=1) / xp.where(none, 1, share)[:, None]
    step = (projected * ~none[:, None]).reshape(g.shape).astype(g.dtype)
    return step, xp.where(none, 0, share).astype(g.dtype)


def _orthonormal(basis: Any, x: Array) -> Array:
    """Return orthonormal directions (N or 1, m, d) of the same span, in x's dtype; zeros stand for dependent directions."""
    if not is_array(basis):
        raise ValueError(f"basis: expected a NumPy or CuPy array, got {type(basis).__name__}")
    shared, own = basis.shape[1:] == x.shape[1:], basis.shape[:1] + basis.shape[2:] == x.shape
    if basis.ndim not in (x.ndim, x.ndim + 1) or not (own if basis.ndim > x.ndim else shared) or basis.size == 0:
        raise ValueError(
            f"basis: expected directions of shape {x.shape[1:]}, (m, ...) or ({len(x)}, m, ...), got shape {basis.shape}"
        )
    host = to_numpy(basis).astype(np.float64)
    if not np.isfinite(host).all():
        raise ValueError("basis: expected finite values, got NaN or infinity")
    host = host.reshape(1 if basis.ndim == x.ndim else len(x), -1, int(np.prod(x.shape[1:])))
    _, sizes, rows = np.linalg.svd(host, full_matrices=False)
    independent = sizes > sizes.max(axis=1, keepdims=True) * max(host.shape[1:]) * np.finfo(np.float64).eps
    return like((rows * independent[..., None]).astype(x.dtype), x)
