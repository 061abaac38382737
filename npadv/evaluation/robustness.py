"""Accuracy against the size of the perturbation: how far a classifier can be pushed ([SYN] figures 3 and 6).

Each network is attacked through its own gradient, at each eps anew. A larger ball holds the smaller one, so true robustness
never rises with eps; an attack that takes one long step may overshoot, and its curve may. So beside the raw curve there is
that of the worst so far, in which an example that was broken at a smaller eps stays broken.
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


@dataclass(frozen=True, eq=False)
class RobustnessCurve:
    """Which of N examples M models still classify rightly at each of E budgets.

    Attributes
    ----------
    models : tuple of str
        The models' names.
    eps : (E,)
        The budgets, increasing.
    correct : (M, E, N) bool
        Whether the example is classified rightly after the attack within this budget.
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
    """Attack each model with each budget.

    Parameters
    ----------
    models : callable, or mapping of names to callables
        From a batch (N, ...) to logits (N, K), recorded by the tape. A single one is called "model".
    x : (N, ...) array
        Examples, within the attack's box.
    y : (N,) integers
        The true classes.
    attack : callable
        ``attack(model, x, y, eps=eps)`` gives an AttackResult: an untargeted attack within a radius of ``npadv.attacks``,
        as it is or with settings, as ``functools.partial(pgd, steps=100)``.
    eps : (E,) increasing numbers
        The budgets, in units of x. At 0 nothing is attacked.
    batch_size : int
        Examples at a time, which bounds the memory.
    progress : bool, optional
        Draw a bar; by default on a terminal.

    Returns
    -------
    RobustnessCurve

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.
    Interrupted
        On Ctrl-C, with the curve of the examples that were finished.

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

    def prediction(model: Model, part: slice, budget: float) -> np.ndarray:
        if budget == 0:
            return classify(model, x[part])
        return craft(attack, model, x[part], labels[part], eps=budget)[1]

    def measure(part: slice) -> tuple[np.ndarray]:
        rows = [[prediction(model, part, float(budget)) for budget in budgets] for model in named.values()]
        return (np.array(rows) == labels[part],)

    return in_batches(
        measure,
        lambda correct: RobustnessCurve(tuple(named), budgets, correct),
        len(x),
        batch_size=batch_size,
        label="robustness",
        progress=progress,
    )


def _share(correct: np.ndarray) -> Rate:
    return Rate(correct.sum(axis=-1), np.full(correct.shape[:-1], correct.shape[-1]))
