"""Box-constrained L-BFGS: the smallest perturbation that reaches a class, by constrained optimisation.

    minimise over eta    lambda * ||eta||_2^2 + J(x + eta, target)        subject to  low <= x + eta <= high

(Szegedy et al. 2013, in the form of [WG] 1.2; in [SYN] eq. 1 the norm is not squared.) With a large lambda, eta stays small
and the class may stay as well; with a small one, the target is reached with a large eta. The smallest adversarial eta lies
near the largest lambda that still succeeds. An outer search finds this lambda by bisection on log lambda
(``lbfgs_search.py``).

Two solvers for the inner problem (``lbfgs_problem.py``): SciPy's L-BFGS-B, one solver for each example, with the model's
evaluations put together into batches (``lbfgs_scipy.py``); and a projected L-BFGS written here, for all examples at once
(``lbfgs_plain.py`` for one problem, ``lbfgs_batched.py`` for many). Both start from x and work in float64. An example's
result does not depend on its batch, up to the rounding of the model's own matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks import lbfgs_batched, lbfgs_scipy
from npadv.attacks.box_optimization import BoxProblem, Job
from npadv.attacks.checks import check_choice, check_count, check_flag, check_inputs, check_positive
from npadv.attacks.lbfgs_problem import PenalizedLoss
from npadv.attacks.lbfgs_search import Search, Trial
from npadv.attacks.result import AttackResult, Bounds, Model, first_predictions, make_result, records
from npadv.backend import Array, like, to_numpy

SOLVERS: dict[str, Callable[[BoxProblem[Any], Sequence[Job], int], None]] = {
    "scipy": lbfgs_scipy.solve,
    "batched": lbfgs_batched.solve,
}


def search_all(
    problem: PenalizedLoss, targets: Sequence[Sequence[int]], weight: float, count: int, solver: str, at_once: int
) -> tuple[list[list[Search]], list[tuple[Trial, np.ndarray] | None]]:
    """Search, for each example and each of its target classes, for the smallest perturbation into that class.

    Return each example's searches, and the nearest success of them all: its trial and its point, or None.
    """
    groups = [[Search(i, k, float(weight), count) for k in classes] for i, classes in enumerate(targets)]
    if any(groups):
        SOLVERS[solver](problem, [search for group in groups for search in group], at_once)
    nearest = [
        min((search.nearest for search in group if search.nearest), key=lambda pair: pair[0].distance, default=None)
        for group in groups
    ]
    return groups, nearest


@records
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

    Untargeted, every other class is tried and the nearest success is kept, which costs K - 1 times as much.

    Parameters
    ----------
    model, x, y, targeted, bounds : see npadv.attacks
    squared : bool
        Whether the penalty is lambda ||eta||_2^2, as in [WG], or lambda ||eta||_2, as in [SYN] eq. 1. Without the square,
        eta is 0 for all large lambdas, and a success needs a smaller one.
    solver : {"scipy", "batched"}
        SciPy's L-BFGS-B, or npadv's own, which is several times as fast, runs on a GPU as a whole, and stops earlier at the
        kinks of a network.
    weight : float
        The first lambda of the search.
    searches : int
        The number of lambdas to try for each example and class.
    max_iterations : int
        The most iterations of the solver for each lambda.
    tolerance : float
        The residual of the Karush-Kuhn-Tucker conditions at which a solver stops: see ``Trial.residual``.
    at_once : int
        The number of problems to solve side by side. The batched solver keeps some 20 numbers for each pixel of each.

    Returns
    -------
    LBFGSResult
        ``distance`` is in l2. Where no trial succeeded, ``x_adv`` is x and ``flags["not_converged"]`` is true.
        ``flags["non_finite_gradient"]`` marks examples for which some gradient had a non-finite element; 0 was used for it.

    Examples
    --------
    A linear classifier whose boundary is the line x_0 = x_1: the nearest point of the other class is the foot on it.

    >>> result = lbfgs(lambda x: 50 * x, np.array([[0.7, 0.3]]), bounds=(0.0, 1.0), searches=20)
    >>> bool(result.success[0]), result.x_adv.round(2), round(float(result.distance[0]), 2)  # 0.4 / sqrt(2)
    (True, array([[0.5, 0.5]]), 0.28)

    The first values of lambda, and how well the last problem was solved:

    >>> [round(trial.weight, 2) for trial in result.trials[0]][:5], result.trials[0][-1].residual < 1e-5
    ([1.0, 10.0, 100.0, 31.62, 56.23], True)
    """
    _, bounds = check_inputs(x, kind="l2", bounds=bounds)
    weight, tolerance = check_positive("weight", weight), check_positive("tolerance", tolerance, zero=True)
    check_choice("solver", solver, SOLVERS)
    check_flag("squared", squared)
    for name, count in (("searches", searches), ("max_iterations", max_iterations), ("at_once", at_once)):
        check_count(name, count)
    logits, y, before = first_predictions(model, x, y, targeted=targeted)

    # The classes that count as a success; none where the model's own prediction is one of them.
    targets: list[list[int]] = []
    for label, predicted in zip(to_numpy(y).tolist(), to_numpy(before).tolist(), strict=True):
        classes = [label] if targeted else [k for k in range(logits.shape[1]) if k != label]
        targets.append([] if predicted in classes else classes)
    problem = PenalizedLoss(model, x, bounds, squared=squared, tolerance=tolerance, max_iterations=max_iterations)
    groups, nearest = search_all(problem, targets, weight, searches, solver, at_once)

    x_adv = x.copy()
    for i, found in enumerate(nearest):
        if found is not None:
            x_adv[i] = like(found[1].reshape(x.shape[1:]), x)
    kept = tuple(None if found is None else found[0] for found in nearest)
    trials = tuple(tuple(trial for search in group for trial in search.trials) for group in groups)
    flags = {
        "not_converged": np.array([bool(group) and trial is None for group, trial in zip(groups, kept, strict=True)]),
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
    return LBFGSResult(**vars(result), trials=trials, kept=kept)


@dataclass(frozen=True)
class LBFGSResult(AttackResult):
    """An attack's result, and the trials that led to it.

    Attributes
    ----------
    trials : tuple, for each example, of its trials in order
        One for each target and lambda: see ``Trial``. Untargeted, all trials of one target come before those of the next.
        An example that needed no perturbation has none.
    kept : tuple, for each example, of a trial or None
        The trial that ``x_adv`` comes from: the nearest that succeeded.
    """

    trials: tuple[tuple[Trial, ...], ...]
    kept: tuple[Trial | None, ...]
