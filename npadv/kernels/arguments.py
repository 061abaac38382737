"""Arrays and numbers as kernels take them: checked, contiguous, of the right type; an error names the wrong one.

CuPy is imported when the first array is checked, never before; without it, or without a GPU, that raises RuntimeError. With
``NPADV_KERNELS=cpu`` in the environment, kernels take NumPy arrays too and run in :mod:`npadv.kernels.cpu`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import numbers
import operator
import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from npadv.backend import require_cupy, xp_of

__all__ = [
    "INT_MAX",
    "REALS",
    "array_module",
    "check_arrays",
    "contiguous",
    "empty",
    "integer",
    "on_device",
    "real_number",
]

REALS = (np.dtype(np.float32), np.dtype(np.float64))
INT_MAX = 2**31 - 1


# ------------------------------------------------------------------------------------------------ arrays


@functools.cache
def _cupy() -> Any:
    """Return CuPy. All launches get it here, so a test can put another module in its place."""
    return require_cupy()


def _on_cpu(*arrays: Any) -> bool:
    """Whether the environment says that kernels run on the CPU, and none of the arrays is on a GPU."""
    asked = os.environ.get("NPADV_KERNELS", "")
    if asked not in ("", "cpu"):
        raise ValueError(f"NPADV_KERNELS: expected 'cpu' or nothing, got {asked!r}")
    return asked == "cpu" and xp_of(*arrays) is np


def array_module(*arrays: Any) -> Any:
    """Return the module whose arrays kernels take: ``cupy``, or under ``NPADV_KERNELS=cpu`` the arrays' own.

    Raises
    ------
    RuntimeError
        It is ``cupy``, which is not installed or sees no GPU.
    """
    if arrays and xp_of(arrays[0]) is not np:
        return _cupy()  # reading the environment, as below, would take a microsecond
    return np if _on_cpu(*arrays) else _cupy()


def check_arrays(name: str, arrays: Mapping[str, Any], dtypes: Collection[np.dtype] = REALS) -> None:
    """Raise unless all are device arrays of one dtype, among ``dtypes``, on one device.

    Parameters
    ----------
    name : str
        The function to name in messages.
    arrays : mapping
        The arrays by the names of the function's arguments.
    """
    (first, a), *others = arrays.items()
    if (
        type(a) is np.ndarray
        or xp_of(a) is np
        or a.dtype not in dtypes
        or any(type(b) is not type(a) for _, b in others)
    ):
        _check_types(name, arrays, dtypes)
    if others:
        device = a.device
        for which, b in others:
            if b.dtype != a.dtype:
                raise TypeError(f"{name}: {which} must have the dtype of {first}, {a.dtype}, got {b.dtype}")
            if b.device != device:
                raise ValueError(f"{name}: {which} must be on the device of {first}, {device}, got {b.device}")


def _check_types(name: str, arrays: Mapping[str, Any], dtypes: Collection[np.dtype]) -> None:
    """Raise unless all are arrays that kernels take, of one of the dtypes."""
    xp = array_module(*arrays.values())
    for which, a in arrays.items():
        if not isinstance(a, xp.ndarray):
            came = f"{type(a).__module__}.{type(a).__qualname__}".removeprefix("builtins.")
            hint = "; NPADV_KERNELS=cpu in the environment runs kernels on it" if type(a) is np.ndarray else ""
            raise TypeError(f"{name}: {which} must be a {xp.__name__}.ndarray, got {came}{hint}")
        if a.dtype not in dtypes:
            raise TypeError(f"{name}: {which} must be {' or '.join(map(str, dtypes))}, got {a.dtype}")


def on_device(a: Any) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which the device of an array is the current one."""
    return contextlib.nullcontext() if isinstance(a, np.ndarray) else a.device


def contiguous(a: Any) -> Any:
    """Return ``a``, or a copy of it in C order if it is not."""
    if a.flags.c_contiguous:
        return a
    with on_device(a):
        return array_module(a).ascontiguousarray(a)


def empty(like: Any, shape: tuple[int, ...], dtype: Any = None) -> Any:
    """Return a new array of ``shape`` on the device of ``like`` and of its dtype, if no other is given.

    On the CPU it is filled with NaN, or -1, so that an element that no thread writes is visible.
    """
    with on_device(like):
        a = array_module(like).empty(shape, like.dtype if dtype is None else dtype)
    if isinstance(a, np.ndarray):
        a.view(np.uint8).fill(0xFF) if a.ndim else a.fill(math.nan if a.dtype.kind == "f" else -1)
    return a


# ------------------------------------------------------------------------------------------------ numbers


_SMALL = 1e38  # no number up to it overflows in float32


def real_number(name: str, which: str, value: Any, dtype: np.dtype, *, least: float = -math.inf) -> Any:
    """Return ``value`` as a NumPy scalar of ``dtype``; it must be a finite number of at least ``least`` there.

    Without ``least`` it may also be infinite or NaN.
    """
    if type(value) in (float, int) and -_SMALL <= value <= _SMALL:
        number = dtype.type(value)
    elif isinstance(value, numbers.Real):
        with np.errstate(over="ignore"):
            number = dtype.type(value)
    else:
        raise TypeError(f"{name}: {which} must be a real number, got {type(value).__name__}")
    if least > -math.inf and not least <= number < math.inf:
        raise ValueError(f"{name}: {which} must be at least {least:g} and finite in {dtype}, got {value}")
    return number


def integer(name: str, which: str, value: Any, *, least: int = 0, most: int = INT_MAX) -> int:
    """Return ``value`` as an int from ``least`` to ``most``."""
    try:
        i = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {which} must be an integer, got {value!r}") from None
    if not least <= i <= most:
        upper = "2**31 - 1" if most == INT_MAX else most
        raise ValueError(f"{name}: {which} must be an integer from {least} to {upper}, got {value!r}")
    return i
