"""The steps that attacks take, in place: steepest ascent in each of the three norms, one launch each.

=============  ===================================  ============================
``sign_step``  steepest ascent in the maximum norm  ``kernels/sign_step.cu``
``l2_step``    steepest ascent in l2, row by row    ``kernels/steepest_step.cu``
``l1_step``    steepest ascent in l1, row by row    ``kernels/steepest_step.cu``
=============  ===================================  ============================

:mod:`npadv.norms` has the same as array expressions; the tests compare the two.
"""

import math
from typing import Any

from npadv.backend import Array
from npadv.kernels.checks import check_in_place, check_shape, interval
from npadv.kernels.launch import THREADS, check_arrays, contiguous, covering, launch, real_number

__all__ = [
    "l1_step",
    "l2_step",
    "sign_step",
]

Bounds = tuple[float, float] | None


# ------------------------------------------------------------------------------------------------ by the sign


def sign_step(x: Array, g: Array, eps: float, *, bounds: Bounds = None) -> Array:
    """Step uphill on ``x`` in place by the sign of the gradient, ``x <- clip(x + eps * sign(g))``, and return ``x``.

    A gradient of 0 leaves its element as it is, but for the box; a NaN makes it NaN.

    Parameters
    ----------
    x : cupy.ndarray
        The points to move, float32 or float64, C-contiguous since they are overwritten.
    g : cupy.ndarray
        The gradient, of the shape, dtype and device of ``x``, in memory of its own.
    eps : float
        The step, in the units of ``x``; at least 0. To step downhill, pass ``-g``.
    bounds : (lo, hi), optional
        The box every element must stay in; either end may be infinite.

    Raises
    ------
    TypeError, ValueError
        An argument is not as above; nothing has been launched.
    RuntimeError
        CuPy is not installed or sees no GPU.
    """
    name = "sign_step"
    args = _check_step(name, x, g, eps, bounds)
    launch(name, name, {**args, "n": x.size}, blocks=covering(x.size))
    return x


# ------------------------------------------------------------------------------------------ in the other norms


def l2_step(x: Array, g: Array, eps: float, *, bounds: Bounds = None) -> Array:
    """Move each row of ``x`` by ``eps`` along its gradient, ``x <- clip(x + eps * g / ||g||_2)``, in place; return ``x``.

    A row of zeros in ``g`` moves nothing; a NaN or an infinity in it makes the whole row of ``x`` NaN. The same bits on
    every run.

    Parameters
    ----------
    x : cupy.ndarray, (N, ...)
        N points to move, float32 or float64, C-contiguous since they are overwritten.
    g : cupy.ndarray
        Their gradients, of the shape, dtype and device of ``x``, in memory of its own.
    eps : float
        The length of the step, in the units of ``x``; at least 0.
    bounds : (lo, hi), optional
        The box every element must stay in; either end may be infinite.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As :func:`sign_step`.
    """
    return _row_step("l2_step", x, g, eps, bounds)


def l1_step(x: Array, g: Array, eps: float, *, bounds: Bounds = None) -> Array:
    """Move in each row of ``x`` the one element whose gradient is largest, by ``eps`` times its sign, in place.

    At ties the first. Only that element is read, moved and clipped to ``bounds``; the others are assumed to lie there.
    A row of zeros in ``g`` moves nothing. NaN counts as the largest, and the first NaN makes its element NaN.
    Arguments and errors are those of :func:`l2_step`.
    """
    return _row_step("l1_step", x, g, eps, bounds)


def _row_step(name: str, x: Array, g: Array, eps: float, bounds: Bounds) -> Array:
    args = _check_step(name, x, g, eps, bounds)
    if x.ndim < 1:
        raise ValueError(f"{name}: x must be a batch (N, ...), got a scalar")
    rows, width = x.shape[0], math.prod(x.shape[1:])
    blocks = covering(rows * THREADS if width else 0)  # a block for a row
    launch("steepest_step", name, {**args, "rows": rows, "width": width}, blocks=blocks)
    return x


# ------------------------------------------------------------------------------------------------------ shared


def _check_step(name: str, x: Array, g: Array, eps: float, bounds: Bounds) -> dict[str, Any]:
    """Check the arguments that all steps share, and return them by the names of the kernels' parameters."""
    check_arrays(name, {"x": x, "g": g})
    check_shape(name, "g", g, x.shape, "the shape of x")
    check_in_place(name, {"x": x}, {"g": g})
    step, (lo, hi) = real_number(name, "eps", eps, x.dtype, least=0), interval(name, bounds, x.dtype)
    return {"x": x, "g": contiguous(g), "eps": step, "lo": lo, "hi": hi}
