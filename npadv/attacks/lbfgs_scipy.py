"""SciPy's L-BFGS-B on many problems, with the model evaluated in batches.

``scipy.optimize.minimize`` solves one problem and calls the model whenever it likes, on one point at a time; a network takes
little longer for a hundred. So each solver runs on a thread of its own and, where it would call the model, leaves its point
and waits. Once all wait, their points are evaluated as one batch, and each in its turn is told its answer and computes up
to its next question. The threads are there to be stopped and resumed, not to run side by side: only one ever runs, the
model is only called by the caller's, and whatever goes wrong is raised there.
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

from npadv.attacks.box import BoxProblem, Solution, Task
from npadv.backend import like, to_numpy

Reply = tuple[float, np.ndarray, int]  # the objective at a point, its gradient, what the point has reached
Ask = Callable[[np.ndarray], Reply]


def solve(problem: BoxProblem[Any], tasks: Sequence[Task], at_once: int) -> None:
    """Solve all the tasks' problems, up to ``at_once`` of them side by side."""
    if len(tasks) == 1 or at_once == 1:
        for task in tasks:
            conduct(problem, task, partial(_answer, problem, task))
        return
    queued: Iterator[Task] = iter(tasks)
    running: list[tuple[Task, Paused]] = []
    try:
        while True:
            running = [(task, solver) for task, solver in running if not solver.ended]
            for task in islice(queued, at_once - len(running)):
                running.append((task, Paused(partial(conduct, problem, task))))
                running[-1][1].resume()  # up to its first question: each has one
            if not running:
                return
            answers = _answers(problem, [task for task, _ in running], [solver.question for _, solver in running])
            for (_, solver), answer in zip(running, answers, strict=True):
                solver.resume(answer)
    finally:  # also for an exception of the model, and for Ctrl-C
        for _, solver in running:
            solver.close()


def conduct(problem: BoxProblem[Any], task: Task, ask: Ask) -> None:
    """Solve one problem after another until the task has no more, asking for all that must be known of the model."""
    while task.left:
        problem.conclude(task, _minimize(problem, task, ask))


def _minimize(problem: BoxProblem[Any], task: Task, ask: Ask) -> Solution:
    from scipy.optimize import Bounds, minimize  # imported when used: it takes longer than all of npadv

    given = problem.given([task])
    low, high = (end if isinstance(end, float) else to_numpy(end)[0] for end in problem.box(given))
    start = to_numpy(given[0])[0]
    asked, last, slope, reached = 0, start, start, -1  # how often; the last point, its gradient and what it reached

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal asked, last, slope, reached
        last = point.copy()  # SciPy may go on in the same memory
        value, slope, reached = ask(last)
        asked += 1
        return value, slope

    solution = minimize(
        objective,
        problem.smooth_start(start, objective),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(low, high),
        options={"maxiter": problem.max_iterations, "gtol": problem.tolerance, "ftol": problem.least_decrease},
    )
    if not np.array_equal(solution.x, last):  # a line search that failed goes back to where it began
        objective(solution.x)
    residual = float(problem.residual(solution.x[None], slope[None], (low, high))[0])
    steps = int(solution.get("nit", 0))  # where the box is a point, SciPy has nothing to count
    return Solution(
        solution.x, float(solution.fun), residual, reached, steps, asked, str(solution.message), bool(solution.success)
    )


def _answer(problem: BoxProblem[Any], task: Task, point: np.ndarray) -> Reply:
    return _answers(problem, [task], [point])[0]


def _answers(problem: BoxProblem[Any], tasks: list[Task], points: list[np.ndarray]) -> list[Reply]:
    """Return what each task's solver wants to know of its point, from one evaluation of the model."""
    answer = problem.evaluate(like(np.stack(points), problem.x), tasks, problem.given(tasks))
    values, gradients, reached = (to_numpy(a) for a in answer)
    return list(zip(values.tolist(), gradients, reached.tolist(), strict=True))


class _Closed(BaseException):
    """Raised on a solver's thread where it waits for an answer that will not come."""


class Paused:
    """A function on a thread of its own that stands still wherever it asks, until it is resumed with an answer.

    >>> def add(ask):
    ...     seen.append(ask("one number?") + ask("another?"))
    >>> seen = []
    >>> adder = Paused(add)
    >>> for answer in (None, 3, 4):
    ...     adder.resume(answer)
    >>> adder.ended, seen
    (True, [7])
    """

    def __init__(self, function: Callable[[Callable[[Any], Any]], None]) -> None:
        self.question: Any = None
        self.ended = False
        self._function = function
        self._error: BaseException | None = None
        # Queues of the kind that an interrupt leaves intact; each holds one item at the most, but for the one that closes.
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopped: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="npadv-lbfgs", daemon=True)

    def resume(self, answer: Any = None) -> None:
        """Run the function up to its next question, or to its end; an exception of the function is raised here.

        The first call starts it, and its answer is nobody's.
        """
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._answers.put((True, answer))
        self._stopped.get()
        if self.ended:
            self._thread.join()
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """End the function where it stands; nothing is left of its thread."""
        if self._thread.ident is not None:
            self._answers.put((False, None))
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
        answered, answer = self._answers.get()
        if not answered:
            raise _Closed
        return answer
