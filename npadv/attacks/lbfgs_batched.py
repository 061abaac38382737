"""A projected L-BFGS that solves many problems at once: every step is an array operation over all of them.

Each problem sits in a *slot*, a row of the arrays here, and goes its own way: its own step lengths, memory and end. A pass
of the loop evaluates the model at one point for each slot, in one batch. A slot whose problem is solved takes its task's
next one at once, and a slot whose task is done takes another task, so that the batch stays full.

One iteration, for one problem (the projections and the rule for the step are Bertsekas's, 1982, "Projected Newton methods
for optimization problems with simple constraints"; L-BFGS stands in for Newton's method):

    d = -H g among the pixels that may move, and 0 in those that lie on the box and would leave it
    x <- P(x + alpha d) with alpha = 1, or shorter, until the objective falls by a share of what its gradient promises

H is the inverse Hessian that the last steps s and the changes y of the gradient along them tell of (Nocedal 1980, "Updating
quasi-Newton matrices with limited storage"), each cut down to the pixels that may move.

A network of ReLUs is full of kinks, and a minimum often lies in one, where no gradient ever vanishes. So besides the usual
reasons to stop there is this: over some iterations neither the objective nor the residual has become much smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from npadv.attacks.box import BoxProblem, Solution, Task, rowdot
from npadv.backend import Array, like, to_numpy, xp_of

MEMORY = 7  # pairs (s, y) of each problem
ARMIJO = 1e-4  # the share of the promised decrease that a step has to bring
SHORTENINGS = 20  # of one step, before the search along it is given up
PATIENCE = 5  # iterations over which an improvement is looked for
STALLED = 5e-4  # the relative decrease below which there is none, unless the residual has halved
KINKED = (
    1e-4  # the residual that a kink leaves at least; where less is left, the objective is flat, and slow is not stuck
)
CURVED = 1e-14  # the least s.y / y.y at which a pair tells of a positive curvature

GAVE_UP = (3, 4)
"""Which of the messages below say that the solver might have come further: the others tell of a minimum, or of a kink."""

MESSAGES = (
    "still running",
    "converged: the residual is within the tolerance",
    "converged: the objective has stopped to decrease",
    "stopped: no step along the direction lowers the objective",
    "stopped: max_iterations reached",
    "stopped: neither the objective nor the residual improves, as at a kink",
)


def solve(problem: BoxProblem[Any], tasks: Sequence[Task], at_once: int) -> None:
    """Solve all the tasks' problems, up to ``at_once`` of them side by side."""
    queued = iter(tasks)
    slots = Slots(problem, list(islice(queued, at_once)))
    while slots.tasks:
        slots.advance(queued)


