"""Compiles kernels, checks their arguments and launches them: on CuPy's arrays, or on NumPy's through the CPU runner.

A launch needs three things: the kernel compiled for the arrays' precision (once, then cached), arguments whose C types
are those of the kernel's signature, and a number of threads. CUDA checks none of them. A kernel that receives float64 data as
``float*``, a Python float as ``float`` or a transposed view as a plain array computes nonsense without an error. So
everything is checked here first, and the error names the wrong argument.

CuPy compiles every kernel with ``-ftz=true``: on a GPU, subnormal numbers of float32 (below 1.2e-38) count as zero, on the
CPU they do not. The sign of such a gradient is then 0.

The checks take several times as long as the launch, and training repeats the same launches thousands of times. So the result
of the checks is kept as a plan for each combination of shapes and settings, and the next such launch uses it.

On CuPy, work is queued on the current stream of the arrays' device.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from npadv.kernels import cpu, sources
from npadv.kernels.arguments import (
    INT_MAX,
    REALS,
    array_module,
    check_arrays,
    contiguous,
    empty,
    integer,
    on_device,
    real_number,
)

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

THREADS = 256  # in a block: a multiple of the warp's 32, and small enough for any kernel's registers
_MAX_BLOCKS = 65_535  # far more threads than any GPU runs at once; the kernels' grid-stride loops cover the rest
_MAX_SHARED = 48 << 10  # bytes a block may have without a setting of the driver


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
    kinds = tuple(map(type, args.values()))
    try:
        facts = [_fact(kind, value) for kind, value in zip(kinds, args.values(), strict=True)]
        key = (file, kernel, blocks, threads, shared, *args, *kinds, *facts)
        plan = _plans.get(key)
    except (AttributeError, TypeError):  # neither a number nor an array: _make_plan says which argument
        key, plan = None, None
    if plan is None:
        plan = _make_plan(file, kernel, args, blocks, threads, shared)
        if key is not None:
            if len(_plans) >= _MAX_PLANS:
                _plans.clear()
            _plans[key] = plan
    packed = list(plan.packed)
    for i, which in plan.arrays:
        packed[i] = args[which]
    for i, parameter, kind in plan.floats:
        value = args[parameter.name]
        packed[i] = value if type(value) is kind else _argument(kernel, parameter, value, plan.real)
    first = packed[plan.arrays[0][0]] if plan.arrays else np.empty(0)
    if len(plan.arrays) > 1:
        device = first.device
        for i, which in plan.arrays[1:]:
            if packed[i].device != device:
                raise ValueError(
                    f"{kernel}: {which} must be on the device of the first array, {device}, got {packed[i].device}"
                )
    xp = array_module(first) if plan.arrays else array_module()
    if plan.blocks:
        with on_device(first):
            _function(xp, file, kernel, plan.real)(plan.grid, plan.block, tuple(packed), shared_mem=shared)


# ------------------------------------------------------------------------------------------------ plans
#
# The checks of a launch depend on the numbers, and on the arrays' types, dtypes and order in memory. A plan is the result of
# these checks. The next launch with the same facts, which training repeats thousands of times, finds the plan by them.


class _Plan(NamedTuple):
    """A launch that has been checked: its grid, and its arguments but for arrays and floating-point numbers."""

    real: np.dtype
    grid: tuple[int, ...]
    block: tuple[int, ...]
    blocks: int
    packed: tuple[Any, ...]  # None where an array or a floating-point number belongs
    arrays: tuple[tuple[int, str], ...]  # their places and names
    floats: tuple[tuple[int, sources.Parameter, type], ...]  # their places, and the types that they get


_plans: dict[Any, _Plan] = {}
_MAX_PLANS = 10_000
_EXACT = frozenset({int, bool, type(None), *(dtype.type for dtype in sources.DTYPES.values() if dtype.kind in "iub")})
_FLOATS = frozenset({float, np.float32, np.float64})


def _fact(kind: type, value: Any) -> Any:
    """Return the facts about an argument that its plan depends on, beside its type."""
    if kind in _EXACT:
        return value
    # A floating-point number is not part of a plan: 0.0 and -0.0 are equal, and step sizes change all the time.
    return None if kind in _FLOATS else (value.dtype, value.flags.c_contiguous)


def _make_plan(file: str, kernel: str, args: Mapping[str, Any], blocks: Any, threads: Any, shared: Any) -> _Plan:
    """Check all arguments of a launch, and return its plan."""
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
    packed = [_argument(kernel, p, args[p.name], real) for p in signature.parameters]
    grid = _extent(kernel, "blocks", blocks, (INT_MAX, 65_535, 65_535), least=0)
    block = _extent(kernel, "threads", threads, (1024, 1024, 64), least=1)
    if math.prod(block) > signature.max_threads:
        raise ValueError(f"{kernel}: threads must be at most {signature.max_threads} a block, got {math.prod(block)}")
    integer(kernel, "shared", shared, most=_MAX_SHARED)
    places: list[tuple[int, str]] = []
    floats: list[tuple[int, sources.Parameter, type]] = []
    for i, p in enumerate(signature.parameters):
        if p.name in arrays:
            places.append((i, p.name))
            packed[i] = None
        elif not p.pointer and p.dtype(real).kind == "f":
            floats.append((i, p, p.dtype(real).type))
            packed[i] = None
    return _Plan(real, grid, block, math.prod(grid), tuple(packed), tuple(places), tuple(floats))


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
    key = xp.__name__, file, kernel, real.char
    if (compiled := _functions.get(key)) is not None:
        return compiled
    with _compiling:  # two threads that need the same kernel compile it once
        if key not in _functions:
            options = ("-std=c++17", f"-Dreal={'double' if real == np.float64 else 'float'}")
            make = cpu.Module if xp is np else xp.RawModule
            _functions[key] = make(code=sources.translation_unit(file), options=options).get_function(kernel)
        return _functions[key]
