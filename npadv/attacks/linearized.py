"""The smallest perturbation that changes the class of the linearised model, and DeepFool, which repeats it.

The model is replaced by its tangent at x: its logits by z(x) + J eta. The tangent model leaves class y for class k across a
plane, and the smallest eta across that plane has a closed form:

    min ||eta||  subject to  <w_k, eta> >= z_y - z_k,    w_k = grad_x (z_k - z_y)
    ||eta_k|| = (z_y - z_k) / ||w_k||_dual,    eta_k along the steepest ascent of <w_k, .>

The smallest over k != y is the perturbation of Huang et al., and its size the *radius*: on a linear model, the distance to
the boundary. Here the box is part of the problem (``npadv.norms.smallest_step``), so that the radius is exact within it.
Where the model bends, the step is repeated from the point it reached, as in DeepFool, with three changes:

1. The first of several steps goes half the distance and the second 0.85 of it: the tangent is a better model there than at x.
2. At the end, bisection finds the point between x and x_adv where the class changes.
3. From that point p on the boundary one more step goes along the boundary, nearer to x: to the smallest eta across the
   tangent at p, <w_k, x + eta - p> >= z_y - z_k with w_k and z at p.

Where rounding hides the gap between the two largest logits, x is on the boundary: its radius is 0, and its step crosses the
boundary by a few roundings.

References: Huang, Xu, Schuurmans and Szepesvari 2015, "Learning with a strong adversary", section 3, as [WG] 1.2.4 reviews
it; Moosavi-Dezfooli, Fawzi and Frossard 2016, "DeepFool", eqs. 6 to 8 and algorithm 2.
"""

from __future__ import annotations

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
    add_flags,
    check_gradient,
    column,
    first_predictions,
    goal_reached,
    indices_of,
    input_gradient,
    make_result,
    predict,
    records,
)
from npadv.autodiff import Tensor
from npadv.backend import Array, like, to_numpy, xp_of
from npadv.norms import DUAL, smallest_step
from npadv.norms import norm as norm_of

CAUTION = (0.5, 0.85)
"""The share of the first two steps that is taken, where there are several."""

HALVINGS = 9
"""Bisections between x and x_adv, and along the boundary, after several steps. Each costs a query."""

ROUNDINGS = 16
"""Units in the last place by which a step crosses a boundary that x lies on."""


def nearest_boundary(
    model: Model, x: Array, point: Array, y: Array, *, norm: str, targeted: bool, bounds: Bounds
) -> tuple[Array, Array, Flags]:
    """Return the smallest eta for which x + eta is across a boundary of the model linearised at ``point``.

    Also its length, infinite where the box does not reach the boundary, and the flags of the gradients.
    """
    w, gap, logits, flags = _linearise(model, x, point, y, targeted)
    xp, rows = xp_of(x), xp_of(x).arange(len(x))
    crossing = _across_ties(w, gap, logits, x, bounds)
    if targeted:
        eta, length = steps_to_all(w, crossing, x, norm, bounds)
        k = length.argmax(axis=1)  # all boundaries of the target have to be crossed: the farthest one counts
    else:
        eta, length = steps_to_nearest(w, crossing, x, norm, bounds)
        k = length.argmin(axis=1)
    k = xp.where(xp.isfinite(length).any(axis=1), k, gap.argmin(axis=1))  # none in reach: the one with the smallest gap
    length = xp.where((crossing != gap) & xp.isfinite(length), 0, length)  # x is on the boundary itself
    return eta[rows, k].reshape(x.shape), length[rows, k], flags


@dataclass(frozen=True)
class LinearizedResult(AttackResult):
    """The result of the attack, and the distance to the boundary of the linearised model.

    Attributes
    ----------
    radius : (N,)
        Distance, within the box, to the boundary of the model linearised at x: 0 for an example that needed no
        perturbation, infinity where no point of the box is across the boundary.
    """

    radius: Array


