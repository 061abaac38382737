"""Projected gradient descent: many small steps of steepest ascent on the loss, each brought back into the ball.

    x_{t+1} = P(x_t + step * argmax <grad_x J(x_t, y), d>),    ||d|| <= 1

P is the projection onto all points within eps of the example that are also in the box. In the maximum norm a step is the
sign of the gradient, so this is the fast gradient sign method, repeated; in l2 it follows the normalised gradient, and in
l1 it moves one pixel at a time. Where the loss bends between x and x + eps, many steps find what one overshoots.

References: Kurakin, Goodfellow and Bengio 2016, "Adversarial examples in the physical world", section 2.2; Madry et al. 2018,
"Towards deep learning models resistant to adversarial attacks", section 2.1, who start at random; momentum as in Dong et
al. 2018, "Boosting adversarial attacks with momentum", eqs. 6 and 7.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv.attacks.result import (
    AttackResult,
    Bounds,
    Model,
    check_first_logits,
    check_gradient,
    check_inputs,
    check_logits,
    check_targets,
    conclude,
    input_gradient,
)
from npadv.autodiff import Tensor, no_record
from npadv.backend import Array, like, xp_of
from npadv.functional import cross_entropy
from npadv.norms import project, steepest_ascent_direction


def pgd(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    eps: float,
    step: float | None = None,
    steps: int = 40,
    norm: str = "linf",
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
    model : callable
        Maps a batch (N, ...) to logits (N, K), recorded by the tape.
    x : (N, ...) array
        Examples within ``bounds``.
    y : (N,) integers, optional
        The true classes, or the targets; by default the model's own predictions, so that no label leaks.
    eps : float
        Radius of the ball, in units of x.
    step : float, optional
        Length of a step in the norm; by default 2.5 eps / steps, enough to reach the edge from anywhere and turn there.
    steps : int
        How many.
    norm : {"linf", "l2", "l1"}
        Of the ball and of the steps.
    random_start : bool
        Start at a point of the ball drawn uniformly (then brought into the box) instead of at the example.
    restarts : int
        How often to climb; of the results, each example keeps the one of the largest loss among those that succeed, or of
        all. More than one needs ``random_start``.
    momentum : float
        Follow a decaying sum of gradients, each first scaled to l1 norm 1; this is the weight of the past.
    targeted : bool
        Raise log p(y) instead: y are the classes to reach.
    bounds : (low, high)
        The box.
    rng : numpy.random.Generator
        Draws the starts; needed for them alone.

    Returns
    -------
    AttackResult
        ``distance`` is in ``norm``; 2 + restarts * (steps + 1) queries an example, or 2 + steps for one climb.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    On a linear model all steps point the same way, and end where the fast gradient sign method does:

    >>> weights = np.array([[1.0, -1.0], [-2.0, 2.0]])
    >>> result = pgd(lambda x: x @ weights, np.array([[0.5, 0.2]]), np.array([0]), eps=0.1, steps=5)
    >>> result.x_adv.round(12), bool(result.success[0])
    (array([[0.4, 0.3]]), True)
    """
    check_inputs(x, eps=eps, kind=norm, bounds=bounds)
    _check_settings(step, steps, restarts, momentum, random_start, rng)
    step = 2.5 * eps / steps if step is None else step
    with no_record():
        logits = check_first_logits(model(x), len(x))
    y, before = check_targets(y, logits, targeted=targeted), logits.argmax(axis=1)

    best, flags = _climb(model, x, y, eps, step, steps, norm, random_start, momentum, targeted, bounds, rng)
    queries = 1 + steps
    if restarts > 1:
        score = _score(model, best, y, targeted)
        for _ in range(restarts - 1):
            again, new = _climb(model, x, y, eps, step, steps, norm, True, momentum, targeted, bounds, rng)
            flags = {name: flags[name] | new[name] for name in flags}
            other = _score(model, again, y, targeted)
            better = other > score
            score = xp_of(x).where(better, other, score)
            best = xp_of(x).where(better.reshape(-1, *[1] * (x.ndim - 1)), again, best)
        queries = 1 + restarts * (steps + 1)
    return conclude(model, x, best, y, kind=norm, targeted=targeted, queries=queries, before=before, flags=flags)


