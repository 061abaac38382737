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

from npadv.attacks.lbfgs_problem import Problem, Search, Solution
from npadv.backend import like, to_numpy

Reply = tuple[float, np.ndarray, int]  # the objective at a point, its gradient, the point's class
Ask = Callable[[np.ndarray], Reply]


def solve(problem: Problem, searches: Sequence[Search], at_once: int) -> None:
    """Conduct the searches to their ends, up to ``at_once`` of them side by side."""
    if len(searches) == 1 or at_once == 1:
        for search in searches:
            conduct(problem, search, partial(_answer, problem, search))
        return
    queued: Iterator[Search] = iter(searches)
    running: list[tuple[Search, Paused]] = []
    try:
        while True:
            for search in islice(queued, at_once - len(running)):
                running.append((search, Paused(partial(conduct, problem, search))))
                running[-1][1].resume()
            running = [(search, solver) for search, solver in running if not solver.ended]
            if not running:
                return
            answers = _answers(problem, [search for search, _ in running], [solver.question for _, solver in running])
            for (_, solver), answer in zip(running, answers, strict=True):
                solver.resume(answer)
    finally:  # also for an exception of the model, and for Ctrl-C
        for _, solver in running:
            solver.close()


def conduct(problem: Problem, search: Search, ask: Ask) -> None:
    """Solve one problem after another until the search is over, asking for all that must be known of the model."""
    centre = to_numpy(problem.centres([search.example]))[0]
    while search.left:
        problem.conclude(search, _minimize(problem, centre, ask))


def _minimize(problem: Problem, centre: np.ndarray, ask: Ask) -> Solution:
    from scipy.optimize import Bounds, minimize  # imported when used: it takes longer than all of npadv

    asked, last, reached = 0, centre, -1  # how often; the last point, and its class

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal asked, last, reached
        last = point.copy()  # SciPy may go on in the same memory
        value, gradient, reached = ask(last)
        asked += 1
        return value, gradient

    solution = minimize(
        objective,
        centre if problem.squared else _off_the_kink(problem, centre, objective),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(problem.low, problem.high),
        options={"maxiter": problem.max_iterations, "gtol": problem.tolerance, "ftol": problem.least_decrease},
    )
    if not np.array_equal(solution.x, last):  # a line search that failed goes back to where it began
        objective(solution.x)
    residual = float(problem.residual(solution.x[None], solution.jac[None])[0])
    return Solution(solution.x, float(solution.fun), residual, reached, asked, str(solution.message))


def _off_the_kink(problem: Problem, centre: np.ndarray, objective: Callable[[np.ndarray], Any]) -> np.ndarray:
    """Return a point below the example, where the norm without its square has a gradient.

    At the example itself the subgradient leads down, but only straight along it; SciPy bends its first step at the box.
    The centre is returned where it is the minimum.
    """
    value, g = objective(centre)
    step = 1 / max(float(np.linalg.norm(g)), np.finfo(float).tiny)
    while problem.residual(centre[None], step * g[None])[0] > 0:
        point: np.ndarray = np.clip(centre - step * g, problem.low, problem.high)
        if objective(point)[0] < value + 1e-4 * float(g @ (point - centre)):
            return point
        step /= 4
    return centre


def _answer(problem: Problem, search: Search, point: np.ndarray) -> Reply:
    return _answers(problem, [search], [point])[0]


def _answers(problem: Problem, searches: list[Search], points: list[np.ndarray]) -> list[Reply]:
    """Return what each search's solver wants to know of its point, from one evaluation of the model."""
    examples = [search.example for search in searches]
    batch = like(np.stack(points), problem.x)
    weights = like(np.array([search.weight for search in searches]), problem.x)
    targets = like(np.array([search.target for search in searches]), problem.x)
    losses, g, classes = problem.evaluate(batch, examples, targets)
    values, gradients = problem.objective(batch, problem.centres(examples), weights, losses, g)
    values, gradients, classes = (to_numpy(a) for a in (values, gradients, classes))
    return list(zip(values.tolist(), gradients, classes.tolist(), strict=True))


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
