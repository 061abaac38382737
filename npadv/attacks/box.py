"""What both L-BFGS solvers work on: many functions, each to be minimised over a box of its own.

    minimise over x    f(x)    subject to  low <= x <= high, coordinate by coordinate

An attack says what f is, by a class derived from ``BoxProblem``; ``lbfgs_scipy.py`` and ``lbfgs_batched.py`` minimise it
without knowing more. Who wants something minimised is a *task*: it names the example that it is about, and may have one
problem solved after another. What sets its present problem apart (a centre, a weight, a target) is what is *given*: one row
of each of a few arrays, which the solvers hand back with every question and never look into.

Solutions meet the Karush-Kuhn-Tucker conditions: where a pixel is free f is flat, and where it lies on the box f falls only
outwards. Both at once: a step against the gradient, projected back onto the box, goes nowhere. How far it goes is the
*residual*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from npadv.attacks.result import check_gradient, input_gradient
from npadv.autodiff import Tensor
from npadv.backend import Array, like, to_numpy, xp_of

Box = tuple[Any, Any]
"""The lower and the upper ends: two numbers, or two arrays with a row for each problem."""

Given = tuple[Array, ...]
"""What sets problems apart, in arrays with a row for each; the first has the points (B, D), in float64, to begin at."""


class Task(Protocol):
    """Somebody who wants problems solved, one after another."""

    example: int  # the number of the example that it is about
    left: int  # problems still to be solved


class Solution(NamedTuple):
    """Where a solver stopped: for one problem, on the host."""

    point: np.ndarray  # (D,) float64
    objective: float
    residual: float  # the largest element of P(x - gradient) - x, P being the projection onto the box
    reached: int  # what the evaluation at the point said of it beside the objective
    iterations: int
    evaluations: int
    message: str  # why the solver stopped
    converged: bool  # not stopped by max_iterations or by a step that failed


class Answer(NamedTuple):
    """What is known of B points."""

    values: Array  # (B,) float64: f
    gradients: Array  # (B, D) float64
    reached: (
        Array  # (B,) integers of the problem's own, kept for the point that is returned: of a classifier, the class
    )


T = TypeVar("T", bound=Task)


class BoxProblem(Generic[T]):
    """A function of N examples' pixels, and the box around each: what a solver asks.

    Parameters
    ----------
    x : (N, ...) array
        The examples.
    tolerance : float
        The residual at which a solver may stop.
    max_iterations : int
        After which it has to.
    """

    def __init__(self, x: Array, *, tolerance: float, max_iterations: int) -> None:
        self.x, self.tolerance, self.max_iterations = x, tolerance, max_iterations
        # The least relative decrease worth another iteration. f is computed in the dtype of x, and so is its noise.
        self.least_decrease = 10 * float(np.finfo(x.dtype).eps)
        self.not_finite = np.zeros(len(x), bool)  # the examples for which a gradient was not

    # Said by each problem ---------------------------------------------------------------------------------------------

    def given(self, tasks: Sequence[T]) -> Given:
        """Return what is given for the tasks' present problems."""
        raise NotImplementedError

    def box(self, given: Given) -> Box:
        """Return the boxes' ends."""
        raise NotImplementedError

    def evaluate(self, points: Array, tasks: Sequence[T], given: Given) -> Answer:
        """Evaluate f and its gradient at B points, (B, D) in float64, one for each task's problem."""
        raise NotImplementedError

    def conclude(self, task: T, solution: Solution) -> None:
        """Hand a solution to the task that asked for it, which then has one problem less to solve."""
        raise NotImplementedError

    def first_step(self, steepness: Array, given: Given) -> Array:
        """Return how far along -g, of length ``steepness`` (B,), to step where nothing tells of the curvature: length 1."""
        return 1 / xp_of(steepness).maximum(steepness, np.finfo(float).tiny)

    def smooth_start(
        self, start: np.ndarray, objective: Callable[[np.ndarray], tuple[float, np.ndarray]]
    ) -> np.ndarray:
        """Return where a solver that trusts gradients begins: at the start, unless f has a kink there."""
        return start

    # Shared by all ----------------------------------------------------------------------------------------------------

    def centres(self, tasks: Sequence[T]) -> Array:
        """Return the tasks' examples in float64, one a row: (B, D)."""
        examples = np.array([task.example for task in tasks])
        return self.x[like(examples, self.x)].reshape(len(examples), -1).astype(np.float64)

    def cast(self, points: Array) -> Array:
        """Return points in the examples' dtype: what the model sees, and what the attack returns."""
        return points.astype(self.x.dtype)

    def inputs(self, points: Array) -> Tensor:
        """Return points (B, D) as a model takes them, for the tape to follow."""
        return Tensor(self.cast(points).reshape(-1, *self.x.shape[1:]), requires_grad=True)

    def differentiate(self, output: Any, inputs: Tensor, tasks: Sequence[T], cotangent: Array | None = None) -> Array:
        """Return an output's gradient in the inputs, (B, D) in float64, 0 where it is not finite, and note for whom."""
        g, flags = check_gradient(input_gradient(output, inputs, cotangent))
        if bool(flags["non_finite_gradient"].any()):
            examples = np.array([task.example for task in tasks])
            self.not_finite[examples[to_numpy(flags["non_finite_gradient"])]] = True
        return g.reshape(len(g), -1).astype(np.float64, copy=False)

    def blocked(self, point: Array, gradient: Array, box: Box) -> Array:
        """Tell which pixels lie on the box and would leave it on a step against the gradient."""
        low, high = box
        return ((point <= low) & (gradient > 0)) | ((point >= high) & (gradient < 0))

    def residual(self, point: Array, gradient: Array, box: Box) -> Array:
        """Return how far a step against the gradient goes within the box, in its longest element: (B,)."""
        xp = xp_of(point)
        return xp.abs(xp.clip(point - gradient, *box) - point).max(axis=1)


def rowdot(a: Array, b: Array) -> Array:
    """Return the inner products of the rows: (B, D) twice gives (B,), each row's by itself."""
    return (a[:, None, :] @ b[:, :, None])[:, 0, 0]
