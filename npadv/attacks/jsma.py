"""The saliency-map attack: few pixels, each changed by a lot.

With a_i = dz_t / dx_i, the effect of pixel i on the target t, and b_i = sum_{j != t} dz_j / dx_i, its effect on all other
classes, the pair (p, q) of pixels to increase is

    argmax  (a_p + a_q) * |b_p + b_q|    over    a_p + a_q > 0,  b_p + b_q < 0

Both are moved by ``theta``, and so on until the class is reached. To decrease pixels both signs are turned, and single pixels
are chosen by a_i |b_i| alone. z are logits, as in the paper's experiments: of probabilities, which sum to 1, b would be -a.

Below, b stands for -b, so that both sums have to be positive.

Reference: Papernot, McDaniel, Jha, Fredrikson, Celik and Swami 2016, "The limitations of deep learning in adversarial
settings", equations 8 and 9 and algorithm 3; [WG] 1.2.4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_flag, check_inputs, check_logits, check_positive
from npadv.attacks.result import (
    AttackResult,
    Bounds,
    Flags,
    Model,
    check_gradient,
    first_predictions,
    goal_reached,
    indices_of,
    input_gradient,
    make_result,
    records,
)
from npadv.autodiff import Tensor, value_of
from npadv.backend import Array, like, to_numpy, xp_of


def compare_all_pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return, for each of N examples, the pair p < q with the largest (a_p + a_q)(b_p + b_q), both sums positive.

    (N, d) gives (N, 2), or -1 twice where there is no such pair.

    >>> compare_all_pairs(np.array([[3.0, 1.0, 2.0, -9.0]]), np.array([[-1.0, 2.0, 2.0, 9.0]]))  # (1 + 2) * (2 + 2)
    array([[1, 2]])
    """
    p, q = np.triu_indices(a.shape[1], 1)
    up, down = a[:, p] + a[:, q], b[:, p] + b[:, q]
    good = (up > 0) & (down > 0)
    score = np.multiply(up, down, out=np.full(up.shape, -1.0), where=good)
    best = score.argmax(axis=1)
    return np.where(good.any(axis=1)[:, None], np.stack([p[best], q[best]], axis=1), -1)


@dataclass(frozen=True)
class JSMAResult(AttackResult):
    """The result of the attack; ``distance`` is the number of pixels that were changed."""


