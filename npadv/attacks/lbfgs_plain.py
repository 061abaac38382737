"""L-BFGS within a box, for one problem: what ``lbfgs_batched.py`` computes for many at once.

One iteration, from x with gradient g (P is the projection onto the box):

    d = -H g        over the free pixels; 0 for a pixel that lies at an end of the box and would leave it
    x <- P(x + alpha d)    with alpha = 1, 1/2, 1/4, ... until f falls by a share of the decrease that its gradient predicts

H approximates the inverse Hessian. It is never formed: the last steps s_k = x_{k+1} - x_k and gradient changes
y_k = g_{k+1} - g_k define it, and two loops over these pairs multiply it by a vector (Nocedal and Wright, "Numerical
optimization", algorithm 7.4).

Nothing in npadv but its tests calls this file. It is here to be read first, and the tests hold the fast version to it.

References: Nocedal 1980, "Updating quasi-Newton matrices with limited storage"; Bertsekas 1982, "Projected Newton methods
for optimization problems with simple constraints".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]
"""A step s and the change y of the gradient along it, both (D,)."""

MEMORY = 7  # how many pairs are kept
ARMIJO = 1e-4  # the share of the predicted decrease that a step has to bring
CURVED = 1e-14  # the least s.y / y.y of a pair: below it f does not curve upwards along s


def minimize(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    low: float | np.ndarray,
    high: float | np.ndarray,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
) -> np.ndarray:
    """Return a minimum of a function, which returns its value and gradient at a point (D,), within the box.

    The parabola (x - 2)^2 + y^2 over the unit square:

    >>> minimize(lambda x: (float((x - [2, 0]) @ (x - [2, 0])), 2 * (x - [2, 0])), np.array([0.5, 0.5]), 0.0, 1.0)
    array([1., 0.])
    """
    x = start
    f, g = function(x)
    pairs: deque[Pair] = deque(maxlen=MEMORY)
    for _ in range(max_iterations):
        if np.abs(np.clip(x - g, low, high) - x).max() <= tolerance:  # the residual: see box_optimization.py
            break
        d = direction(x, g, pairs, low, high)
        alpha = 1.0
        while True:
            trial = np.clip(x + alpha * d, low, high)
            f_trial, g_trial = function(trial)
            if f_trial <= f + ARMIJO * g @ (trial - x):
                break
            alpha /= 2
        s, y = trial - x, g_trial - g
        if s @ y > CURVED * (y @ y):
            pairs.append((s, y))
        x, f, g = trial, f_trial, g_trial
    return x


def direction(
    x: np.ndarray,
    g: np.ndarray,
    pairs: Sequence[Pair] | deque[Pair],
    low: float | np.ndarray,
    high: float | np.ndarray,
) -> np.ndarray:
    """Return -H g over the free pixels and 0 for the others; without a usable pair, -g at length 1."""
    free = ~(((x <= low) & (g > 0)) | ((x >= high) & (g < 0)))
    g = np.where(free, g, 0)
    cut = [(np.where(free, s, 0), np.where(free, y, 0)) for s, y in pairs]
    usable = [(s, y) for s, y in cut if s @ y > CURVED * (y @ y)]  # cut down, a pair may have lost its curvature
    downhill: np.ndarray = -g / np.linalg.norm(g)
    if not usable:
        return downhill
    s, y = usable[-1]
    d: np.ndarray = -two_loops(g, usable, gamma=(s @ y) / (y @ y))
    # The projection onto the box can turn a direction of descent into one of ascent. It cannot do so to -g.
    descends = (np.clip(x + d, low, high) - x) @ g < 0
    return d if descends else downhill


def two_loops(g: np.ndarray, pairs: Sequence[Pair], gamma: float) -> np.ndarray:
    """Return H g, where H starts as gamma times the identity and the pairs, oldest first, update it."""
    q, weights = g, []
    for s, y in reversed(pairs):
        a = (s @ q) / (s @ y)
        q = q - a * y
        weights.append(a)
    r = gamma * q
    for s, y in pairs:
        b = (y @ r) / (s @ y)
        r = r + (weights.pop() - b) * s
    return r
