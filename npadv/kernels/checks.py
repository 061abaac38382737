"""Checks of arguments that several families of kernels share; each error names the function and the argument."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from npadv.backend import xp_of
from npadv.kernels.launch import REALS, array_module, check_arrays, real_number

__all__ = ["check_companion", "check_in_place", "check_shape", "interval", "takes"]


def takes(*arrays: Any) -> bool:
    """Tell whether the kernels can compute with these arrays: on a GPU, all float32 or all float64.

    The functions of ``npadv/fast`` call a kernel if so, and compute by array expressions otherwise.

    >>> takes(np.ones(3))  # on the host
    False
    """
    if type(arrays[0]) is np.ndarray:  # the usual case, decided quickly
        return False
    return xp_of(*arrays) is not np and arrays[0].dtype in REALS and all(a.dtype == arrays[0].dtype for a in arrays)


def check_shape(name: str, which: str, a: Any, shape: tuple[int, ...], why: str) -> None:
    """Raise unless ``a`` has the shape; ``why`` explains the shape in the message."""
    if a.shape != shape:
        raise ValueError(f"{name}: {which} must have {why}, {shape}, got {a.shape}")


def check_in_place(name: str, targets: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Raise unless the targets, which a kernel overwrites, are contiguous and share no memory with anything it reads."""
    given = {**targets, **others}
    xp = array_module(*given.values())
    for i, (which, target) in enumerate(targets.items()):
        for other in list(given)[i + 1 :]:
            if xp.may_share_memory(target, given[other]):
                raise ValueError(
                    f"{name}: {other} must not share memory with {which}, which is overwritten; pass a copy"
                )
        if not target.flags.c_contiguous:
            raise ValueError(
                f"{name}: {which} must be C-contiguous, because it is overwritten in place; got a strided view"
            )


def check_companion(name: str, which: str, a: Any, dtype: Any, like: tuple[str, Any]) -> None:
    """Raise unless ``a`` is a device array of the given dtype, on the device of another array, (name, array)."""
    if not isinstance(a, (xp := array_module(like[1])).ndarray):
        raise TypeError(f"{name}: {which} must be a {xp.__name__}.ndarray, got {type(a).__name__}")
    check_arrays(name, {which: a}, (np.dtype(dtype),))
    if a.device != like[1].device:
        raise ValueError(f"{name}: {which} must be on the device of {like[0]}, {like[1].device}, got {a.device}")


def interval(name: str, bounds: Any, dtype: Any) -> tuple[Any, Any]:
    """Return ``bounds`` as two numbers of ``dtype``, infinite for None."""
    if bounds is None:
        return dtype.type(-math.inf), dtype.type(math.inf)
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"{name}: bounds must be None or a pair (lo, hi), got {bounds!r}")
    lo, hi = (real_number(name, "bounds", end, dtype) for end in bounds)
    if not lo <= hi:
        raise ValueError(f"{name}: bounds must be (lo, hi) with lo <= hi, got {bounds!r}")
    return lo, hi
