"""Runs CUDA kernels on the CPU: the same source, compiled by g++, every thread a fiber, blocks one after another.

:class:`Module` is called like ``cupy.RawModule``, with NumPy arrays in place of CuPy's. It is slow. It serves to test kernels
and to step through them where there is no GPU, and it finds faults that a GPU does not report. There are four builds of
every kernel:

fast
    To check results. A barrier that not all threads of a block reach is reported; shared memory starts as NaN.
races
    Every access to memory is checked: races, reads of uninitialised shared memory, accesses outside of the arrays.
memory
    AddressSanitizer and UndefinedBehaviorSanitizer, in a separate process: accesses outside of arrays, shared ones included,
    misaligned vectors, signed overflow.
debug
    For gdb: not optimised.

A fault is raised as :class:`KernelFault`, which names the kernel, the block and the thread. ``kernels/cpu/README.md`` has
examples, and says how to step through a kernel.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import dataclasses
import functools
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npadv.files import user_cache
from npadv.kernels import sources

__all__ = ["BUILDS", "ORDERS", "KernelFault", "Module", "Settings", "running", "settings"]

_COMMON = ["-std=c++17", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-sign-compare"]
# fma only where the source says fma, and no optimisation by types: the same bits from every build and version of g++.
_COMMON += ["-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off", "-fno-gnu-unique"]
BUILDS = {
    "fast": ["-O2", "-fPIC"],
    "debug": ["-O0", "-g", "-fPIC"],
    # Compiled with the calls of ThreadSanitizer but not linked to its library: races.h defines the functions called.
    "races": ["-O1", "-g", "-fPIC", "-fsanitize=thread"],
    "memory": [
        *["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all"],
        *["-include", "process.h"],
    ],
}
"""The builds and the options of g++ that make them."""
_LINK = {"memory": ["-fsanitize=address,undefined"]}  # the others are libraries
_LINK_LIBRARY = ["-shared", "-Wl,-z,defs"]

ORDERS = ("forward", "reverse", "random")

Extent = tuple[int, ...]  # of a grid or a block


class KernelFault(RuntimeError):
    """A fault in a kernel; the message names the kernel, the place and the fault. ``report`` has the sanitizer's text."""

    report = ""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How kernels run: the build, the order of threads and blocks, and whether only one block runs."""

    build: str = "fast"
    order: str = "forward"
    seed: int = 0
    block: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.build not in BUILDS:
            raise ValueError(f"build: expected one of {', '.join(BUILDS)}, got {self.build!r}")
        if self.order not in ORDERS:
            raise ValueError(f"order: expected one of {', '.join(ORDERS)}, got {self.order!r}")


_running: contextvars.ContextVar[Settings | None] = contextvars.ContextVar("running", default=None)


def settings() -> Settings:
    """Return the settings in force: those of :func:`running`, else of NPADV_KERNELS_BUILD and NPADV_KERNELS_ORDER."""
    build, order = (os.environ.get(f"NPADV_KERNELS_{which}") for which in ("BUILD", "ORDER"))
    return _running.get() or Settings(build or "fast", order or "forward")


@contextlib.contextmanager
def running(**changes: Any) -> Iterator[Settings]:
    """Change the settings within a ``with`` block.

    >>> with running(order="random", seed=3):
    ...     settings()
    Settings(build='fast', order='random', seed=3, block=None)
    """
    token = _running.set(dataclasses.replace(settings(), **changes))
    try:
        yield settings()
    finally:
        _running.reset(token)


class Module:
    """A CUDA source for the CPU, compiled for a build when one of its kernels is first launched in it."""

    def __init__(self, *, code: str, options: Sequence[str] = ()) -> None:
        self.code, self.kernels = code, sources.kernels_in(code)
        self.defines = [option for option in options if option.startswith("-D")]
        if not any(define.startswith("-Dreal=") for define in self.defines):
            self.defines.append("-Dreal=float")
        self.real = sources.DTYPES["double" if "-Dreal=double" in self.defines else "float"]

    def get_function(self, name: str) -> Callable[..., None]:
        """Return the kernel as a function of ``(grid, block, args, shared_mem=0)``."""
        if name not in self.kernels:
            raise ValueError(f"kernel: expected one of {', '.join(self.kernels)}, got {name!r}")
        return functools.partial(self._launch, self.kernels[name])

    def _launch(
        self, kernel: sources.Kernel, grid: Extent, block: Extent, args: Sequence[Any], shared_mem: int = 0
    ) -> None:
        how = settings()
        _check(kernel, args, self.real)
        path = _compiled(self.code, tuple(self.defines), how.build, tuple(self.kernels))
        grid3, block3 = ((*given, 1, 1)[:3] for given in (grid, block))
        if how.block is not None and not all(b < n for b, n in zip(how.block, grid3, strict=True)):
            raise ValueError(f"block: expected one of {kernel.name}'s grid {grid3}, got {how.block}")
        only = -1 if how.block is None else int(np.ravel_multi_index(how.block[::-1], grid3[::-1]))
        order = ORDERS.index(how.order)
        request = _Launch(grid3, block3, shared_mem, order, how.seed, only)
        if how.build == "memory":
            _run_process(path, kernel, request, args)
        else:
            _run_here(path, kernel, request, args, self.real)


def _check(kernel: sources.Kernel, args: Sequence[Any], real: np.dtype) -> None:
    """Raise unless the arguments are exactly those of the kernel's signature; CUDA does not check this."""
    if len(args) != len(kernel.parameters):
        raise TypeError(f"{kernel.name}: expected {len(kernel.parameters)} arguments, got {len(args)}")
    for parameter, arg in zip(kernel.parameters, args, strict=True):
        expected = parameter.dtype(real)
        if parameter.pointer:
            if isinstance(arg, np.uintp) and arg == 0:
                continue  # no array
            if not isinstance(arg, np.ndarray) or arg.dtype != expected:
                came = f"{arg.dtype} array" if isinstance(arg, np.ndarray) else type(arg).__name__
                raise TypeError(f"{kernel.name}: {parameter.name}: expected a {expected} array, got {came}")
            if not arg.flags.c_contiguous:
                raise ValueError(f"{kernel.name}: {parameter.name}: expected a C-contiguous array, got a strided one")
        elif type(arg) is not expected.type:
            raise TypeError(f"{kernel.name}: {parameter.name}: expected numpy.{expected}, got {type(arg).__name__}")


