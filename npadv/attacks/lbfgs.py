"""Box-constrained L-BFGS: the smallest perturbation that reaches a class, by constrained optimisation.

    minimise over eta    lambda * ||eta||_2^2 + J(x + eta, target)        subject to  low <= x + eta <= high

(Szegedy et al. 2013, as [WG] 1.2 gives it; [SYN] eq. 1 is the same with the norm not squared.) A large lambda keeps eta
small but lets the class stay; a small one reaches the target at any price. The smallest adversarial eta lies near the
largest lambda that still succeeds, which an outer search finds by bisection on log lambda. The inner problem is solved by
SciPy's L-BFGS-B, in float64, one example after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from npadv.attacks.result import (
    AttackResult,
    Bounds,
    Model,
    check_first_logits,
    check_inputs,
    check_targets,
    conclude,
    input_gradient,
    predict,
)
from npadv.autodiff import Tensor
from npadv.backend import Array, like, to_numpy
from npadv.functional import cross_entropy


class Trial(NamedTuple):
    """One inner problem of the outer search."""

    target: int
    weight: float  # lambda
    objective: float
    distance: float  # ||eta||_2
    success: bool
    evaluations: int
    message: str  # the solver's


@dataclass(frozen=True)
class LBFGSResult(AttackResult):
    """An attack's result, and how it was found: for each example its trials, in order."""

    trials: tuple[tuple[Trial, ...], ...]


def lbfgs(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    weight: float = 1.0,
    searches: int = 12,
    max_iterations: int = 100,
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
    weight : float
        Where the search for lambda starts.
    searches : int
        Values of lambda to try: first multiplied or divided by 10 until success and failure bracket it, then bisected.
    max_iterations : int
        Of the solver, in each trial.

    Returns
    -------
    LBFGSResult
        ``distance`` is in l2. Where no trial succeeded, ``x_adv`` is x and ``flags["not_converged"]`` is true.

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
    """
    check_inputs(x, kind="l2", bounds=bounds)
    if not 0 < weight < float("inf"):
        raise ValueError(f"weight: expected a positive number, got {weight!r}")
    if searches < 1 or max_iterations < 1:
        raise ValueError(f"searches, max_iterations: expected at least 1, got {searches} and {max_iterations}")
    logits = check_first_logits(model(x), len(x))
    y = check_targets(y, logits, targeted=targeted)
    before = logits.argmax(axis=1)

    x_adv = x.copy()
    histories: list[tuple[Trial, ...]] = []
    found: list[bool] = []
    for i, (label, predicted) in enumerate(zip(to_numpy(y).tolist(), to_numpy(before).tolist(), strict=True)):
        targets = [label] if targeted else [k for k in range(logits.shape[1]) if k != label]
        if predicted in targets:  # nothing to do: the smallest perturbation is none
            histories.append(())
            found.append(True)
            continue
        best: tuple[float, np.ndarray] | None = None
        history: list[Trial] = []
        for target in targets:
            nearest, trials = _search(model, x[i : i + 1], target, bounds, weight, searches, max_iterations)
            history += trials
            if nearest is not None and (best is None or nearest[0] < best[0]):
                best = nearest
        if best is not None:
            x_adv[i] = like(best[1], x)
        found.append(best is not None)
        histories.append(tuple(history))

    # Each trial also classified its solution once; the first query looked at x itself.
    queries = like(np.array([1 + sum(t.evaluations + 1 for t in h) for h in histories]), x)
    result = conclude(
        model,
        x,
        x_adv,
        y,
        kind="l2",
        targeted=targeted,
        queries=queries,
        before=before,
        flags={"not_converged": like(~np.array(found), x)},
    )
    return LBFGSResult(**vars(result), trials=tuple(histories))


def _search(
    model: Model, x: Array, target: int, bounds: Bounds, weight: float, searches: int, max_iterations: int
) -> tuple[tuple[float, np.ndarray] | None, list[Trial]]:
    """Return the nearest success over lambda, as (distance, point), and all trials."""
    trials: list[Trial] = []
    nearest: tuple[float, np.ndarray] | None = None
    succeeds, fails = 0.0, float("inf")  # the largest lambda known to succeed, the smallest known to fail
    for _ in range(searches):
        point, trial = _solve(model, x, target, bounds, weight, max_iterations)
        trials.append(trial)
        if trial.success:
            succeeds = max(succeeds, weight)
            if nearest is None or trial.distance < nearest[0]:
                nearest = (trial.distance, point)
        else:
            fails = min(fails, weight)
        if succeeds == 0:
            weight = fails / 10
        elif fails == float("inf"):
            weight = succeeds * 10
        else:
            weight = float(np.sqrt(succeeds * fails))
    return nearest, trials


def _solve(
    model: Model, x: Array, target: int, bounds: Bounds, weight: float, max_iterations: int
) -> tuple[np.ndarray, Trial]:
    """Solve the inner problem for one example and one lambda; the point comes in x's dtype, as it will be judged."""
    from scipy.optimize import minimize  # imported when used: it takes longer than all of npadv

    centre = to_numpy(x).astype(np.float64)
    label = like(np.array([target]), x)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        point, eta = Tensor(like(flat.reshape(x.shape), x), requires_grad=True), flat - centre.ravel()
        loss = cross_entropy(model(point), label, reduction="sum")
        g = to_numpy(input_gradient(loss, point)).ravel()
        return weight * float(eta @ eta) + loss.item(), 2 * weight * eta + g

    solution = minimize(
        objective,
        centre.ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=[bounds] * centre.size,
        options={"maxiter": max_iterations},
    )
    point = np.clip(solution.x.reshape(x.shape).astype(x.dtype), *bounds)
    success = int(predict(model, like(point, x))[0]) == target
    distance = float(np.sqrt(((point - centre) ** 2).sum()))
    return point, Trial(
        target, weight, float(solution.fun), distance, success, int(solution.nfev), str(solution.message)
    )
