"""Carlini and Wagner's attack: the smallest l2 perturbation, by plain optimisation of a loss made for it.

    minimise over w    ||x' - x||_2^2 + c * f(x'),    x' = low + (high - low) * (tanh(w) + 1) / 2
    f(x') = max(z_y - max_{k != y} z_k, -confidence)            (targeted: max_{k != t} z_k - z_t)

The tangent keeps x' in the box without a constraint. f is smallest where the attack succeeds by ``confidence``: from there
the gradient only shortens the perturbation. Unlike the cross-entropy, f does not saturate. c weighs success against size; it
is found by bisection, separately for each example. Adam minimises the loss. The attack is slow and hard to beat: a reference
for the distances of other attacks, and for defences that merely hide gradients.

Reference: Carlini and Wagner 2017, "Towards evaluating the robustness of neural networks", sections V and VI-A.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from npadv import ops
from npadv.attacks.checks import check_count, check_inputs, check_logits, check_positive
from npadv.attacks.result import (
    AttackResult,
    Bounds,
    Flags,
    Model,
    add_flags,
    check_gradient,
    column,
    first_predictions,
    goal_reached,
    input_gradient,
    make_result,
    records,
)
from npadv.autodiff import Tensor, value_of
from npadv.backend import Array, xp_of


def minimise(
    model: Model,
    x: Array,
    y: Array,
    c: Array,
    *,
    confidence: float,
    steps: int,
    step: float,
    targeted: bool,
    bounds: Bounds,
) -> tuple[Array, Array, Flags]:
    """Minimise the loss for a fixed c, from x, by Adam on w.

    Return the nearest of all points x' that succeeded, its squared distance (infinite where none did) and the flags.
    """
    xp = xp_of(x)
    w, m, v = _from_box(x, bounds), xp.zeros_like(x), xp.zeros_like(x)
    best, nearest = x, xp.zeros(len(x)) + xp.inf
    flags: Any = None
    for t in range(1, steps + 2):
        inputs = Tensor(w, requires_grad=True)
        point = _into_box(inputs, bounds)
        output = model(point)
        lead = lead_of_goal(output, y, targeted)
        size = ops.sum(ops.reshape(ops.square(point - x), shape=(len(x), -1)), axis=1)

        hit = goal_reached(check_logits(output, len(x)).argmax(axis=1), y, targeted) & (value_of(lead) >= confidence)
        better = hit & (size.data < nearest)
        best, nearest = xp.where(column(better, x), point.data, best), xp.where(better, size.data, nearest)
        if t > steps:
            break  # the last point is judged too

        if flags is None:  # of f alone: the size has a gradient whatever the model is
            flags = check_gradient(input_gradient(ops.sum(lead), inputs))[1]
        f = ops.maximum(confidence - lead, 0.0)  # plus the confidence, which changes no gradient
        g, seen = check_gradient(input_gradient(ops.sum(size + c.astype(x.dtype) * f), inputs))
        flags = add_flags(flags, seen)
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        w = w - step * (m / (1 - 0.9**t)) / (xp.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return best, nearest, flags


@records
def carlini_wagner(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    confidence: float = 0.0,
    weight: float = 1.0,
    searches: int = 6,
    steps: int = 200,
    step: float = 0.05,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> AttackResult:
    """Find, for each example, a small l2 perturbation within the box that changes its class.

    Parameters
    ----------
    model, x, y, targeted : see npadv.attacks
    confidence : float
        The least lead of the target's logit over all others; untargeted, of the largest other logit over that of y. It is
        part of the goal: success needs it, and an example that is already at its target by less is still perturbed.
    weight : float
        The first value of c.
    searches : int
        Values of c to try: ten times as much until one succeeds, then the middle of the largest that failed and the
        smallest that succeeded.
    steps : int
        Adam steps for each value of c.
    step : float
        Adam's step size, in w.
    bounds : (low, high)
        The box: the least and the largest value of a pixel, both finite.

    Returns
    -------
    AttackResult
        ``distance`` is in l2; 2 + searches * (steps + 1) queries an example. Where no point succeeded (by ``confidence``),
        ``x_adv`` is x and ``flags["not_converged"]`` is true. An example that needs no perturbation is returned unchanged.

    Examples
    --------
    A linear classifier whose boundary is the line x_0 = x_1: the nearest point of the other class is the foot on it.

    >>> import numpy as np
    >>> result = carlini_wagner(lambda x: 5 * x, np.array([[0.7, 0.3]]), searches=8)
    >>> bool(result.success[0]), result.x_adv.round(2), round(float(result.distance[0]), 2)  # 0.4 / sqrt(2)
    (True, array([[0.5, 0.5]]), 0.28)
    """
    _, bounds = check_inputs(x, kind="l2", bounds=bounds)
    if not -float("inf") < bounds[0] < bounds[1] < float("inf"):
        raise ValueError(f"bounds: expected a finite box, got {bounds!r}")
    confidence = check_positive("confidence", confidence, zero=True)
    weight, step = check_positive("weight", weight), check_positive("step", step)
    check_count("searches", searches)
    check_count("steps", steps)
    logits, y, before = first_predictions(model, x, y, targeted=targeted)
    xp, n = xp_of(x), len(x)

    there = goal_reached(before, y, targeted) & (lead_of_goal(logits, y, targeted) >= confidence)
    best, nearest = x.copy(), xp.where(there, 0.0, xp.inf)
    c, failed, succeeded = xp.zeros(n) + weight, xp.zeros(n), xp.zeros(n) + xp.inf
    flags: Any = None
    for _ in range(searches):
        point, size, seen = minimise(
            model, x, y, c, confidence=confidence, steps=steps, step=step, targeted=targeted, bounds=bounds
        )
        best, nearest = xp.where(column(size < nearest, x), point, best), xp.minimum(size, nearest)
        c, failed, succeeded = _next_c(c, xp.isfinite(size), failed, succeeded)
        flags = add_flags(flags, seen)

    found = xp.isfinite(nearest)
    flags["not_converged"] = ~found
    queries = 1 + searches * (steps + 1)
    result = make_result(model, x, best, y, kind="l2", targeted=targeted, queries=queries, before=before, flags=flags)
    return replace(result, success=result.success & found)


def lead_of_goal(output: Any, y: Array, targeted: bool) -> Any:
    """Return by how much the best logit that the attack wants exceeds the best of the others: (N, K) to (N,)."""
    xp = xp_of(y)
    is_y = y[:, None] == xp.arange(output.shape[1])
    own, others = ops.sum(ops.where(is_y, output, 0.0), axis=1), ops.max(ops.where(is_y, -xp.inf, output), axis=1)
    return own - others if targeted else others - own


def _into_box(w: Tensor, bounds: Bounds) -> Any:
    """Return low + (high - low) (tanh(w) + 1) / 2, clipped against rounding."""
    low, high = bounds
    return ops.minimum(ops.maximum((ops.tanh(w) + 1) * ((high - low) / 2) + low, low), high)


def _from_box(x: Array, bounds: Bounds) -> Array:
    """Return the w of x. tanh reaches the ends of the box only at infinity: w starts within 0.999999 of them."""
    low, high = bounds
    return xp_of(x).arctanh((2 * (x - low) / (high - low) - 1) * 0.999999)


def _next_c(c: Array, found: Array, failed: Array, succeeded: Array) -> tuple[Array, Array, Array]:
    """Return the next value of c, the largest known to fail and the smallest known to succeed."""
    xp = xp_of(c)
    failed, succeeded = xp.where(found, failed, c), xp.where(found, xp.minimum(succeeded, c), succeeded)
    known = xp.isfinite(succeeded)
    return xp.where(known, (failed + xp.where(known, succeeded, 0)) / 2, c * 10), failed, succeeded
