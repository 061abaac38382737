"""Finds the CUDA sources, and reads from them the parameters of each kernel.

A kernel is written ``extern "C" __global__ void name(parameters)``, its parameters are numbers and pointers of the types
in :data:`DTYPES`, and ``real`` stands for the precision it is compiled for. ``#include "name.cuh"`` is replaced by that
file's text, so that a source is one text, by which compiled kernels are cached.

>>> print(source("sign_step").splitlines()[0])
// One step of a sign-gradient attack, in place:
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["DTYPES", "Kernel", "Parameter", "expand", "folder", "kernels_in", "names", "source", "translation_unit"]

DTYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "int": np.dtype(np.int32),
    "unsigned": np.dtype(np.uint32),
    "long long": np.dtype(np.int64),
    "unsigned long long": np.dtype(np.uint64),
    "unsigned char": np.dtype(np.uint8),
    "signed char": np.dtype(np.int8),
    "bool": np.dtype(np.bool_),
}
"""The C types of a kernel's parameters (or of the elements they point to) as dtypes; ``real`` is one of the first two."""

_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:__launch_bounds__\s*\(([^)]*)\)\s*)?'
    r"void\s+(?:__launch_bounds__\s*\(([^)]*)\)\s*)?(\w+)\s*\(([^)]*)\)"
)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_INCLUDE = re.compile(r'^#include "([\w.]+)"[^\n]*$', re.MULTILINE)


class Parameter(NamedTuple):
    """A kernel's parameter: its name, its C type without ``const`` and ``*``, and whether it is a pointer."""

    name: str
    type: str
    pointer: bool

    def dtype(self, real: np.dtype) -> np.dtype:
        """Return the dtype of the number or of the array's elements, in a kernel compiled for ``real``."""
        return real if self.type == "real" else DTYPES[self.type]


class Kernel(NamedTuple):
    """A kernel's name, parameters, and the most threads a block of it may have."""

    name: str
    parameters: tuple[Parameter, ...]
    max_threads: int


def folder() -> Path:
    """Return the folder of the ``.cu`` files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    # In a wheel they are inside the package; a folder `kernels` beside it would belong to another package.
    inside = package / "_kernels"
    return inside if inside.is_dir() else package.parent / "kernels"


def names() -> list[str]:
    """Return the names of all kernel sources, sorted."""
    return sorted(path.stem for path in folder().glob("*.cu"))


def source(name: str) -> str:
    """Return the text of ``kernels/<name>.cu``; FileNotFoundError names the kernels there are."""
    path = folder() / f"{name}.cu"
    if not path.is_file():
        there = ", ".join(names()) or "no kernels at all"
        raise FileNotFoundError(f"there is no kernel source {name}.cu; {folder()} has {there}")
    return path.read_text(encoding="utf-8")


def expand(code: str, name: str, beside: Path) -> str:
    r"""Return ``code`` with every ``#include "file"`` replaced by that file of the folder ``beside``, each once.

    ``#line`` directives keep the compilers' messages at the right line of the right file.

    >>> expand("int x;", "empty.cu", folder())
    '#line 1 "empty.cu"\nint x;'
    """
    seen = set()

    def paste(text: str, label: str) -> str:
        def replace(found: re.Match[str]) -> str:
            included = found[1]
            if included in seen:
                return ""
            seen.add(included)
            after = text.count("\n", 0, found.end()) + 2
            body = paste((beside / included).read_text(encoding="utf-8"), included)
            return f'{body}\n#line {after} "{label}"'

        return f'#line 1 "{label}"\n' + _INCLUDE.sub(replace, text)

    return paste(code, name)


@functools.cache
def translation_unit(name: str) -> str:
    """Return the text that the compiler receives for ``kernels/<name>.cu``."""
    return expand(source(name), f"{name}.cu", folder())


@functools.cache
def kernels_in(code: str) -> dict[str, Kernel]:
    """Return the kernels of a source by name, with their parameters.

    Raises
    ------
    ValueError
        A parameter has a type that is not in :data:`DTYPES`.

    Examples
    --------
    >>> kernels_in('extern "C" __global__ void scale(const real* x, long long n) {}')["scale"].parameters
    (Parameter(name='x', type='real', pointer=True), Parameter(name='n', type='long long', pointer=False))
    """
    code = _COMMENT.sub(" ", code)
    found = {}
    for bounds_before, bounds_after, name, parameters in _KERNEL.findall(code):
        bounds = (bounds_before or bounds_after).partition(",")[0].strip()
        limit = int(bounds) if bounds.isdecimal() else _constant(code, bounds) if bounds else 1024
        found[name] = Kernel(name, tuple(_parameter(name, p) for p in parameters.split(",")), limit)
    return found


def _parameter(kernel: str, text: str) -> Parameter:
    words = text.replace("*", " * ").replace("__restrict__", " ").split()
    type_ = " ".join(w for w in words[:-1] if w not in ("const", "*")).replace("unsigned int", "unsigned")
    if type_ not in DTYPES and type_ != "real":
        known = ", ".join(["real", *DTYPES])
        raise ValueError(f"{kernel}: expected parameters of the types {known}, got {' '.join(text.split())!r}")
    return Parameter(words[-1], type_, "*" in words)


def _constant(code: str, name: str) -> int:
    """Return the value of ``constexpr int name = 256;`` or ``#define name 256``, or 1024, CUDA's limit, if there is neither."""
    value = re.search(rf"(?:\b{re.escape(name)}\s*=|#define\s+{re.escape(name)})\s*(\d+)\b", code)
    return int(value[1]) if value else 1024