@records
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
    model, x, y : see npadv.attacks
    theta : float
        The change of a chosen pixel, in units of x, within the box. A pixel can be chosen again until the box stops it.
    pixels : int, optional
        The most pixels to change; by default a tenth of them, at least 2.
    pairs : bool
        Choose two pixels at a time, as the paper does, or one.
    increase : bool
        Make pixels brighter, or darker.
    targeted : bool
        Reach the classes y. Otherwise the classes exchange their parts: the pixels act against y and for all others.
    bounds : see npadv.attacks

    Returns
    -------
    JSMAResult
        ``distance`` counts the changed pixels; 3 queries an example and 1 more for each step, or 2 where no step is needed.
        ``flags["not_converged"]``: before the class changed, all ``pixels`` were used or no pixel (pair) was left that helps.
        The search for pixels runs on the host.

    Examples
    --------
    The first and the last pixel speak for class 1 and against class 0:

    >>> weights = np.array([[-1.0, 3.0], [2.0, 0.0], [0.0, 0.5], [-2.0, 1.0]])
    >>> result = jsma(lambda x: x @ weights, np.array([[0.0, 1.0, 0.0, 0.0]]), np.array([1]), targeted=True)
    >>> result.x_adv, bool(result.success[0]), result.distance
    (array([[1., 1., 0., 1.]]), True, array([2]))
    """
    _, bounds = check_inputs(x, bounds=bounds)
    theta = check_positive("theta", theta)
    check_flag("pairs", pairs)
    check_flag("increase", increase)
    if pixels is None:
        pixels = max(2, int(np.prod(x.shape[1:])) // 10)
    check_count("pixels", pixels)
    _, y, before = first_predictions(model, x, y, targeted=targeted)
    xp, sign = xp_of(x), 1 if increase else -1

    x_adv, taken = x.copy(), xp.zeros(len(x), dtype=int)
    flags = {name: xp.zeros(len(x), dtype=bool) for name in ("zero_gradient", "non_finite_gradient", "not_converged")}
    going = indices_of(~goal_reached(before, y, targeted))
    while len(going):
        # One query finds which examples have arrived, and its gradients are those of the others.
        inputs = Tensor(x_adv[going], requires_grad=True)
        output = model(inputs)
        prediction = check_logits(output, len(going)).argmax(axis=1)
        taken[going] += 1
        left = indices_of(~goal_reached(prediction, y[going], targeted))
        if len(left) == 0:
            break
        a, b, seen = _saliency(output, inputs, y[going], targeted)
        going = going[left]
        flags["zero_gradient"][going] |= seen["zero_gradient"][left] & (taken[going] == 1)
        flags["non_finite_gradient"][going] |= seen["non_finite_gradient"][left]

        point = x_adv[going]
        room = point < bounds[1] if increase else point > bounds[0]
        a, b, room, begun = (_host(rows) for rows in (sign * a[left], sign * b[left], room, point != x[going]))
        chosen = _choose_pixels(a, b, room, begun, pixels - begun.sum(axis=1), pairs)
        step = like(chosen.reshape(point.shape).astype(x.dtype), x) * (sign * theta)
        x_adv[going] = xp.clip(point + step, *bounds)
        found = chosen.any(axis=1)
        flags["not_converged"][going[indices_of(like(~found, x))]] = True
        going = going[indices_of(like(found, x))]

    queries = 1 + taken
    result = make_result(model, x, x_adv, y, kind="l1", targeted=targeted, queries=queries, before=before, flags=flags)
    changed = (x_adv != x).reshape(len(x), -1).sum(axis=1)
    return JSMAResult(**vars(replace(result, distance=changed)))


def _saliency(output: Any, inputs: Tensor, y: Array, targeted: bool) -> tuple[Array, Array, Flags]:
    """Return a and b for class y, with their signs turned if it is to be left, and the flags of the two gradients."""
    logits = value_of(output)
    one = xp_of(logits).eye(logits.shape[1], dtype=logits.dtype)[y]
    sign = 1 if targeted else -1
    a, flags = check_gradient(input_gradient(output, inputs, sign * one))
    b, more = check_gradient(input_gradient(output, inputs, -sign * (1 - one)))
    both = {
        "zero_gradient": flags["zero_gradient"] & more["zero_gradient"],
        "non_finite_gradient": flags["non_finite_gradient"] | more["non_finite_gradient"],
    }
    return a, b, both


def _choose_pixels(
    a: np.ndarray, b: np.ndarray, room: np.ndarray, begun: np.ndarray, budget: np.ndarray, pairs: bool
) -> np.ndarray:
    """Return the pixels to move, two or one for each example, none where none helps: (N, d) bool.

    ``room``: the pixels that the box lets move; ``begun``: those that were changed before; ``budget`` (N,): how many more
    may be changed.
    """
    chosen = np.zeros(a.shape, bool)
    two = pairs & (budget >= 2)  # with less, one pixel of a pair would have to be among those changed before
    best = np.full((len(a), 2), -1)
    best[two] = best_pairs(a[two], b[two], room[two])
    usable = room & (begun | (budget[:, None] >= 1))
    best[~two, 0] = best_pixels(a[~two], b[~two], usable[~two])
    for pixel in best.T:
        rows = np.flatnonzero(pixel >= 0)
        chosen[rows, pixel[rows]] = True
    return chosen


def best_pixels(a: np.ndarray, b: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return, for each of N examples, the usable pixel of the largest a * b with both positive, or -1: (N, d) to (N,)."""
    good = usable & (a > 0) & (b > 0)
    score = np.where(good, a * b, -1.0)
    return np.where(good.any(axis=1), score.argmax(axis=1), -1)


