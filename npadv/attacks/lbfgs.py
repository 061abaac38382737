"""Box-constrained L-BFGS: the smallest perturbation that reaches a class, by constrained optimisation.

    minimise over eta    lambda * ||eta||_2^2 + J(x + eta, target)        subject to  low <= x + eta <= high

(Szegedy et al. 2013, as [WG] 1.2 gives it; [SYN] eq. 1 is the same with the norm not squared.) A large lambda keeps eta
small but lets the class stay; a small one reaches the target at any price. The smallest adversarial eta lies near the
largest lambda that still succeeds, which an outer search finds by bisection on log lambda.

The inner problem is solved by SciPy's L-BFGS-B (``lbfgs_scipy.py``), a solver for each example, whose questions to the model
are put together into batches; or by a projected L-BFGS written here for all examples at once (``lbfgs_batched.py``).
Both start from x, work in float64 and see no more of an example's neighbours than a row of a matrix does: what an example
comes to does not depend on the batch it came in, up to the rounding of the model's own matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks import lbfgs_batched, lbfgs_scipy
from npadv.attacks.box import BoxProblem, Task
from npadv.attacks.checks import check_count, check_first_logits, check_inputs, check_targets
from npadv.attacks.lbfgs_problem import Problem, Search, Trial
from npadv.attacks.result import AttackResult, Bounds, Model, make_result
from npadv.autodiff import no_record
from npadv.backend import Array, like, to_numpy

SOLVERS: dict[str, Callable[[BoxProblem[Any], Sequence[Task], int], None]] = {
    "scipy": lbfgs_scipy.solve,
    "batched": lbfgs_batched.solve,
}


@dataclass(frozen=True)
class LBFGSResult(AttackResult):
    """An attack's result, and how it was found.

    Attributes
    ----------
    trials : tuple, for each example, of its trials in order
        Each says its target, its lambda (``weight``) and how its solver fared: see ``Trial``. Untargeted, the trials of
        one target follow those of another. An example that needed no perturbation has none.
    kept : tuple, for each example, of a trial or None
        The one that ``x_adv`` comes from: the nearest that succeeded.
    """

    trials: tuple[tuple[Trial, ...], ...]
    kept: tuple[Trial | None, ...]


def lbfgs(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    squared: bool = True,
    solver: str = "scipy",
    weight: float = 1.0,
    searches: int = 12,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    at_once: int = 256,
) -> LBFGSResult:
    """Find, for each example, the smallest l2 perturbation within the box that changes its class.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K), recorded by the tape.
    x : (N, ...) array
        Examples within ``bounds``.
    y : (N,) integers, optional
        The targets, or the true classes to leave; by default the model's own predictions. Untargeted, every other class is
        tried and the nearest kept, which costs K - 1 times as much.
    targeted : bool
        Whether y are classes to reach.
    bounds : (low, high)
        The box.
    squared : bool
        Whether the penalty is lambda ||eta||_2^2, as in [WG], or lambda ||eta||_2, as in [SYN] eq. 1. The latter is 0 for a
        range of large lambdas, and each success comes from a smaller lambda.
    solver : {"scipy", "batched"}
        SciPy's L-BFGS-B, or npadv's own, which is several times as fast, runs on a GPU as a whole, and gives up earlier on a
        network's kinks.
    weight : float
        Where the search for lambda starts.
    searches : int
        Values of lambda to try: first multiplied or divided by 10 until success and failure bracket it, then bisected.
    max_iterations : int
        Of the solver, in each trial.
    tolerance : float
        The residual of the Karush-Kuhn-Tucker conditions at which a solver is content: see ``Trial.residual``.
    at_once : int
        How many problems to solve side by side. The batched solver keeps some 20 numbers for each pixel of each.

    Returns
    -------
    LBFGSResult
        ``distance`` is in l2. Where no trial succeeded, ``x_adv`` is x and ``flags["not_converged"]`` is true.
        ``flags["non_finite_gradient"]`` marks examples on whose way some gradient was not finite; 0 was taken for it.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    A linear classifier whose boundary is the line x_0 = x_1: the nearest point of the other class is the foot on it.

    >>> result = lbfgs(lambda x: 50 * x, np.array([[0.7, 0.3]]), bounds=(0.0, 1.0), searches=20)
    >>> bool(result.success[0]), result.x_adv.round(2), round(float(result.distance[0]), 2)  # 0.4 / sqrt(2)
    (True, array([[0.5, 0.5]]), 0.28)

    The values of lambda that were tried, and how well the last of the problems was solved:

    >>> [round(trial.weight, 2) for trial in result.trials[0]][:5], result.trials[0][-1].residual < 1e-5
    ([1.0, 10.0, 100.0, 31.62, 56.23], True)
    """
    check_inputs(x, kind="l2", bounds=bounds)
    _check_settings(solver, weight, searches, max_iterations, tolerance, at_once)
    with no_record():
        logits = check_first_logits(model(x), len(x))
    y = check_targets(y, logits, targeted=targeted)
    before = logits.argmax(axis=1)

    found: list[list[Search]] = []  # for each example, a search for each class that would do; none where one is reached
    for i, (label, predicted) in enumerate(zip(to_numpy(y).tolist(), to_numpy(before).tolist(), strict=True)):
        targets = [label] if targeted else [k for k in range(logits.shape[1]) if k != label]
        found.append([] if predicted in targets else [Search(i, target, float(weight), searches) for target in targets])
    problem = Problem(model, x, bounds, squared=squared, tolerance=tolerance, max_iterations=max_iterations)
    if any(found):
        SOLVERS[solver](problem, [search for group in found for search in group], at_once)

    x_adv = x.copy()
    kept: list[Trial | None] = []
    for i, group in enumerate(found):
        nearest = min((s.nearest for s in group if s.nearest), key=lambda pair: pair[0].distance, default=None)
        kept.append(None if nearest is None else nearest[0])
        if nearest is not None:
            x_adv[i] = like(nearest[1].reshape(x.shape[1:]), x)
    trials = tuple(tuple(trial for search in group for trial in search.trials) for group in found)
    flags = {
        "not_converged": np.array([bool(group) and trial is None for group, trial in zip(found, kept, strict=True)]),
        "non_finite_gradient": problem.not_finite,
    }
    result = make_result(
        model,
        x,
        x_adv,
        y,
        kind="l2",
        targeted=targeted,
        queries=like(np.array([1 + sum(t.evaluations for t in ts) for ts in trials]), x),  # 1: at x itself
        before=before,
        flags={name: like(flag, x) for name, flag in flags.items()},
    )
    return LBFGSResult(**vars(result), trials=trials, kept=tuple(kept))


def _check_settings(
    solver: str, weight: float, searches: int, max_iterations: int, tolerance: float, at_once: int
) -> None:
    if solver not in SOLVERS:
        raise ValueError(f"solver: expected one of {', '.join(SOLVERS)}, got {solver!r}")
    if not 0 < weight < float("inf"):
        raise ValueError(f"weight: expected a positive number, got {weight!r}")
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance: expected a number of at least 0, got {tolerance!r}")
    for name, count in (("searches", searches), ("max_iterations", max_iterations), ("at_once", at_once)):
        check_count(name, count)
