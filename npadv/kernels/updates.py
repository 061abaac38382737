"""Update rules and the max-norm constraint, in place, one launch each: the kernels of :mod:`npadv.optim`.

``sgd`` and ``adam`` change one parameter. The numbers that change from step to step (step size, momentum, Adam's bias
corrections) are in ``settings``, an array of float64 in the device's memory that the kernel reads when it runs. So a CUDA
graph captured once can be replayed while a schedule goes on.

All raise TypeError or ValueError for a wrong argument, naming it, with nothing launched, and RuntimeError without CuPy or a
GPU.
"""

import math
from typing import Any

import numpy as np

from npadv.backend import Array
from npadv.kernels.checks import check_companion, check_in_place, check_shape
from npadv.kernels.launch import THREADS, check_arrays, contiguous, covering, integer, launch, real_number

__all__ = [
    "adam",
    "max_norm",
    "sgd",
]

_DOUBLE = np.dtype(np.float64)


# ------------------------------------------------------------------------------------------- gradient descent


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
        Step size; t, the number of this update, from 1; and the bias corrections 1 - b1^t and 1 - b2^t.
    betas : (float, float)
        Weights of the old averages, in [0, 1).
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
        The axes along one unit's weights, neighbours in ascending order: (0,) for dense weights (in, out), (1, 2, 3) for
        filters.
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
    """Check the arguments that all update rules share, and return them by the names of the kernels' parameters."""
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