def _climb(
    model: Model,
    x: Array,
    y: Array,
    eps: float,
    step: float,
    steps: int,
    norm: str,
    random_start: bool,
    momentum: float,
    targeted: bool,
    bounds: Bounds,
    rng: np.random.Generator | None,
) -> tuple[Array, dict[str, Array]]:
    """Return where one climb ends, and the flags of its gradients: zero at the start, or not finite anywhere."""
    xp = xp_of(x)
    low, high = xp.maximum(x - x.dtype.type(eps), bounds[0]), xp.minimum(x + x.dtype.type(eps), bounds[1])
    length = x.dtype.type(-step if targeted else step)

    def confined(point: Array) -> Array:
        return xp.clip(point, low, high) if norm == "linf" else project(point, x, eps, norm, bounds)

    point = confined(x + _in_ball(rng, x, eps, norm)) if random_start and rng is not None else x
    flags: dict[str, Array] = {}
    past: Any = 0
    for _ in range(steps):
        inputs = Tensor(point, requires_grad=True)
        loss = cross_entropy(model(inputs), y, reduction="sum")  # summed: an example's gradient is its own
        g, seen = check_gradient(input_gradient(loss, inputs))
        flags = (
            {**seen, "non_finite_gradient": flags["non_finite_gradient"] | seen["non_finite_gradient"]}
            if flags
            else seen
        )
        if momentum:
            size = xp.abs(g).sum(axis=tuple(range(1, g.ndim)), keepdims=True)
            g = past = momentum * past + g / xp.where(size > 0, size, xp.ones_like(size))
        point = confined(point + length * steepest_ascent_direction(g, norm))
    return point, flags


def _in_ball(rng: np.random.Generator, x: Array, eps: float, norm: str) -> Array:
    """Return a point for each example, drawn uniformly from the ball around 0.

    In l2 and l1, a direction from a density that depends on the norm alone, and a length whose d-th power is uniform.
    """
    shape, d = x.shape, int(np.prod(x.shape[1:]))
    if norm == "linf":
        return like(rng.uniform(-eps, eps, shape).astype(x.dtype), x)
    rows = rng.standard_normal((len(x), d)) if norm == "l2" else rng.laplace(size=(len(x), d))
    size = np.sqrt((rows**2).sum(axis=1)) if norm == "l2" else np.abs(rows).sum(axis=1)
    radius = eps * rng.random(len(x)) ** (1 / d) / size
    return like((rows * radius[:, None]).reshape(shape).astype(x.dtype), x)


def _score(model: Model, x: Array, y: Array, targeted: bool) -> Array:
    """Return what a restart is judged by: the loss (of a target, its negative), and above all of it, success."""
    with no_record():
        logits = check_logits(model(x), len(x))
    loss = cross_entropy(logits, y, reduction="none")
    hit = logits.argmax(axis=1)
    return xp_of(x).where(hit == y, 1e30, 0) - loss if targeted else xp_of(x).where(hit != y, 1e30, 0) + loss


def _check_settings(
    step: float | None, steps: int, restarts: int, momentum: float, random_start: bool, rng: Any
) -> None:
    if step is not None and not 0 < step < float("inf"):
        raise ValueError(f"step: expected a positive number, got {step!r}")
    for name, count in (("steps", steps), ("restarts", restarts)):
        if not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {count!r}")
    if not 0 <= momentum < float("inf"):
        raise ValueError(f"momentum: expected a number of at least 0, got {momentum!r}")
    if restarts > 1 and not random_start:
        raise ValueError("restarts: without random_start every climb is the same; pass random_start=True")
    if random_start and not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng: a random start needs a numpy.random.Generator, got {type(rng).__name__}")
