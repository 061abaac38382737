"""Virtual adversarial examples: the direction in which the model's opinion changes most, found without any label.

    eta = argmax KL(p(x) || p(x + eta))    subject to  ||eta||_2 <= eps             [WG] 1.2, after Miyato et al. 2015

At eta = 0 the divergence and its gradient are zero, so that near x it is eta^T H eta / 2, largest along the eigenvector of H
with the largest eigenvalue. Power iteration finds it: d <- H d / ||H d||. The product H d is exact here (``npadv.hvp``: a
gradient's gradient). Miyato et al. take the difference of two gradients, xi d apart, instead (``xi=``); in float32 the 1e-6
they chose is lost in rounding, and 1e-2 is about right.

References: Miyato, Maeda, Koyama, Nakae and Ishii 2015, "Distributional smoothing with virtual adversarial training",
section 3; Warde-Farley and Goodfellow [WG], section 1.2.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_inputs, check_logits, check_positive
from npadv.attacks.result import (
    AttackResult,
    Bounds,
    Model,
    check_gradient,
    column,
    first_predictions,
    input_gradient,
    make_result,
)
from npadv.autodiff import Tensor, no_record
from npadv.autodiff.derivatives import hvp
from npadv.backend import Array, like, xp_of
from npadv.functional import kl_divergence
from npadv.norms import steepest_ascent_direction


@dataclass(frozen=True)
class VirtualResult(AttackResult):
    """An attack's result, and by how much the model changed its opinion.

    Attributes
    ----------
    divergence : (N,)
        KL(p(x) || p(x_adv)), in nats.
    """

    divergence: Array


def virtual_adversarial(
    model: Model,
    x: Array,
    *,
    eps: float,
    iterations: int = 5,
    xi: float | None = None,
    bounds: Bounds = (0.0, 1.0),
    rng: np.random.Generator,
) -> VirtualResult:
    """Move by eps in the direction that changes the predicted distribution most, to second order.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K), recorded by the tape and twice differentiable.
    x : (N, ...) array
        Examples within ``bounds``; no labels.
    eps : float
        Length of the step in l2, in units of x.
    iterations : int
        Of the power method.
    xi : float, optional
        Take H d as a difference of gradients at x + xi d and x - xi d, instead of exactly. Where these are not each
        other's negatives to a tenth, as they would be for an H that is constant in between, the difference is of no use:
        a RuntimeWarning says for how many examples, and ``flags["difference_failed"]`` for which.
    bounds : (low, high)
        The box; the step is clipped to it.
    rng : numpy.random.Generator
        Draws the first directions. What is drawn for an example depends on its place in the batch.

    Returns
    -------
    VirtualResult
        Success is another class than the model gave x; ``distance`` is in l2. Of +d and -d, which to second order are the
        same, the better is taken. 4 queries an example and one for each iteration, with ``xi`` two.
        ``flags["zero_gradient"]``: H d was zero, and nothing was moved.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    A model that looks at the second pixel alone:

    >>> model = lambda x: x @ np.array([[0.0, 0.0], [-9.0, 9.0]])
    >>> result = virtual_adversarial(model, np.array([[0.5, 0.1]]), eps=0.2, rng=np.random.default_rng(0))
    >>> result.x_adv.round(12), round(float(result.divergence[0]), 2)
    (array([[0.5, 0.3]]), 0.36)
    """
    check_inputs(x, eps=eps, kind="l2", bounds=bounds)
    check_count("iterations", iterations)
    if xi is not None:
        check_positive("xi", xi)
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")
    logits, y, before = first_predictions(model, x, None, targeted=False)
    xp = xp_of(x)

    d = steepest_ascent_direction(like(rng.standard_normal(x.shape).astype(x.dtype), x), "l2")
    failed = xp.zeros(len(x), dtype=bool)
    flags: dict[str, Array] = {}
    for _ in range(iterations):
        if xi is None:
            product = _exact(model, x, logits, d)
        else:
            product, bad = _difference(model, x, logits, d, xi)
            failed = failed | bad
        product, seen = check_gradient(product)
        flags = {name: flags[name] | seen[name] for name in seen} if flags else seen
        d = steepest_ascent_direction(product, "l2")
    if bool(failed.any()):
        warnings.warn(
            f"virtual_adversarial(xi={xi!r}): the difference of gradients failed for {int(failed.sum())} of {len(x)} "
            f"examples in {x.dtype}; leave xi out for exact products, or try about 1e-2",
            RuntimeWarning,
            stacklevel=2,
        )

    ends, divergences = [], []
    for sign in (1, -1):
        end = xp.clip(x + x.dtype.type(sign * eps) * d, *bounds)
        with no_record():
            divergences.append(kl_divergence(logits, check_logits(model(end), len(x)), reduction="none"))
        ends.append(end)
    better = divergences[1] > divergences[0]
    result = make_result(
        model,
        x,
        xp.where(column(better, x), ends[1], ends[0]),
        y,
        kind="l2",
        targeted=False,
        queries=3 + iterations * (1 if xi is None else 2),
        before=before,
        flags=flags if xi is None else {**flags, "difference_failed": failed},
    )
    return VirtualResult(**vars(result), divergence=xp.where(better, divergences[1], divergences[0]))


def _exact(model: Model, x: Array, logits: Array, d: Array) -> Array:
    """Return H d for each example: the divergences are summed, and the Hessian of a sum is one block an example."""
    point = Tensor(x, requires_grad=True)
    divergence: Any = kl_divergence(logits, model(point), reduction="sum")
    input_gradient(divergence, point)  # says what is wrong if the model left the tape
    return hvp(divergence, point, d)


def _difference(model: Model, x: Array, logits: Array, d: Array, xi: float) -> tuple[Array, Array]:
    """Return (g(x + xi d) - g(x - xi d)) / 2 xi, about H d, and for which examples it cannot be trusted."""
    xp, sides = xp_of(x), []
    for sign in (1, -1):
        point = Tensor(x + x.dtype.type(sign * xi) * d, requires_grad=True)
        sides.append(input_gradient(kl_divergence(logits, model(point), reduction="sum"), point))
    rows = tuple(range(1, x.ndim))
    odd, even = (xp.abs(sides[0] + s * sides[1]).sum(axis=rows) for s in (-1, 1))
    return (sides[0] - sides[1]) / x.dtype.type(2 * xi), (even > 0.1 * odd) | (odd == 0)
