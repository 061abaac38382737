"""Steepest ascent within the tangent plane of the data: the worst change that still looks like data.

    Delta = argmax <grad_x J(x, y), Delta>  over  Delta in span B_x, ||Delta||_2 <= r  =  r * P g / ||P g||_2    [SYN] eq. 13

P is the orthogonal projection onto the span of B_x, a basis of the directions in which the data's manifold runs at x, such as
those of an autoencoder's Jacobian or of small shifts and rotations. Whoever trains against it teaches the network what the
manifold tangent classifier knows.

Reference: Shaham, Yamada and Negahban, "Understanding Adversarial Training" [SYN], section 4, after Rifai et al. 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks.checks import check_inputs
from npadv.attacks.result import (
    AttackResult,
    Bounds,
    Model,
    check_gradient,
    first_predictions,
    input_gradient,
    make_result,
)
from npadv.autodiff import Tensor
from npadv.backend import Array, is_array, like, to_numpy, xp_of
from npadv.functional import cross_entropy
from npadv.norms import steepest_ascent_direction


@dataclass(frozen=True)
class TangentResult(AttackResult):
    """An attack's result, and how much of the gradient lay in the tangent plane.

    ``flags["left_plane"]``: the box clipped the step, which then is no longer in the plane.

    Attributes
    ----------
    share : (N,)
        ||P g||_2 / ||g||_2, in [0, 1]; 0 where g is 0.
    """

    share: Array


def tangent(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    basis: Array,
    eps: float,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> TangentResult:
    """Take the step of l2 length eps within the tangent plane that raises the linearised loss most.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K), recorded by the tape.
    x : (N, ...) array
        Examples within ``bounds``.
    y : (N,) integers, optional
        The true classes, or the targets; by default the model's own predictions, so that no label leaks.
    basis : (N, m, ...) array, or (m, ...) for all examples alike
        Directions that span the plane: of x's shape each, not necessarily orthogonal, of any length or independent.
    eps : float
        Length of the step in l2, in units of x.
    targeted : bool
        Raise log p(y) instead: y are the classes to reach.
    bounds : (low, high)
        The box; the step is clipped to it.

    Returns
    -------
    TangentResult
        ``distance`` is in l2; 3 queries an example. ``flags["zero_gradient"]``: nothing of the gradient lay in the plane,
        and nothing was moved.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    The gradient points right and up, the data run along the first axis:

    >>> weights = np.array([[1.0, -1.0], [1.0, -1.0]])
    >>> result = tangent(
    ...     lambda x: x @ weights, np.array([[0.5, 0.5]]), np.array([1]), basis=np.array([[2.0, 0.0]]), eps=0.2
    ... )
    >>> result.x_adv.round(12), result.share.round(3)
    (array([[0.7, 0.5]]), array([0.707]))
    """
    check_inputs(x, eps=eps, kind="l2", bounds=bounds)
    directions = _orthonormal(basis, x)
    _, y, before = first_predictions(model, x, y, targeted=targeted)
    xp = xp_of(x)

    inputs = Tensor(x, requires_grad=True)
    loss = cross_entropy(model(inputs), y, reduction="sum")  # summed: an example's gradient is its own
    g, flags = check_gradient(input_gradient(loss, inputs))
    # Made unit first, so that what is left of it is small only where the plane has no part in it.
    unit = steepest_ascent_direction(-g if targeted else g, "l2").reshape(len(x), 1, -1)
    coordinates = (directions * unit).sum(axis=2, keepdims=True)
    share = xp.sqrt((coordinates * coordinates).sum(axis=(1, 2)))
    none = share <= 100 * np.finfo(x.dtype).eps  # rounding's part in it
    projected = (directions * coordinates).sum(axis=1) / xp.where(none, 1, share)[:, None]
    step = (projected * ~none[:, None]).reshape(x.shape).astype(x.dtype)

    moved = x + x.dtype.type(eps) * step
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
    return TangentResult(**vars(result), share=xp.where(none, 0, share).astype(x.dtype))


def _orthonormal(basis: Any, x: Array) -> Array:
    """Return orthonormal directions (N or 1, m, d) of the same span, in x's dtype; zeros stand for what was dependent."""
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
