"""SciPy's L-BFGS-B on many problems, with the model evaluated in batches.

``scipy.optimize.minimize`` solves one problem and evaluates its objective one point at a time, while a network evaluates a
hundred points in little more time than one. So each solver runs in a *coroutine*: where it needs its objective, it hands
out its point and stands still. Once all solvers stand still, their points are evaluated as one batch, and each solver in
turn resumes with its value and gradient, up to its next point.

SciPy cannot be suspended by Python's own generators, so each coroutine is a thread. The threads never run side by side:
exactly one runs at any time. The model is only called on the caller's thread, and every exception is raised there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from npadv.attacks.box_optimization import BoxProblem, Job, Solution
from npadv.backend import like, to_numpy

Reply = tuple[float, np.ndarray, int]
"""The objective at one point, its gradient there, and the evaluation's ``reached``."""

Ask = Callable[[np.ndarray], Reply]


def solve(problem: BoxProblem[Any], jobs: Sequence[Job], at_once: int) -> None:
    """Solve all problems of all jobs, up to ``at_once`` of them side by side."""
    if len(jobs) == 1 or at_once == 1:
        for job in jobs:
            run_solver(problem, job, partial(_evaluate_one, problem, job))
        return
    queued: Iterator[Job] = iter(jobs)
    running: list[tuple[Job, ThreadCoroutine]] = []
    try:
        while True:
            running = [(job, solver) for job, solver in running if not solver.ended]
            for job in islice(queued, at_once - len(running)):
                running.append((job, ThreadCoroutine(partial(run_solver, problem, job))))
                running[-1][1].resume()  # up to its first point
            if not running:
                return
            replies = _evaluate(problem, [job for job, _ in running], [solver.question for _, solver in running])
            for (_, solver), reply in zip(running, replies, strict=True):
                solver.resume(reply)
    finally:  # also after an exception of the model, and after Ctrl-C
        for _, solver in running:
            solver.close()


def run_solver(problem: BoxProblem[Any], job: Job, ask: Ask) -> None:
    """Solve all problems of one job; ``ask`` evaluates the objective at a point."""
    while job.left:
        problem.finish(job, _minimize(problem, job, ask))


def _minimize(problem: BoxProblem[Any], job: Job, ask: Ask) -> Solution:
    from scipy.optimize import Bounds, minimize  # here, because this import takes longer than that of npadv

    data = problem.data([job])
    low, high = (end if isinstance(end, float) else to_numpy(end)[0] for end in problem.box(data))
    start = to_numpy(data[0])[0]
    evaluations, last, gradient, reached = 0, start, start, -1  # at the last point: its gradient and what it reached

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal evaluations, last, gradient, reached
        last = point.copy()  # SciPy may reuse the memory
        value, gradient, reached = ask(last)
        evaluations += 1
        return value, gradient

    solution = minimize(
        objective,
        problem.smooth_start(start, objective),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(low, high),
        options={"maxiter": problem.max_iterations, "gtol": problem.tolerance, "ftol": problem.least_decrease},
    )
    if not np.array_equal(solution.x, last):  # after a line search that failed, SciPy returns to an earlier point
        objective(solution.x)
    return Solution(
        point=solution.x,
        objective=float(solution.fun),
        residual=float(problem.residual(solution.x[None], gradient[None], (low, high))[0]),
        reached=reached,
        iterations=int(solution.get("nit", 0)),  # SciPy reports none where the box is a single point
        evaluations=evaluations,
        message=str(solution.message),
        converged=bool(solution.success),
    )


def _evaluate(problem: BoxProblem[Any], jobs: list[Job], points: list[np.ndarray]) -> list[Reply]:
    """Return the reply for each job's point, from one evaluation of the model."""
    evaluation = problem.evaluate(like(np.stack(points), problem.x), jobs, problem.data(jobs))
    values, gradients, reached = (to_numpy(a) for a in evaluation)
    return list(zip(values.tolist(), gradients, reached.tolist(), strict=True))


def _evaluate_one(problem: BoxProblem[Any], job: Job, point: np.ndarray) -> Reply:
    return _evaluate(problem, [job], [point])[0]


class ThreadCoroutine:
    """A function that stops at each question it asks, and continues when it is resumed with the reply.

    >>> def add(ask):
    ...     sums.append(ask("one number?") + ask("another?"))
    >>> sums = []
    >>> adder = ThreadCoroutine(add)
    >>> adder.resume()  # starts it
    >>> adder.question
    'one number?'
    >>> adder.resume(3); adder.resume(4)
    >>> adder.ended, sums
    (True, [7])
    """

    def __init__(self, function: Callable[[Callable[[Any], Any]], None]) -> None:
        self.question: Any = None
        self.ended = False
        self._function = function
        self._error: BaseException | None = None
        # A Ctrl-C leaves SimpleQueues intact. Neither holds more than one item, except on close.
        self._replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopped: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="npadv-lbfgs", daemon=True)

    def resume(self, reply: Any = None) -> None:
        """Run the function up to its next question or to its end; raise its exception if it raised one.

        The first call starts the function and ignores its argument.
        """
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._replies.put((True, reply))
        self._stopped.get()
        if self.ended:
            self._thread.join()
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """End the function where it stands, and its thread."""
        if self._thread.ident is not None:
            self._replies.put((False, None))
            self._thread.join()

    def _run(self) -> None:
        try:
            with suppress(_Closed):
                self._function(self._ask)
        except BaseException as error:
            self._error = error
        self.ended = True
        self._stopped.put(None)

    def _ask(self, question: Any) -> Any:
        self.question = question
        self._stopped.put(None)
        replied, reply = self._replies.get()
        if not replied:
            raise _Closed
        return reply


class _Closed(BaseException):
    """Raised inside a function that waits for a reply, to end it."""
