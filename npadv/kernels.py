"""Finds, compiles, checks and launches the CUDA kernels of ``kernels/*.cu``.

A launch is three things: the kernel compiled for the arrays' precision (once, then remembered), arguments whose C types
are those of the kernel's signature, and a number of threads. CUDA checks none of it. A kernel handed float64 data as
``float*``, a Python float as ``float`` or a transposed view as a plain array computes nonsense without a word, so
everything is checked here first, and what is wrong is named.

The arrays are CuPy's and work is queued on the current stream of the arrays' device. CuPy is imported at the first
launch, never before; without it, or without a GPU, every function here but the NumPy reference raises RuntimeError.

>>> print(source("sign_step").splitlines()[0])
// One step of a sign-gradient attack, in place:
"""

import functools
import math
import numbers
import operator
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from npadv.backend import require_cupy

__all__ = ["conv2d", "conv2d_input_grad", "conv2d_weight_grad", "sign_step", "sign_step_reference", "source"]

_THREADS = 256  # in a block: a multiple of the warp's 32, and small enough for any kernel's registers
_MAX_BLOCKS = 65_535  # far more threads than any GPU holds at once; the kernels' grid-stride loops do the rest
_INT_MAX = 2**31 - 1


# ------------------------------------------------------------------------------------------------ the sign step


def sign_step_reference(
    x: Any,
    g: Any,
    eps: float,
    *,
    bounds: tuple[float, float] | None = None,
    center: Any = None,
    radius: float | None = None,
) -> Any:
    """Return what :func:`sign_step` computes, as array expressions: NumPy's or CuPy's, whichever ``x`` is.

    ``clip(clip(x + eps * sign(g), center - radius, center + radius), *bounds)``, a new array; ``x`` is not modified.

    Examples
    --------
    >>> x, g = numpy.array([0.5, 0.5, 0.5]), numpy.array([3.0, 0.0, -1e-9])
    >>> sign_step_reference(x, g, 0.25)
    array([0.75, 0.5 , 0.25])
    >>> sign_step_reference(x, g, 0.25, bounds=(0.5, 1.0), center=x, radius=0.125)
    array([0.625, 0.5  , 0.5  ])
    """
    xp = numpy if isinstance(x, numpy.ndarray) else _cupy()
    y = x + float(eps) * xp.sign(g)
    if center is not None and radius is not None:
        # Not clip: CuPy's lets a NaN bound pass unnoticed.
        y = xp.minimum(xp.maximum(y, center - float(radius)), center + float(radius))
    return y if bounds is None else xp.clip(y, float(bounds[0]), float(bounds[1]))


def sign_step(
    x: Any,
    g: Any,
    eps: float,
    *,
    bounds: tuple[float, float] | None = None,
    center: Any = None,
    radius: float | None = None,
) -> Any:
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
    name, cupy = "sign_step", _cupy()
    arrays = {"x": x, "g": g} if center is None else {"x": x, "g": g, "center": center}
    _check_arrays(name, arrays)
    for other in list(arrays)[1:]:
        if arrays[other].shape != x.shape:
            raise ValueError(f"{name}: {other} must have the shape of x, {x.shape}, got {arrays[other].shape}")
        if cupy.may_share_memory(x, arrays[other]):
            raise ValueError(f"{name}: {other} must not share memory with x, which is overwritten; pass a copy")
    if not x.flags.c_contiguous:
        raise ValueError(f"{name}: x must be C-contiguous, because it is overwritten in place; got a strided view")
    if (center is None) != (radius is None):
        missing = "center" if center is None else "radius"
        raise ValueError(f"{name}: center and radius must be given together, got no {missing}")

    real = x.dtype.type
    step, lo, hi = _size(name, "eps", eps, real), *_bounds(name, bounds, real)
    n = numpy.int64(x.size)
    with x.device:
        g = cupy.ascontiguousarray(g)
        if center is None:
            _launch("sign_step", "sign_step", x, (x, g, step, lo, hi, n))
        else:
            center, ball = cupy.ascontiguousarray(center), _size(name, "radius", radius, real)
            _launch("sign_step", "projected_sign_step", x, (x, g, center, step, ball, lo, hi, n))
    return x


# ------------------------------------------------------------------------------------------------- convolution


