"""Carlini and Wagner's attack: the smallest l2 perturbation, by plain optimisation of a loss made for it.

    minimise over w    ||x' - x||_2^2 + c * f(x'),    x' = low + (high - low) * (tanh(w) + 1) / 2
    f(x') = max(z_y - max_{k != y} z_k, -confidence)            (targeted: max_{k != t} z_k - z_t)

The tangent keeps x' in the box without a constraint; f is zero exactly where the attack succeeds by ``confidence``, so that
the gradient has nothing to gain from going further, and does not saturate as the cross-entropy does. c weighs success against
size: it is found by bisection, for each example its own. Adam does the minimising. Slow, and hard to beat: the reference for
other attacks' distances, and for defences that merely hide gradients.

Reference: Carlini and Wagner 2017, "Towards evaluating the robustness of neural networks", sections V and VI-A.
"""

from __future__ import annotations

from typing import Any

from npadv import ops
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
from npadv.autodiff import Tensor, value_of
from npadv.backend import Array, xp_of

INSIDE = 0.999999
"""tanh reaches its ends at infinity only: the search starts this near to them."""


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
    model : callable
        Maps a batch (N, ...) to logits (N, K), recorded by the tape.
    x : (N, ...) array
        Examples within ``bounds``.
    y : (N,) integers, optional
        The true classes to leave, or the targets; by default the model's own predictions.
    confidence : float
        By how much the new class's logit is to lead.
    weight : float
        Where the search for c starts.
    searches : int
        Values of c to try: ten times as much until one succeeds, then the middle of the largest that failed and the
        smallest that succeeded.
    steps : int
        Of Adam, for each c.
    step : float
        Adam's step size, in w.
    targeted : bool
        Whether y are classes to reach.
    bounds : (low, high)
        The box, finite.

    Returns
    -------
    AttackResult
        ``distance`` is in l2; 2 + searches * (steps + 1) queries an example. Where no point succeeded (by ``confidence``),
        ``x_adv`` is x and ``flags["not_converged"]`` is true. An example that is where it should be is left alone.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    A linear classifier whose boundary is the line x_0 = x_1: the nearest point of the other class is the foot on it.

    >>> import numpy as np
    >>> result = carlini_wagner(lambda x: 5 * x, np.array([[0.7, 0.3]]), searches=8)
    >>> bool(result.success[0]), result.x_adv.round(2), round(float(result.distance[0]), 2)  # 0.4 / sqrt(2)
    (True, array([[0.5, 0.5]]), 0.28)
    """
    check_inputs(x, kind="l2", bounds=bounds)
    low, high = bounds
    if not -float("inf") < low < high < float("inf"):
        raise ValueError(f"bounds: expected a finite box, got {bounds!r}")
    check_positive("confidence", confidence, zero=True)
    check_positive("weight", weight)
    check_positive("step", step)
    check_count("searches", searches)
    check_count("steps", steps)
    logits, y, before = first_predictions(model, x, y, targeted=targeted)
    xp, one = xp_of(x), x.dtype.type
    width, away = one(high - low), xp.eye(logits.shape[1], dtype=bool)[y]

    start = xp.arctanh((2 * (x - one(low)) / width - 1) * one(INSIDE))
    there = before == y if targeted else before != y
    best, nearest = x.copy(), xp.where(there, 0.0, xp.inf)  # of all points looked at, the nearest that succeeds
    fails, succeeds = (
        xp.zeros(len(x)),
        xp.zeros(len(x)) + xp.inf,
    )  # the largest c known to fail, the smallest to succeed
    c = xp.zeros(len(x)) + weight
    flags = {name: xp.zeros(len(x), dtype=bool) for name in ("zero_gradient", "non_finite_gradient")}
    for search in range(searches):
        w, mean, square = start, xp.zeros_like(x), xp.zeros_like(x)
        found = xp.zeros(len(x), dtype=bool)
        for t in range(1, steps + 2):
            inputs = Tensor(w, requires_grad=True)
            point = ops.minimum(ops.maximum((ops.tanh(inputs) + 1) * (width / 2) + one(low), one(low)), one(high))
            output = model(point)
            logits = check_logits(output, len(x))
            lead = _lead(output, away) if targeted else -_lead(output, away)  # of the classes to reach
            size = ops.sum(ops.reshape(ops.square(point - x), shape=(len(x), -1)), axis=1)

            # Judged by the class, with the same look that gives the gradient.
            prediction = logits.argmax(axis=1)
            hit = (prediction == y if targeted else prediction != y) & (value_of(lead) >= confidence)
            better = hit & (size.data < nearest)
            best, nearest = xp.where(column(better, x), point.data, best), xp.where(better, size.data, nearest)
            found = found | hit
            if t > steps:
                break

            lag = ops.maximum(one(confidence) - lead, 0.0)  # f, moved up by the confidence, which changes no gradient
            if search == 0 and t == 1:  # asked for by itself: the size alone would give a gradient to any model
                flags["zero_gradient"] = check_gradient(input_gradient(ops.sum(lead), inputs))[1]["zero_gradient"]
            g, seen = check_gradient(input_gradient(ops.sum(size + c.astype(x.dtype) * lag), inputs))
            flags["non_finite_gradient"] = flags["non_finite_gradient"] | seen["non_finite_gradient"]
            mean, square = one(0.9) * mean + one(0.1) * g, one(0.999) * square + one(0.001) * g * g
            speed = xp.sqrt(square / one(1 - 0.999**t)) + one(1e-8)
            w = w - one(step) * (mean / one(1 - 0.9**t)) / speed
        fails, succeeds = xp.where(found, fails, c), xp.where(found, xp.minimum(succeeds, c), succeeds)
        c = xp.where(xp.isfinite(succeeds), (fails + xp.where(xp.isfinite(succeeds), succeeds, 0)) / 2, c * 10)

    return make_result(
        model,
        x,
        best,
        y,
        kind="l2",
        targeted=targeted,
        queries=1 + searches * (steps + 1),
        before=before,
        flags={**flags, "not_converged": ~xp.isfinite(nearest)},
    )


def _lead(output: Any, one_hot: Array) -> Any:
    """Return by how much the marked class leads the best of the others: (N, K) to (N,)."""
    marked = ops.sum(ops.where(one_hot, output, 0.0), axis=1)
    return marked - ops.max(ops.where(one_hot, -float("inf"), output), axis=1)
