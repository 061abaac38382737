"""Compiles kernels, checks their arguments and launches them: on CuPy's arrays, or on NumPy's through the CPU runner.

A launch needs three things: the kernel compiled for the arrays' precision (once, then cached), arguments whose C types
are those of the kernel's signature, and a number of threads. CUDA checks none of them. A kernel that receives float64 data as
``float*``, a Python float as ``float`` or a transposed view as a plain array computes nonsense without an error. So
everything is checked here first, and the error names the wrong argument.

CuPy compiles every kernel with ``-ftz=true``: on a GPU, subnormal numbers of float32 (below 1.2e-38) count as zero, on the
CPU they do not. The sign of such a gradient is then 0.

On CuPy, work is queued on the current stream of the arrays' device. CuPy is imported at the first launch, never before;
without it, or without a GPU, a launch raises RuntimeError. With ``NPADV_KERNELS=cpu`` in the environment the kernels take
NumPy arrays too and run in :mod:`npadv.kernels.cpu`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import numbers
import operator
import os
import threading
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from npadv.backend import require_cupy, xp_of
from npadv.kernels import cpu, sources

__all__ = [
    "INT_MAX",
    "REALS",
    "THREADS",
    "array_module",
    "check_arrays",
    "contiguous",
    "covering",
    "empty",
    "integer",
    "launch",
    "real_number",
]

REALS = (np.dtype(np.float32), np.dtype(np.float64))
INT_MAX = 2**31 - 1
THREADS = 256  # in a block: a multiple of the warp's 32, and small enough for any kernel's registers
_MAX_BLOCKS = 65_535  # far more threads than any GPU runs at once; the kernels' grid-stride loops cover the rest
_MAX_SHARED = 48 << 10  # bytes a block may have without a setting of the driver


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
    xp = array_module(*arrays.values())
    for which, a in arrays.items():
        if not isinstance(a, xp.ndarray):
            came = f"{type(a).__module__}.{type(a).__qualname__}".removeprefix("builtins.")
            hint = "; NPADV_KERNELS=cpu in the environment runs kernels on it" if type(a) is np.ndarray else ""
            raise TypeError(f"{name}: {which} must be a {xp.__name__}.ndarray, got {came}{hint}")
        if a.dtype not in dtypes:
            raise TypeError(f"{name}: {which} must be {' or '.join(map(str, dtypes))}, got {a.dtype}")
    (first, a), *others = arrays.items()
    for which, b in others:
        if b.dtype != a.dtype:
            raise TypeError(f"{name}: {which} must have the dtype of {first}, {a.dtype}, got {b.dtype}")
        if b.device != a.device:
            raise ValueError(f"{name}: {which} must be on the device of {first}, {a.device}, got {b.device}")


def _on_device(a: Any) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if isinstance(a, np.ndarray) else a.device


def contiguous(a: Any) -> Any:
    """Return ``a``, or a copy of it in C order if it is not."""
    with _on_device(a):
        return array_module(a).ascontiguousarray(a)


def empty(like: Any, shape: tuple[int, ...], dtype: Any = None) -> Any:
    """Return a new array of ``shape`` on the device of ``like`` and of its dtype, if no other is given.

    On the CPU it is filled with NaN, or -1, so that an element that no thread writes is visible.
    """
    with _on_device(like):
        a = array_module(like).empty(shape, like.dtype if dtype is None else dtype)
    if isinstance(a, np.ndarray):
        a.view(np.uint8).fill(0xFF) if a.ndim else a.fill(math.nan if a.dtype.kind == "f" else -1)
    return a


# ------------------------------------------------------------------------------------------------ numbers


def real_number(name: str, which: str, value: Any, dtype: np.dtype, *, least: float = -math.inf) -> Any:
    """Return ``value`` as a NumPy scalar of ``dtype``; it must be a finite number of at least ``least`` there.

    Without ``least`` it may also be infinite or NaN.
    """
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: {which} must be a real number, got {type(value).__name__}")
    with np.errstate(over="ignore"):
        number = dtype.type(value)
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


# ------------------------------------------------------------------------------------------------ launches


def covering(elements: int) -> int:
    """Return the number of blocks of :data:`THREADS` threads for a kernel with a grid-stride loop over so many elements.

    >>> covering(0), covering(1), covering(257), covering(2**40)
    (0, 1, 2, 65535)
    """
    return min(-(-elements // THREADS), _MAX_BLOCKS)


def launch(
    file: str,
    kernel: str,
    args: Mapping[str, Any],
    *,
    blocks: int | tuple[int, ...],
    threads: int | tuple[int, ...] = THREADS,
    shared: int = 0,
) -> None:
    """Queue ``kernel`` of ``kernels/<file>.cu`` on the current stream of its arrays' device.

    Parameters
    ----------
    file, kernel : str
        The names of its file and of the kernel.
    args : mapping
        Every parameter of the kernel by its name: a C-contiguous array, or None for a null pointer; a Python number,
        which becomes the parameter's C type, or a NumPy scalar, which must have it.
    blocks, threads : int or tuple of up to three
        The grid and the block, (x, y, z). A grid without blocks launches nothing.
    shared : int
        Bytes of dynamic shared memory for each block, at most 48 KiB.

    Raises
    ------
    TypeError, ValueError
        The arguments are not those of the kernel's signature, or the launch is beyond CUDA's limits; nothing has been
        launched. The message names kernel and parameter.
    RuntimeError
        There is no CuPy, no GPU, or, with ``NPADV_KERNELS=cpu``, no g++.
    npadv.kernels.cpu.KernelFault
        On the CPU only: a fault that the CPU runner found in the kernel.
    """
    signature = sources.kernels_in(sources.translation_unit(file))[kernel]
    if set(args) != (expected := {p.name for p in signature.parameters}):
        wrong = ", ".join(sorted(set(args) ^ expected))
        raise TypeError(f"{kernel}: args must be named {', '.join(p.name for p in signature.parameters)}; see {wrong}")
    arrays = {p.name: args[p.name] for p in signature.parameters if p.pointer and args[p.name] is not None}
    xp = array_module(*arrays.values())
    for which, a in arrays.items():
        if not isinstance(a, xp.ndarray):
            raise TypeError(f"{kernel}: {which} must be a {xp.__name__}.ndarray, got {type(a).__name__}")
    real = next((arrays[p.name].dtype for p in signature.parameters if p.type == "real" and p.name in arrays), REALS[0])
    if real not in REALS:
        raise TypeError(f"{kernel}: expected arrays of float32 or float64 for real, got {real}")
    packed = tuple(_argument(kernel, p, args[p.name], real) for p in signature.parameters)
    for which, a in arrays.items():
        if a.device != (device := next(iter(arrays.values())).device):
            raise ValueError(f"{kernel}: {which} must be on the device of the first array, {device}, got {a.device}")
    grid = _extent(kernel, "blocks", blocks, (INT_MAX, 65_535, 65_535), least=0)
    block = _extent(kernel, "threads", threads, (1024, 1024, 64), least=1)
    if math.prod(block) > signature.max_threads:
        raise ValueError(f"{kernel}: threads must be at most {signature.max_threads} a block, got {math.prod(block)}")
    integer(kernel, "shared", shared, most=_MAX_SHARED)
    if math.prod(grid):
        with _on_device(next(iter(arrays.values()), np.empty(0))):
            _function(xp, file, kernel, real)(grid, block, packed, shared_mem=shared)


# A launch converts up to twenty integers; looking up their limits each time would cost more than the launch.
_INTEGERS = {
    c_type: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max), dtype.type)
    for c_type, dtype in sources.DTYPES.items()
    if dtype.kind in "iu"
}


def _argument(kernel: str, parameter: sources.Parameter, value: Any, real: np.dtype) -> Any:
    """Return ``value`` as an array, or as a scalar of the parameter's type."""
    which, c_type, pointer = parameter
    if type(value) is int and not pointer and c_type in _INTEGERS:
        least, most, make = _INTEGERS[c_type]
        return make(value if least <= value <= most else integer(kernel, which, value, least=least, most=most))
    if pointer and value is None:
        return np.uintp(0)
    dtype = parameter.dtype(real)
    if pointer:
        if value.dtype != dtype:
            raise TypeError(f"{kernel}: {which} must be {dtype}, got {value.dtype}")
        if not value.flags.c_contiguous:
            raise ValueError(f"{kernel}: {which} must be C-contiguous, got a strided view")
        return value
    if isinstance(value, np.generic) and value.dtype != dtype:
        raise TypeError(f"{kernel}: {which} must be {dtype}, got numpy.{value.dtype}")
    if dtype.kind == "f":
        return real_number(kernel, which, value, dtype)
    if dtype.kind == "b":
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{kernel}: {which} must be True or False, got {value!r}")
        return np.bool_(value)
    least, most, make = _INTEGERS[c_type]
    return make(integer(kernel, which, value, least=least, most=most))


def _extent(
    kernel: str, which: str, given: int | tuple[int, ...], most: tuple[int, ...], least: int
) -> tuple[int, ...]:
    """Return the size of a grid or a block, each of its dimensions within its limits."""
    extent = given if isinstance(given, tuple) else (given,)
    if not 1 <= len(extent) <= 3:
        raise ValueError(f"{kernel}: {which} must be a number or up to three, got {given!r}")
    return tuple(integer(kernel, which, n, least=least, most=limit) for n, limit in zip(extent, most, strict=False))


_functions: dict[tuple[str, str, str, str], Any] = {}
_compiling = threading.Lock()


def _function(xp: Any, file: str, kernel: str, real: np.dtype) -> Any:
    """Return a kernel compiled for float32 or float64; CuPy caches its binary for each device, also on disk."""
    key = xp.__name__, file, kernel, real.name
    with _compiling:  # two threads that need the same kernel compile it once
        if key not in _functions:
            options = ("-std=c++17", f"-Dreal={'double' if real == np.float64 else 'float'}")
            make = cpu.Module if xp is np else xp.RawModule
            _functions[key] = make(code=sources.translation_unit(file), options=options).get_function(kernel)
        return _functions[key]
