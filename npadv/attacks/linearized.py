"""The smallest perturbation that changes the class of the linearised model, once and again.

The model is replaced by its tangent at x: its logits by z(x) + J eta. The tangent model leaves class y for class k across a
plane, and of all eta across it the smallest has a closed form:

    min ||eta||  subject to  <w_k, eta> >= z_y - z_k,    w_k = grad_x (z_k - z_y)
    ||eta_k|| = (z_y - z_k) / ||w_k||_dual,    eta_k along the steepest ascent of <w_k, .>

The smallest over k != y is the perturbation of Huang et al., and its size the *radius*: on a linear model, the distance to
the boundary. Here the box is part of the problem (``npadv.norms.smallest_step``), so that the radius stays exact in it.
Where the model bends, the step is repeated from where it led: that is DeepFool, with three amendments. The first of several
steps goes half the way and the second most of it, since the tangent is a better model there than at x. At the end the point
on the straight way back to x where the class changes is found by bisection; and from this point p on the boundary a step
along it goes nearer to x, to the smallest eta across the tangent at p, <w_k, x + eta - p> >= z_y - z_k with w_k and z at p.

References: Huang, Xu, Schuurmans and Szepesvari 2015, "Learning with a strong adversary", section 3, as [WG] 1.2.4 reviews
it; Moosavi-Dezfooli, Fawzi and Frossard 2016, "DeepFool", eqs. 6 to 8 and algorithm 2.
"""

from __future__ import annotations

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
    predict,
)
from npadv.autodiff import Tensor
from npadv.backend import Array, like, to_numpy, xp_of
from npadv.norms import DUAL, smallest_step
from npadv.norms import norm as norm_of

CAUTION = (0.5, 0.85)
"""The share of the first steps that is taken, where there are several."""

HALVINGS = 9
"""Of the way back to x, and of the one along the boundary, after several steps: each costs a look at the model."""


@dataclass(frozen=True)
class LinearizedResult(AttackResult):
    """An attack's result, and how far the model that is linear would have been.

    Attributes
    ----------
    radius : (N,)
        Distance, within the box, to the boundary of the model linearised at x: 0 for an example that was there already,
        infinity where no point of the box is across.
    """

    radius: Array


