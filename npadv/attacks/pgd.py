"""Projected gradient descent: many small steps of steepest ascent on the loss, each projected back into the ball.

    x_{t+1} = P(x_t + step * argmax <grad_x J(x_t, y), d>),    ||d|| <= 1

P is the projection onto the points within eps of the example that are also in the box. In the maximum norm a step is the
sign of the gradient, so this is the fast gradient sign method, iterated; in l2 a step follows the normalised gradient, and
in l1 it moves one pixel. Where the loss bends between x and x + eps, many steps find a maximum that one step overshoots.

With ``direction="gradient"`` a step is that of plain gradient ascent, x_{t+1} = P(x_t + step * grad_x J(x_t, y)): in the
maximum norm the attack with which [WG] 1.3 breaks networks that were trained on fast gradient sign examples.

References: Kurakin, Goodfellow and Bengio 2016, "Adversarial examples in the physical world", section 2.2; Madry et al. 2018,
"Towards deep learning models resistant to adversarial attacks", section 2.1, who start at random; momentum as in Dong et
al. 2018, "Boosting adversarial attacks with momentum", eqs. 6 and 7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv import ops
from npadv.attacks.checks import check_count, check_flag, check_inputs, check_logits, check_positive
from npadv.attacks.result import (
    AttackResult,
    Bounds,
    Flags,
    Model,
    add_flags,
    column,
    first_predictions,
    goal_reached,
    loss_gradient,
    make_result,
    records,
)
from npadv.autodiff import no_record
from npadv.backend import Array, is_array, like, to_numpy, xp_of
from npadv.norms import l1_direction, l2_direction, linf_direction, project


def climb(
    point: Array,
    gradient: Callable[[Array], tuple[Array, Flags]],
    direction: Callable[[Array, Array], Array],
    projection: Callable[[Array], Array],
    *,
    step: Any,
    steps: int,
    momentum: float,
) -> tuple[Array, Flags]:
    """Take steps of gradient ascent from a point; return the last point, and the flags of the gradients."""
    past: Any = 0
    flags: Any = None
    for _ in range(steps):
        g, seen = gradient(point)
        if momentum:
            g = past = momentum * past + _unit_l1(g)
        point = projection(point + step * direction(g, point))
        flags = add_flags(flags, seen)
    return point, flags


@records
def pgd(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    eps: float | Array,
    step: float | None = None,
    steps: int = 40,
    norm: str = "linf",
    direction: str = "steepest",
    random_start: bool = False,
    restarts: int = 1,
    momentum: float = 0.0,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    rng: np.random.Generator | None = None,
) -> AttackResult:
    """Climb the loss in small steps, within eps of the examples and within the box.

    Parameters
    ----------
    model, x, y, targeted, bounds : see npadv.attacks
    eps : float, or (N,) array
        Radius of the ball, in units of x.
    step : float, optional
        Length of a step in the norm; by default 2.5 eps / steps, enough to reach the edge from anywhere and turn there.
        For ``direction="gradient"`` the factor of the gradient, which has no default: gradients have no natural length.
    steps : int
        Number of steps.
    norm : {"linf", "l2", "l1"}
        The norm of the ball and of the steps.
    direction : {"steepest", "gradient"}
        A step of the given length in the direction of steepest ascent, or a multiple of the gradient.
    random_start : bool
        Start at a point drawn uniformly from the ball (and projected into the box) instead of at the example. The point
        drawn for an example depends on its place in the batch.
    restarts : int
        Number of climbs. Each example keeps the climb that ends with the largest loss, among those that succeed if any
        does. More than one needs ``random_start``.
    momentum : float
        Follow a decaying sum of gradients, each first scaled to l1 norm 1; this is the weight of the past.
    rng : numpy.random.Generator
        Draws the random starts, and is needed only for them.

    Returns
    -------
    AttackResult
        ``distance`` is in ``norm``; 2 + restarts * (steps + 1) queries an example, or 2 + steps for one climb.
        ``flags["zero_gradient"]``: the gradient was zero at the start of every climb.

    Examples
    --------
    On a linear model all steps point the same way, and end where the fast gradient sign method does:

    >>> weights = np.array([[1.0, -1.0], [-2.0, 2.0]])
    >>> result = pgd(lambda x: x @ weights, np.array([[0.5, 0.2]]), np.array([0]), eps=0.1, steps=5)
    >>> result.x_adv.round(12), bool(result.success[0])
    (array([[0.4, 0.3]]), True)
    """
    eps, bounds = check_inputs(x, eps=eps, kind=norm, bounds=bounds, eps_per_example=True)
    step, momentum = _check_settings(direction, step, steps, restarts, momentum, random_start, rng)
    _, y, before = first_predictions(model, x, y, targeted=targeted)
    step = 2.5 * eps / steps if step is None else step
    ascent, projection = _ascent(norm, direction, bounds), _projection(x, eps, norm, bounds)

    def gradient(point: Array) -> tuple[Array, Flags]:
        g, flags = loss_gradient(model, point, y)
        return -g if targeted else g, flags

    def climb_once() -> tuple[Array, Flags]:
        start = x if rng is None or not random_start else projection(x + _random_offsets(rng, x, eps, norm))
        return climb(start, gradient, ascent, projection, step=step, steps=steps, momentum=momentum)

    best, flags = climb_once()
    queries = 1 + steps
    if restarts > 1:
        hit, loss = _goal_and_loss(model, best, y, targeted)
        for _ in range(restarts - 1):
            again, seen = climb_once()
            hit_again, loss_again = _goal_and_loss(model, again, y, targeted)
            better = (hit_again & ~hit) | ((hit_again == hit) & (loss_again > loss))
            best = xp_of(x).where(column(better, x), again, best)
            hit, loss = hit | hit_again, xp_of(x).where(better, loss_again, loss)
            flags = {
                "zero_gradient": flags["zero_gradient"] & seen["zero_gradient"],
                "non_finite_gradient": flags["non_finite_gradient"] | seen["non_finite_gradient"],
            }
        queries = 1 + restarts * (steps + 1)
    return make_result(model, x, best, y, kind=norm, targeted=targeted, queries=queries, before=before, flags=flags)


STEEPEST = {"linf": linf_direction, "l2": l2_direction, "l1": l1_direction}


def _ascent(norm: str, direction: str, bounds: Bounds) -> Callable[[Array, Array], Array]:
    """Return the function from a gradient and a point to the direction of the step."""
    steepest = STEEPEST[norm] if direction == "steepest" else lambda g: g
    if norm != "l1":
        return lambda g, point: steepest(g)
    return lambda g, point: steepest(_without_stuck(g, point, bounds))


def _without_stuck(g: Array, point: Array, bounds: Bounds) -> Array:
    """Return a gradient that is 0 where a pixel cannot follow it: else an l1 step would choose that pixel again and again."""
    low, high = bounds
    stuck = ((g > 0) & (point >= high)) | ((g < 0) & (point <= low))
    return xp_of(g).where(stuck, xp_of(g).zeros_like(g), g)


def _projection(x: Array, eps: Any, norm: str, bounds: Bounds) -> Callable[[Array], Array]:
    """Return the function that projects points onto the ball and the box. In the maximum norm both are boxes."""
    if norm != "linf":
        radius = eps.reshape(-1) if is_array(eps) else eps
        return lambda point: project(point, x, radius, norm, bounds)
    xp, (low, high) = xp_of(x), bounds
    lowest, highest = xp.maximum(x - eps, low), xp.minimum(x + eps, high)
    return lambda point: xp.clip(point, lowest, highest)


def _unit_l1(g: Array) -> Array:
    """Return gradients scaled to l1 norm 1; zero stays zero."""
    xp = xp_of(g)
    size = xp.abs(g).sum(axis=tuple(range(1, g.ndim)), keepdims=True)
    return g / xp.where(size > 0, size, xp.ones_like(size))


def _random_offsets(rng: np.random.Generator, x: Array, eps: float | Array, norm: str) -> Array:
    """Return an offset for each example, drawn uniformly from the ball around 0.

    In l2 and l1: a direction from a density that depends on the norm alone, and a length whose d-th power is uniform.
    """
    shape, d = x.shape, int(np.prod(x.shape[1:]))
    eps = to_numpy(eps)
    if norm == "linf":
        return like(rng.uniform(-eps, eps, shape).astype(x.dtype), x)
    rows = rng.standard_normal((len(x), d)) if norm == "l2" else rng.laplace(size=(len(x), d))
    size = np.sqrt((rows**2).sum(axis=1)) if norm == "l2" else np.abs(rows).sum(axis=1)
    radius = np.reshape(eps, -1) * rng.random(len(x)) ** (1 / d) / size
    return like((rows * radius[:, None]).reshape(shape).astype(x.dtype), x)


def _goal_and_loss(model: Model, point: Array, y: Array, targeted: bool) -> tuple[Array, Array]:
    """Return whether each example reached the attack's goal, and its loss (targeted: minus its loss)."""
    with no_record():
        logits = check_logits(model(point), len(point))
    loss = ops.softmax_cross_entropy(logits, labels=y, reduction="none")
    return goal_reached(logits.argmax(axis=1), y, targeted), -loss if targeted else loss


def _check_settings(
    direction: str, step: float | None, steps: int, restarts: int, momentum: float, random_start: bool, rng: Any
) -> tuple[float | None, float]:
    """Check the options; return the step and the momentum as Python's numbers."""
    if direction not in ("steepest", "gradient"):
        raise ValueError(f"direction: expected one of steepest, gradient, got {direction!r}")
    if step is not None:
        step = check_positive("step", step)
    elif direction == "gradient":
        raise ValueError("step: expected a factor of the gradient for direction='gradient', got None")
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_flag("random_start", random_start)
    if restarts > 1 and not random_start:
        raise ValueError(
            "restarts: expected random_start=True for more than one, got False: every climb would be the same"
        )
    if random_start and not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng: expected a numpy.random.Generator for a random start, got {type(rng).__name__}")
    return step, check_positive("momentum", momentum, zero=True)
