"""L-BFGS within boxes for many problems at once: every line is an array operation over all of them.

``lbfgs_plain.py`` is the same algorithm for one problem. This form changes it as follows.

- Each problem sits in a *slot*, one row of every array here. What is a branch for one problem is ``where`` for many: some
  slots take a step while others shorten theirs. One pass evaluates the model once, at one trial point for each slot.
- The directions are computed by matrix products (``lbfgs_directions.py``).
- A slot whose problem is solved starts the next problem of its job, or of the next job, so that the batch stays full.
- A step that fails is shortened to the minimum of the parabola through the values known along it, not to one half.
- f is computed in float32 or float64. A rise of f within its rounding noise is accepted.
- Besides the residual, there are four more reasons to stop: f has stopped falling; no step lowers it; ``max_iterations``;
  and a kink. A network of ReLUs is full of kinks, and a minimum often lies in one, where the gradient never vanishes. So a
  slot also stops if over some iterations neither f nor the residual has become much smaller.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from npadv.attacks.box_optimization import BoxProblem, Job, Solution, rowdot
from npadv.attacks.lbfgs_directions import directions
from npadv.attacks.lbfgs_plain import ARMIJO, CURVED, MEMORY
from npadv.backend import Array, like, to_numpy, xp_of

MAX_SHORTENINGS = 20  # of one step, before the line search is given up
PATIENCE = 5  # the number of iterations over which progress is measured
STALLED = 5e-4  # the relative decrease of f that counts as progress
KINKED = 1e-4  # a kink leaves at least this residual; below it, slow progress on a flat f is still progress

MESSAGES = (
    "still running",
    "converged: the residual is within the tolerance",
    "converged: the objective has stopped decreasing",
    "stopped: no step along the direction lowers the objective",
    "stopped: max_iterations reached",
    "stopped: neither the objective nor the residual improves, as at a kink",
)
NOT_CONVERGED = (3, 4)  # the messages after which more iterations might have helped


def solve(problem: BoxProblem[Any], jobs: Sequence[Job], at_once: int) -> None:
    """Solve all problems of all jobs, up to ``at_once`` of them side by side."""
    queued = iter(jobs)
    solver = BatchedLBFGS(problem, list(islice(queued, at_once)))
    while solver.jobs:
        solver.advance(queued)


class BatchedLBFGS:
    """B problems, each in the middle of its minimisation. The arrays below have one row for each."""

    # The present point, and the evaluation there.
    x: Array  # (B, D)
    value: Array  # (B,)
    gradient: Array  # (B, D)
    reached: Array  # (B,)
    # The step that is being tried.
    direction: Array  # (B, D)
    alpha: Array  # (B,) the step size
    trial: Array  # (B, D) the projection of x + alpha direction, to be evaluated next
    shortened: Array  # (B,) how often this step has been shortened
    # The memory.
    pairs: Array  # (B, 2 M, D) M steps s, then M gradient changes y; the k-th pair is at k mod M
    stored: Array  # (B,) the number of pairs stored so far
    # The reasons to stop.
    fresh: Array  # (B,) whether nothing has been evaluated yet
    iterations: Array  # (B,)
    evaluations: Array  # (B,)
    past_value: Array  # (B,) the objective up to PATIENCE iterations ago
    past_residual: Array  # (B,)

    def advance(self, queued: Iterator[Job]) -> None:
        """Evaluate every slot's trial point; step to it or shorten the step; refill the slots that are solved."""
        xp, problem = xp_of(self.x), self.problem
        value, gradient, reached = problem.evaluate(self.trial, self.jobs, self.data)
        self.evaluations += 1

        # The line search: is the decrease a share of the predicted one?
        step = self.trial - self.x
        predicted = rowdot(self.gradient, step)
        noise = 0.1 * problem.least_decrease * xp.abs(self.value)
        accepted = self.fresh | (value <= self.value + ARMIJO * predicted + noise)
        stepped = accepted & ~self.fresh
        scale = xp.maximum(xp.maximum(xp.abs(value), xp.abs(self.value)), 1)
        flat = stepped & (self.value - value <= problem.least_decrease * scale)
        shorter = self.alpha * _shortening(value - self.value, predicted)

        self._store_pairs(stepped, step, gradient - self.gradient)
        keep = ~accepted[:, None]
        self.x = xp.where(keep, self.x, self.trial)
        self.gradient = xp.where(keep, self.gradient, gradient)
        self.value = xp.where(accepted, value, self.value)
        self.reached = xp.where(accepted, reached, self.reached)
        self.direction = xp.where(keep, self.direction, self._directions())
        self.alpha = xp.where(accepted, 1.0, shorter)
        self.shortened = xp.where(accepted, 0, self.shortened + 1)
        self.iterations += stepped
        self.fresh = xp.zeros_like(self.fresh)

        residual = problem.residual(self.x, self.gradient, problem.box(self.data))
        reasons = self._reasons_to_stop(accepted, flat, residual)
        self._refill(to_numpy(reasons), residual, queued)
        self.trial = xp.clip(self.x + self.alpha[:, None] * self.direction, *problem.box(self.data))

    def _store_pairs(self, stepped: Array, step: Array, change: Array) -> None:
        """Store a pair for each slot that took a step along which the objective curves upwards."""
        xp, m = xp_of(step), MEMORY
        curved = stepped & (rowdot(step, change) > CURVED * rowdot(change, change))
        rows, at = xp.arange(len(step)), self.stored % m
        self.pairs[rows, at] = xp.where(curved[:, None], step, self.pairs[rows, at])
        self.pairs[rows, at + m] = xp.where(curved[:, None], change, self.pairs[rows, at + m])
        self.stored += curved

    def _directions(self) -> Array:
        problem, box = self.problem, self.problem.box(self.data)
        free = ~problem.blocked(self.x, self.gradient, box)
        first_step = partial(problem.first_step, data=self.data)
        return directions(self.x, self.gradient, self.pairs, self.stored, free, box, first_step)

    def _reasons_to_stop(self, accepted: Array, flat: Array, residual: Array) -> Array:
        """Return for each slot the number of the message with which it stops, or 0 to go on."""
        xp, problem = xp_of(self.x), self.problem
        due = accepted & (self.iterations % PATIENCE == 0)
        stalled = (self.past_value - self.value <= STALLED * xp.abs(self.value)) & (residual > self.past_residual / 2)
        stalled = stalled & due & (self.iterations > 0) & (residual > KINKED)
        self.past_value = xp.where(due, self.value, self.past_value)
        self.past_residual = xp.where(due, residual, self.past_residual)

        # Each line overwrites those above it: of several reasons, the one with the smallest number is reported.
        reasons = xp.where(stalled, 5, 0)
        reasons = xp.where(self.iterations >= problem.max_iterations, 4, reasons)
        reasons = xp.where(self.shortened > MAX_SHORTENINGS, 3, reasons)
        reasons = xp.where(flat, 2, reasons)
        return xp.where(residual <= problem.tolerance, 1, reasons)

    # Slots ------------------------------------------------------------------------------------------------------------

    def __init__(self, problem: BoxProblem[Any], jobs: list[Job]) -> None:
        self.problem, self.jobs = problem, jobs
        n, m = len(jobs), MEMORY
        self.data = problem.data(jobs)
        start = self.data[0]
        xp = xp_of(start)
        self.x, self.gradient, self.direction, self.trial = (start.copy() for _ in range(4))
        self.pairs = xp.zeros((n, 2 * m, start.shape[1]))
        self.value, self.alpha, self.past_value, self.past_residual = (xp.zeros(n) for _ in range(4))
        counts = (xp.zeros(n, dtype=int) for _ in range(5))
        self.reached, self.stored, self.iterations, self.shortened, self.evaluations = counts
        self.fresh = xp.zeros(n, dtype=bool)
        self._begin(list(range(n)))

    def _begin(self, slots: list[int]) -> None:
        """Set slots to the starting points of their jobs' present problems."""
        if not slots:
            return
        rows, data = like(np.array(slots), self.x), self.problem.data([self.jobs[i] for i in slots])
        for array, new in zip(self.data, data, strict=True):
            array[rows] = new
        self.x[rows] = data[0]
        for array in (self.gradient, self.direction, self.pairs, self.value):
            array[rows] = 0.0
        for count in (self.stored, self.iterations, self.shortened, self.evaluations):
            count[rows] = 0
        self.fresh[rows] = True

    def _refill(self, reasons: np.ndarray, residual: Array, queued: Iterator[Job]) -> None:
        """Store the solutions of the slots that stop; start the next problems there, or remove the slots if none is left."""
        solved = np.flatnonzero(reasons)
        if not len(solved):
            return
        rows = like(solved, self.x)
        arrays = (self.x, self.value, residual, self.reached, self.iterations, self.evaluations)
        begun, empty = [], []
        for i, point, value, distance, *counts in zip(
            solved.tolist(), *(to_numpy(array[rows]) for array in arrays), strict=True
        ):
            reached, iterations, evaluations = map(int, counts)
            solution = Solution(
                point=point,
                objective=float(value),
                residual=float(distance),
                reached=reached,
                iterations=iterations,
                evaluations=evaluations,
                message=MESSAGES[reasons[i]],
                converged=reasons[i] not in NOT_CONVERGED,
            )
            self.problem.finish(self.jobs[i], solution)
            following = self.jobs[i] if self.jobs[i].left else next(queued, None)
            if following is None:
                empty.append(i)
            else:
                self.jobs[i] = following
                begun.append(i)
        self._begin(begun)
        for i in reversed(empty):
            self._remove(i)

    def _remove(self, slot: int) -> None:
        """Remove a slot: the last one takes its place."""
        last = self.jobs.pop()
        if slot < len(self.jobs):
            self.jobs[slot] = last
        for name in inspect.get_annotations(type(self)):
            setattr(self, name, _without(getattr(self, name), slot))
        self.data = tuple(_without(array, slot) for array in self.data)


def _without(array: Array, row: int) -> Array:
    """Return an array without its last row, which is moved to the place of another."""
    array[row] = array[-1]
    return array[:-1]


def _shortening(rise: Array, predicted: Array) -> Array:
    """Return the factor for a step that failed, which leads to the minimum of the parabola along it.

    The parabola has the value and the slope at the start of the step and the value at its end.
    """
    xp = xp_of(rise)
    excess = rise - predicted  # positive where a step failed
    parabola = -predicted / (2 * xp.where(excess > 0, excess, 1.0))
    return xp.clip(xp.where(excess > 0, parabola, 0.5), 0.1, 0.5)
