"""Accuracy under attack as a function of the budget eps ([SYN] figures 3 and 6).

    accuracy(eps) = share of examples with f(x_adv(eps)) = y

Each model is attacked with its own gradient, separately for each eps. A larger ball contains the smaller one, so the true
robust accuracy never rises with eps. That under an attack can rise, since one long step may overshoot. So there is a second
curve, ``worst_so_far``, in which an example that an attack broke at a smaller eps stays broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks.result import Model
from npadv.backend import Array
from npadv.evaluation.batchwise import (
    Attack,
    check_budgets,
    check_examples,
    check_models,
    classify,
    craft,
    in_batches,
)
from npadv.evaluation.rates import Rate


def robustness_curve(
    models: Model | Mapping[str, Model],
    x: Array,
    y: Any,
    *,
    attack: Attack,
    eps: Sequence[float] | np.ndarray,
    batch_size: int = 500,
    progress: bool | None = None,
) -> RobustnessCurve:
    """Measure the accuracy of each model under an attack with each budget.

    Parameters
    ----------
    models : callable, or mapping of names to callables
        Each maps a batch (N, ...) to logits (N, K), recorded by the tape. A single one gets the name "model".
    x, y, batch_size, progress : see npadv.evaluation
    attack : callable
        ``attack(model, x, y, eps=eps)`` returns an AttackResult: an untargeted attack of ``npadv.attacks`` within a radius,
        perhaps with settings, such as ``functools.partial(pgd, steps=100)``.
    eps : (E,) increasing numbers
        The budgets, in units of x. With a budget of 0 the examples are not attacked.

    Returns
    -------
    RobustnessCurve

    Examples
    --------
    >>> from npadv.attacks import fgsm
    >>> model = lambda x: x @ np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> x, y = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.3]]), np.array([0, 0, 0])
    >>> robustness_curve(model, x, y, attack=fgsm, eps=[0.0, 0.2, 0.5]).accuracy().hits
    array([[2, 1, 0]])
    """
    named = check_models("models", models if isinstance(models, Mapping) else {"model": models})
    budgets = check_budgets(eps)
    for model in named.values():
        labels = check_examples(model, x, y)

    def predictions(model: Model, part: slice, budget: float) -> np.ndarray:
        if budget == 0:
            return classify(model, x[part])
        return craft(attack, model, x[part], labels[part], eps=budget)[1]

    def measure(part: slice) -> tuple[np.ndarray]:
        rows = [[predictions(model, part, float(budget)) for budget in budgets] for model in named.values()]
        return (np.array(rows) == labels[part],)

    return in_batches(
        measure,
        lambda correct: RobustnessCurve(tuple(named), budgets, correct),
        len(x),
        batch_size=batch_size,
        label="robustness",
        progress=progress,
    )


@dataclass(frozen=True, eq=False)
class RobustnessCurve:
    """Which of N examples each of M models classifies correctly under attacks with E budgets.

    Attributes
    ----------
    models : tuple of str
        The models' names.
    eps : (E,)
        The budgets, increasing.
    correct : (M, E, N) bool
        Whether the example is classified correctly after the attack within this budget.
    """

    models: tuple[str, ...]
    eps: np.ndarray
    correct: np.ndarray

    def accuracy(self) -> Rate:
        """Return the accuracy of each model under the attack with each budget: (M, E)."""
        return _share(self.correct)

    def worst_so_far(self) -> Rate:
        """Return the accuracy of each model under the attacks with this and all smaller budgets: (M, E)."""
        return _share(np.logical_and.accumulate(self.correct, axis=1))


def _share(correct: np.ndarray) -> Rate:
    return Rate(correct.sum(axis=-1), np.full(correct.shape[:-1], correct.shape[-1]))
