"""Robust optimization: the model is trained on the worst inputs of an uncertainty set, and never on the clean ones.

    min_theta  sum_i  max over x~_i in U_i  of  J(theta, x~_i, y_i)                                [SYN] eq. 9

The maximum is out of reach. Algorithm 1 of [SYN] takes one step of steepest ascent in its place, for every minibatch:

    Delta = argmax <grad_x J(theta, x, y), Delta>    subject to    x + Delta in U              [SYN] eq. 11
    theta <- theta - step size * grad_theta J(theta, x + Delta, y)

U is a ball of the l1, l2 or maximum norm, intersected with the box of the pixels (4.1); or the reader's own set, given by the
function that solves eq. 11 for it. An attack may take the place of the step, as a better solution of eq. 10: with
``npadv.attacks.tangent``, U is a tangent plane of the data (eq. 13).

An epoch costs twice that of plain training: one pass forwards and backwards finds Delta, another one the gradient in theta.

Reference: Shaham, Yamada and Negahban, "Understanding Adversarial Training" [SYN], section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.autodiff import Tensor
from npadv.backend import Array, xp_of
from npadv.defenses.adversarial_training import Attack, Bounds, check_radius, found_by, loss_gradient
from npadv.functional import cross_entropy
from npadv.norms import maximise_linear

Ascent = Callable[[Array, Array], Array]


def robust_optimization(
    eps: float | None = None,
    *,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    ascent: Ascent | None = None,
    attack: Attack | None = None,
) -> Callable[..., Tensor]:
    """Return a loss for ``fit``: the loss of the worst inputs alone.

    The uncertainty set is given by ``eps`` and ``norm``, by ``ascent``, or by ``attack``.

    Parameters
    ----------
    eps : float
        Radius of the uncertainty set, in units of the input.
    norm : {"l1", "l2", "linf"}
        The norm of the radius.
    bounds : (low, high) or None
        The box that the ball is intersected with; None for none, as in [SYN]'s experiments.
    ascent : callable, optional
        ``ascent(g, x)`` returns the Delta of eq. 11, of x's shape (N, ...), for gradients g (N, ...).
    attack : callable, optional
        As for ``adversarial_training``.

    Returns
    -------
    callable
        ``loss(model, x, y, *, rng)`` with x (N, ...) and y (N,) returns a scalar. Delta is computed with the model in inference
        and is a constant: the gradient in theta does not flow through it.

    Raises
    ------
    ValueError
        ``eps`` or ``norm`` is not as described; more than one uncertainty set is given, or none; ``ascent`` returns another
        shape.

    Examples
    --------
    An uncertainty set of the reader's own: only the first pixel is uncertain, by 0.3.

    >>> first_pixel = np.array([[0.3, 0.0]])
    >>> loss = robust_optimization(ascent=lambda g, x: np.sign(g) * first_pixel)
    >>> from npadv import nn
    >>> model = nn.Sequential(nn.Dense(2, 2, rng=np.random.default_rng(0))).astype(np.float64)
    >>> x, y = np.array([[0.2, 0.8], [0.9, 0.1]]), np.array([0, 1])
    >>> worst, clean = (loss(model, x, y, rng=None).item() for loss in (loss, robust_optimization(0.0)))
    >>> worst > clean
    True

    A tangent plane, spanned by one direction: the data move along the diagonal.

    >>> from functools import partial
    >>> from npadv.attacks import tangent
    >>> loss = robust_optimization(attack=partial(tangent, basis=np.array([[1.0, 1.0]]), eps=0.1))
    >>> loss(model, x, y, rng=None).item() > clean
    True
    """
    if sum(given is not None for given in (eps, ascent, attack)) != 1:
        raise ValueError(f"eps: expected a radius, or else ascent= or attack=, and only one of them; got {eps!r}")
    box = bounds and (float(bounds[0]), float(bounds[1]))
    if attack is not None:
        worst_inputs = found_by(attack)
    elif ascent is not None:
        worst_inputs = one_ascent_step(ascent, None)
    else:
        worst_inputs = one_ascent_step(ball(eps, norm, box), box)

    def loss(model: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
        return cross_entropy(model(worst_inputs(model, x, y, rng), train=True, rng=rng), y)

    return loss


def ball(eps: float | None, norm: str, bounds: Bounds) -> Ascent:
    """Return the solution of eq. 11 for a ball intersected with the box: where the box stops a pixel, the others go on."""
    radius = check_radius(eps, norm)
    return lambda g, x: maximise_linear(g, x, radius, norm, bounds)


def one_ascent_step(ascent: Ascent, box: Bounds) -> Callable[..., Array]:
    """Return the function from a model and a batch to x + Delta. Clipping to the box removes rounding errors only."""

    def worst_inputs(model: Any, x: Array, y: Any, rng: Any) -> Array:
        step = ascent(loss_gradient(model, x, y), x)
        if step.shape != x.shape:
            raise ValueError(f"ascent: expected a step of x's shape {x.shape}, got {step.shape}")
        worst: Array = (x + step).astype(x.dtype, copy=False)
        return worst if box is None else xp_of(x).clip(worst, *box)

    return worst_inputs
