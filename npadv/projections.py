"""Exact projections onto the balls of the norms, and the best steps within a ball, inside a box.

Each function solves a convex problem for each of N vectors. The Karush-Kuhn-Tucker conditions determine the solution up to one
number, t or tau. Let d = x - centre, let g be the gradient, and let r_i >= 0 be the distance from the centre to the box in the
direction of the step. The absolute values of the solution's coordinates are

    ===================  ======================  =================  ============================================
    problem              linf                    l2                 l1
    ===================  ======================  =================  ============================================
    ``project``          min(|d_i|, eps, r_i)    min(t |d_i|, r_i)  min(max(|d_i| - tau, 0), r_i)
    ``maximise_linear``  min(eps, r_i)           min(t |g_i|, r_i)  r_i at the largest |g_i| first, up to eps
    ``smallest_step``    min(t, r_i)             min(t |g_i|, r_i)  r_i at the largest |g_i| first, up to the gain
    ===================  ======================  =================  ============================================

The number is found exactly, by sorting the values at which a coordinate reaches its bound, or by Newton's method on a piecewise
linear function. It is computed in float64, where sums of many float32 numbers lose no digit.
"""

from __future__ import annotations

from typing import Any

from npadv.backend import Array, as_floating, xp_of
from npadv.vectors import as_rows, check_norm, largest

Bounds = tuple[float, float] | None

# The three problems ---------------------------------------------------------------------------------------------------


def project(x: Array, center: Array, eps: Any, kind: str, bounds: Bounds = None) -> Array:
    """Return the point nearest to x (in l2) within distance ``eps`` of ``center`` and within the box ``bounds``.

    Parameters
    ----------
    x, center : (N, ...)
        Points, and the centres of their balls; the centres must lie in the box.
    eps : float or (N,)
        Radius in the norm ``kind``.
    bounds : (low, high), optional
        The box, the same for every coordinate.

    Raises
    ------
    ValueError
        Shapes that do not fit, a radius that is negative or not a number, bounds with low above high, a centre outside the
        box.

    Examples
    --------
    >>> import numpy as np
    >>> x, center = np.array([[0.9, 0.8]]), np.array([[0.5, 0.5]])
    >>> [project(x, center, 0.25, kind, (0.0, 1.0)).round(3).tolist() for kind in ("l1", "l2", "linf")]
    [[[0.675, 0.575]], [[0.7, 0.65]], [[0.75, 0.75]]]
    """
    x, center = as_floating(x), as_floating(center)
    bounds = bounds and (float(bounds[0]), float(bounds[1]))  # NumPy's numbers would change the precision of the result
    eps = _check_projection(x, center, eps, kind, bounds)
    if x.size == 0:
        return x.copy()
    xp = xp_of(x)
    d = as_rows(x - center)
    size = xp.abs(d)
    room = size if bounds is None else xp.minimum(size, _room(d, as_rows(center), bounds))
    if kind == "linf":
        step = xp.minimum(room, eps)
    else:
        solve = {"l1": _l1_sizes, "l2": _l2_sizes}[kind]
        step = solve(*(a.astype(xp.float64) for a in (size, room, eps))).astype(x.dtype)
    moved = center + (xp.sign(d) * step).reshape(x.shape)
    return moved if bounds is None else xp.clip(moved, bounds[0], bounds[1])


def maximise_linear(g: Array, center: Array, eps: float, kind: str, bounds: Bounds = None) -> Array:
    """Return argmax <g, d> over ||d|| <= eps with center + d in the box: d of g's shape, 0 where g is 0.

    Where the box is smaller than the ball in every direction of g, d goes to the corner of the box.

    >>> import numpy as np
    >>> g, center = np.array([[3.0, -4.0]]), np.array([[0.5, 0.1]])
    >>> maximise_linear(g, center, 0.3, "l1", (0.0, 1.0)).round(12)  # the second may move by 0.1
    array([[ 0.2, -0.1]])
    """
    check_norm(kind)
    xp, g = xp_of(g), as_floating(g)
    size, room = _sizes_and_room(g, center, bounds)
    room = xp.minimum(room, eps)
    if kind == "linf":
        step = room
    elif kind == "l2":
        step = _l2_sizes(size / largest(size) * eps, room, xp.zeros((len(g), 1)) + eps)
    else:
        order = xp.argsort(-size, axis=1, kind="stable")
        room = xp.take_along_axis(room, order, axis=1)
        spent = xp.cumsum(room, axis=1) - room
        step = xp.take_along_axis(xp.clip(eps - spent, 0, room), xp.argsort(order, axis=1), axis=1)
    return (xp.sign(g) * step.reshape(g.shape)).astype(g.dtype)


def smallest_step(g: Array, center: Array, gain: Array, kind: str, bounds: Bounds = None) -> tuple[Array, Array]:
    """Return argmin ||d|| over <g, d> >= gain with center + d in the box, and whether the gain is reached: (N, ...), (N,).

    This is the inverse of ``maximise_linear``: the gain (N,) is given, the radius is sought. Where the box is too small for
    the gain, d goes to the corner of the box, and the second array is false.

    >>> import numpy as np
    >>> d, reached = smallest_step(np.array([[3.0, -4.0]]), np.array([[0.5, 0.1]]), np.array([0.7]), "l1", (0.0, 1.0))
    >>> d.round(12), reached  # 4 * 0.1 + 3 * 0.1
    (array([[ 0.1, -0.1]]), array([ True]))
    """
    check_norm(kind)
    xp, g = xp_of(g), as_floating(g)
    size, room = _sizes_and_room(g, center, bounds)
    scale = largest(size)
    size, gain = size / scale, xp.maximum(gain.astype(xp.float64), 0)[:, None] / scale
    room = xp.minimum(room, gain / xp.where(size > 0, size, 1))  # a coordinate stops where it alone reaches the gain
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