@records
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
    model, x, y : see npadv.attacks
    norm : {"l2", "linf", "l1"}
        The norm in which the perturbation is to be small.
    steps : int
        1 is the closed form of Huang et al., more are DeepFool. An example that has changed its class takes no more steps.
    overshoot : float
        The sum of the steps is made longer by this share, to be across the boundary and not on it.
    targeted : bool
        Reach the classes y instead of leaving them. The step then crosses the farthest of the boundaries between x and the
        target's region. For two classes this is the closed form, for more a step in the right direction: take several.
    bounds : see npadv.attacks

    Returns
    -------
    LinearizedResult
        ``distance`` is in ``norm``; 2 queries an example, 2 more for each step it took, and 19 more if ``steps`` is above 1.
        ``flags["not_converged"]``: the class did not change; ``flags["zero_gradient"]``: all the w_k at x are zero.

    Examples
    --------
    Three classes, each that of the nearest centre: the boundaries lie at 0.15 to the right and at 0.2 above.

    >>> centres = np.array([[0.5, 0.5], [0.8, 0.5], [0.5, 0.9]])
    >>> result = linearized(lambda x: x @ centres.T - (centres**2).sum(axis=1) / 2, np.array([[0.5, 0.5]]))
    >>> result.radius.round(12), result.x_adv.round(12)  # 1.02 times as far
    (array([0.15]), array([[0.653, 0.5  ]]))
    """
    _, bounds = check_inputs(x, kind=norm, bounds=bounds)
    check_count("steps", steps)
    overshoot = check_positive("overshoot", overshoot, zero=True)
    _, y, before = first_predictions(model, x, y, targeted=targeted)
    xp, n = xp_of(x), len(x)
    boundary = partial(nearest_boundary, model, norm=norm, targeted=targeted, bounds=bounds)

    x_adv, total = x.copy(), xp.zeros_like(x)
    radius, taken = xp.zeros(n, dtype=x.dtype), xp.zeros(n, dtype=int)
    flags = {name: xp.zeros(n, dtype=bool) for name in ("zero_gradient", "non_finite_gradient")}
    left = indices_of(~goal_reached(before, y, targeted))
    for step in range(steps):
        if len(left) == 0:
            break
        start = x_adv[left]
        eta, length, seen = boundary(start, start, y[left])
        total[left] = total[left] + (eta if steps == 1 or step >= len(CAUTION) else CAUTION[step] * eta)
        x_adv[left] = xp.clip(x[left] + (1 + overshoot) * total[left], *bounds)
        if step == 0:
            radius[left] = length
            flags["zero_gradient"][left] = seen["zero_gradient"]
        flags["non_finite_gradient"][left] = flags["non_finite_gradient"][left] | seen["non_finite_gradient"]
        taken[left] = taken[left] + 1
        left = left[indices_of(~goal_reached(predict(model, x_adv[left]), y[left], targeted))]

    queries = 1 + 2 * taken
    if steps > 1:
        x_adv = _first_success(model, x, x_adv, y, targeted)
        eta, _, seen = boundary(x, x_adv, y)
        along = _first_success(model, xp.clip(x + eta, *bounds), x_adv, y, targeted)
        nearer = norm_of(along - x, norm) < norm_of(x_adv - x, norm)
        x_adv = xp.where(column(nearer, x), along, x_adv)
        flags = add_flags(flags, seen)
        queries = queries + 2 * HALVINGS + 1
    result = make_result(model, x, x_adv, y, kind=norm, targeted=targeted, queries=queries, before=before, flags=flags)
    fields = {**vars(result), "flags": {**result.flags, "not_converged": ~result.success}}
    return LinearizedResult(**fields, radius=radius)


def _linearise(model: Model, x: Array, point: Array, y: Array, targeted: bool) -> tuple[Array, Array, Array, Flags]:
    """Return the planes of the model linearised at ``point``, for each other class k.

    w_k (N, K - 1, D); the gap (N, K - 1) that <w_k, eta> has to close for x + eta to be on the plane, from y to k or,
    targeted, from k to y; the size of the logits (N,); and the flags of the gradients.
    """
    xp, n = xp_of(x), len(x)
    inputs = Tensor(point, requires_grad=True)
    output = model(inputs)
    logits = check_logits(output, n)
    classes = logits.shape[1]
    rows, one = xp.arange(n), xp.eye(classes, dtype=logits.dtype)
    others = (y[:, None] + xp.arange(1, classes)) % classes  # (N, K - 1): every class but y
    sign = -1 if targeted else 1
    slopes = [input_gradient(output, inputs, sign * (one[k] - one[y])) for k in others.T]
    gaps = [sign * (logits[rows, y] - logits[rows, k]) for k in others.T]
    w, flags = check_gradient(xp.stack(slopes, axis=1))
    w, gap = w.reshape(n, classes - 1, -1), xp.stack(gaps, axis=1)
    if point is not x:
        gap = gap + (w @ (point - x).reshape(n, -1, 1))[..., 0]
    return w, gap, xp.abs(logits).max(axis=1), flags


def _across_ties(w: Array, gap: Array, logits: Array, x: Array, bounds: Bounds) -> Array:
    """Return the gaps (N, K - 1), with those that rounding hides made large enough to be crossed.

    Where two logits are equal the gap is 0, and so would be the step, however much longer the overshoot makes it. The gap
    is then set to what the rounding of the logits and of the products w_i x_i can make of 0.
    """
    xp, (low, high) = xp_of(x), bounds
    largest = max(abs(low), abs(high))
    if largest == float("inf"):
        largest = xp.maximum(xp.abs(x).reshape(len(x), -1).max(axis=1), 1)[:, None]
    rounding = ROUNDINGS * float(np.finfo(x.dtype).eps) * (logits[:, None] + xp.abs(w).sum(axis=2) * largest)
    return xp.where(xp.abs(gap) < rounding, rounding, gap)


def steps_to_all(w: Array, gap: Array, x: Array, norm: str, bounds: Bounds) -> tuple[Array, Array]:
    """Return the smallest steps across each of the planes, (N, K - 1, D), and their lengths, infinite outside the box."""
    xp, (n, k, d) = xp_of(x), w.shape
    centres = xp.repeat(x.reshape(n, d), k, axis=0)
    eta, reached = smallest_step(w.reshape(-1, d), centres, gap.reshape(-1), norm, bounds)
    length = xp.where(reached, norm_of(eta, norm), xp.inf).astype(x.dtype)
    return eta.reshape(n, k, d), length.reshape(n, k)


def steps_to_nearest(w: Array, gap: Array, x: Array, norm: str, bounds: Bounds) -> tuple[Array, Array]:
    """Return the same as ``steps_to_all``, but infinite lengths for planes that cannot be the nearest.

    Without the box the distance to a plane is one division, and it is never larger than with the box. So the nearest plane
    without the box is solved first, and of the others only those whose distance without the box is smaller than its length.
    """
    xp, (n, k, _) = xp_of(x), w.shape
    slope = norm_of(w.reshape(n * k, -1), DUAL[norm]).reshape(n, k)
    least = xp.where(slope > 0, gap / xp.where(slope > 0, slope, 1), xp.inf)
    eta, length = xp.zeros_like(w), xp.zeros((n, k), dtype=x.dtype) + xp.inf

    def solve(rows: Array, planes: Array) -> None:
        step, size = steps_to_all(w[rows, planes][:, None], gap[rows, planes][:, None], x[rows], norm, bounds)
        eta[rows, planes], length[rows, planes] = step[:, 0], size[:, 0]

    rows, nearest = xp.arange(n), least.argmin(axis=1)
    solve(rows, nearest)
    nearer = to_numpy(least < length[rows, nearest][:, None])
    nearer[to_numpy(rows), to_numpy(nearest)] = False
    if nearer.any():
        solve(*(like(indices, x) for indices in np.nonzero(nearer)))
    return eta, length


def _first_success(model: Model, x: Array, x_adv: Array, y: Array, targeted: bool) -> Array:
    """Return the first point between x and x_adv, to 1 in 2^9, at which the attack succeeds, or x_adv."""
    xp = xp_of(x)
    fails, succeeds = xp.zeros(len(x), dtype=x.dtype), xp.ones(len(x), dtype=x.dtype)  # shares of the distance
    for _ in range(HALVINGS):
        share = (fails + succeeds) / 2
        hit = goal_reached(predict(model, x + column(share, x) * (x_adv - x)), y, targeted)
        fails, succeeds = xp.where(hit, fails, share), xp.where(hit, share, succeeds)
    return xp.where(column(succeeds, x) < 1, x + column(succeeds, x) * (x_adv - x), x_adv)