# The best pair with few comparisons -----------------------------------------------------------------------------------

CHUNK = 1 << 22
"""Pairs compared at a time: 32 MiB of numbers."""

SAMPLE = 8
"""Pixels whose pairs give a first lower bound of the best score."""


def best_pairs(a: np.ndarray, b: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return the best pairs of usable pixels, as ``compare_all_pairs`` does, with far fewer comparisons.

    Of 784 pixels there are 306,936 pairs, but few pixels can be in the best one. A pixel *dominated* by two others, whose a
    and b are both at least its own, never improves the best pair: one of the two is not its partner, and can take its place
    without loss. In decreasing order of a, a pixel is dominated if its b is not above the second largest b before it. Only
    the pixels that are not dominated are paired.

    >>> a, b = np.array([[3.0, 1.0, 2.0, -9.0]]), np.array([[-1.0, 2.0, 2.0, 9.0]])
    >>> best_pairs(a, b, np.ones((1, 4), bool))
    array([[2, 1]])
    """
    n, d = a.shape
    if n == 0 or d < 2:
        return np.full((n, 2), -1)
    a, b = (np.where(usable, v.astype(np.float64), -np.inf) for v in (a, b))
    pixels, a, b = _compress(_promising(a, b), np.broadcast_to(np.arange(d), (n, d)), a, b)
    order = np.argsort(-a, axis=1, kind="stable")
    pixels, a, b = (np.take_along_axis(v, order, axis=1) for v in (pixels, a, b))
    none = np.full((n, 1), -np.inf)
    largest = np.hstack([none, np.maximum.accumulate(b, axis=1)[:, :-1]])  # of those before
    second = np.hstack([none, np.maximum.accumulate(np.minimum(b, largest), axis=1)[:, :-1]])
    pixels, a, b = _compress(b > second, pixels, a, b)

    m = pixels.shape[1]
    size = max(1, CHUNK // (m * (m - 1) // 2))
    best = np.concatenate([compare_all_pairs(a[i : i + size], b[i : i + size]) for i in range(0, n, size)])
    return np.where(best >= 0, np.take_along_axis(pixels, best, axis=1), -1)


def _promising(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the pixels that may be in a best pair, by a bound for each alone: (N, d) to (N, d) bool.

    No pair of a pixel scores more than it would with a partner of the largest a and the largest b. If that is less than the
    best score among a few pixels, the pixel is not in the best pair.
    """
    up, down = a + a.max(axis=1, keepdims=True), b + b.max(axis=1, keepdims=True)
    bound = np.multiply(up, down, out=np.full(a.shape, -1.0), where=(up > 0) & (down > 0))
    few = np.argpartition(bound, -min(SAMPLE, a.shape[1]), axis=1)[:, -SAMPLE:]
    p, q = np.triu_indices(few.shape[1], 1)
    a, b = np.take_along_axis(a, few, axis=1), np.take_along_axis(b, few, axis=1)
    up, down = a[:, p] + a[:, q], b[:, p] + b[:, q]
    score = np.multiply(up, down, out=np.zeros(up.shape), where=(up > 0) & (down > 0))
    return np.asarray(bound >= score.max(axis=1, keepdims=True))


def _compress(mask: np.ndarray, pixels: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the columns of each row that a mask selects: (N, m) pixels, a and b, filled up with a and b of -inf."""
    m = max(2, int(mask.sum(axis=1).max()))
    columns = np.argsort(~mask, axis=1, kind="stable")[:, :m]
    selected = np.take_along_axis(mask, columns, axis=1)
    a, b = (np.where(selected, np.take_along_axis(v, columns, axis=1), -np.inf) for v in (a, b))
    return np.take_along_axis(pixels, columns, axis=1), a, b


def _host(rows: Array) -> np.ndarray:
    """Return (N, ...) as (N, d) on the host."""
    return to_numpy(rows).reshape(len(rows), -1)