# The solving numbers ---------------------------------------------------------------------------------------------------


def _l2_sizes(size: Array, room: Array, eps: Array) -> Array:
    """Return min(t * size, room) with the t in [0, 1] that brings its l2 norm to eps, or room if its norm is within eps."""
    xp = xp_of(size)
    top = largest(size)
    within = xp.minimum(eps, top * (size.shape[1] + 1)) / top  # no norm is larger than that
    share, bound = size / top, room / top  # so that no square overflows or underflows
    meets = xp.where(share > 0, bound / xp.where(share > 0, share, 1), 1)  # the t at which a coordinate meets its bound
    order = xp.argsort(meets, axis=1)
    meets, bound2, share2 = (xp.take_along_axis(a, order, axis=1) for a in (meets, bound * bound, share * share))
    # At the k-th meeting point, k coordinates rest at their bound and the others still grow with t.
    resting = xp.cumsum(bound2, axis=1) - bound2
    growing = xp.cumsum(share2[:, ::-1], axis=1)[:, ::-1]
    reached = resting + meets * meets * growing >= within * within
    k = xp.where(reached.any(axis=1), reached.argmax(axis=1), -1)[:, None]
    resting, growing = (xp.take_along_axis(a, xp.maximum(k, 0), axis=1) for a in (resting, growing))
    t = xp.sqrt(xp.maximum(within * within - resting, 0) / xp.where(growing > 0, growing, 1))
    return xp.where(k < 0, room, xp.minimum(room, t * size))


def _l1_sizes(size: Array, room: Array, eps: Array) -> Array:
    """Return min(max(size - tau, 0), room) with the tau >= 0 that brings its sum to eps, or room if its sum is within eps."""
    xp = xp_of(size)
    # Measured from the largest element down, where small results keep their digits: tau = top - reach. As the reach
    # grows, a coordinate begins to grow at its depth = top - size and stops at depth + room.
    depth = size.max(axis=1, keepdims=True) - size
    corners = xp.concatenate([depth, depth + room], axis=1)
    slopes = xp.concatenate([xp.ones_like(size), -xp.ones_like(size)], axis=1)
    order = xp.argsort(corners, axis=1)
    corners, slopes = xp.take_along_axis(corners, order, axis=1), xp.take_along_axis(slopes, order, axis=1)
    growing = xp.cumsum(slopes, axis=1)[:, :-1]  # the number of coordinates that grow between a corner and the next
    gained = growing * (corners[:, 1:] - corners[:, :-1])
    total = xp.cumsum(gained, axis=1)  # the sum at the next corner
    reached = total >= eps
    k = xp.where(reached.any(axis=1), reached.argmax(axis=1), -1)[:, None]
    corner, count, before = (
        xp.take_along_axis(a, xp.maximum(k, 0), axis=1) for a in (corners, growing, total - gained)
    )
    reach = corner + (eps - before) / xp.maximum(count, 1)
    return xp.where(k < 0, room, xp.minimum(room, xp.maximum(reach - depth, 0)))


def _time_of_gain(size: Array, pace: Array, room: Array, gain: Array) -> Array:
    """Return the least t at which sum(size * min(t * pace, room)) reaches the gain, or at which all coordinates rest.

    The sum is a concave, piecewise linear function of t. So Newton's method from t = 0 never overshoots, and it has found t
    when the moving coordinates are the same as in the step before. This takes a few passes instead of a sort.
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


# Distances to the box, and checks -------------------------------------------------------------------------------------


def _room(direction: Array, center: Array, bounds: tuple[float, float]) -> Array:
    """Return the distance from the centre to the box, upwards where the direction is positive, else downwards."""
    return xp_of(direction).where(direction > 0, bounds[1] - center, center - bounds[0])


def _sizes_and_room(g: Array, center: Array, bounds: Bounds) -> tuple[Array, Array]:
    """Return |g| and the room in the direction of g, 0 where g is 0: (N, D) twice, in float64."""
    xp = xp_of(g)
    rows, middle = as_rows(g).astype(xp.float64), as_rows(center).astype(xp.float64)
    room = _room(rows, middle, bounds or (-float("inf"), float("inf")))
    return xp.abs(rows), xp.where(rows == 0, 0, xp.maximum(room, 0))


def _check_projection(x: Array, center: Array, eps: Any, kind: str, bounds: Bounds) -> Array:
    """Return the radii as a column (N, 1), or raise a ValueError that names the argument."""
    check_norm(kind)
    if x.shape != center.shape:
        raise ValueError(f"project(center): expected x's shape {x.shape}, got {center.shape}")
    xp = xp_of(x)
    eps = xp.asarray(eps, dtype=x.dtype)
    if eps.shape not in ((), x.shape[:1]):
        raise ValueError(f"project(eps): expected a number or shape {x.shape[:1]}, got shape {eps.shape}")
    if eps.size and not float(eps.min()) >= 0:
        raise ValueError(f"project(eps): expected a radius of at least 0, got {float(eps.min())}")
    if bounds is not None and not bounds[0] <= bounds[1]:
        raise ValueError(f"project(bounds): expected low <= high, got {bounds}")
    # Compared in the centre's own precision.
    if bounds is not None and x.size and not (bounds[0] <= center.min() and center.max() <= bounds[1]):
        raise ValueError(
            f"project(center): expected values in the box [{bounds[0]}, {bounds[1]}], "
            f"got from {float(center.min())} to {float(center.max())}"
        )
    return xp.broadcast_to(eps, x.shape[:1])[:, None]
