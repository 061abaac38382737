"""The L-BFGS attack's objective, and the search for lambda around it.

For an example c, a class t and a weight lambda, the inner problem is

    minimise over x    lambda * ||x - c||_2^2 + J(x, t)    subject to  low <= x <= high        [WG] 1.2

or the same with the norm not squared ([SYN] eq. 1). How it is solved, and what the residual of a solution is, is said in
``box.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from npadv import ops
from npadv.attacks.box import Answer, Box, BoxProblem, Given, Solution, rowdot
from npadv.attacks.checks import check_logits
from npadv.attacks.result import Bounds, Model
from npadv.autodiff import value_of
from npadv.backend import Array, like, to_numpy, xp_of
from npadv.functional import cross_entropy


class Trial(NamedTuple):
    """One inner problem of the outer search, and how its solver fared.

    ``objective`` and ``residual`` belong to the solver's float64 solution, ``distance`` and ``success`` to the same point in
    the dtype of the examples, which is the one that counts.
    """

    target: int
    weight: float  # lambda
    objective: float
    distance: float  # ||eta||_2
    success: bool
    evaluations: int  # of the model: its gradient, or its class alone
    message: str  # why the solver stopped
    residual: float  # the largest element of P(x - gradient) - x, P being the projection onto the box


@dataclass
class Search:
    """The search for the largest lambda that brings one example into one class; the nearest success is kept.

    Lambda is multiplied or divided by 10 until success and failure bracket it, then the bracket is halved on a log scale.
    """

    example: int
    target: int
    weight: float
    left: int  # trials still to come
    trials: list[Trial] = field(default_factory=list)
    nearest: tuple[Trial, np.ndarray] | None = None
    succeeds: float = 0.0  # the largest lambda known to succeed
    fails: float = math.inf  # the smallest lambda known to fail

    def record(self, trial: Trial, point: np.ndarray) -> None:
        """Take in a trial of the present weight, and move on to the next weight."""
        self.trials.append(trial)
        self.left -= 1
        if trial.success:
            self.succeeds = max(self.succeeds, self.weight)
            if self.nearest is None or trial.distance < self.nearest[0].distance:
                self.nearest = trial, point
        else:
            self.fails = min(self.fails, self.weight)
        if self.succeeds == 0:
            self.weight = self.fails / 10
        elif self.fails == math.inf:
            self.weight = self.succeeds * 10
        else:
            self.weight = math.sqrt(self.succeeds) * math.sqrt(
                self.fails
            )  # of the product, the root might under- or overflow


class Problem(BoxProblem[Search]):
    """A model around N examples, the box and the penalty.

    Parameters
    ----------
    model, x, bounds
        As the attack was given them.
    squared : bool
        Whether the penalty is lambda times the squared norm.
    tolerance, max_iterations
        When a solver may stop, and when it has to.
    """

    def __init__(
        self, model: Model, x: Array, bounds: Bounds, *, squared: bool, tolerance: float, max_iterations: int
    ) -> None:
        super().__init__(x, tolerance=tolerance, max_iterations=max_iterations)
        self.model, self.squared = model, squared
        # In the examples' own precision: float32's nearest number to 0.1 is above 0.1.
        low, high = (float(x.dtype.type(bound)) for bound in bounds)
        self.ends = low, high

    def given(self, tasks: Sequence[Search]) -> Given:
        """Return the searches' examples (B, D), lambdas (B,) and target classes (B,)."""
        weights = like(np.array([search.weight for search in tasks]), self.x)
        return self.centres(tasks), weights, like(np.array([search.target for search in tasks]), self.x)

    def box(self, given: Given) -> Box:
        """Return the ends of the box, the same for all."""
        return self.ends

    def evaluate(self, points: Array, tasks: Sequence[Search], given: Given) -> Answer:
        """Ask the model about B points, each on behalf of a search; what is reached is a class."""
        centres, weights, targets = given
        inputs = self.inputs(points)
        logits = self.model(inputs)
        classes = check_logits(logits, len(points)).argmax(axis=1)
        losses = cross_entropy(logits, targets, reduction="none")
        g = self.differentiate(ops.sum(losses), inputs, tasks)  # of the sum: no row knows of the others
        return Answer(*self.objective(points, centres, weights, value_of(losses).astype(np.float64), g), classes)

    def objective(
        self, points: Array, centres: Array, weights: Array, losses: Array, gradients: Array
    ) -> tuple[Array, Array]:
        """Return lambda * ||eta||_2^2 + J, or without the square, and its gradient in the points: (B,), (B, D).

        The norm has no gradient at eta = 0. There the subgradient of least norm stands in, which is 0 where no direction
        leads down and else points along the steepest one: with g what the box lets one follow of J's gradient, that is
        (1 - lambda / ||g||) g, or 0 if lambda is the larger.
        """
        xp, eta = xp_of(points), points - centres
        length = rowdot(eta, eta)
        if self.squared:
            return weights * length + losses, gradients + (2 * weights)[:, None] * eta
        length = xp.sqrt(length)
        moved = length > 0
        gradients = gradients + (weights / xp.where(moved, length, 1))[:, None] * eta
        if not bool(moved.all()):
            followed = xp.where(self.blocked(points, gradients, self.ends), 0, gradients)
            steepness = xp.sqrt(rowdot(followed, followed))
            share = xp.maximum(1 - weights / xp.where(steepness > 0, steepness, 1), 0)
            gradients = xp.where(moved[:, None], gradients, share[:, None] * gradients)
        return weights * length + losses, gradients

    def first_step(self, steepness: Array, given: Given) -> Array:
        """Return a step of length 1, or as far as the penalty alone would want it."""
        first = super().first_step(steepness, given)
        if not self.squared:
            return first
        xp, weights = xp_of(steepness), given[1]
        return xp.minimum(first, 1 / (2 * xp.maximum(weights, np.finfo(float).tiny)))

    def smooth_start(
        self, start: np.ndarray, objective: Callable[[np.ndarray], tuple[float, np.ndarray]]
    ) -> np.ndarray:
        """Return the example, or a point below it where the norm without its square has a gradient.

        At the example itself the subgradient leads down, but only straight along it; SciPy bends its first step at the
        box. The example is returned where it is the minimum.
        """
        if self.squared:
            return start
        value, g = objective(start)
        step = 1 / max(float(np.linalg.norm(g)), np.finfo(float).tiny)
        while self.residual(start[None], step * g[None], self.ends)[0] > 0:
            point: np.ndarray = np.clip(start - step * g, *self.ends)
            if objective(point)[0] < value + 1e-4 * float(g @ (point - start)):
                return point
            step /= 4
        return start

    def conclude(self, task: Search, solution: Solution) -> None:
        """Hand a solution to the search that asked for it."""
        point = self.cast(solution.point)
        centre = to_numpy(self.x[task.example]).ravel().astype(np.float64)
        trial = Trial(
            task.target,
            task.weight,
            solution.objective,
            float(np.linalg.norm(point - centre)),
            solution.reached == task.target,
            solution.evaluations,
            solution.message,
            solution.residual,
        )
        task.record(trial, point)
