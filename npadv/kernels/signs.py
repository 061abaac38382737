"""The steps that attacks take: uphill by the sign of the gradient, and its sisters in the other norms, in place.

===================  ==========================================  ======================================
``sign_step``        steepest ascent in the maximum norm         ``kernels/sign_step.cu``
``l2_step``          steepest ascent in l2, row by row           ``kernels/steepest_step.cu``
``l1_step``          steepest ascent in l1, row by row           ``kernels/steepest_step.cu``
``dense_sign_step``  ``sign_step`` and the gradient that it      ``kernels/matmul.cu``
                     needs, through a dense first layer
===================  ==========================================  ======================================

Beside each stands its ``_reference``: the same as array expressions, of NumPy or CuPy, on a copy. It is what the kernel
is tested against, and what to call where there is no GPU.
"""

import math
from typing import Any

from npadv.backend import Array, xp_of
from npadv.kernels.checks import check_in_place, check_shape, interval
from npadv.kernels.launch import THREADS, check_arrays, contiguous, covering, launch, real_number

__all__ = [
    "dense_sign_step",
    "dense_sign_step_reference",
    "l1_step",
    "l1_step_reference",
    "l2_step",
    "l2_step_reference",
    "sign_step",
    "sign_step_reference",
]

Bounds = tuple[float, float] | None
_TILE = 64  # of the product in matmul.cu, both ways


# ------------------------------------------------------------------------------------------------ by the sign


def sign_step_reference(
    x: Array, g: Array, eps: float, *, bounds: Bounds = None, center: Array = None, radius: float | None = None
) -> Array:
    """Return what :func:`sign_step` computes, as array expressions: NumPy's or CuPy's, whichever ``x`` is.

    ``clip(clip(x + eps * sign(g), center - radius, center + radius), *bounds)``, a new array; ``x`` is not modified.

    Examples
    --------
    >>> import numpy as np
    >>> x, g = np.array([0.5, 0.5, 0.5]), np.array([3.0, 0.0, -1e-9])
    >>> sign_step_reference(x, g, 0.25)
    array([0.75, 0.5 , 0.25])
    >>> sign_step_reference(x, g, 0.25, bounds=(0.5, 1.0), center=x, radius=0.125)
    array([0.625, 0.5  , 0.5  ])
    """
    xp = xp_of(x)
    y = x + float(eps) * xp.sign(g)
    if center is not None and radius is not None:
        # Not clip: CuPy's lets a NaN bound pass unnoticed.
        y = xp.minimum(xp.maximum(y, center - float(radius)), center + float(radius))
    return _clip(y, bounds)


def sign_step(
    x: Array, g: Array, eps: float, *, bounds: Bounds = None, center: Array = None, radius: float | None = None
) -> Array:
    """Step uphill on ``x`` in place by the sign of the gradient, ``x <- clip(x + eps * sign(g))``, and return ``x``.

    With ``center`` and ``radius`` the result is first projected on the l-infinity ball ``|x - center| <= radius`` (to
    rounding), then on the box ``bounds``. A gradient of 0 leaves its element where it is; a NaN makes it NaN.

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
    center, radius : cupy.ndarray and float, optional
        The ball's center, like ``g`` in shape, dtype, device and memory, and its radius, at least 0.

    Raises
    ------
    TypeError, ValueError
        An argument is not as above; nothing has been launched.
    RuntimeError
        CuPy is not installed or sees no GPU.
    """
    name = "sign_step"
    arrays = {"x": x, "g": g} if center is None else {"x": x, "g": g, "center": center}
    check_arrays(name, arrays)
    check_shape(name, "g", g, x.shape, "the shape of x")
    step, lo, hi, x0, ball = _confined(name, arrays, eps, bounds, radius)
    args = {"x": x, "g": contiguous(g), "eps": step, "lo": lo, "hi": hi, "n": x.size}
    if x0 is None:
        launch("sign_step", "sign_step", args, blocks=covering(x.size))
    else:
        launch("sign_step", "projected_sign_step", {**args, "x0": x0, "radius": ball}, blocks=covering(x.size))
    return x


# ------------------------------------------------------------------------------------------ in the other norms


def l2_step_reference(x: Array, g: Array, eps: float, *, bounds: Bounds = None) -> Array:
    """Return what :func:`l2_step` computes, as array expressions; ``x`` is not modified.

    Examples
    --------
    >>> import numpy as np
    >>> l2_step_reference(np.zeros((2, 2)), np.array([[3.0, -4.0], [0.0, 0.0]]), 10.0, bounds=(-7.0, 7.0))
    array([[ 6., -7.],
           [ 0.,  0.]])
    """
    if x.size == 0:
        return x.copy()
    xp, rows = xp_of(x), g.reshape(g.shape[0], -1)
    top = xp.abs(rows).max(axis=1, keepdims=True)
    scaled = rows / xp.where(top == 0, 1, top)  # no square overflows, and not all of them underflow
    length = xp.sqrt((scaled * scaled).sum(axis=1, keepdims=True))
    direction = scaled / xp.where(top == 0, 1, length)
    return _clip(x + float(eps) * direction.reshape(x.shape), bounds)


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


def l1_step_reference(x: Array, g: Array, eps: float, *, bounds: Bounds = None) -> Array:
    """Return what :func:`l1_step` computes, as array expressions; ``x`` is not modified.

    Examples
    --------
    >>> import numpy as np
    >>> l1_step_reference(np.zeros((2, 3)), np.array([[1.0, -4.0, 4.0], [0.0, 0.0, 0.0]]), 0.5)
    array([[ 0. , -0.5,  0. ],
           [ 0. ,  0. ,  0. ]])
    """
    y = x.copy()
    if x.size == 0:
        return y
    xp, rows, points = xp_of(x), g.reshape(g.shape[0], -1), y.reshape(x.shape[0], -1)
    n, k = xp.arange(rows.shape[0]), xp.abs(rows).argmax(axis=1)
    points[n, k] = _clip(points[n, k] + float(eps) * xp.sign(rows[n, k]), bounds)
    return y


