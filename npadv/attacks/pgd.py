"""Projected gradient descent: many small steps of steepest ascent on the loss, each brought back into the ball.

    x_{t+1} = P(x_t + step * argmax <grad_x J(x_t, y), d>),    ||d|| <= 1

P is the projection onto all points within eps of the example that are also in the box. In the maximum norm a step is the
sign of the gradient, so this is the fast gradient sign method, repeated; in l2 it follows the normalised gradient, and in
l1 it moves one pixel at a time. Where the loss bends between x and x + eps, many steps find what one overshoots.

With ``direction="gradient"`` a step is that of plain gradient ascent, x_{t+1} = P(x_t + step * grad_x J(x_t, y)): in the
maximum norm the attack with which [WG] 1.3 breaks networks that were trained on fast gradient sign examples. It is an
option and not a function of its own, since all but the length of the step is the same.

References: Kurakin, Goodfellow and Bengio 2016, "Adversarial examples in the physical world", section 2.2; Madry et al. 2018,
"Towards deep learning models resistant to adversarial attacks", section 2.1, who start at random; momentum as in Dong et
al. 2018, "Boosting adversarial attacks with momentum", eqs. 6 and 7.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
from npadv.backend import Array, like, xp_of
from npadv.functional import cross_entropy
from npadv.norms import project, steepest_ascent_direction

DIRECTIONS = ("steepest", "gradient")


def pgd(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    eps: float,
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
        For ``direction="gradient"`` the factor of the gradient, which has no default: gradients have no natural length.
    steps : int
        How many.
    norm : {"linf", "l2", "l1"}
        Of the ball and of the steps.
    direction : {"steepest", "gradient"}
        Whether a step goes where the norm allows the steepest ascent, at full length, or follows the gradient as it is.
    random_start : bool
        Start at a point of the ball drawn uniformly (then brought into the box) instead of at the example. What is drawn
        for an example depends on its place in the batch.
    restarts : int
        How often to climb; of the results, each example keeps the one of the largest loss among those that succeed, or of
        all. More than one needs ``random_start``.
    momentum : float
        Follow a decaying sum of gradients, each first scaled to l1 norm 1; this is the weight of the past.
    targeted : bool
        Raise log p(y) instead: y are the classes to reach.
    bounds : (low, high)
        The box. In l1, a pixel that has come to its end leaves the step to the others.
    rng : numpy.random.Generator
        Draws the starts; needed for them alone.

    Returns
    -------
    AttackResult
        ``distance`` is in ``norm``; 2 + restarts * (steps + 1) queries an example, or 2 + steps for one climb.
        ``flags["zero_gradient"]``: at the start of every climb.

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
    _check_settings(direction, step, steps, restarts, momentum, random_start, rng)
    _, y, before = first_predictions(model, x, y, targeted=targeted)
    climb = _Climb(
        model, y, eps, 2.5 * eps / steps if step is None else step, steps, norm, direction, momentum, targeted, bounds
    )

    best, flags = climb(x, x if rng is None or not random_start else x + _in_ball(rng, x, eps, norm))
    queries = 1 + steps
    if restarts > 1 and rng is not None:
        hit, loss = climb.score(best)
        for _ in range(restarts - 1):
            again, new = climb(x, x + _in_ball(rng, x, eps, norm))
            flags = {
                "zero_gradient": flags["zero_gradient"] & new["zero_gradient"],
                "non_finite_gradient": flags["non_finite_gradient"] | new["non_finite_gradient"],
            }
            hit_again, loss_again = climb.score(again)
            better = (hit_again & ~hit) | ((hit_again == hit) & (loss_again > loss))
            hit, loss = hit | hit_again, xp_of(x).where(better, loss_again, loss)
            best = xp_of(x).where(column(better, x), again, best)
        queries = 1 + restarts * (steps + 1)
    return make_result(model, x, best, y, kind=norm, targeted=targeted, queries=queries, before=before, flags=flags)


class _Climb(NamedTuple):
    """All that one climb shares with the next."""

    model: Model
    y: Array
    eps: float
    step: float
    steps: int
    norm: str
    direction: str
    momentum: float
    targeted: bool
    bounds: Bounds

    def __call__(self, x: Array, start: Array) -> tuple[Array, dict[str, Array]]:
        """Return where a climb ends, and the flags of its gradients: zero at the start, or not finite anywhere."""
        xp = xp_of(x)
        eps, (low, high) = x.dtype.type(self.eps), self.bounds
        near, far = xp.maximum(x - eps, low), xp.minimum(x + eps, high)

        def confined(point: Array) -> Array:
            if self.norm == "linf":
                return xp.clip(point, near, far)
            return project(point, x, self.eps, self.norm, self.bounds)

        point = confined(start) if start is not x else x
        flags: dict[str, Array] = {}
        past: Any = 0
        for _ in range(self.steps):
            inputs = Tensor(point, requires_grad=True)
            loss = cross_entropy(
                self.model(inputs), self.y, reduction="sum"
            )  # summed: an example's gradient is its own
            g, seen = check_gradient(input_gradient(loss, inputs))
            flags = flags or seen
            flags["non_finite_gradient"] = flags["non_finite_gradient"] | seen["non_finite_gradient"]
            g = -g if self.targeted else g
            if self.momentum:
                size = xp.abs(g).sum(axis=tuple(range(1, g.ndim)), keepdims=True)
                g = past = self.momentum * past + g / xp.where(size > 0, size, xp.ones_like(size))
            if self.norm == "l1":
                # Else a pixel that is stuck at its end would be chosen again and again.
                stuck = ((g > 0) & (point >= high)) | ((g < 0) & (point <= low))
                g = xp.where(stuck, xp.zeros_like(g), g)
            ascent = g if self.direction == "gradient" else steepest_ascent_direction(g, self.norm)
            point = confined(point + x.dtype.type(self.step) * ascent)
        return point, flags

    def score(self, point: Array) -> tuple[Array, Array]:
        """Return what a climb's end is judged by: whether it succeeds, and the loss (of a target, its negative)."""
        with no_record():
            logits = check_logits(self.model(point), len(point))
        loss, same = cross_entropy(logits, self.y, reduction="none"), logits.argmax(axis=1) == self.y
        return (same, -loss) if self.targeted else (~same, loss)


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


def _check_settings(
    direction: str, step: float | None, steps: int, restarts: int, momentum: float, random_start: bool, rng: Any
) -> None:
    if direction not in DIRECTIONS:
        raise ValueError(f"direction: expected one of {', '.join(DIRECTIONS)}, got {direction!r}")
    if step is not None:
        check_positive("step", step)
    elif direction == "gradient":
        raise ValueError("step: expected a factor of the gradient for direction='gradient', got None")
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_positive("momentum", momentum, zero=True)
    if restarts > 1 and not random_start:
        raise ValueError(
            "restarts: expected random_start=True for more than one, got False: every climb would be the same"
        )
    if random_start and not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng: expected a numpy.random.Generator for a random start, got {type(rng).__name__}")