def conv2d(
    x: Any,
    w: Any,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Any:
    """Return ``y = x * w``, the two-dimensional cross-correlation of images and filters.

    ``y[n,k,i,j] = sum over c,a,b of x[n, c, i*sh - ph + a*dh, j*sw - pw + b*dw] * w[k,c,a,b]``, ``x`` zero outside.

    Parameters
    ----------
    x : cupy.ndarray, (N, C, H, W)
        The images, float32 or float64; made contiguous if they are not, as ``w`` is.
    w : cupy.ndarray, (K, C/groups, KH, KW)
        The filters, of the dtype and device of ``x``.
    stride, padding, dilation : (int, int)
        Of height and width; padding is on both sides.
    groups : int
        Into how many parts channels and filters are cut; filters see the channels of their own part.

    Returns
    -------
    cupy.ndarray, (N, K, OH, OW)
        ``OH = (H + 2*ph - dh*(KH - 1) - 1) // sh + 1``, likewise ``OW``. The same bits on every run.

    Raises
    ------
    TypeError, ValueError
        An argument is not as above, or the filter is larger than the padded image; nothing has been launched.
    RuntimeError
        CuPy is not installed or sees no GPU.
    """
    name = "conv2d"
    _check_arrays(name, {"x": x, "w": w})
    s = _sizes(name, ("x.shape", x.shape), ("w.shape", w.shape), stride, padding, dilation, groups)
    return _conv2d("conv2d_forward", x, w, (s.N, s.K, s.OH, s.OW), s)


def conv2d_input_grad(
    g: Any,
    w: Any,
    input_shape: tuple[int, ...],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Any:
    """Return ``dL/dx``, of shape ``input_shape``, from ``g = dL/dy`` where ``y = conv2d(x, w, ...)``.

    As a map of ``g`` it is the adjoint of :func:`conv2d` as a map of ``x``: ``<g, conv2d(x, w)> = <this, x>``.
    Arguments and errors are those of :func:`conv2d`; ``g`` must have the shape of ``y``.
    """
    name = "conv2d_input_grad"
    _check_arrays(name, {"g": g, "w": w})
    s = _sizes(name, ("input_shape", input_shape), ("w.shape", w.shape), stride, padding, dilation, groups)
    _check_cotangent(name, g, s)
    return _conv2d(name, g, w, (s.N, s.C, s.H, s.W), s)


def conv2d_weight_grad(
    x: Any,
    g: Any,
    weight_shape: tuple[int, ...],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Any:
    """Return ``dL/dw``, of shape ``weight_shape``, from ``g = dL/dy`` where ``y = conv2d(x, w, ...)``.

    As a map of ``g`` it is the adjoint of :func:`conv2d` as a map of ``w``: ``<g, conv2d(x, w)> = <this, w>``.
    Arguments and errors are those of :func:`conv2d`; ``g`` must have the shape of ``y``.
    """
    name = "conv2d_weight_grad"
    _check_arrays(name, {"x": x, "g": g})
    s = _sizes(name, ("x.shape", x.shape), ("weight_shape", weight_shape), stride, padding, dilation, groups)
    _check_cotangent(name, g, s)
    return _conv2d(name, x, g, (s.K, s.C // s.groups, s.KH, s.KW), s)


class _Sizes(NamedTuple):
    """The integers every kernel of conv2d.cu takes, in the order of its signature."""

    N: int
    C: int
    H: int
    W: int
    K: int
    KH: int
    KW: int
    OH: int
    OW: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int
    groups: int


def _conv2d(kernel: str, a: Any, b: Any, shape: tuple[int, ...], sizes: _Sizes) -> Any:
    cupy = _cupy()
    with a.device:
        a, b, out = cupy.ascontiguousarray(a), cupy.ascontiguousarray(b), cupy.empty(shape, a.dtype)
        _launch("conv2d", kernel, out, (a, b, out, *map(numpy.int32, sizes)))
    return out


# ------------------------------------------------------------------------------------------ checks of arguments


def _check_arrays(name: str, arrays: dict[str, Any]) -> None:
    """Raise unless all are CuPy arrays of one real dtype, float32 or float64, on one device."""
    cupy = _cupy()
    for which, a in arrays.items():
        if not isinstance(a, cupy.ndarray):
            came = f"{type(a).__module__}.{type(a).__qualname__}".removeprefix("builtins.")
            raise TypeError(f"{name}: {which} must be a cupy.ndarray, got {came}")
        if a.dtype not in (numpy.float32, numpy.float64):
            raise TypeError(f"{name}: {which} must be float32 or float64, got {a.dtype}")
    (first, a), *others = arrays.items()
    for which, b in others:
        if b.dtype != a.dtype:
            raise TypeError(f"{name}: {which} must have the dtype of {first}, {a.dtype}, got {b.dtype}")
        if b.device != a.device:
            raise ValueError(f"{name}: {which} must be on the device of {first}, {a.device}, got {b.device}")


def _check_cotangent(name: str, g: Any, s: _Sizes) -> None:
    if g.shape != (s.N, s.K, s.OH, s.OW):
        raise ValueError(f"{name}: g must have the shape of conv2d(x, w), {(s.N, s.K, s.OH, s.OW)}, got {g.shape}")


def _number(name: str, which: str, value: Any, real: type) -> Any:
    """Turn ``value`` into the kernel's real type; a plain Python float would be read as a double."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: {which} must be a real number, got {type(value).__name__}")
    with numpy.errstate(over="ignore"):
        return real(value)


def _size(name: str, which: str, value: Any, real: type) -> Any:
    number = _number(name, which, value, real)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: {which} must be at least 0 and finite in {real.__name__}, got {value}")
    return number


def _bounds(name: str, bounds: Any, real: type) -> tuple[Any, Any]:
    if bounds is None:
        return real(-math.inf), real(math.inf)
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"{name}: bounds must be None or a pair (lo, hi), got {bounds!r}")
    lo, hi = (_number(name, "bounds", end, real) for end in bounds)
    if not lo <= hi:
        raise ValueError(f"{name}: bounds must be (lo, hi) with lo <= hi, got {bounds!r}")
    return lo, hi


def _integer(name: str, which: str, value: Any, least: int) -> int:
    try:
        i = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {which} must be an integer, got {value!r}") from None
    if not least <= i <= _INT_MAX:
        raise ValueError(f"{name}: {which} must be an integer from {least} to 2**31 - 1, got {value!r}")
    return i


def _integers(name: str, which: str, value: Any, layout: str, least: int) -> list[int]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name}: {which} must be a tuple {layout}, got {value!r}")
    if len(value) != layout.count(",") + 1:
        raise ValueError(f"{name}: {which} must be {layout}, got {value!r}")
    return [_integer(name, f"{which}[{i}]", v, least) for i, v in enumerate(value)]


def _sizes(
    name: str, x: tuple[str, Any], w: tuple[str, Any], stride: Any, padding: Any, dilation: Any, groups: Any
) -> _Sizes:
    """Work out a convolution's integers from two shapes, each with its name in messages, or say what is wrong."""
    N, C, H, W = _integers(name, *x, "(N, C, H, W)", 0)
    K, CG, KH, KW = _integers(name, *w, "(K, C/groups, KH, KW)", 0)
    sh, sw = _integers(name, "stride", stride, "(height, width)", 1)
    ph, pw = _integers(name, "padding", padding, "(height, width)", 0)
    dh, dw = _integers(name, "dilation", dilation, "(height, width)", 1)
    groups = _integer(name, "groups", groups, 1)
    if C % groups or K % groups:
        raise ValueError(f"{name}: groups must divide both C = {C} and K = {K}, got {groups}")
    if C // groups != CG:
        raise ValueError(f"{name}: {w[0]} must have C/groups = {C}/{groups} = {C // groups} as its second, got {CG}")
    if KH < 1 or KW < 1:
        raise ValueError(f"{name}: {w[0]} must have windows of at least 1x1, got {KH}x{KW}")
    high, wide = H + 2 * ph, W + 2 * pw  # of the padded image: every index the kernels compute is below these
    if max(high, wide) > _INT_MAX:
        raise ValueError(f"{name}: padding must keep the image's sides below 2**31, got {high}x{wide}")
    window_high, window_wide = dh * (KH - 1) + 1, dw * (KW - 1) + 1
    if window_high > high or window_wide > wide:
        raise ValueError(
            f"{name}: {w[0]} must have windows that fit in the padded image, {high}x{wide}, "
            f"got {KH}x{KW} dilated to {window_high}x{window_wide}"
        )
    OH, OW = (high - window_high) // sh + 1, (wide - window_wide) // sw + 1
    return _Sizes(N, C, H, W, K, KH, KW, OH, OW, sh, sw, ph, pw, dh, dw, groups)


# ----------------------------------------------------------------------------------------- find, compile, launch


def source(name: str) -> str:
    """Return the text of ``kernels/<name>.cu``; FileNotFoundError names the kernels there are.

    >>> 'extern "C" __global__ void conv2d_forward' in source("conv2d")
    True
    """
    here = Path(__file__).parent
    # In a wheel they are inside the package, and a folder `kernels` beside it would be someone else's.
    folder = next((f for f in (here / "_kernels", here.parent / "kernels") if f.is_dir()), here / "_kernels")
    path = folder / f"{name}.cu"
    if not path.is_file():
        there = ", ".join(sorted(f.stem for f in folder.glob("*.cu"))) or "no kernels at all"
        raise FileNotFoundError(f"there is no kernel source {name}.cu; {folder} has {there}")
    return path.read_text(encoding="utf-8")


@functools.cache
def _cupy() -> Any:
    """Return CuPy, looked for once. This file sees it through here only, so a test can put another module in its place."""
    return require_cupy()


_functions: dict[tuple[str, str, str], Any] = {}
_compiling = threading.Lock()


def _function(file: str, kernel: str, dtype: Any) -> Any:
    """Return a kernel compiled for float32 or float64; CuPy keeps its binary for each device, on disk too."""
    key = file, kernel, dtype.name
    with _compiling:  # so that two threads that want one kernel compile it once
        if key not in _functions:
            real = "double" if dtype == numpy.float64 else "float"
            module = _cupy().RawModule(code=source(file), options=("-std=c++17", f"-Dreal={real}"))
            _functions[key] = module.get_function(kernel)
        return _functions[key]


def _launch(file: str, kernel: str, out: Any, args: tuple[Any, ...]) -> None:
    """Queue ``kernel`` on the current stream of the current device, with a thread for each element of ``out``."""
    if out.size:  # CUDA refuses a grid of no blocks
        blocks = min(-(-out.size // _THREADS), _MAX_BLOCKS)
        _function(file, kernel, out.dtype)((blocks,), (_THREADS,), args)
