"""What both solvers of the L-BFGS attack work on: the objective over a box, and the search for lambda around it.

For an example c, a class t and a weight lambda, the inner problem is

    minimise over x    lambda * ||x - c||_2^2 + J(x, t)    subject to  low <= x <= high        [WG] 1.2

or the same with the norm not squared ([SYN] eq. 1). Its solutions meet the Karush-Kuhn-Tucker conditions: where a pixel
is free the objective is flat, and where it lies on the box the objective falls only outwards. Both at once: a step against
the gradient, projected back onto the box, goes nowhere. How far it goes is the *residual*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from npadv import ops
from npadv.attacks.result import Bounds, Model, check_gradient, check_logits, input_gradient
from npadv.autodiff import Tensor, value_of
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


class Solution(NamedTuple):
    """Where a solver stopped: for one problem, on the host."""

    point: np.ndarray  # (D,) float64
    objective: float
    residual: float
    reached: int  # the class there
    evaluations: int
    message: str


class Answer(NamedTuple):
    """What the model says of B points: J and its gradient in float64, and the classes."""

    losses: Array  # (B,)
    gradients: Array  # (B, D)
    classes: Array  # (B,)


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


class Problem:
    """A model around N examples: evaluates it at many points at once, and knows the box and the penalty.

    Parameters
    ----------
    model, x, bounds
        As the attack was given them.
    squared : bool
        Whether the penalty is lambda times the squared norm.
    tolerance : float
        The residual at which a solver may stop.
    max_iterations : int
        After which it has to.
    """

    def __init__(
        self, model: Model, x: Array, bounds: Bounds, *, squared: bool, tolerance: float, max_iterations: int
    ) -> None:
        self.model, self.x, self.bounds, self.squared = model, x, bounds, squared
        self.tolerance, self.max_iterations = tolerance, max_iterations
        # The box in the examples' own precision: float32's nearest number to 0.1 is above 0.1.
        self.low, self.high = (float(x.dtype.type(bound)) for bound in bounds)
        # The least relative decrease worth another iteration. J is computed in the dtype of x, and so is its noise.
        self.least_decrease = 10 * float(np.finfo(x.dtype).eps)
        self.not_finite = np.zeros(len(x), bool)  # the examples for which a gradient was not

    def centres(self, examples: list[int]) -> Array:
        """Return the examples in float64, one a row: (B, D)."""
        return self.x[like(np.array(examples), self.x)].reshape(len(examples), -1).astype(np.float64)

    def evaluate(self, points: Array, examples: list[int], targets: Array) -> Answer:
        """Ask the model about B points, (B, D) in float64, each on behalf of an example and with a target class."""
        inputs = Tensor(self.cast(points).reshape(-1, *self.x.shape[1:]), requires_grad=True)
        logits = self.model(inputs)
        classes = check_logits(logits, len(points)).argmax(axis=1)
        losses = cross_entropy(logits, targets, reduction="none")
        g, flags = check_gradient(input_gradient(ops.sum(losses), inputs))  # of the sum: no row knows of the others
        if bool(flags["non_finite_gradient"].any()):
            self.not_finite[np.array(examples)[to_numpy(flags["non_finite_gradient"])]] = True
        return Answer(
            value_of(losses).astype(np.float64), g.reshape(len(points), -1).astype(np.float64, copy=False), classes
        )

    def cast(self, points: Array) -> Array:
        """Return points in the examples' dtype: what the model sees, and what the attack returns."""
        return points.astype(self.x.dtype)

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
            followed = xp.where(self.blocked(points, gradients), 0, gradients)
            steepness = xp.sqrt(rowdot(followed, followed))
            share = xp.maximum(1 - weights / xp.where(steepness > 0, steepness, 1), 0)
            gradients = xp.where(moved[:, None], gradients, share[:, None] * gradients)
        return weights * length + losses, gradients

    def blocked(self, point: Array, gradient: Array) -> Array:
        """Tell which pixels lie on the box and would leave it on a step against the gradient."""
        return ((point <= self.low) & (gradient > 0)) | ((point >= self.high) & (gradient < 0))

    def residual(self, point: Array, gradient: Array) -> Array:
        """Return how far a step against the gradient goes within the box, in its longest element: (B,)."""
        xp = xp_of(point)
        return xp.abs(xp.clip(point - gradient, self.low, self.high) - point).max(axis=1)

    def conclude(self, search: Search, solution: Solution) -> None:
        """Hand a solution to the search that asked for it."""
        point = self.cast(solution.point)
        centre = to_numpy(self.x[search.example]).ravel().astype(np.float64)
        trial = Trial(
            search.target,
            search.weight,
            solution.objective,
            float(np.linalg.norm(point - centre)),
            solution.reached == search.target,
            solution.evaluations,
            solution.message,
            solution.residual,
        )
        search.record(trial, point)


def rowdot(a: Array, b: Array) -> Array:
    """Return the inner products of the rows: (B, D) twice gives (B,), each row's by itself."""
    return (a[:, None, :] @ b[:, :, None])[:, 0, 0]
