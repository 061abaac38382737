"""Update rules and the max-norm constraint, in place, one launch each: what :mod:`npadv.optim` does with array operations.

``sgd`` and ``adam`` are for a parameter at a time; ``adam_advance`` comes once before them in every step. What changes from
step to step, step size, momentum and the number of updates, is read from the device's memory when a kernel runs
(``settings``, float64), so that a CUDA graph captured once can be replayed while a schedule goes on.
Beside each stands its ``_reference``: the same as array expressions of NumPy or CuPy, which returns new arrays.

All raise TypeError or ValueError for a wrong argument, naming it, with nothing launched, and RuntimeError without CuPy or a
GPU.
"""

import math
from typing import Any

import numpy as np

from npadv.backend import Array, xp_of
from npadv.kernels.checks import check_companion, check_in_place, check_shape
from npadv.kernels.launch import THREADS, check_arrays, contiguous, covering, integer, launch, real_number

__all__ = [
    "adam",
    "adam_advance",
    "adam_advance_reference",
    "adam_reference",
    "max_norm",
    "max_norm_reference",
    "sgd",
    "sgd_reference",
]

_DOUBLE = np.dtype(np.float64)


# ------------------------------------------------------------------------------------------- gradient descent


def sgd_reference(
    p: Array,
    g: Array,
    settings: Array,
    *,
    velocity: Array = None,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    scale: float = 1.0,
) -> tuple[Array, Array]:
    """Return the parameter and velocity that :func:`sgd` leaves behind, as array expressions; the arguments stay as they are.

    >>> p, v = sgd_reference(np.ones(1), np.ones(1), np.array([0.5, 0.9]), velocity=np.ones(1))
    >>> p.round(4), v
    (array([0.05]), array([1.9]))
    """
    if weight_decay:
        g = g + weight_decay * p
    step = (settings[0] * scale).astype(p.dtype)
    if velocity is None:
        return p - step * g, None
    momentum = settings[1].astype(p.dtype)
    v = momentum * velocity + (1 - dampening) * g
    return p - step * (g + momentum * v if nesterov else v), v


def sgd(
    p: Array,
    g: Array,
    settings: Array,
    *,
    velocity: Array = None,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    scale: float = 1.0,
) -> None:
    """Change ``p`` by gradient descent, in place: the rule of :class:`npadv.optim.SGD`, and its ``velocity`` if there is one.

    Parameters
    ----------
    p : cupy.ndarray
        The parameter, float32 or float64, C-contiguous since it is overwritten.
    g : cupy.ndarray
        Its gradient, of the shape, dtype and device of ``p``, in memory of its own.
    settings : cupy.ndarray of float64, (1,) or, with a velocity, (2,)
        Step size and momentum.
    velocity : cupy.ndarray, optional
        Like ``p``; overwritten.
    dampening, weight_decay : float
        At least 0.
    nesterov : bool
        Nesterov's momentum; needs a velocity and no dampening.
    scale : float
        Multiplies the step size for this parameter; at least 0.
    """
    name = "sgd"
    targets = {"p": p} if velocity is None else {"p": p, "velocity": velocity}
    rest = {"scale": scale, "weight_decay": weight_decay}
    args = _update(name, targets, g, ("settings", settings, 1 if velocity is None else 2), rest)
    dampening = float(real_number(name, "dampening", dampening, _DOUBLE, least=0))
    if velocity is None:
        if nesterov or dampening:
            raise ValueError(f"{name}: velocity must be given with nesterov or dampening, got None")
        launch("updates", "sgd", args, blocks=covering(p.size))
        return
    if nesterov and dampening:
        raise ValueError(f"{name}: dampening must be 0 with nesterov, got {dampening}")
    args.update(v=args.pop("velocity"), undamped=1 - dampening, nesterov=int(bool(nesterov)))
    launch("updates", "sgd_momentum", args, blocks=covering(p.size))


# -------------------------------------------------------------------------------------------------------- Adam


def adam_advance_reference(settings: Array, betas: tuple[float, float] = (0.9, 0.999)) -> Array:
    """Return the settings that :func:`adam_advance` leaves behind, as array expressions.

    >>> adam_advance_reference(np.array([1e-3, 0, 0, 0])).round(3)
    array([0.001, 1.   , 0.1  , 0.001])
    """
    t = settings[1] + 1
    return xp_of(settings).stack([settings[0], t, 1 - betas[0] ** t, 1 - betas[1] ** t])


def adam_advance(settings: Array, betas: tuple[float, float] = (0.9, 0.999)) -> None:
    """Count an update, in place: before :func:`adam` has its turn with each parameter, once a step.

    Parameters
    ----------
    settings : cupy.ndarray of float64, (4,)
        Step size, which the caller keeps; t, the number of updates, which begins at 0; and the bias corrections
        1 - b1^t and 1 - b2^t, which begin anyhow.
    betas : (float, float)
        Those of :func:`adam`, in [0, 1).
    """
    name = "adam_advance"
    check_arrays(name, {"settings": settings}, (_DOUBLE,))
    check_shape(name, "settings", settings, (4,), "step size, updates and two corrections")
    b1, b2 = _betas(name, betas)
    launch("updates", name, {"settings": settings, "b1": b1, "b2": b2}, blocks=1, threads=32)


