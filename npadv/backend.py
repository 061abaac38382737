"""The differences between NumPy and CuPy, all in this file.

The type of an array determines where its computations run: ``xp_of(x)`` is the module, ``numpy`` or ``cupy``, whose functions
take ``x``. npadv imports CuPy only when a GPU is asked for (``require_cupy``).
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
"""A ``numpy.ndarray`` or a ``cupy.ndarray``: CuPy ships no types to name the union with."""

DEVICES = ("cpu", "cuda")
INSTALL_CUPY = 'pip install "npadv[gpu-cuda13]" (CUDA 13) or pip install "npadv[gpu-cuda12]" (CUDA 12)'


def xp_of(*arrays: Any) -> ModuleType:
    """Return the array module of the arguments: ``cupy`` if any is a CuPy array, else ``numpy``.

    >>> xp_of(np.zeros(3), 2.0).__name__
    'numpy'
    """
    for x in arrays:
        if type(x) is np.ndarray:
            continue
        module = type(x).__module__.partition(".")[0]
        if module == "cupy":
            return sys.modules["cupy"]
    return np


def special_of(x: Any) -> ModuleType:
    """Return the special functions for an array: ``scipy.special``, or ``cupyx.scipy.special``, imported when first used.

    >>> special_of(np.zeros(3)).__name__
    'scipy.special'
    """
    return import_module("scipy.special" if xp_of(x) is np else "cupyx.scipy.special")


def is_array(x: Any) -> bool:
    """Return whether ``x`` is an array (not a Python number, a list or a Tensor).

    >>> is_array(np.ones(2)), is_array(np.float32(1)), is_array([1.0])
    (True, True, False)
    """
    return isinstance(x, np.ndarray | np.generic) or type(x).__module__.partition(".")[0] == "cupy"


def shape_of(x: Any) -> tuple[int, ...]:
    """Return the shape of an array, or of a number or a list.

    >>> shape_of(np.ones((2, 3))), shape_of([1.0, 2.0])
    ((2, 3), (2,))
    """
    return x.shape if is_array(x) else np.shape(x)


def require_cupy() -> ModuleType:
    """Return the ``cupy`` module, or raise an error that says what is missing.

    Raises
    ------
    RuntimeError
        CuPy is not installed, or it sees no CUDA device.
    """
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(f"computing on a GPU needs CuPy, which is not installed: {INSTALL_CUPY}") from error
    if not cupy.is_available():  # CuPy imports without a GPU and fails only when used
        raise RuntimeError(
            "computing on a GPU needs one: CuPy is installed, but no CUDA device or driver is visible to it"
        )
    return cupy


def device_module(device: str) -> ModuleType:
    """Return the array module of a device by its name, ``"cpu"`` or ``"cuda"``."""
    if device == "cpu":
        return np
    if device == "cuda":
        return require_cupy()
    raise ValueError(f"device: expected one of {', '.join(map(repr, DEVICES))}, got {device!r}")


def to_device(x: Array, device: str) -> Array:
    """Return ``x`` on the named device, unchanged if it is there already."""
    xp = device_module(device)
    return to_numpy(x) if xp is np else xp.asarray(x)


def like(x: Any, reference: Array) -> Array:
    """Return host data ``x`` as an array of the module that holds ``reference`` (a copy only where one is needed)."""
    return xp_of(reference).asarray(x)


def to_numpy(x: Array) -> np.ndarray:
    """Return ``x`` as a NumPy array on the host.

    >>> to_numpy(np.arange(3)).tolist()
    [0, 1, 2]
    """
    return x.get() if hasattr(x, "get") and xp_of(x) is not np else np.asarray(x)


def add_at(target: Array, index: Any, values: Array) -> None:
    """Compute ``target[index] += values`` in place, where an element that is indexed twice receives both values."""
    xp_of(target).add.at(target, index, values)


def sliding_windows(x: Array, shape: tuple[int, ...], axis: tuple[int, ...]) -> Array:
    """Return a read-only view of every window of the given shape: the window's own axes come last."""
    xp = xp_of(x)
    return xp.lib.stride_tricks.sliding_window_view(x, shape, axis=axis)


def as_floating(x: Any) -> Any:
    """Return an array or Tensor of integers as float64, and any other unchanged.

    Differences, squares and sums of integers would wrap around. So functions that NumPy does not have (convolutions, losses,
    norms) convert integers first. Functions that NumPy also has return on integers the same as NumPy's.

    >>> as_floating(np.array([1, 2])).dtype, as_floating(np.ones(2, np.float32)).dtype
    (dtype('float64'), dtype('float32'))
    """
    return x.astype(np.float64) if x.dtype.kind in "iub" else x


# Sums -----------------------------------------------------------------------------------------------------------------
#
# CuPy adds in a tree. NumPy adds pairwise along the axis whose elements are adjacent in memory, so that the error grows with
# log(n). Along any other axis it adds one element after the other, and the error grows with n: a bias gradient over 64 images
# of 112 x 112 pixels in the order (H, W, N, C) would be off by a percent in float32.

BLOCK = 16
"""Elements along an axis that are added one after the other."""

SMALL_ARRAY = 128
"""Elements up to which any order of addition is accurate enough."""


def accurate_sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Return ``x.sum(axis, keepdims=keepdims)``, as accurate as pairwise summation in every memory order.

    NumPy's arrays are added over one axis at a time, and over a long axis in blocks, so that no number takes part in more
    than a few dozen additions. Sums of float16 are computed and returned in float32, where they do not overflow.

    >>> import numpy as np
    >>> x = np.full((1 << 20, 2), 0.1, np.float32)
    >>> [abs(float(y[0]) - 104857.6) < 0.1 for y in (accurate_sum(x, axis=0), x.sum(axis=0))]
    [True, False]
    """
    if type(x) is not np.ndarray or x.dtype.kind != "f":  # CuPy adds in a tree, integers are exact
        return x.sum(axis=axis, keepdims=keepdims)
    if x.dtype == np.float16:
        x = x.astype(np.float32)
    if x.size <= SMALL_ARRAY or (axis is None and (x.flags.c_contiguous or x.flags.f_contiguous)):
        return x.sum(axis=axis, keepdims=keepdims)
    axes = range(x.ndim) if axis is None else [a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))]
    shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    for a in sorted(axes, key=lambda a: abs(x.strides[a])):  # the elements that are nearest in memory first
        x = _sum_over(x, a)
    return x if keepdims else x.reshape([n for a, n in enumerate(shape) if a not in axes])


def _sum_over(x: Any, axis: int) -> Any:
    """Return the sum over one axis, which is kept with length one."""
    n, stride = x.shape[axis], x.strides[axis]
    if n <= BLOCK or abs(stride) == x.itemsize:  # along adjacent elements, NumPy adds pairwise
        return x.sum(axis=axis, keepdims=True)
    blocks, rest = divmod(n, BLOCK)
    before = (slice(None),) * axis
    head = x[(*before, slice(n - rest))]
    head = head.reshape(*x.shape[:axis], blocks, BLOCK, *x.shape[axis + 1 :]).sum(axis=axis + 1)
    total = _sum_over(head, axis)
    return total + x[(*before, slice(n - rest, None))].sum(axis=axis, keepdims=True) if rest else total
