"""Rates of counts, with the interval in which the rate of all examples of the kind lies.

Of n examples k were hit. The rate is k / n, and Wilson's interval is the set of all rates p for which k would be no surprise,

    |k / n - p| <= z sqrt(p (1 - p) / n),    z = 1.96 for 95%

which is a quadratic in p. Unlike the interval around k / n of the textbooks it stays in [0, 1] and does not shrink to
nothing where none or all were hit.

Reference: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np


def wilson(hits: Any, count: Any, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends of Wilson's interval for each rate hits / count; NaN where the count is 0.

    Parameters
    ----------
    hits, count : integers, or arrays of them
        How many were hit, of how many.
    confidence : float
        How often such an interval holds the rate it is for.

    Examples
    --------
    None of 100 were hit: the rate may still be 3.7%.

    >>> low, high = wilson(0, 100)
    >>> float(low), round(float(high), 4)
    (0.0, 0.037)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
    k, n = _counts(hits, count)
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        p = k / n
        centre, half = p + z2 / (2 * n), np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n)))
        low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    # At the ends the interval is exact, but for the rounding of the difference.
    return np.where(k == 0, 0 * p, low), np.where(k == n, p, high)


@dataclass(frozen=True, eq=False)
class Rate:
    """How many of how many: integer arrays of one shape, and the rates they make.

    >>> rate = Rate(np.array([5, 0]), np.array([100, 0]))
    >>> rate.rate, rate.low.round(3), rate.high.round(3)  # of none nothing is known
    (array([0.05,  nan]), array([0.022,   nan]), array([0.112,   nan]))
    """

    hits: np.ndarray
    count: np.ndarray

    def __post_init__(self) -> None:
        _counts(self.hits, self.count)

    @property
    def rate(self) -> np.ndarray:
        """The share that was hit, NaN of none."""
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
    """Tell whether one of two beats the other, by how many each alone was right about: the sign test.

    If both were as good, each of the examples on which they differ would be a toss of a coin; this tells whether as many
    heads as ``first``, or more, have a chance below ``level``.

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
