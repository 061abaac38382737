"""The saliency-map attack: few pixels, each changed by a lot.

With a_i = dz_t / dx_i, what pixel i does for the target t, and b_i = sum_{j != t} dz_j / dx_i, what it does for all others,
a pair (p, q) of pixels to increase is chosen by

    max  (a_p + a_q) * |b_p + b_q|    over    a_p + a_q > 0,  b_p + b_q < 0

moved by ``theta``, and so on until the class is reached. Pixels are decreased with both signs turned, and single pixels are
chosen by a_i |b_i| alone. z are logits, as in the paper's experiments: of probabilities, which sum to 1, b would be -a.

Of 784 pixels there are 306,936 pairs, but few can win. Where another pixel has both a larger a and a smaller b, it can take
the place of the first in any pair but one of the two: a pixel behind two others is in no best pair that they are not as good
in, and only the front and the layer behind it are paired (``best_pairs``).

Reference: Papernot, McDaniel, Jha, Fredrikson, Celik and Swami 2016, "The limitations of deep learning in adversarial
settings", equations 8 and 9 and algorithm 3; [WG] 1.2.4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_inputs, check_logits, check_positive
from npadv.attacks.result import (
    AttackResult,
    Bounds,
    Model,
    check_gradient,
    first_predictions,
    input_gradient,
    make_result,
)
from npadv.autodiff import Tensor, value_of
from npadv.backend import Array, like, to_numpy, xp_of

CHUNK = 1 << 22
"""Pairs compared at a time: 32 MiB of numbers."""

FEW = 8
"""Pixels whose pairs show how good the best will be at least."""


@dataclass(frozen=True)
class JSMAResult(AttackResult):
    """An attack's result; ``distance`` is the number of pixels that were changed."""