# ---------------------------------------------------------------------------------------------------- compiling


@functools.cache
def _compiler() -> tuple[str, str]:
    """Return the compiler's path and version."""
    path = shutil.which("g++")
    if path is None:
        raise RuntimeError("running kernels on the CPU needs a compiler: expected g++ on the PATH, found none")
    return path, subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout


_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s*)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")
_compiling = threading.Lock()


@functools.cache
def _headers() -> tuple[Path, str]:
    """Return the folder of the headers and the text of all of them, in the order of their names."""
    folder = sources.folder() / "cpu"
    return folder, "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.h")))


@functools.cache
def _compiled(code: str, defines: tuple[str, ...], build: str, kernels: tuple[str, ...]) -> Path:
    """Return the library (for "memory" the program) compiled from ``code``, from the cache if it is there."""
    compiler, version = _compiler()
    folder, headers = _headers()
    code = _DYNAMIC.sub(r"\1* const \2 = reinterpret_cast<\1*>(cpu::dynamic_shared);", code)
    code += '\n#line 1 "exports"\n' + "\n".join(f"CPU_EXPORT({name})" for name in kernels) + "\n"
    options = [*_COMMON, *defines, "-include", "cuda.h", *BUILDS[build]]
    link = _LINK.get(build, _LINK_LIBRARY)
    key = hashlib.sha256("\0".join([code, headers, *options, *link, compiler, version]).encode()).hexdigest()[:32]
    cache = user_cache() / "kernels"
    made = cache / key
    with _compiling:
        if made.is_file():
            return made
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            # Two steps, because g++ would link what it compiles with -fsanitize=thread to ThreadSanitizer's own library.
            steps = [
                [compiler, *options, "-I", str(folder), "-c", "-x", "c++", "-", "-o", f"{scratch}/object"],
                [compiler, *link, f"{scratch}/object", "-o", f"{scratch}/{key}"],
            ]
            plain = {**os.environ, "LC_ALL": "C"}  # messages in English
            for step in steps:
                done = subprocess.run(step, input=code, capture_output=True, text=True, env=plain, check=False)
                if done.returncode:
                    raise RuntimeError(f"g++ could not compile the kernels {', '.join(kernels)}:\n{done.stderr}")
                if done.stderr:
                    warnings.warn(f"g++ on the kernels {', '.join(kernels)}:\n{done.stderr}", stacklevel=2)
            os.replace(f"{scratch}/{key}", made)
    return made


# ---------------------------------------------------------------------------------------- running, in this process


class _Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_uint64), ("name", ctypes.c_char_p)]


