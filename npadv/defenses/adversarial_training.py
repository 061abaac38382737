"""Adversarial training: a loss on the clean inputs and on the worst inputs nearby, which an attack finds.

    J~(theta, x, y) = alpha * J(theta, x, y) + (1 - alpha) * J(theta, x + eta, y)        [SYN] eq. 3, [WG] 1.3

    eta = argmax <grad_x J(theta, x, y), d>  over  ||d|| <= eps                           [SYN] eq. 11

For the maximum norm eta = eps * sign(grad_x J), the fast gradient sign step, and with alpha = 1/2 this is the training of
Goodfellow, Shlens and Szegedy 2014 [GSS]. With alpha = 0 the model is trained on the worst case alone: that is robust
optimization (``robust_optimization.py``). In place of the one step, any attack of ``npadv.attacks`` may find eta.

eta is computed anew from the current parameters for every minibatch. It is taken as a constant: the gradient in theta does
not flow through it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.attacks import AttackResult
from npadv.autodiff import Tensor, grad
from npadv.backend import Array, xp_of
from npadv.functional import cross_entropy
from npadv.norms import check_norm, steepest_ascent_direction

Bounds = tuple[float, float] | None
Attack = Callable[..., AttackResult]


def adversarial_training(
    eps: float | None = None,
    *,
    alpha: float = 0.5,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    attack: Attack | None = None,
) -> Callable[..., Tensor]:
    """Return a loss for ``fit``: the mean over the clean and the adversarial examples.

    Parameters
    ----------
    eps : float
        Radius of the perturbation, in units of the input.
    alpha : float
        Weight of the clean examples, in [0, 1].
    norm : {"l1", "l2", "linf"}
        The norm of the radius.
    bounds : (low, high) or None
        The box to which the perturbed inputs are clipped; None leaves them unclipped, as [SYN] does.
    attack : callable, optional
        ``attack(model, x, y)`` returns an ``AttackResult``, whose ``x_adv`` takes the place of the one step. It has its own
        radius, so leave ``eps`` out. An attack with a parameter ``rng`` gets the training's generator; one that takes no
        labels gets none.

    Returns
    -------
    callable
        ``loss(model, x, y, *, rng)`` with x (N, ...) and y (N,) returns a scalar. The perturbation is computed with the model
        in inference, as an attacker would compute it; both terms of the loss are computed in training.

    Raises
    ------
    ValueError
        ``eps``, ``alpha`` or ``norm`` is not as described, or both ``eps`` and ``attack`` are given.

    Examples
    --------
    >>> from npadv import nn, optim
    >>> from npadv.train import gradient_update
    >>> rng = np.random.default_rng(0)
    >>> model = nn.Dense(2, 2, rng=rng)
    >>> x, y = np.array([[0.2, 0.8], [0.9, 0.1]], np.float32), np.array([0, 1])
    >>> optimizer = optim.SGD(model.parameters(), 1.0)
    >>> losses = [gradient_update(model, adversarial_training(0.1), optimizer, x, y, rng=rng) for _ in range(50)]
    >>> bool(losses[-1] < 0.3 < losses[0])
    True

    Projected gradient descent as the inner attack:

    >>> from functools import partial
    >>> from npadv.attacks import pgd
    >>> loss = adversarial_training(attack=partial(pgd, eps=0.1, steps=7))
    >>> bool(loss(model, x, y, rng=rng).data < 0.4)
    True
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a weight in [0, 1], got {alpha!r}")
    alpha = float(alpha)  # NumPy's floats would change the precision
    worst_inputs = one_step(eps, norm, bounds) if attack is None else found_by(attack, eps)

    def loss(model: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
        worst = cross_entropy(model(worst_inputs(model, x, y, rng), train=True, rng=rng), y)
        if alpha == 0:
            return worst
        return alpha * cross_entropy(model(x, train=True, rng=rng), y) + (1 - alpha) * worst

    return loss


def one_step(eps: float | None, norm: str, bounds: Bounds) -> Callable[..., Array]:
    """Return the function from a model and a batch to x + eta, clipped to the box."""
    radius = check_radius(eps, norm)
    box = bounds and (float(bounds[0]), float(bounds[1]))

    def worst_inputs(model: Any, x: Array, y: Any, rng: Any) -> Array:
        perturbed = x + x.dtype.type(radius) * steepest_ascent_direction(loss_gradient(model, x, y), norm)
        return perturbed if box is None else xp_of(x).clip(perturbed, *box)

    return worst_inputs


def found_by(attack: Attack, eps: float | None = None) -> Callable[..., Array]:
    """Return the function from a model and a batch to the adversarial examples that an attack finds."""
    if eps is not None:
        raise ValueError(f"eps: expected none beside attack=, which has its own radius, got {eps!r}")
    if not callable(attack):
        raise ValueError(f"attack: expected a function (model, x, y), got {type(attack).__name__}")
    parameters = inspect.signature(attack).parameters
    labels = sum(p.kind is not p.KEYWORD_ONLY for p in parameters.values()) > 2
    draws = "rng" in parameters

    def worst_inputs(model: Any, x: Array, y: Any, rng: Any) -> Array:
        return attack(model, x, *([y] if labels else []), **({"rng": rng} if draws else {})).x_adv

    return worst_inputs


def loss_gradient(model: Any, x: Array, y: Any) -> Array:
    """Return grad_x J(theta, x, y) of each example, (N, ...), with the model in inference."""
    inputs = Tensor(x, requires_grad=True)
    g: Array = grad(cross_entropy(model(inputs), y, reduction="sum"), inputs)
    return g


def check_radius(eps: float | None, norm: str) -> float:
    """Check a radius and its norm; return the radius as Python's number."""
    check_norm(norm)
    if eps is None or not 0 <= eps < float("inf"):
        raise ValueError(f"eps: expected a finite number of at least 0, got {eps!r}")
    return float(eps)
