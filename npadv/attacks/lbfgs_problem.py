"""The L-BFGS attack's objective, for one lambda.

For an example c, a class t and a weight lambda, the inner problem is

    minimise over x    lambda * ||x - c||_2^2 + J(x, t)    subject to  low <= x <= high        [WG] 1.2

or the same with the norm not squared ([SYN] eq. 1). J is the cross-entropy. ``box_optimization.py`` says what a solution is
and what its residual measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from npadv import ops
from npadv.attacks.box_optimization import Box, BoxProblem, Evaluation, ProblemData, Solution, rowdot
from npadv.attacks.checks import check_logits
from npadv.attacks.lbfgs_search import Search, Trial
from npadv.attacks.result import Bounds, Model
from npadv.autodiff import value_of
from npadv.backend import Array, like, to_numpy, xp_of
from npadv.functional import cross_entropy


class PenalizedLoss(BoxProblem[Search]):
    """lambda * ||x - c||^2 + J(x, t), or without the square, for a model around N examples.

    Parameters
    ----------
    model, x, bounds
        As for the attack.
    squared : bool
        Whether the norm in the penalty is squared.
    tolerance, max_iterations
        When a solver stops: see ``BoxProblem``.
    """

    def __init__(
        self, model: Model, x: Array, bounds: Bounds, *, squared: bool, tolerance: float, max_iterations: int
    ) -> None:
        super().__init__(x, tolerance=tolerance, max_iterations=max_iterations)
        self.model, self.squared = model, squared
        # The ends in the precision of the examples: the float32 nearest to 0.1 is above 0.1.
        low, high = (float(x.dtype.type(bound)) for bound in bounds)
        self.ends = low, high

    def evaluate(self, points: Array, jobs: Sequence[Search], data: ProblemData) -> Evaluation:
        """Evaluate the objective at B points, one for each search; ``reached`` is the predicted class."""
        centres, weights, targets = data
        inputs = self.inputs(points)
        logits = self.model(inputs)
        classes = check_logits(logits, len(points)).argmax(axis=1)
        losses = cross_entropy(logits, targets, reduction="none")
        g = self.differentiate(ops.sum(losses), inputs, jobs)  # each loss depends on its own row of the inputs alone
        values, gradients = self._penalized(points, centres, weights, value_of(losses).astype(np.float64), g)
        return Evaluation(values, gradients, classes)

    def _penalized(
        self, points: Array, centres: Array, weights: Array, losses: Array, gradients: Array
    ) -> tuple[Array, Array]:
        """Return lambda * ||eta||_2^2 + J, or without the square, and its gradient in the points: (B,), (B, D)."""
        xp, eta = xp_of(points), points - centres
        length = rowdot(eta, eta)
        if self.squared:
            return weights * length + losses, gradients + (2 * weights)[:, None] * eta
        length = xp.sqrt(length)
        moved = length > 0
        gradients = gradients + (weights / xp.where(moved, length, 1))[:, None] * eta
        if not bool(moved.all()):
            gradients = xp.where(moved[:, None], gradients, self._least_subgradient(points, gradients, weights))
        return weights * length + losses, gradients

    def _least_subgradient(self, points: Array, gradients: Array, weights: Array) -> Array:
        """Return the subgradient of lambda * ||eta||_2 + J of least norm at eta = 0, where the norm has no gradient.

        Let g be the part of J's gradient that the box lets a descent follow. The subgradient is (1 - lambda / ||g||) g; it
        is 0, and eta = 0 a minimum, if lambda >= ||g||.
        """
        xp = xp_of(points)
        followed = xp.where(self.blocked(points, gradients, self.ends), 0, gradients)
        steepness = xp.sqrt(rowdot(followed, followed))
        share = xp.maximum(1 - weights / xp.where(steepness > 0, steepness, 1), 0)
        return share[:, None] * gradients

    def data(self, jobs: Sequence[Search]) -> ProblemData:
        """Return the searches' examples (B, D), lambdas (B,) and target classes (B,)."""
        weights = like(np.array([search.weight for search in jobs]), self.x)
        return self.centres(jobs), weights, like(np.array([search.target for search in jobs]), self.x)

    def box(self, data: ProblemData) -> Box:
        """Return the ends of the box, the same for all problems."""
        return self.ends

    def finish(self, job: Search, solution: Solution) -> None:
        """Record a trial in its search. The distance is measured in the dtype of the examples."""
        point = self.cast(solution.point)
        centre = to_numpy(self.x[job.example]).ravel().astype(np.float64)
        trial = Trial(
            target=job.target,
            weight=job.weight,
            objective=solution.objective,
            distance=float(np.linalg.norm(point - centre)),
            success=solution.reached == job.target,
            evaluations=solution.evaluations,
            message=solution.message,
            residual=solution.residual,
        )
        job.record(trial, point)

    def first_step(self, steepness: Array, data: ProblemData) -> Array:
        """Return a step of length 1, or the shorter one that would minimise a squared penalty alone."""
        first = super().first_step(steepness, data)
        if not self.squared:
            return first
        xp, weights = xp_of(steepness), data[1]
        return xp.minimum(first, 1 / (2 * xp.maximum(weights, np.finfo(float).tiny)))

    def smooth_start(
        self, start: np.ndarray, objective: Callable[[np.ndarray], tuple[float, np.ndarray]]
    ) -> np.ndarray:
        """Return the example, or, where the norm is not squared, a point near it at which the objective is lower.

        The norm has a kink at the example. Its subgradient there leads down, but only straight along it, and SciPy bends
        its first step at the box. Where the example is the minimum, it is returned.
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
