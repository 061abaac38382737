"""The distance from each example to being misclassified: the distribution of smallest perturbations.

    distance(x) = min ||eta||    with    f(x + eta) != y

A curve of accuracy needs a grid of budgets. The distances of all examples give the whole curve at once: the share of
examples that are broken within r is the empirical distribution function of the distances at r. An example that is
misclassified without a perturbation has distance 0, and an example that the attack does not break has distance infinity, so
that every example counts. Each distance is an upper bound: a better attack may find a nearer point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_share
from npadv.attacks.result import Model
from npadv.backend import Array, like
from npadv.evaluation.batchwise import Attack, as_numbers, check_budgets, check_examples, classify, craft, in_batches
from npadv.evaluation.rates import Rate


def minimal_distances(
    model: Model, x: Array, y: Any, *, attack: Attack, batch_size: int = 500, progress: bool | None = None
) -> Distances:
    """Measure the distance of each example with an attack that minimises the perturbation.

    Parameters
    ----------
    model, x, y, batch_size, progress : see npadv.evaluation
    attack : callable
        ``attack(model, x, y)`` returns an AttackResult: ``linearized``, ``carlini_wagner``, ``jsma`` or ``lbfgs``, untargeted.

    Returns
    -------
    Distances
        In the attack's norm; in pixels for ``jsma``.

    Examples
    --------
    The boundary is the line x_0 = x_1, and the model is linear, so that the linearised attack is exact:

    >>> from npadv.attacks import linearized
    >>> x, y = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.3]]), np.array([0, 0, 0])
    >>> minimal_distances(lambda x: 5 * x, x, y, attack=linearized).distance.round(3)  # 1.02 times 0.8 and 0.2 / sqrt(2)
    array([0.577, 0.144, 0.   ])
    """
    labels = check_examples(model, x, y)

    def measure(part: slice) -> tuple[np.ndarray]:
        right = classify(model, x[part]) == labels[part]
        _, prediction, size = craft(attack, model, x[part], labels[part])
        return (np.where(right, np.where(prediction != labels[part], size, np.inf), 0.0),)

    return in_batches(measure, Distances, len(x), batch_size=batch_size, label="distances", progress=progress)


def minimal_eps(
    model: Model,
    x: Array,
    y: Any,
    *,
    attack: Attack,
    eps: Sequence[float] | np.ndarray,
    halvings: int = 6,
    batch_size: int = 500,
    progress: bool | None = None,
) -> Distances:
    """Measure the smallest budget with which an attack breaks each example.

    The budgets are tried in increasing order. Once an example is broken, the interval between this budget and the one
    before is bisected. So within that interval the attack is assumed to succeed from one budget on, and an attack that
    breaks an example with a small budget and overshoots with a large one is credited with the small one.

    Parameters
    ----------
    model, x, y, batch_size, progress : see npadv.evaluation
    attack : callable
        ``attack(model, x, y, eps=eps)`` returns an AttackResult: ``fgsm``, ``pgd`` or another attack within a radius.
    eps : (E,) increasing numbers
        The budgets to try. An example that none of them breaks has distance infinity.
    halvings : int
        The number of bisections: with 6, a budget is known to a 64th of the grid's spacing. 0 for the grid alone.

    Returns
    -------
    Distances
        Budgets with which the attack succeeds, in its norm. The examples of a batch that share a budget are attacked
        together; no example is attacked more than E + halvings times.

    Examples
    --------
    >>> from npadv.attacks import fgsm
    >>> x, y = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.3]]), np.array([0, 0, 0])
    >>> minimal_eps(lambda x: 5 * x, x, y, attack=fgsm, eps=[0.16, 0.32], halvings=4).distance  # beyond 0.4, 0.1 and 0
    array([ inf, 0.11, 0.  ])
    """
    labels, budgets = check_examples(model, x, y), check_budgets(eps)
    check_count("halvings", halvings, 0)
    budgets = budgets[budgets > 0]

    def broken(part: slice, which: np.ndarray, budget: float) -> np.ndarray:
        """Return which of the chosen examples of a part the attack breaks."""
        chosen = labels[part][which]
        _, prediction, _ = craft(attack, model, x[part][like(which, x)], chosen, eps=budget)
        hit: np.ndarray = prediction != chosen
        return hit

    def measure(part: slice) -> tuple[np.ndarray]:
        fails = np.zeros(part.stop - part.start)  # the largest budget below ``breaks`` that fails
        breaks = np.where(classify(model, x[part]) == labels[part], np.inf, 0.0)
        for before, budget in zip([0.0, *budgets], budgets, strict=False):
            left = np.flatnonzero(np.isinf(breaks))
            if len(left):
                hit = left[broken(part, left, float(budget))]
                fails[hit], breaks[hit] = before, budget
        bracketed = np.isfinite(breaks) & (breaks > 0)
        for _ in range(halvings):
            middle = np.where(bracketed, (fails + np.where(bracketed, breaks, 0)) / 2, np.nan)
            for budget in np.unique(middle[bracketed]):
                which = np.flatnonzero(middle == budget)
                hit = broken(part, which, float(budget))
                breaks[which[hit]], fails[which[~hit]] = budget, budget
        return (breaks,)

    return in_batches(measure, Distances, len(x), batch_size=batch_size, label="budgets", progress=progress)


@dataclass(frozen=True, eq=False)
class Distances:
    """The distances from N examples to being misclassified.

    Attributes
    ----------
    distance : (N,)
        In the attack's norm: 0 for an example that is misclassified without an attack, infinity for one that was not broken.

    Examples
    --------
    >>> found = Distances(np.array([0.3, 0.0, 0.1, np.inf]))
    >>> found.median, float(found.within(0.2).rate)
    (0.1, 0.5)
    """

    distance: np.ndarray

    def __post_init__(self) -> None:
        d = self.distance
        if not isinstance(d, np.ndarray) or d.ndim != 1 or not d.size or d.dtype.kind != "f" or not (d >= 0).all():
            raise ValueError(f"distance: expected numbers (N,) of at least 0, infinity for a failure, got {d!r}")

    def quantile(self, q: float) -> float:
        """Return the smallest distance within which at least the share q of the examples is broken.

        It is always one of the distances, since a number and infinity cannot be interpolated.
        """
        q = check_share("q", q)
        rank = math.ceil(q * len(self.distance) * (1 - 1e-12))  # rounded, 0.07 * 100 is more than 7
        return float(np.sort(self.distance)[max(rank, 1) - 1])

    @property
    def median(self) -> float:
        """The smallest distance within which half of the examples are broken."""
        return self.quantile(0.5)

    def within(self, r: Any) -> Rate:
        """Return how many examples are broken within each distance r (a number, or an array of any shape)."""
        radii = as_numbers(r)
        if radii is None or not (radii >= 0).all():
            raise ValueError(f"r: expected distances of at least 0, got {r!r}")
        hits = np.searchsorted(np.sort(self.distance[np.isfinite(self.distance)]), radii, side="right")
        return Rate(hits, np.full(radii.shape, len(self.distance)))

    def cdf(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the empirical distribution function: the finite distances in order, and the share of examples within each."""
        radii = np.unique(self.distance[np.isfinite(self.distance)])
        return radii, self.within(radii).rate
