"""The three norms of perturbations, their steepest-ascent directions and exact projections onto their balls.

Every function treats its argument as a batch: x (N, ...) holds N vectors, and a norm returns N numbers. Directions and
projections are plain numbers out of plain arrays; only :func:`norm` is differentiable.

The direction that increases a linear function <g, d> most under ||d|| <= 1 reaches the *dual* norm of g:

    ============  =============================  ================
    norm          direction                      gain <g, d>
    ============  =============================  ================
    l1            sign(g) at the largest |g|     max |g|
    l2            g / ||g||_2                    ||g||_2
    linf          sign(g)                        ||g||_1
    ============  =============================  ================
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv import kernels, ops
from npadv.autodiff import value_of
from npadv.backend import Array, xp_of

NORMS = ("l1", "l2", "linf")
DUAL = {"l1": "linf", "l2": "l2", "linf": "l1"}


def norm(x: Any, kind: str) -> Any:
    """Return the norm of each of N vectors: x (N, ...) to (N,). The derivative of the l2 norm at 0 is taken to be 0.

    >>> import numpy as np
    >>> [float(norm(np.array([[3.0, -4.0]]), kind)[0]) for kind in NORMS]
    [7.0, 5.0, 4.0]
    """
    check_norm(kind)
    rows = _rows(x)
    if rows.shape[1] == 0:
        return ops.sum(rows, axis=1)
    if kind == "l1":
        return ops.sum(ops.abs(rows), axis=1)
    if kind == "linf":
        return ops.max(ops.abs(rows), axis=1)
    # Scaling by the largest element keeps squares from under- and overflowing; the scale is constant nearby.
    scale = _largest(value_of(rows))
    squares = ops.sum(ops.square(rows / scale[:, None]), axis=1)
    nonzero = value_of(squares) > 0
    return ops.sqrt(ops.where(nonzero, squares, 1.0)) * (scale * nonzero)


def steepest_ascent_direction(g: Array, kind: str) -> Array:
    """Return argmax <g, d> over ||d|| <= 1 for each of N gradients: d of g's shape, 0 where g is 0.

    On CuPy the kernels of ``kernels/steepest_step.cu`` do l1 and l2 in one launch, as a step of length one from nowhere.

    >>> import numpy as np
    >>> steepest_ascent_direction(np.array([[3.0, -4.0]]), "l1")
    array([[ 0., -1.]])
    """
    check_norm(kind)
    xp = xp_of(g)
    if kind == "linf" or g.size == 0:
        return xp.sign(g)
    if xp is not np and g.dtype in (np.float32, np.float64):
        step = {"l1": kernels.l1_step, "l2": kernels.l2_step}[kind]
        return step(xp.zeros(g.shape, dtype=g.dtype), g, 1.0)
    rows = _rows(g)
    if kind == "l2":
        scaled = rows / _largest(rows)[:, None]
        length = xp.sqrt((scaled * scaled).sum(axis=1, keepdims=True))
        return (scaled / xp.where(length > 0, length, 1)).reshape(g.shape)
    first = xp.arange(rows.shape[1]) == xp.abs(rows).argmax(axis=1)[:, None]
    return (xp.sign(rows) * first).reshape(g.shape)


def sign_step(x: Array, g: Array, eps: float, bounds: tuple[float, float] | None = None) -> Array:
    """Return x + eps * sign(g), confined to the box: the steepest-ascent step in the maximum norm.

    On CuPy the kernel of ``kernels/sign_step.cu`` does it in one pass over memory.

    >>> import numpy as np
    >>> sign_step(np.array([[0.5, 0.95]]), np.array([[-2.0, 0.1]]), 0.1, bounds=(0.0, 1.0))
    array([[0.4, 1. ]])
    """
    if xp_of(x) is not np:
        return kernels.sign_step(x.copy(), g.astype(x.dtype, copy=False), eps, bounds=bounds)
    y = x + float(eps) * np.sign(g.astype(x.dtype, copy=False))
    return y if bounds is None else np.clip(y, float(bounds[0]), float(bounds[1]))


def project(x: Array, center: Array, eps: Any, kind: str, bounds: tuple[float, float] | None = None) -> Array:
    """Return the point nearest to x (in l2) within distance ``eps`` of ``center`` and within the box ``bounds``.

    Parameters
    ----------
    x, center : (N, ...)
        Points, and the centres of their balls; the centres must lie in the box.
    eps : float or (N,)
        Radius in the norm ``kind``.
    bounds : (low, high), optional
        The box, the same for every coordinate.

    Notes
    -----
    With d = x - center and r_i >= 0 the room between centre and box in the direction of d_i, the solution is, from the
    Karush-Kuhn-Tucker conditions,

        linf: d clipped to +-eps,    l2: t d,    l1: sign(d) max(|d| - tau, 0),      each then clipped to the room r,

    with the one t <= 1 or tau >= 0 that brings the norm down to eps. Both are found exactly, by sorting the points at
    which a coordinate meets its bound, and in float64, where sums of many terms keep the digits that float32 has.

    Raises
    ------
    ValueError
        Shapes that do not fit, a radius that is negative or not a number, bounds upside down, a centre outside the box.
    """
    check_norm(kind)
    xp = xp_of(x)
    if x.shape != center.shape:
        raise ValueError(f"project(center): expected x's shape {x.shape}, got {center.shape}")
    eps = xp.asarray(eps, dtype=x.dtype)
    if eps.shape not in ((), x.shape[:1]):
        raise ValueError(f"project(eps): expected a number or shape {x.shape[:1]}, got shape {eps.shape}")
    if eps.size and not float(eps.min()) >= 0:
        raise ValueError(f"project(eps): expected a radius of at least 0, got {float(eps.min())}")
    if bounds is not None and not bounds[0] <= bounds[1]:
        raise ValueError(f"project(bounds): expected low <= high, got {bounds}")
    if x.size == 0:
        return x.copy()
    if bounds is not None and not (
        bounds[0] <= center.min() and center.max() <= bounds[1]
    ):  # in center's own precision
        raise ValueError(
            f"project(center): expected values in the box [{bounds[0]}, {bounds[1]}], "
            f"got from {float(center.min())} to {float(center.max())}"
        )
    eps = xp.broadcast_to(eps, x.shape[:1])[:, None]
    d = _rows(x - center)
    size = xp.abs(d)
    room = (
        size
        if bounds is None
        else xp.minimum(size, xp.where(d > 0, bounds[1] - _rows(center), _rows(center) - bounds[0]))
    )
    if kind == "linf":
        step = xp.minimum(room, eps)
    elif kind == "l2":
        step = _l2_step(*(a.astype(xp.float64) for a in (size, room, eps))).astype(x.dtype)
    else:
        step = _l1_step(*(a.astype(xp.float64) for a in (size, room, eps))).astype(x.dtype)
    moved = center + (xp.sign(d) * step).reshape(x.shape)
    return moved if bounds is None else xp.clip(moved, bounds[0], bounds[1])


def maximise_linear(g: Array, center: Array, eps: float, kind: str, bounds: tuple[float, float] | None = None) -> Array:
    """Return argmax <g, d> over ||d|| <= eps with center + d in the box: d of g's shape, 0 where g is 0.

    With r_i the room between centre and box in the direction of g_i, the Karush-Kuhn-Tucker conditions give

        linf: |d_i| = min(eps, r_i),    l2: |d_i| = min(t |g_i|, r_i),    l1: r_i at the largest |g_i| first, up to eps

    with the one t that brings the norm to eps. Where the box is too small for that, d goes to its corner.

    >>> import numpy as np
    >>> g, center = np.array([[3.0, -4.0]]), np.array([[0.5, 0.1]])
    >>> maximise_linear(g, center, 0.3, "l1", (0.0, 1.0)).round(12)  # the second may move by 0.1
    array([[ 0.2, -0.1]])
    """
    check_norm(kind)
    xp = xp_of(g)
    size, room = _sizes_and_room(g, center, bounds)
    room = xp.minimum(room, eps)
    if kind == "linf":
        step = room
    elif kind == "l2":
        step = _l2_step(size / _largest(size)[:, None] * eps, room, xp.zeros((len(g), 1)) + eps)
    else:
        order = xp.argsort(-size, axis=1, kind="stable")
        room = xp.take_along_axis(room, order, axis=1)
        spent = xp.cumsum(room, axis=1) - room
        step = xp.take_along_axis(xp.clip(eps - spent, 0, room), xp.argsort(order, axis=1), axis=1)
    return (xp.sign(g) * step.reshape(g.shape)).astype(g.dtype)


def smallest_step(
    g: Array, center: Array, gain: Array, kind: str, bounds: tuple[float, float] | None = None
) -> tuple[Array, Array]:
    """Return argmin ||d|| over <g, d> >= gain with center + d in the box, and for which of N there is one.

    The other side of ``maximise_linear``, of the same form: |d_i| = min(t a_i, r_i) with a_i = 1 in linf and |g_i| in l2,
    and the largest |g_i| first in l1, until the gain (N,) is reached. Where the whole room does not reach it, d is the
    corner of the box, and the second array (N,) is false.

    >>> import numpy as np
    >>> d, reached = smallest_step(np.array([[3.0, -4.0]]), np.array([[0.5, 0.1]]), np.array([0.7]), "l1", (0.0, 1.0))
    >>> d.round(12), reached  # 4 * 0.1 + 3 * 0.1
    (array([[ 0.1, -0.1]]), array([ True]))
    """
    check_norm(kind)
    xp = xp_of(g)
    size, room = _sizes_and_room(g, center, bounds)
    top = _largest(size)[:, None]
    size, gain = (
        size / top,
        xp.maximum(gain.astype(xp.float64), 0)[:, None] / top,
    )  # keeps squares from under- and overflow
    room = xp.minimum(room, gain / xp.where(size > 0, size, 1))  # none has to do more than all of it alone
    reached = (size * room).sum(axis=1) >= gain[:, 0] * (1 - 1e-12)
    if kind == "l1":
        order = xp.argsort(-size, axis=1, kind="stable")
        gains = xp.take_along_axis(size * room, order, axis=1)
        before = xp.take_along_axis(xp.cumsum(gains, axis=1) - gains, xp.argsort(order, axis=1), axis=1)
        step = xp.clip((gain - before) / xp.where(size > 0, size, 1), 0, room)
    else:
        pace = size if kind == "l2" else xp.ones_like(size)
        step = xp.minimum(_time_of_gain(size, pace, room, gain) * pace, room)
    return (xp.sign(g) * step.reshape(g.shape)).astype(g.dtype), reached


def _time_of_gain(size: Array, pace: Array, room: Array, gain: Array) -> Array:
    """Return the least t at which sum(size * min(t * pace, room)) reaches the gain, or at which all are at rest.

    The sum grows ever more slowly with t, in straight pieces, so Newton's method from t = 0 never goes too far, and has
    arrived when a step leaves the same coordinates moving as the one before: a few passes instead of a sort.
    """
    xp = xp_of(size)
    t, weight = xp.zeros_like(gain), size * pace
    moving = room > 0
    while True:
        speed = (weight * moving).sum(axis=1, keepdims=True)
        missing = gain - (size * xp.minimum(t * pace, room)).sum(axis=1, keepdims=True)
        t = t + xp.maximum(missing, 0) / xp.where(speed > 0, speed, xp.inf)
        still = moving & (t * pace < room)
        if not bool((still != moving).any()):
            return t
        moving = still


def _sizes_and_room(g: Array, center: Array, bounds: tuple[float, float] | None) -> tuple[Array, Array]:
    """Return |g| and how far each coordinate can go in the direction of g, 0 where that is 0: (N, d) twice, in float64."""
    xp = xp_of(g)
    rows, middle = _rows(g).astype(xp.float64), _rows(center).astype(xp.float64)
    low, high = (-float("inf"), float("inf")) if bounds is None else bounds
    room = xp.where(rows > 0, high - middle, middle - low)
    return xp.abs(rows), xp.where(rows == 0, 0, xp.maximum(room, 0))


def _l2_step(size: Array, room: Array, eps: Array) -> Array:
    """Return min(t * size, room) with the t in [0, 1] that brings its l2 norm to eps, or room if that is within eps."""
    xp = xp_of(size)
    top = _largest(size)[:, None]
    within = xp.minimum(eps, top * (size.shape[1] + 1)) / top  # more than the norm can be is as good as any more
    share, bound = size / top, room / top  # keeps the squares from under- and overflowing
    meets = xp.where(share > 0, bound / xp.where(share > 0, share, 1), 1)  # the t at which a coordinate meets its bound
    order = xp.argsort(meets, axis=1)
    meets, bound2, share2 = (xp.take_along_axis(a, order, axis=1) for a in (meets, bound * bound, share * share))
    # Up to the k-th meeting point, k coordinates rest at their bound and the others still grow with t.
    resting = xp.cumsum(bound2, axis=1) - bound2
    growing = xp.cumsum(share2[:, ::-1], axis=1)[:, ::-1]
    reached = resting + meets * meets * growing >= within * within
    k = xp.where(reached.any(axis=1), reached.argmax(axis=1), -1)[:, None]
    resting, growing = (xp.take_along_axis(a, xp.maximum(k, 0), axis=1) for a in (resting, growing))
    t = xp.sqrt(xp.maximum(within * within - resting, 0) / xp.where(growing > 0, growing, 1))
    return xp.where(k < 0, room, xp.minimum(room, t * size))


def _l1_step(size: Array, room: Array, eps: Array) -> Array:
    """Return min(max(size - tau, 0), room) with the tau >= 0 that brings its sum to eps, or room if that is within eps."""
    xp = xp_of(size)
    # Measured from the largest element down, where small results keep their digits: tau = top - reach. As the reach
    # grows, a coordinate starts to contribute at its depth = top - size and stops growing at depth + room.
    depth = size.max(axis=1, keepdims=True) - size
    corners = xp.concatenate([depth, depth + room], axis=1)
    slopes = xp.concatenate([xp.ones_like(size), -xp.ones_like(size)], axis=1)
    order = xp.argsort(corners, axis=1)
    corners, slopes = xp.take_along_axis(corners, order, axis=1), xp.take_along_axis(slopes, order, axis=1)
    growing = xp.cumsum(slopes, axis=1)[:, :-1]  # how many coordinates grow between each corner and the next
    gained = growing * (corners[:, 1:] - corners[:, :-1])
    total = xp.cumsum(gained, axis=1)  # the sum at the next corner
    reached = total >= eps
    k = xp.where(reached.any(axis=1), reached.argmax(axis=1), -1)[:, None]
    corner, count, before = (
        xp.take_along_axis(a, xp.maximum(k, 0), axis=1) for a in (corners, growing, total - gained)
    )
    reach = corner + (eps - before) / xp.maximum(count, 1)
    return xp.where(k < 0, room, xp.minimum(room, xp.maximum(reach - depth, 0)))


def check_norm(kind: str) -> None:
    """Raise a ValueError unless ``kind`` names one of the three norms."""
    if kind not in NORMS:
        raise ValueError(f"norm: expected one of {', '.join(NORMS)}, got {kind!r}")


def _rows(x: Any) -> Any:
    """Return (N, ...) as (N, the rest)."""
    if x.ndim < 1:
        raise ValueError("norm: expected a batch of vectors (N, ...), got a scalar")
    rest = 1
    for n in x.shape[1:]:
        rest *= n
    return ops.reshape(x, shape=(x.shape[0], rest))


def _largest(rows: Array) -> Array:
    """Return the largest |element| of each row, or 1 for a row of zeros: (N,)."""
    xp = xp_of(rows)
    top = xp.abs(rows).max(axis=1) if rows.shape[1] else xp.zeros(rows.shape[0], dtype=rows.dtype)
    return xp.where(top > 0, top, xp.ones_like(top))
