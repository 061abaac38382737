"""Virtual adversarial examples: the direction in which the predicted distribution changes most, found without labels.

    eta = argmax KL(p(x) || p(x + eta))    subject to  ||eta||_2 <= eps             [WG] 1.2, after Miyato et al. 2015

At eta = 0 the divergence and its gradient are zero. Near x it is therefore eta^T H eta / 2, which is largest along the
eigenvector of H with the largest eigenvalue. Power iteration finds it: d <- H d / ||H d||. The product H d is exact here
(``npadv.hvp``, the gradient of a gradient). Miyato et al. take the difference of the gradients at two points instead
(``xi``); in float32 their distance of 1e-6 is lost in rounding, and 1e-2 is about right.

References: Miyato, Maeda, Koyama, Nakae and Ishii 2015, "Distributional smoothing with virtual adversarial training",
section 3; Warde-Farley and Goodfellow [WG], section 1.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_inputs, check_logits, check_positive
from npadv.attacks.result import (
    AttackResult,
    Bounds,
    Flags,
    Model,
    check_gradient,
    column,
    first_predictions,
    input_gradient,
    make_result,
    records,
)
from npadv.autodiff import Tensor, no_record
from npadv.autodiff.derivatives import hvp
from npadv.backend import Array, like, xp_of
from npadv.functional import kl_divergence
from npadv.norms import steepest_ascent_direction


def power_iteration(
    hessian_product: Callable[[Array], tuple[Array, Flags]], d: Array, iterations: int
) -> tuple[Array, Flags]:
    """Return d after some iterations of d <- H d / ||H d||_2, and the flags that any of the products had."""
    flags: Flags = {}
    for _ in range(iterations):
        product, seen = hessian_product(d)
        d = steepest_ascent_direction(product, "l2")
        flags = {name: flags[name] | seen[name] for name in seen} if flags else seen
    return d, flags


@dataclass(frozen=True)
class VirtualResult(AttackResult):
    """The result of the attack, and the change of the predicted distribution.

    Attributes
    ----------
    divergence : (N,)
        KL(p(x) || p(x_adv)), in nats.
    """

    divergence: Array


@records
def virtual_adversarial(
    model: Model,
    x: Array,
    *,
    eps: float | Array,
    iterations: int = 5,
    xi: float | None = None,
    bounds: Bounds = (0.0, 1.0),
    rng: np.random.Generator,
) -> VirtualResult:
    """Move by eps in the direction that changes the predicted distribution most, to second order.

    Parameters
    ----------
    model, x, bounds : see npadv.attacks
    eps : float, or (N,) array
        Length of the step in l2, in units of x. The step is then clipped to the box.
    iterations : int
        Iterations of the power method. The exact product needs a model that is twice differentiable.
    xi : float, optional
        Compute H d from the gradients at x + xi d and x - xi d, instead of exactly. For a constant H one gradient is minus
        the other. Where they differ from this by more than a tenth, the difference is not reliable: a RuntimeWarning gives
        the number of examples, and ``flags["difference_failed"]`` marks them.
    rng : numpy.random.Generator
        Draws the first directions. The direction drawn for an example depends on its place in the batch.

    Returns
    -------
    VirtualResult
        Success is another class than the model's prediction for x; ``distance`` is in l2. To second order +d and -d are
        equal; the one with the larger divergence is taken. 4 queries an example and one more for each iteration, two with
        ``xi``. ``flags["zero_gradient"]``: H d was zero, and nothing was moved.

    Examples
    --------
    A model that depends on the second pixel alone:

    >>> model = lambda x: x @ np.array([[0.0, 0.0], [-9.0, 9.0]])
    >>> result = virtual_adversarial(model, np.array([[0.5, 0.1]]), eps=0.2, rng=np.random.default_rng(0))
    >>> result.x_adv.round(12), round(float(result.divergence[0]), 2)
    (array([[0.5, 0.3]]), 0.36)
    """
    eps, bounds = check_inputs(x, eps=eps, kind="l2", bounds=bounds, eps_per_example=True)
    check_count("iterations", iterations)
    if xi is not None:
        xi = check_positive("xi", xi)
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")
    logits, y, before = first_predictions(model, x, None, targeted=False)
    xp = xp_of(x)

    product = partial(_exact_product, model, x, logits) if xi is None else partial(_difference, model, x, logits, xi)
    random = like(rng.standard_normal(x.shape).astype(x.dtype), x)
    d, flags = power_iteration(product, steepest_ascent_direction(random, "l2"), iterations)
    if xi is not None:
        _warn_of_failures(flags["difference_failed"], xi, x.dtype)

    ends = [xp.clip(x + sign * eps * d, *bounds) for sign in (1, -1)]
    with no_record():
        divergences = [kl_divergence(logits, check_logits(model(end), len(x)), reduction="none") for end in ends]
    better = divergences[1] > divergences[0]
    x_adv = xp.where(column(better, x), ends[1], ends[0])
    queries = 3 + iterations * (1 if xi is None else 2)
    result = make_result(model, x, x_adv, y, kind="l2", targeted=False, queries=queries, before=before, flags=flags)
    return VirtualResult(**vars(result), divergence=xp.where(better, divergences[1], divergences[0]))


def _exact_product(model: Model, x: Array, logits: Array, d: Array) -> tuple[Array, Flags]:
    """Return H d for each example. The divergences are summed: the Hessian of the sum has one block for each example."""
    point = Tensor(x, requires_grad=True)
    divergence: Any = kl_divergence(logits, model(point), reduction="sum")
    input_gradient(divergence, point)  # raises the right error if the model was not recorded
    return check_gradient(hvp(divergence, point, d))


def _difference(model: Model, x: Array, logits: Array, xi: float, d: Array) -> tuple[Array, Flags]:
    """Return (g(x + xi d) - g(x - xi d)) / 2 xi, which is about H d, and where it is not reliable."""
    xp, sides = xp_of(x), []
    for sign in (1, -1):
        point = Tensor(x + sign * xi * d, requires_grad=True)
        sides.append(input_gradient(kl_divergence(logits, model(point), reduction="sum"), point))
    rows = tuple(range(1, x.ndim))
    odd, even = (xp.abs(sides[0] + s * sides[1]).sum(axis=rows) for s in (-1, 1))
    product, flags = check_gradient((sides[0] - sides[1]) / (2 * xi))
    return product, {**flags, "difference_failed": (even > 0.1 * odd) | (odd == 0)}


def _warn_of_failures(failed: Array, xi: float, dtype: Any) -> None:
    if bool(failed.any()):
        warnings.warn(
            f"virtual_adversarial(xi={xi!r}): the difference of gradients failed for {int(failed.sum())} of {len(failed)} "
            f"examples in {dtype}; leave xi out for exact products, or try about 1e-2",
            RuntimeWarning,
            stacklevel=4,
        )