class Slots:
    """B problems in the midst of being solved.

    The attributes listed in ``ROWS`` are arrays with a row for each, and so are those of ``given``, which are the problem's.
    """

    ROWS = (
        "x",  # (B, D) the best point so far; its objective, gradient and what it has reached are
        "value",  # (B,)
        "gradient",  # (B, D)
        "reached",  # (B,)
        "direction",  # (B, D)
        "alpha",  # (B,) how far along the direction
        "trial",  # (B, D) the projection of x + alpha direction, to be evaluated next
        "pairs",  # (B, 2 M, D) M steps s, then M changes y; the k-th pair of all is at k mod M
        "known",  # (B,) how many pairs there have been
        "fresh",  # (B,) nothing has been evaluated yet
        "iterations",  # (B,)
        "shortened",  # (B,) how often this step has been
        "evaluations",  # (B,)
        "past_value",  # (B,) as it was a few iterations ago
        "past_residual",  # (B,)
    )

    def __init__(self, problem: BoxProblem[Any], tasks: list[Task]) -> None:
        self.problem, self.tasks = problem, tasks
        n, m = len(tasks), MEMORY
        self.given = problem.given(tasks)
        start = self.given[0]
        xp = xp_of(start)
        self.x, self.gradient, self.direction, self.trial = (start.copy() for _ in range(4))
        self.pairs = xp.zeros((n, 2 * m, start.shape[1]))
        self.value, self.alpha, self.past_value, self.past_residual = (xp.zeros(n) for _ in range(4))
        counts = (xp.zeros(n, dtype=int) for _ in range(5))
        self.reached, self.known, self.iterations, self.shortened, self.evaluations = counts
        self.fresh = xp.zeros(n, dtype=bool)
        self._begin(list(range(n)))

    def advance(self, queued: Iterator[Task]) -> None:
        """Evaluate every slot's trial point; accept it or shorten the step to it; replace what is solved."""
        xp, problem = xp_of(self.x), self.problem
        value, gradient, reached = problem.evaluate(self.trial, self.tasks, self.given)
        self.evaluations += 1

        step = self.trial - self.x
        promised = rowdot(self.gradient, step)
        noise = 0.1 * problem.least_decrease * xp.abs(self.value)
        accepted = self.fresh | (value <= self.value + ARMIJO * promised + noise)
        stepped = accepted & ~self.fresh
        scale = xp.maximum(xp.maximum(xp.abs(value), xp.abs(self.value)), 1)
        ended = stepped & (self.value - value <= problem.least_decrease * scale)
        shorter = self.alpha * _shortening(value - self.value, promised)

        self._remember(stepped, step, gradient - self.gradient)
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

        residual = problem.residual(self.x, self.gradient, problem.box(self.given))
        reasons = self._reasons(accepted, ended, residual)
        self._replace(to_numpy(reasons), residual, queued)
        self.trial = xp.clip(self.x + self.alpha[:, None] * self.direction, *problem.box(self.given))

    def _reasons(self, accepted: Array, ended: Array, residual: Array) -> Array:
        """Return for each slot the number of the message with which it stops, 0 to go on."""
        xp, problem = xp_of(self.x), self.problem
        due = accepted & (self.iterations % PATIENCE == 0)
        stalled = (self.past_value - self.value <= STALLED * xp.abs(self.value)) & (residual > self.past_residual / 2)
        stalled = stalled & due & (self.iterations > 0) & (residual > KINKED)
        self.past_value = xp.where(due, self.value, self.past_value)
        self.past_residual = xp.where(due, residual, self.past_residual)
        reasons = xp.zeros(len(residual), dtype=int)
        conditions = (
            residual <= problem.tolerance,
            ended,
            self.shortened > SHORTENINGS,
            self.iterations >= problem.max_iterations,
            stalled,
        )
        for number, condition in reversed(
            list(enumerate(conditions, start=1))
        ):  # the first that holds has the last word
            reasons = xp.where(condition, number, reasons)
        return reasons

    # Memory and direction -----------------------------------------------------------------------------------------------

    def _remember(self, stepped: Array, step: Array, change: Array) -> None:
        """Store a pair for each slot that stepped, where the objective curves upwards along the step."""
        xp, m = xp_of(step), MEMORY
        stored = stepped & (rowdot(step, change) > CURVED * rowdot(change, change))
        rows, at = xp.arange(len(step)), self.known % m
        self.pairs[rows, at] = xp.where(stored[:, None], step, self.pairs[rows, at])
        self.pairs[rows, at + m] = xp.where(stored[:, None], change, self.pairs[rows, at + m])
        self.known += stored

    def _directions(self) -> Array:
        """Return -H g, in the pixels that may move.

        The two loops of L-BFGS take inner products of s, y and g only. All of them come out of one matrix product a slot;
        the loops then run over small matrices, and a second product puts the direction together.
        """
        xp, m = xp_of(self.x), MEMORY
        box = self.problem.box(self.given)
        free = ~self.problem.blocked(self.x, self.gradient, box)
        g = xp.where(free, self.gradient, 0.0)
        cut = xp.concatenate([self.pairs[:, m:] * free[:, None, :], g[:, None, :]], axis=1)  # (B, M + 1, D)
        products = self.pairs @ cut.transpose(0, 2, 1)  # (B, 2 M, M + 1): s and y by y and g

        # By age, the newest pair first.
        n, age = len(g), xp.arange(m)
        order = (self.known[:, None] - 1 - age) % m  # (B, M)
        rows = xp.arange(n)[:, None]
        i, j = order[:, :, None], order[:, None, :]
        sy, yy = products[rows[:, :, None], i, j], products[rows[:, :, None], i + m, j]
        sg, yg = products[rows, order, m], products[rows, order + m, m]
        curvature, size = sy.reshape(n, -1)[:, :: m + 1], yy.reshape(n, -1)[:, :: m + 1]  # s.y and y.y of each pair
        valid = (age < self.known[:, None]) & (curvature > CURVED * size)
        rho = xp.where(valid, 1 / xp.where(valid, curvature, 1.0), 0.0)  # 0 leaves a pair out

        first = self.problem.first_step(xp.sqrt(rowdot(g, g)), self.given)  # where there is no pair
        newest = valid.argmax(axis=1)[:, None]
        s_y, y_y = (xp.take_along_axis(a, newest, axis=1)[:, 0] for a in (curvature, size))
        known = valid.any(axis=1)
        gamma = xp.where(known, s_y / xp.where(known, y_y, 1.0), first)

        # q = g - sum a_i y_i from the newest to the oldest, then r = gamma q + sum c_i s_i on the way back.
        a, c = xp.zeros((n, m)), xp.zeros((n, m))
        for k in range(m):
            a[:, k] = rho[:, k] * (sg[:, k] - (sy[:, k] * a).sum(axis=1))
        for k in reversed(range(m)):
            b = gamma * (yg[:, k] - (yy[:, k] * a).sum(axis=1)) + (sy[:, :, k] * c).sum(axis=1)
            c[:, k] = a[:, k] - rho[:, k] * b
        shares = xp.zeros((n, 2 * m))
        shares[rows, order], shares[rows, order + m] = c, -gamma[:, None] * a
        d = xp.where(free, -gamma[:, None] * g - (shares[:, None, :] @ self.pairs)[:, 0], 0.0)

        # The projection can turn a direction that leads down into one that does not; it cannot do so to -g.
        moved = xp.clip(self.x + d, *box) - self.x
        return xp.where((rowdot(moved, g) < 0)[:, None], d, -first[:, None] * g)

    # From one problem to the next ---------------------------------------------------------------------------------------

    def _replace(self, reasons: np.ndarray, residual: Array, queued: Iterator[Task]) -> None:
        """Conclude what is solved, and begin in its slots what comes next; give up the slots for which nothing does."""
        done = np.flatnonzero(reasons)
        if not len(done):
            return
        rows = like(done, self.x)
        arrays = (self.x, self.value, residual, self.reached, self.iterations, self.evaluations)
        begun, left = [], []
        for i, point, value, distance, *counts in zip(
            done.tolist(), *(to_numpy(array[rows]) for array in arrays), strict=True
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
                converged=reasons[i] not in GAVE_UP,
            )
            self.problem.conclude(self.tasks[i], solution)
            following = self.tasks[i] if self.tasks[i].left else next(queued, None)
            if following is None:
                left.append(i)
            else:
                self.tasks[i] = following
                begun.append(i)
        self._begin(begun)
        for i in reversed(left):  # the last slot moves to the place of the one that goes
            last = self.tasks.pop()
            if i < len(self.tasks):
                self.tasks[i] = last
            for name in self.ROWS:
                setattr(self, name, _moved_down(getattr(self, name), i))
            self.given = tuple(_moved_down(array, i) for array in self.given)

    def _begin(self, slots: list[int]) -> None:
        """Set slots to the start of their tasks' present problems."""
        if not slots:
            return
        rows, given = like(np.array(slots), self.x), self.problem.given([self.tasks[i] for i in slots])
        for array, new in zip(self.given, given, strict=True):
            array[rows] = new
        self.x[rows] = given[0]
        for array in (self.gradient, self.direction, self.pairs, self.value):
            array[rows] = 0.0
        for count in (self.known, self.iterations, self.shortened, self.evaluations):
            count[rows] = 0
        self.fresh[rows] = True


def _moved_down(array: Array, row: int) -> Array:
    """Return an array without its last row, which has taken the place of another."""
    array[row] = array[-1]
    return array[:-1]


def _shortening(rise: Array, promised: Array) -> Array:
    """Return by what factor to shorten a step that failed: to the minimum of the parabola through what is known of it."""
    xp = xp_of(rise)
    excess = rise - promised  # positive where a step failed
    parabola = -promised / (2 * xp.where(excess > 0, excess, 1.0))
    return xp.clip(xp.where(excess > 0, parabola, 0.5), 0.1, 0.5)