def adam_reference(
    p: Array,
    g: Array,
    mean: Array,
    square: Array,
    settings: Array,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
) -> tuple[Array, Array, Array]:
    """Return the parameter, mean and square that :func:`adam` leaves behind, as array expressions."""
    xp, (b1, b2) = xp_of(p), betas
    if weight_decay:
        g = g + weight_decay * p
    step, correction = (s.astype(p.dtype) for s in (settings[0] * scale / settings[2], settings[3]))
    m = b1 * mean + (1 - b1) * g
    v = b2 * square + (1 - b2) * g * g
    return p - step * m / (xp.sqrt(v / correction) + epsilon), m, v


def adam(
    p: Array,
    g: Array,
    mean: Array,
    square: Array,
    settings: Array,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
) -> None:
    """Change ``p``, and its averages ``mean`` and ``square``, by Adam, in place: the rule of :class:`npadv.optim.Adam`.

    Parameters
    ----------
    p, mean, square : cupy.ndarray
        The parameter and its averages of gradients and of their squares; float32 or float64, of one shape, C-contiguous
        since they are overwritten.
    g : cupy.ndarray
        The gradient, of the shape, dtype and device of ``p``, in memory of its own.
    settings : cupy.ndarray of float64, (4,)
        As :func:`adam_advance` leaves them.
    betas : (float, float)
        How much the averages keep, in [0, 1).
    epsilon, weight_decay : float
        At least 0.
    scale : float
        Multiplies the step size for this parameter; at least 0.
    """
    name = "adam"
    b1, b2 = _betas(name, betas)
    rest = {"epsilon": epsilon, "weight_decay": weight_decay, "scale": scale}
    args = _update(name, {"p": p, "mean": mean, "square": square}, g, ("settings", settings, 4), rest)
    args.update(m=args.pop("mean"), v=args.pop("square"), b1=b1, b2=b2, rest1=1 - b1, rest2=1 - b2)
    launch("updates", name, args, blocks=covering(p.size))


# ----------------------------------------------------------------------------------------------------- max-norm


def max_norm_reference(w: Array, limit: float, axes: tuple[int, ...]) -> Array:
    """Return the weights that :func:`max_norm` leaves behind, as array expressions.

    >>> max_norm_reference(np.array([[3.0, 0.3], [4.0, 0.4]]), 1.0, axes=(0,))
    array([[0.6, 0.3],
           [0.8, 0.4]])
    """
    xp = xp_of(w)
    length = xp.sqrt((w * w).sum(axis=axes, keepdims=True))
    return w * xp.minimum(1, limit / xp.maximum(length, limit))


def max_norm(w: Array, limit: float, axes: tuple[int, ...]) -> None:
    """Shrink every unit's incoming weights to the l2 length ``limit`` if they are longer, in place.

    The constraint of :class:`npadv.nn.parameter.MaxNorm`. NaN among a unit's weights makes all of them NaN. The same bits
    on every run.

    Parameters
    ----------
    w : cupy.ndarray
        Weights, float32 or float64, C-contiguous since they are overwritten.
    limit : float
        Above 0 and finite.
    axes : tuple of int
        Those that run over one unit's weights, neighbours in ascending order: (0,) for dense weights (in, out), (1, 2, 3)
        for filters.
    """
    name = "max_norm"
    check_arrays(name, {"w": w})
    check_in_place(name, {"w": w}, {})
    longest = real_number(name, "limit", limit, w.dtype, least=0)
    if not longest:
        raise ValueError(f"{name}: limit must be above 0 in {w.dtype}, got {limit}")
    if not isinstance(axes, (tuple, list)) or not axes:
        raise TypeError(f"{name}: axes must be a tuple of at least one axis, got {axes!r}")
    first, *_, last = [integer(name, "axes", axis, most=w.ndim - 1) for axis in (axes[0], *axes)]
    if tuple(axes) != tuple(range(first, last + 1)):
        raise ValueError(f"{name}: axes must be neighbours in ascending order, got {axes!r}")
    outer, length, inner = (
        math.prod(w.shape[part]) for part in (slice(first), slice(first, last + 1), slice(last + 1, None))
    )
    args = {"w": w, "limit": longest, "outer": outer, "length": length}
    if inner == 1:
        launch("max_norm", "max_norm_rows", args, blocks=covering(outer * THREADS if length else 0))
    else:
        groups = outer * -(-inner // 32) if length else 0  # a block takes 32 units at a time
        launch("max_norm", "max_norm_columns", {**args, "inner": inner}, blocks=covering(groups * THREADS))


# ------------------------------------------------------------------------------------------------------- shared


def _update(
    name: str, targets: dict[str, Array], g: Array, settings: tuple[str, Array, int], numbers: dict[str, float]
) -> dict[str, Any]:
    """Check what all update rules have in common, and return it by the names that the kernels have for it."""
    arrays, p = {**targets, "g": g}, targets["p"]
    check_arrays(name, arrays)
    for which, a in list(arrays.items())[1:]:
        check_shape(name, which, a, p.shape, "the shape of p")
    check_in_place(name, targets, {"g": g})
    which, values, length = settings
    check_companion(name, which, values, _DOUBLE, ("p", p))
    check_shape(name, which, values, (length,), "the shape")
    checked = {}
    for setting, value in numbers.items():
        checked[setting] = real_number(name, setting, value, _DOUBLE if setting == "scale" else p.dtype, least=0)
    return {**targets, "g": contiguous(g), "settings": values, "n": p.size, **checked}


def _betas(name: str, betas: Any) -> tuple[float, float]:
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(f"{name}: betas must be a pair (b1, b2), got {betas!r}")
    b1, b2 = (float(real_number(name, "betas", beta, _DOUBLE, least=0)) for beta in betas)
    if max(b1, b2) >= 1:
        raise ValueError(f"{name}: betas must be at least 0 and below 1, got {betas!r}")
    return b1, b2