def l1_step(x: Array, g: Array, eps: float, *, bounds: Bounds = None) -> Array:
    """Move in each row of ``x`` the one element whose gradient is largest, by ``eps`` times its sign, in place.

    At ties the first. Only that element is read, moved and confined to ``bounds``: the others are taken to lie there.
    A row of zeros in ``g`` moves nothing; NaN counts as the largest, and the first NaN makes its element NaN.
    Arguments and errors are those of :func:`l2_step`.
    """
    return _row_step("l1_step", x, g, eps, bounds)


def _row_step(name: str, x: Array, g: Array, eps: float, bounds: Bounds) -> Array:
    check_arrays(name, {"x": x, "g": g})
    if x.ndim < 1:
        raise ValueError(f"{name}: x must be a batch (N, ...), got a scalar")
    check_shape(name, "g", g, x.shape, "the shape of x")
    step, lo, hi, *_ = _confined(name, {"x": x, "g": g}, eps, bounds, None)
    rows, width = x.shape[0], math.prod(x.shape[1:])
    args = {"x": x, "g": contiguous(g), "eps": step, "lo": lo, "hi": hi, "rows": rows, "width": width}
    launch("steepest_step", name, args, blocks=covering(rows * THREADS if width else 0))  # a block for a row
    return x


# ------------------------------------------------------------------------------------- through the first layer


def dense_sign_step_reference(
    x: Array,
    d: Array,
    w: Array,
    eps: float,
    *,
    bounds: Bounds = None,
    center: Array = None,
    radius: float | None = None,
) -> Array:
    """Return what :func:`dense_sign_step` computes, as array expressions; ``x`` is not modified.

    Examples
    --------
    >>> import numpy as np
    >>> dense_sign_step_reference(np.zeros((1, 2)), np.array([[1.0]]), np.array([[2.0], [-3.0]]), 0.5)
    array([[ 0.5, -0.5]])
    """
    return sign_step_reference(x, (d @ w.T).reshape(x.shape), eps, bounds=bounds, center=center, radius=radius)


def dense_sign_step(
    x: Array,
    d: Array,
    w: Array,
    eps: float,
    *,
    bounds: Bounds = None,
    center: Array = None,
    radius: float | None = None,
) -> Array:
    """Take :func:`sign_step` along the gradient of a network that begins with ``y = x w``, without storing the gradient.

    ``x <- clip(x + eps * sign(d w^T))``, in place; each sum is taken whole, in one order, before its sign is. Where a sum
    would be 0 but for rounding, its sign, and so the step, is rounding's.

    Parameters
    ----------
    x : cupy.ndarray, (N, ...)
        The points to move, each of D elements; float32 or float64, C-contiguous since they are overwritten.
    d : cupy.ndarray, (N, K)
        The gradient ``dL/dy``, of the dtype and device of ``x``, in memory of its own.
    w : cupy.ndarray, (D, K)
        The layer's weights, like ``d``.
    eps, bounds, center, radius
        As in :func:`sign_step`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As :func:`sign_step`.
    """
    name = "dense_sign_step"
    arrays = {"x": x, "d": d, "w": w} if center is None else {"x": x, "d": d, "w": w, "center": center}
    check_arrays(name, arrays)
    if x.ndim < 1:
        raise ValueError(f"{name}: x must be a batch (N, ...), got a scalar")
    N, D = x.shape[0], math.prod(x.shape[1:])
    if d.ndim != 2 or d.shape[0] != N:
        raise ValueError(f"{name}: d must be (N, K) with the N of x, {N}, got {d.shape}")
    check_shape(name, "w", w, (D, d.shape[1]), "the shape (D, K) of x and d")
    step, lo, hi, x0, ball = _confined(name, arrays, eps, bounds, radius)
    args = {"x": x, "d": contiguous(d), "w": contiguous(w), "x0": x0, "eps": step, "radius": ball, "lo": lo, "hi": hi}
    tiles = -(-N // _TILE) * -(-D // _TILE)
    launch("matmul", name, {**args, "M": N, "N": D, "K": d.shape[1]}, blocks=covering(tiles * THREADS))
    return x


# ------------------------------------------------------------------------------------------------------ shared


def _clip(y: Array, bounds: Bounds) -> Array:
    return y if bounds is None else xp_of(y).clip(y, float(bounds[0]), float(bounds[1]))


def _confined(
    name: str, arrays: dict[str, Array], eps: float, bounds: Bounds, radius: float | None
) -> tuple[Any, Any, Any, Array, Any]:
    """Check what all steps have in common; return eps, lo, hi, the ball's center (or None) and radius as kernels take them."""
    x, center = arrays["x"], arrays.get("center")
    check_in_place(name, {"x": x}, {which: a for which, a in arrays.items() if which != "x"})
    if (center is None) != (radius is None):
        missing = "center" if center is None else "radius"
        raise ValueError(f"{name}: center and radius must be given together, got no {missing}")
    step, (lo, hi) = real_number(name, "eps", eps, x.dtype, least=0), interval(name, bounds, x.dtype)
    if center is None:
        return step, lo, hi, None, x.dtype.type(0)
    check_shape(name, "center", center, x.shape, "the shape of x")
    return step, lo, hi, contiguous(center), real_number(name, "radius", radius, x.dtype, least=0)