def linearized(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    norm: str = "l2",
    steps: int = 1,
    overshoot: float = 0.02,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> LinearizedResult:
    """Step just across the nearest boundary of the linearised model, and repeat until the model agrees.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K), recorded by the tape.
    x : (N, ...) array
        Examples within ``bounds``.
    y : (N,) integers, optional
        The true classes to leave, or the targets; by default the model's own predictions.
    norm : {"l2", "linf", "l1"}
        In which the perturbation is to be small.
    steps : int
        1 is the closed form of Huang et al., more are DeepFool; an example that has arrived takes no more.
    overshoot : float
        The sum of the steps is made longer by this share, to be across the boundary and not on it.
    targeted : bool
        Whether y are classes to reach. The step then crosses the farthest of the boundaries between x and the target's
        region, which is the closed form for two classes and for more a step towards it: take several.
    bounds : (low, high)
        The box.

    Returns
    -------
    LinearizedResult
        ``distance`` is in ``norm``; 2 queries an example, 2 more for each step it took, and 19 more if ``steps`` is above 1.
        ``flags["not_converged"]``: the class did not change; ``flags["zero_gradient"]``: all the w_k at x are zero.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    Three classes, each that of the nearest centre: the boundaries lie at 0.15 to the right and at 0.2 above.

    >>> centres = np.array([[0.5, 0.5], [0.8, 0.5], [0.5, 0.9]])
    >>> result = linearized(lambda x: x @ centres.T - (centres**2).sum(axis=1) / 2, np.array([[0.5, 0.5]]))
    >>> result.radius.round(12), result.x_adv.round(12)  # 1.02 times as far
    (array([0.15]), array([[0.653, 0.5  ]]))
    """
    check_inputs(x, kind=norm, bounds=bounds)
    check_count("steps", steps)
    check_positive("overshoot", overshoot, zero=True)
    logits, y, before = first_predictions(model, x, y, targeted=targeted)
    xp = xp_of(x)

    x_adv, total = x.copy(), xp.zeros_like(x)
    radius, taken = xp.zeros(len(x), dtype=x.dtype), xp.zeros(len(x), dtype=int)
    flags = {name: xp.zeros(len(x), dtype=bool) for name in ("zero_gradient", "non_finite_gradient")}
    left = _still_to_go(before, y, targeted)
    for step in range(steps):
        if len(left) == 0:
            break
        start, labels = x_adv[left], y[left]
        eta, seen, reached = _nearest_boundary(model, start, start, labels, logits.shape[1], norm, targeted, bounds)
        total[left] = total[left] + (eta if steps == 1 or step >= len(CAUTION) else CAUTION[step] * eta)
        x_adv[left] = xp.clip(x[left] + (1 + x.dtype.type(overshoot)) * total[left], *bounds)
        taken[left] = taken[left] + 1
        flags["non_finite_gradient"][left] = flags["non_finite_gradient"][left] | seen["non_finite_gradient"]
        if step == 0:
            radius[left] = xp.where(reached, norm_of(eta, norm), xp.inf)
            flags["zero_gradient"][left] = seen["zero_gradient"]
        left = left[_still_to_go(predict(model, x_adv[left]), labels, targeted)]

    queries = 1 + 2 * taken
    if steps > 1:
        x_adv = _shortened(model, x, x_adv, y, targeted)
        eta, seen, _ = _nearest_boundary(model, x, x_adv, y, logits.shape[1], norm, targeted, bounds)
        flags["non_finite_gradient"] = flags["non_finite_gradient"] | seen["non_finite_gradient"]
        along = _shortened(model, xp.clip(x + eta, *bounds), x_adv, y, targeted)
        nearer = norm_of(along - x, norm) < norm_of(x_adv - x, norm)
        x_adv = xp.where(column(nearer, x), along, x_adv)
        queries = queries + 2 * HALVINGS + 1
    result = make_result(
        model,
        x,
        x_adv,
        y,
        kind=norm,
        targeted=targeted,
        queries=queries,
        before=before,
        flags=flags,
    )
    fields = {**vars(result), "flags": {**result.flags, "not_converged": ~result.success}}
    return LinearizedResult(**fields, radius=radius)


def _still_to_go(prediction: Array, y: Array, targeted: bool) -> Array:
    """Return the places in the batch of those that are not yet where they should be."""
    there = to_numpy(prediction == y) if targeted else to_numpy(prediction != y)
    return like(np.flatnonzero(~there), y)


def _shortened(model: Model, x: Array, x_adv: Array, y: Array, targeted: bool) -> Array:
    """Return the first point on the way from x to x_adv, to 1 in 2^9, at which the attack succeeds, or x_adv."""
    xp = xp_of(x)
    fails, succeeds = xp.zeros(len(x), dtype=x.dtype), xp.ones(len(x), dtype=x.dtype)  # shares of the way
    for _ in range(HALVINGS):
        share = (fails + succeeds) / 2
        hit = predict(model, x + column(share, x) * (x_adv - x)) == y
        hit = hit if targeted else ~hit
        fails, succeeds = xp.where(hit, fails, share), xp.where(hit, share, succeeds)
    return xp.where(column(succeeds, x) < 1, x + column(succeeds, x) * (x_adv - x), x_adv)


def _nearest_boundary(
    model: Model, x: Array, point: Array, y: Array, classes: int, norm: str, targeted: bool, bounds: Bounds
) -> tuple[Array, dict[str, Array], Array]:
    """Return the smallest eta for which x + eta is across a boundary of the model linearised at ``point``.

    And the flags of the gradients it is made of, and where the boundary is in the box.
    """
    xp, n = xp_of(x), len(x)
    inputs = Tensor(point, requires_grad=True)
    output = model(inputs)
    logits = check_logits(output, n)
    rows, one = xp.arange(n), xp.eye(classes, dtype=logits.dtype)
    others = (y[:, None] + xp.arange(1, classes)) % classes  # (N, K - 1): every class but y
    towards = -1 if targeted else 1  # from y to k, or from k to y

    # w_k and the logits' gap for each other class k; the walk costs the same for one example and for all of them.
    slopes, gaps = [], []
    for k in range(classes - 1):
        cotangent = towards * (one[others[:, k]] - one[y])
        slopes.append(input_gradient(output, inputs, cotangent))
        gaps.append(towards * (logits[rows, y] - logits[rows, others[:, k]]))
    w, gap = xp.stack(slopes, axis=1), xp.stack(gaps, axis=1)
    w, flags = check_gradient(w)
    flat, centre = w.reshape(n * (classes - 1), -1), x.reshape(n, -1)
    if point is not x:
        gap = gap + (flat.reshape(n, classes - 1, -1) @ (point - x).reshape(n, -1, 1))[..., 0]

    # Without the box the distance is one division, and never more than with it: the nearest of these is solved first, and
    # then only those that could still be nearer. A target's boundaries all have to be crossed.
    slope = norm_of(flat, DUAL[norm]).reshape(n, -1)
    least = xp.where(slope > 0, gap / xp.where(slope > 0, slope, 1), xp.inf)
    size, eta = xp.zeros(n * (classes - 1), dtype=x.dtype) + xp.inf, xp.zeros_like(flat)

    def solve(which: Array) -> None:
        eta[which], reached = smallest_step(
            flat[which], centre[which // (classes - 1)], gap.reshape(-1)[which], norm, bounds
        )
        size[which] = xp.where(reached, norm_of(eta[which], norm), xp.inf)

    if targeted:
        solve(xp.arange(len(flat)))
    else:
        nearest = rows * (classes - 1) + least.argmin(axis=1)
        solve(nearest)
        nearer = to_numpy(least < size[nearest][:, None]).reshape(-1)
        nearer[to_numpy(nearest)] = False
        if nearer.any():
            solve(like(np.flatnonzero(nearer), x))
    size = size.reshape(n, -1)
    # A class that the box keeps out of reach is chosen only if all are, and then the one with the least to make up for.
    far = size.argmax(axis=1) if targeted else size.argmin(axis=1)
    best = xp.where(xp.isfinite(size).any(axis=1), far, gap.argmin(axis=1))
    return eta.reshape(n, classes - 1, *x.shape[1:])[rows, best], flags, xp.isfinite(size[rows, best])
