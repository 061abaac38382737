"""The two-loop recursion of L-BFGS for many problems at once, in matrix products.

``lbfgs_plain.two_loops`` reads every pair (s, y) twice, one after the other, for one problem. But the recursion needs no
vector for its coefficients: its inner products can all be written in those of s, y and g with each other. So here

1. one matrix product for each problem computes all of these inner products, (2 M, M + 1) numbers;
2. the two loops run over these numbers alone, for all problems side by side, and find how much of each s and y the
   direction holds;
3. a second matrix product adds the s and y up.

A pair that is not there, or that has no positive curvature among the free pixels, takes part with weight rho = 0.
"""

from __future__ import annotations

from collections.abc import Callable

from npadv.attacks.box_optimization import Box, rowdot
from npadv.attacks.lbfgs_plain import CURVED, MEMORY
from npadv.backend import Array, xp_of


def directions(
    x: Array,
    gradient: Array,
    pairs: Array,
    stored: Array,
    free: Array,
    box: Box,
    first_step: Callable[[Array], Array],
) -> Array:
    """Return -H g over the free pixels and 0 for the others, as ``lbfgs_plain.direction`` does: (B, D).

    Parameters
    ----------
    x, gradient : (B, D) arrays
        The points and the gradients there.
    pairs : (B, 2 M, D) array
        M steps s, then M gradient changes y. A problem's k-th pair is at row k mod M.
    stored : (B,) integers
        The number of pairs that each problem has stored so far, overwritten ones included.
    free : (B, D) bool
        The pixels that may move.
    first_step : callable
        From ||g|| over the free pixels to the factor for -g where there is no pair: (B,) to (B,).
    """
    xp, m, n = xp_of(x), MEMORY, len(x)
    g = xp.where(free, gradient, 0.0)
    cut = xp.concatenate([pairs[:, m:] * free[:, None, :], g[:, None, :]], axis=1)  # (B, M + 1, D): y and g
    products = pairs @ cut.transpose(0, 2, 1)  # (B, 2 M, M + 1): s and y times y and g

    # Sorted by age, the newest pair first.
    age = xp.arange(m)
    order = (stored[:, None] - 1 - age) % m  # (B, M)
    rows = xp.arange(n)[:, None]
    i, j = order[:, :, None], order[:, None, :]
    sy, yy = products[rows[:, :, None], i, j], products[rows[:, :, None], i + m, j]
    sg, yg = products[rows, order, m], products[rows, order + m, m]
    curvature, size = sy.reshape(n, -1)[:, :: m + 1], yy.reshape(n, -1)[:, :: m + 1]  # s.y and y.y of each pair
    valid = (age < stored[:, None]) & (curvature > CURVED * size)
    rho = xp.where(valid, 1 / xp.where(valid, curvature, 1.0), 0.0)

    # gamma = s.y / y.y of the newest pair; the first step where there is none.
    first = first_step(xp.sqrt(rowdot(g, g)))
    newest = valid.argmax(axis=1)[:, None]
    s_y, y_y = (xp.take_along_axis(a, newest, axis=1)[:, 0] for a in (curvature, size))
    any_pair = valid.any(axis=1)
    gamma = xp.where(any_pair, s_y / xp.where(any_pair, y_y, 1.0), first)

    # q = g - sum_k a_k y_k from the newest pair to the oldest, then r = gamma q + sum_k c_k s_k back to the newest.
    a, c = xp.zeros((n, m)), xp.zeros((n, m))
    for k in range(m):
        a[:, k] = rho[:, k] * (sg[:, k] - (sy[:, k] * a).sum(axis=1))
    for k in reversed(range(m)):
        b = gamma * (yg[:, k] - (yy[:, k] * a).sum(axis=1)) + (sy[:, :, k] * c).sum(axis=1)
        c[:, k] = a[:, k] - rho[:, k] * b
    weights = xp.zeros((n, 2 * m))
    weights[rows, order], weights[rows, order + m] = c, -gamma[:, None] * a
    d = xp.where(free, -gamma[:, None] * g - (weights[:, None, :] @ pairs)[:, 0], 0.0)

    # The projection onto the box can turn a direction of descent into one of ascent. It cannot do so to -g.
    moved = xp.clip(x + d, *box) - x
    return xp.where((rowdot(moved, g) < 0)[:, None], d, -first[:, None] * g)
