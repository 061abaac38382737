"""Virtual adversarial training: the prediction should stay the same, even in the direction in which it changes most.

    J~(theta) = J(theta, x, y) + alpha * mean over x' of KL(p(x') || p(x' + r))                [WG] 1.3.1, after Miyato et al.

    r = argmax KL(p(x') || p(x' + r))    subject to    ||r||_2 <= eps

J is the mean over the labelled examples. x' are these and any unlabelled ones: the second term needs no labels, so a few labels
and many images suffice (semi-supervised learning).

Near r = 0 the divergence is r^T H r / 2, so r is eps times the leading eigenvector of H, which power iteration finds:
d <- H d / ||H d||_2. The products H d are exact (``npadv.hvp``). r and p(x') are taken as constants: the gradient in theta
flows through p(x' + r) alone.

References: Miyato, Maeda, Koyama, Nakae and Ishii 2015, "Distributional smoothing with virtual adversarial training", which has
one iteration and alpha = 1; Miyato, Maeda, Koyama and Ishii 2019, "Virtual adversarial training", the semi-supervised loss;
Warde-Farley and Goodfellow [WG], section 1.3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv import ops
from npadv.attacks.virtual_adversarial import power_iteration
from npadv.autodiff import Tensor, no_record, value_of
from npadv.autodiff.derivatives import hvp
from npadv.backend import Array, is_array, like, xp_of
from npadv.defenses.adversarial_training import Bounds, check_radius
from npadv.functional import cross_entropy, kl_divergence
from npadv.norms import steepest_ascent_direction


def virtual_adversarial_training(
    eps: float,
    *,
    alpha: float = 1.0,
    iterations: int = 1,
    unlabelled: Array | None = None,
    unlabelled_batch: int = 100,
    bounds: Bounds = None,
) -> Callable[..., Tensor]:
    """Return a loss for ``fit``: the cross-entropy, and the divergence in the virtual adversarial direction.

    Parameters
    ----------
    eps : float
        Length of r in l2, in units of the input.
    alpha : float
        Weight of the divergence, at least 0.
    iterations : int
        Iterations of the power method, each one product with the Hessian.
    unlabelled : (M, ...) array, optional
        Images without labels. Each minibatch gets some of them, drawn at random.
    unlabelled_batch : int
        Number of unlabelled images in a minibatch, if there are any.
    bounds : (low, high) or None
        The box to which x + r is clipped; None leaves it unclipped, as Miyato et al. do.

    Returns
    -------
    callable
        ``loss(model, x, y, *, rng)`` with x (N, ...) and y (N,) returns a scalar, in nats. r is computed with the model in
        inference, the loss in training. The model must be twice differentiable.

    Raises
    ------
    ValueError
        An argument is not as described; the unlabelled images have another shape than x.

    Examples
    --------
    >>> from npadv import nn
    >>> rng = np.random.default_rng(0)
    >>> model = nn.Dense(2, 2, rng=rng)
    >>> x, y = np.array([[0.2, 0.8]], np.float32), np.array([0])
    >>> none, some = (virtual_adversarial_training(eps)(model, x, y, rng=rng).item() for eps in (0.0, 0.5))
    >>> some > none
    True
    """
    radius = check_radius(eps, "l2")
    alpha = _check(alpha, iterations, unlabelled, unlabelled_batch)
    box = bounds and (float(bounds[0]), float(bounds[1]))

    def loss(model: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
        inputs = x if unlabelled is None else _joined(x, unlabelled, unlabelled_batch, rng)
        r = x.dtype.type(radius) * direction(model, inputs, iterations, rng)
        perturbed = inputs + r if box is None else xp_of(x).clip(inputs + r, *box)

        logits = model(inputs, train=True, rng=rng)
        divergence = kl_divergence(value_of(logits), model(perturbed, train=True, rng=rng))
        return cross_entropy(logits[: len(x)], y) + alpha * divergence

    return loss


def direction(model: Any, x: Array, iterations: int, rng: np.random.Generator) -> Array:
    """Return the direction of l2 length 1, (N, ...), in which each prediction changes most, to second order; 0 if in none."""
    with no_record():
        logits = value_of(model(x))
    point = Tensor(x, requires_grad=True)
    divergence = kl_divergence(logits, model(point), reduction="sum")
    random = like(rng.standard_normal(x.shape).astype(x.dtype), x)
    start = steepest_ascent_direction(random, "l2")
    return power_iteration(lambda d: (hvp(divergence, point, d), {}), start, iterations)[0]


def _joined(x: Array, unlabelled: Array, count: int, rng: np.random.Generator) -> Array:
    """Return the labelled images, followed by some unlabelled ones."""
    if unlabelled.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"unlabelled: expected images of shape {x.shape[1:]}, as the labelled ones, got {unlabelled.shape[1:]}"
        )
    drawn = unlabelled[like(rng.integers(len(unlabelled), size=count), unlabelled)]
    joined: Array = ops.concatenate([x, like(drawn.astype(x.dtype, copy=False), x)])
    return joined


def _check(alpha: Any, iterations: Any, unlabelled: Any, unlabelled_batch: Any) -> float:
    """Check the arguments; return alpha as Python's number."""
    if not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha: expected a finite number of at least 0, got {alpha!r}")
    for name, value in (("iterations", iterations), ("unlabelled_batch", unlabelled_batch)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    if unlabelled is not None and (not is_array(unlabelled) or unlabelled.ndim < 2 or not len(unlabelled)):
        shape = unlabelled.shape if is_array(unlabelled) else type(unlabelled).__name__
        raise ValueError(f"unlabelled: expected an array (M, ...) of at least one image, got {shape}")
    return float(alpha)