class _Launch(ctypes.Structure):
    """``cpu::Launch`` of kernels/cpu/block.h."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("order", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("only_block", ctypes.c_int64),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("buffer_count", ctypes.c_int),
        ("message", ctypes.c_char * 1024),
    ]


_library = functools.cache(lambda path: ctypes.CDLL(str(path)))
_one_at_a_time = threading.Lock()  # a library has the shared memory of one block


def _run_here(path: Path, kernel: sources.Kernel, launch: _Launch, args: Sequence[Any], real: np.dtype) -> None:
    library = _library(path)
    spell = getattr(library, f"{kernel.name}_types")
    spell.restype = ctypes.c_char_p
    c_types = {dtype: name for name, dtype in sources.DTYPES.items()}
    expected = ", ".join(c_types[p.dtype(real)] + "*" * p.pointer for p in kernel.parameters)
    if spell().decode() != expected:  # they were read from the text, by a regular expression; the compiler knows
        raise RuntimeError(f"{kernel.name}: read as ({expected}), but compiled as ({spell().decode()})")
    cells = [np.array([_address(arg) if p.pointer else arg]) for p, arg in zip(kernel.parameters, args, strict=True)]
    pointers = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
    arrays = [(p.name, arg) for p, arg in zip(kernel.parameters, args, strict=True) if isinstance(arg, np.ndarray)]
    buffers = (_Buffer * len(arrays))(*(_Buffer(a.ctypes.data, a.nbytes, name.encode()) for name, a in arrays))
    launch.buffers, launch.buffer_count = buffers, len(arrays)
    with _one_at_a_time:
        failed = getattr(library, f"{kernel.name}_launch")(ctypes.byref(launch), pointers)
    if failed:
        raise KernelFault(f"{kernel.name}: {_with_lines(path, launch.message.decode())}")


def _address(arg: Any) -> np.uintp:
    return np.uintp(arg.ctypes.data if isinstance(arg, np.ndarray) else 0)


def _with_lines(path: Path, message: str) -> str:
    """Replace ``[code 1a2b]``, an address in the library, by its file and line."""

    def line(found: re.Match[str]) -> str:
        address = hex(int(found[1], 16) - 1)  # a return address is that of the instruction after the call
        try:
            done = subprocess.run(["addr2line", "-i", "-e", path, address], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return f"address {address}"
        # The innermost of the inlined calls comes first; the line of the kernel is wanted, not that of atomicAdd in cuda.h.
        frames = [Path(frame.split(" ")[0]).name for frame in done.stdout.splitlines()]
        return next((frame for frame in frames if not frame.startswith("cuda.h:")), frames[0])

    return re.sub(r"\[code (\w+)\]", line, message)


# -------------------------------------------------------------------------------------- running, in a separate process


def _run_process(path: Path, kernel: sources.Kernel, launch: _Launch, args: Sequence[Any]) -> None:
    """Write the launch to a file, run the program on it and read back the arrays; see kernels/cpu/process.h."""
    numbers = [*launch.grid, *launch.block, launch.shared_bytes, launch.order, launch.seed, launch.only_block]
    request = [kernel.name.encode().ljust(128, b"\0"), struct.pack("=8IQqI", *numbers, len(args))]
    places: dict[tuple[int, int], int] = {}  # the argument number of each array, for arrays given more than once
    arrays = []
    for i, arg in enumerate(args):
        if not isinstance(arg, np.ndarray):
            no_array = kernel.parameters[i].pointer
            request += [struct.pack("=IQ", 2, 0) if no_array else struct.pack("=IQ", 0, arg.nbytes) + arg.tobytes()]
        elif (first := places.setdefault((arg.ctypes.data, arg.nbytes), i)) != i:
            request += [struct.pack("=IQ", 3, first)]
        else:
            request += [struct.pack("=IQ", 1, arg.nbytes), arg.tobytes()]
            arrays.append(arg)
    options = "detect_leaks=0:detect_stack_use_after_return=0:symbolize=1"
    environment = {**os.environ, "ASAN_OPTIONS": options, "UBSAN_OPTIONS": "print_stacktrace=0"}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "launch")
        file.write_bytes(b"".join(request))
        command = [path, file]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
        if done.stdout:
            print(done.stdout, end="")  # the kernel's printf
        if done.returncode:
            fault = KernelFault(f"{kernel.name}: {_summary(done.stderr)}")
            fault.report = done.stderr
            raise fault
        answer = memoryview(file.read_bytes())
    if message := bytes(answer[:1024]).split(b"\0")[0].decode():
        raise KernelFault(f"{kernel.name}: {message}")
    at = 1024
    for a in arrays:
        if a.flags.writeable and a.size:
            a[...] = np.frombuffer(answer[at : at + a.nbytes], a.dtype).reshape(a.shape)
        at += a.nbytes


def _summary(report: str) -> str:
    r"""Return a sanitizer's report in one line.

    >>> _summary("conv.cu:7:3: runtime error: index 9 out of bounds\nWHERE: block (0, 0, 0), thread (1, 0, 0)")
    'block (0, 0, 0), thread (1, 0, 0): conv.cu:7:3: runtime error: index 9 out of bounds'
    """
    where = re.search(r"^WHERE: (.*)$", report, re.MULTILINE)
    what = re.search(r"^SUMMARY: (.*)$|^(.*runtime error.*)$", report, re.MULTILINE)
    found = (what[1] or what[2]) if what else f"ended without a report: {report.strip()[-300:]}"
    return f"{where[1]}: {found}" if where else found
