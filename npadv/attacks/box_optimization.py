"""What the two L-BFGS solvers share: many functions, each minimised over a box of its own.

    minimise over x    f(x)    subject to  low <= x <= high, coordinate by coordinate

An attack defines f and the box in a class derived from ``BoxProblem``; ``lbfgs_scipy.py`` and ``lbfgs_batched.py`` minimise it.

A *job* owns one example and a queue of problems to solve one after another. The numbers that distinguish the present
problems of several jobs (centres, weights, targets) are their *problem data*: a tuple of arrays with one row for each job.
The solvers store these rows and pass them back with every question; only the problem itself reads them.

A solution meets the Karush-Kuhn-Tucker conditions: the gradient is zero in every coordinate inside the box, and at an end of
the box f falls only outwards. Both hold exactly if a step against the gradient, projected back onto the box by P, does not
move x. The *residual* is how far it does:

    residual = max_i |P(x - grad f(x))_i - x_i|
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from npadv.attacks.result import check_gradient, input_gradient
from npadv.autodiff import Tensor
from npadv.backend import Array, like, to_numpy, xp_of

Box = tuple[Any, Any]
"""The lower and the upper ends: two numbers, or two arrays with one row for each problem."""

ProblemData = tuple[Array, ...]
"""Arrays with one row for each problem; the first holds the starting points, (B, D) in float64."""


class Job(Protocol):
    """One example, and problems about it to be solved one after another."""

    example: int  # its index
    left: int  # the number of problems still to be solved


class Evaluation(NamedTuple):
    """The function at B points."""

    values: Array  # (B,) float64: f
    gradients: Array  # (B, D) float64
    reached: Array  # (B,) integers that a solution repeats for its point: with a classifier, the predicted class


class Solution(NamedTuple):
    """The point at which a solver stopped: for one problem, on the host."""

    point: np.ndarray  # (D,) float64
    objective: float
    residual: float  # see the module's docstring
    reached: int  # see Evaluation
    iterations: int
    evaluations: int
    message: str  # why the solver stopped
    converged: bool  # false if it stopped at max_iterations or because no step lowered f


J = TypeVar("J", bound=Job)


class BoxProblem(Generic[J]):
    """A function of N examples' pixels, and a box around each.

    Parameters
    ----------
    x : (N, ...) array
        The examples.
    tolerance : float
        The residual at which a solver stops.
    max_iterations : int
        The number of iterations after which a solver stops at the latest.
    """

    def __init__(self, x: Array, *, tolerance: float, max_iterations: int) -> None:
        self.x, self.tolerance, self.max_iterations = x, tolerance, max_iterations
        # The least relative decrease worth another iteration. f is computed in the dtype of x, and has that dtype's noise.
        self.least_decrease = 10 * float(np.finfo(x.dtype).eps)
        self.not_finite = np.zeros(len(x), bool)  # whether any gradient at an example had a non-finite element

    # Defined by each problem ------------------------------------------------------------------------------------------

    def data(self, jobs: Sequence[J]) -> ProblemData:
        """Return the data of the jobs' present problems."""
        raise NotImplementedError

    def box(self, data: ProblemData) -> Box:
        """Return the ends of the boxes."""
        raise NotImplementedError

    def evaluate(self, points: Array, jobs: Sequence[J], data: ProblemData) -> Evaluation:
        """Evaluate f and its gradient at B points, (B, D) in float64, one point for each job."""
        raise NotImplementedError

    def finish(self, job: J, solution: Solution) -> None:
        """Store the solution of a job's present problem, and move the job on to its next problem."""
        raise NotImplementedError

    def first_step(self, steepness: Array, data: ProblemData) -> Array:
        """Return the factors (B,) by which to step along -g before any curvature is known; ||g|| is the ``steepness``.

        By default the step has length 1.
        """
        return 1 / xp_of(steepness).maximum(steepness, np.finfo(float).tiny)

    def smooth_start(
        self, start: np.ndarray, objective: Callable[[np.ndarray], tuple[float, np.ndarray]]
    ) -> np.ndarray:
        """Return a starting point at which f is differentiable: by default the start itself."""
        return start

    # The same for all problems ----------------------------------------------------------------------------------------

    def residual(self, point: Array, gradient: Array, box: Box) -> Array:
        """Return how far a step against the gradient moves within the box, in its largest element: (B,)."""
        xp = xp_of(point)
        return xp.abs(xp.clip(point - gradient, *box) - point).max(axis=1)

    def blocked(self, point: Array, gradient: Array, box: Box) -> Array:
        """Return which pixels lie at an end of the box and would leave it in a step against the gradient: (B, D)."""
        low, high = box
        return ((point <= low) & (gradient > 0)) | ((point >= high) & (gradient < 0))

    def centres(self, jobs: Sequence[J]) -> Array:
        """Return the jobs' examples in float64, one row each: (B, D)."""
        examples = np.array([job.example for job in jobs])
        return self.x[like(examples, self.x)].reshape(len(examples), -1).astype(np.float64)

    def cast(self, points: Array) -> Array:
        """Return points in the dtype of the examples: the model evaluates these, and the attack returns them."""
        return points.astype(self.x.dtype)

    def inputs(self, points: Array) -> Tensor:
        """Return points (B, D) as a recorded batch in the shape of the examples."""
        return Tensor(self.cast(points).reshape(-1, *self.x.shape[1:]), requires_grad=True)

    def differentiate(self, output: Any, inputs: Tensor, jobs: Sequence[J], cotangent: Array | None = None) -> Array:
        """Return the output's gradient in the inputs, (B, D) in float64.

        Non-finite elements are replaced by 0, and their examples are marked in ``not_finite``.
        """
        g, flags = check_gradient(input_gradient(output, inputs, cotangent))
        if bool(flags["non_finite_gradient"].any()):
            examples = np.array([job.example for job in jobs])
            self.not_finite[examples[to_numpy(flags["non_finite_gradient"])]] = True
        return g.reshape(len(g), -1).astype(np.float64, copy=False)


def rowdot(a: Array, b: Array) -> Array:
    """Return the inner product of each row of a with the same row of b: (B, D), (B, D) to (B,).

    Each is computed alone, so that a row's result does not depend on the other rows.
    """
    return (a[:, None, :] @ b[:, :, None])[:, 0, 0]
