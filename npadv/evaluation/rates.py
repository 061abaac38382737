"""Rates, with confidence intervals for the rate among all examples of the same kind.

If k of n examples are hits, the rate is k / n, and Wilson's interval is the set of all rates p that k does not contradict,

    |k / n - p| <= z sqrt(p (1 - p) / n),    z = 1.96 for 95%

a quadratic inequality in p. Unlike the textbook interval k / n +- z sqrt(...), it stays within [0, 1] and keeps a width
where none or all are hits.

Reference: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from statistics import NormalDist
from typing import Any

import numpy as np


def wilson(hits: Any, count: Any, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends of Wilson's interval for each rate hits / count; NaN where the count is 0.

    Parameters
    ----------
    hits, count : integers, or arrays of them
        The number of hits, and of examples.
    confidence : float
        The probability that such an interval contains the true rate.

    Examples
    --------
    With no hit among 100 examples, the rate may still be 3.7%:

    >>> low, high = wilson(0, 100)
    >>> float(low), round(float(high), 4)
    (0.0, 0.037)
    """
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
    k, n = _counts(hits, count)
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        p = k / n
        centre, half = p + z2 / (2 * n), np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n)))
        low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    # At these two ends the exact values are 0 and 1; the differences above would add a rounding error.
    return np.where(k == 0, 0 * p, low), np.where(k == n, p, high)


@dataclass(frozen=True, eq=False)
class Rate:
    """Numbers of hits and of examples, integer arrays of one shape, and their rates.

    >>> rate = Rate(np.array([5, 0]), np.array([100, 0]))
    >>> rate.rate, rate.low.round(3), rate.high.round(3)  # without an example, the rate is unknown
    (array([0.05,  nan]), array([0.022,   nan]), array([0.112,   nan]))
    """

    hits: np.ndarray
    count: np.ndarray

    def __post_init__(self) -> None:
        _counts(self.hits, self.count)

    @property
    def rate(self) -> np.ndarray:
        """The share of hits; NaN where there is no example."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.asarray(self.hits) / self.count)

    @property
    def low(self) -> np.ndarray:
        """The lower end of the 95% interval."""
        return wilson(self.hits, self.count)[0]

    @property
    def high(self) -> np.ndarray:
        """The upper end of the 95% interval."""
        return wilson(self.hits, self.count)[1]


def clearly_more(first: int, second: int, level: float = 0.01) -> bool:
    """Return whether the first of two methods is better: the sign test.

    ``first`` and ``second`` count the examples on which only the first, or only the second, succeeds. If both methods were
    equally good, each of these examples would be the toss of a fair coin. The first is better if the probability of at
    least ``first`` heads is below ``level``.

    >>> clearly_more(5, 0), clearly_more(7, 0), clearly_more(60, 40), clearly_more(70, 40)
    (False, True, False, True)
    """
    from scipy.special import betainc

    return first > second and float(betainc(first, second + 1, 0.5)) < level


def _counts(hits: Any, count: Any) -> tuple[np.ndarray, np.ndarray]:
    k, n = np.asarray(hits), np.asarray(count)
    for name, value in (("hits", k), ("count", n)):
        if value.dtype.kind not in "iu":
            raise ValueError(f"{name}: expected integers, got dtype {value.dtype}")
    if ((k < 0) | (k > n)).any():
        raise ValueError("hits: expected from 0 up to count, got less or more")
    return k, n