def jsma(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    theta: float = 1.0,
    pixels: int | None = None,
    pairs: bool = True,
    increase: bool = True,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> JSMAResult:
    """Change the pixels that do most for the target and most against all other classes, until it is reached.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K), recorded by the tape.
    x : (N, ...) array
        Examples within ``bounds``.
    y : (N,) integers, optional
        The targets, or the classes to leave; by default the model's own predictions.
    theta : float
        By how much a chosen pixel is moved, in units of x, within the box. A pixel can be chosen again until it is at its end.
    pixels : int, optional
        The most pixels to change; by default a tenth of them, at least 2.
    pairs : bool
        Choose two pixels at a time, as the paper does, or one.
    increase : bool
        Make pixels brighter, or darker.
    targeted : bool
        Whether y are classes to reach. If not, the roles are turned: pixels do against y, and for all others.
    bounds : (low, high)
        The box.

    Returns
    -------
    JSMAResult
        ``distance`` counts the changed pixels; 3 queries an example and 1 more for each step, or 2 for one that is there
        already. ``flags["not_converged"]``: the budget was spent, or no pixel (pair) was left that helps, before the class
        changed. The search for pixels runs on the host.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    The first and the last pixel speak for class 1 and against class 0:

    >>> weights = np.array([[-1.0, 3.0], [2.0, 0.0], [0.0, 0.5], [-2.0, 1.0]])
    >>> result = jsma(lambda x: x @ weights, np.array([[0.0, 1.0, 0.0, 0.0]]), np.array([1]), targeted=True)
    >>> result.x_adv, bool(result.success[0]), result.distance
    (array([[1., 1., 0., 1.]]), True, array([2]))
    """
    check_inputs(x, bounds=bounds)
    check_positive("theta", theta)
    if pixels is None:
        pixels = max(2, int(np.prod(x.shape[1:])) // 10)
    check_count("pixels", pixels)
    _, y, before = first_predictions(model, x, y, targeted=targeted)
    xp, towards = xp_of(x), 1 if increase else -1

    x_adv, taken = x.copy(), xp.zeros(len(x), dtype=int)
    flags = {name: xp.zeros(len(x), dtype=bool) for name in ("zero_gradient", "non_finite_gradient")}
    stuck = np.zeros(len(x), dtype=bool)  # spent its budget, or found nothing to change
    going = np.flatnonzero(_missing(before, y, targeted))
    first = True
    while len(going):
        # One look tells who has arrived, and has the gradients of those who have not.
        everyone = like(going, x)
        inputs = Tensor(x_adv[everyone], requires_grad=True)
        output = model(inputs)
        missing = _missing(check_logits(output, len(going)).argmax(axis=1), y[everyone], targeted)
        taken[everyone] = taken[everyone] + 1
        going = going[missing]
        if len(going) == 0:
            break
        a, b, seen = _saliency(output, inputs, y[everyone], targeted)
        left, here = like(going, x), like(np.flatnonzero(missing), x)
        flags["non_finite_gradient"][left] = flags["non_finite_gradient"][left] | seen["non_finite_gradient"][here]
        if first:
            flags["zero_gradient"][left], first = seen["zero_gradient"][here], False

        point = x_adv[left]
        rows, begun = _host(point), _host(point != x[left])
        room = rows < x.dtype.type(bounds[1]) if increase else rows > x.dtype.type(bounds[0])
        budget = pixels - begun.sum(axis=1)
        # With room for one new pixel the other of a pair must be one that was changed before: then singles are taken.
        chosen = np.full((len(going), 2), -1)
        fits = pairs & (budget >= 2)
        a, b = towards * _host(a[here]), -towards * _host(b[here])
        chosen[fits] = best_pairs(a[fits], b[fits], room[fits])
        usable = room & (begun | (budget[:, None] >= 1))
        chosen[~fits, 0] = best_pixels(a[~fits], b[~fits], usable[~fits])

        found = chosen[:, 0] >= 0
        mask = np.zeros(rows.shape, dtype=x.dtype)
        for one in chosen[found].T:
            mask[np.flatnonzero(found)[one >= 0], one[one >= 0]] = 1
        step = like(mask.reshape(point.shape), x) * x.dtype.type(towards * theta)
        x_adv[left] = xp.clip(point + step, *bounds)
        stuck[going[~found]] = True
        going = going[found]

    result = make_result(
        model,
        x,
        x_adv,
        y,
        kind="l1",
        targeted=targeted,
        queries=1 + taken,
        before=before,
        flags={**flags, "not_converged": like(stuck, x)},
    )
    changed = (x_adv != x).reshape(len(x), -1).sum(axis=1)
    return JSMAResult(**vars(replace(result, distance=changed)))


def best_pixels(a: np.ndarray, b: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return, for each of N examples, the usable pixel of the largest a * b with both positive, or -1: (N, d) to (N,)."""
    good = usable & (a > 0) & (b > 0)
    score = np.where(good, a * b, -1.0)
    return np.where(good.any(axis=1), score.argmax(axis=1), -1)


def best_pairs(a: np.ndarray, b: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return, for each of N examples, the usable pair of the largest (a_p + a_q)(b_p + b_q), both sums positive.

    (N, d) gives (N, 2) pixels p != q, or -1 twice where there is none. In decreasing order of a, a pixel can be left out if
    two before it have at least its b: one of the two is not its partner, and does as well in its place. So the second
    largest b seen so far is the bar, and the pairs are those of what is above it.

    >>> a, b = np.array([[3.0, 1.0, 2.0, -9.0]]), np.array([[-1.0, 2.0, 2.0, 9.0]])
    >>> best_pairs(a, b, np.ones((1, 4), bool))  # (1 + 2) * (2 + 2)
    array([[2, 1]])
    """
    n, d = a.shape
    if n == 0 or d < 2:
        return np.full((n, 2), -1)
    a, b = (np.where(usable, v.astype(np.float64), -np.inf) for v in (a, b))
    front, a, b = _kept(_promising(a, b), np.broadcast_to(np.arange(d), (n, d)), a, b)
    order = np.argsort(-a, axis=1, kind="stable")
    front, a, b = (np.take_along_axis(v, order, axis=1) for v in (front, a, b))
    none = np.full((n, 1), -np.inf)
    largest = np.hstack([none, np.maximum.accumulate(b, axis=1)[:, :-1]])  # of those before
    second = np.hstack([none, np.maximum.accumulate(np.minimum(b, largest), axis=1)[:, :-1]])
    front, a, b = _kept(b > second, front, a, b)

    m = front.shape[1]
    p, q = np.triu_indices(m, 1)
    chosen = np.full((n, 2), -1)
    size = max(1, CHUNK // len(p))
    for start in range(0, n, size):
        rows = slice(start, start + size)
        up, down = a[rows][:, p] + a[rows][:, q], b[rows][:, p] + b[rows][:, q]
        good = (up > 0) & (down > 0)
        score = np.multiply(up, down, out=np.full(up.shape, -1.0), where=good)
        best = score.argmax(axis=1)
        pair = np.stack([p[best], q[best]], axis=1)
        chosen[rows] = np.where(good.any(axis=1)[:, None], np.take_along_axis(front[rows], pair, axis=1), -1)
    return chosen


def _promising(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return which pixels may be in a best pair, for all that a look at each alone can tell: (N, d) to (N, d).

    With the largest a and the largest b of all, a pixel would do at least as well as with any partner. What then is below
    the best pair of a few is out.
    """
    up, down = a + a.max(axis=1, keepdims=True), b + b.max(axis=1, keepdims=True)
    hope = np.multiply(up, down, out=np.full(a.shape, -1.0), where=(up > 0) & (down > 0))
    few = np.argpartition(hope, -min(FEW, a.shape[1]), axis=1)[:, -FEW:]
    p, q = np.triu_indices(few.shape[1], 1)
    a, b = np.take_along_axis(a, few, axis=1), np.take_along_axis(b, few, axis=1)
    up, down = a[:, p] + a[:, q], b[:, p] + b[:, q]
    score = np.multiply(up, down, out=np.zeros(up.shape), where=(up > 0) & (down > 0))
    return np.asarray(hope >= score.max(axis=1, keepdims=True))


def _kept(kept: np.ndarray, pixels: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the kept columns of each row, in order, as (N, m) of the pixels, a and b; fillers have a and b of -inf."""
    m = max(2, int(kept.sum(axis=1).max()))
    columns = np.argsort(~kept, axis=1, kind="stable")[:, :m]
    alive = np.take_along_axis(kept, columns, axis=1)
    a, b = (np.where(alive, np.take_along_axis(v, columns, axis=1), -np.inf) for v in (a, b))
    return np.take_along_axis(pixels, columns, axis=1), a, b


def _saliency(output: Any, inputs: Tensor, y: Array, targeted: bool) -> tuple[Array, Array, dict[str, Array]]:
    """Return a and b for class y, negated if it is to be left, and the flags of the two."""
    logits = value_of(output)
    one = xp_of(logits).eye(logits.shape[1], dtype=logits.dtype)[y]
    sign = 1 if targeted else -1
    a, flags = check_gradient(input_gradient(output, inputs, sign * one))
    b, more = check_gradient(input_gradient(output, inputs, sign * (1 - one)))
    return (
        a,
        b,
        {
            "zero_gradient": flags["zero_gradient"] & more["zero_gradient"],
            "non_finite_gradient": flags["non_finite_gradient"] | more["non_finite_gradient"],
        },
    )


def _missing(prediction: Array, y: Array, targeted: bool) -> np.ndarray:
    """Return which are not yet where they should be: (N,) on the host."""
    return to_numpy(prediction != y) if targeted else to_numpy(prediction == y)


def _host(x: Array) -> np.ndarray:
    """Return (N, ...) as (N, d) on the host."""
    return to_numpy(x).reshape(len(x), -1)
