"""NumPy's own BLAS, called directly: products added to a result in place, and the number of threads that BLAS uses.

NumPy multiplies matrices with a BLAS library (its wheels contain OpenBLAS), but gives access to few of its functions. Two
more are needed here. The first computes ``y += x @ w`` in one call, where NumPy needs a temporary array and a second pass
over memory. A convolution is a sum of such products, one for each tap of its filters. The second sets the number of threads:
where work is divided among threads already (``parallel.py``), BLAS must not divide it again.

Both are called with ctypes, in the library that NumPy has loaded. Symbol names vary between builds, so every use has a NumPy
fallback. Where a symbol is missing, or computes a wrong product (it is tried once, at import), the products are NumPy
expressions and BLAS keeps its threads. ``NPADV_BLAS=numpy`` or ``NPADV_FAST=off`` selects the fallback.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.linalg import _umath_linalg  # an extension module that is linked to the BLAS

from npadv.fast import ENABLED

RowRange = tuple[int, int, int, int]
"""(at, start, count, tap): rows at..at+count of y belong to rows start..start+count of x, through matrix ``w[tap]``."""

# Sums of products -----------------------------------------------------------------------------------------------------


def add_products(y: np.ndarray, x: np.ndarray, w: np.ndarray, ranges: Iterable[RowRange]) -> None:
    """Add, for each row range, ``x[start : start + count] @ w[tap]`` to ``y[at : at + count]``, in place.

    Parameters
    ----------
    y, x, w : (R, K), (Q, C), (T, C, K)
        Of one dtype, float32 or float64 (other dtypes use NumPy's product); the elements of a row are adjacent in memory.
    ranges : iterable of (at, start, count, tap)
        Row ranges, which must lie within the arrays: they are not checked.

    Examples
    --------
    >>> y = np.zeros((2, 1))
    >>> add_products(y, np.array([[1.0], [2.0], [4.0]]), np.array([[[1.0]], [[10.0]]]), [(0, 0, 2, 0), (0, 1, 2, 1)])
    >>> y.ravel()
    array([21., 42.])
    """
    gemm = _gemm_of(y, x, w)
    if gemm is None:
        for at, start, count, tap in ranges:
            y[at : at + count] += x[start : start + count] @ w[tap]
        return
    y0, x0, w0 = y.ctypes.data, x.ctypes.data, w.ctypes.data
    y_row, x_row, (w_tap, w_row, item), (_, c, k) = y.strides[0], x.strides[0], w.strides, w.shape
    ldy, ldx, ldw = max(k, y_row // item), max(c, x_row // item), max(k, w_row // item)  # of a single row, any stride
    for at, start, count, tap in ranges:  # y = 1.0 x w + 1.0 y
        gemm(
            _ROW_MAJOR, _PLAIN, _PLAIN, count, k, c, 1.0, x0 + start * x_row, ldx, w0 + tap * w_tap, ldw,
            1.0, y0 + at * y_row, ldy,
        )  # fmt: skip


def add_transposed_products(w: np.ndarray, x: np.ndarray, y: np.ndarray, ranges: Iterable[RowRange]) -> None:
    """Add, for each row range, ``x[start : start + count].T @ y[at : at + count]`` to ``w[tap]``, in place.

    This is the gradient of :func:`add_products` in w. The arguments are the same.
    """
    gemm = _gemm_of(y, x, w)
    if gemm is None:
        for at, start, count, tap in ranges:
            w[tap] += x[start : start + count].T @ y[at : at + count]
        return
    y0, x0, w0 = y.ctypes.data, x.ctypes.data, w.ctypes.data
    y_row, x_row, (w_tap, w_row, item), (_, c, k) = y.strides[0], x.strides[0], w.strides, w.shape
    ldy, ldx, ldw = max(k, y_row // item), max(c, x_row // item), max(k, w_row // item)  # of a single row, any stride
    for at, start, count, tap in ranges:  # w = 1.0 x' y + 1.0 w
        gemm(
            _ROW_MAJOR, _TRANSPOSED, _PLAIN, c, k, count, 1.0, x0 + start * x_row, ldx, y0 + at * y_row, ldy,
            1.0, w0 + tap * w_tap, ldw,
        )  # fmt: skip


def _gemm_of(*arrays: np.ndarray) -> Callable[..., None] | None:
    """Return BLAS's matrix product for the arrays, or None where NumPy's has to be used."""
    kinds = {a.dtype.char for a in arrays}
    fits = len(kinds) == 1 and all(a.size and a.strides[-1] == a.itemsize <= a.strides[-2] for a in arrays)
    return _GEMM.get(kinds.pop()) if fits else None


# Threads --------------------------------------------------------------------------------------------------------------


def threads() -> int:
    """Return the number of threads that NumPy's BLAS uses outside of :func:`one_thread`; 1 if it is unknown."""
    return _held.threads or (_get_threads() if _get_threads else 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS to one thread within a ``with`` block.

    BLAS has one number of threads for the whole process. The first block to begin sets it to 1, and the last one to end
    restores it. Meanwhile, products in other threads of the process are slower, but right.
    """
    _held.enter()
    try:
        yield
    finally:
        _held.leave()


class _Held:
    """The number of ``one_thread`` blocks that are active, and the number of threads to restore (0 while none is)."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = self.threads = 0

    def enter(self) -> None:
        with self.lock:
            if self.inside == 0 and _get_threads and _set_threads:
                self.threads = _get_threads()
                _set_threads(1)
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and self.threads and _set_threads:
                _set_threads(self.threads)
                self.threads = 0


# Finding the symbols --------------------------------------------------------------------------------------------------

_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112  # cblas.h: CblasRowMajor, CblasNoTrans, CblasTrans

# The names in different builds of NumPy: OpenBLAS of the wheels, OpenBLAS with its own names and long or short integers.
_NAMES = (
    ("scipy_cblas_{}gemm64_", "scipy_openblas_{}64_", ctypes.c_int64),
    ("cblas_{}gemm64_", "openblas_{}64_", ctypes.c_int64),
    ("cblas_{}gemm", "openblas_{}", ctypes.c_int),
)


def _find() -> tuple[dict[str, Callable[..., None]], Any, Any]:
    """Return BLAS's matrix products by dtype and the functions that read and set its threads; nothing unless they work."""
    if not ENABLED or os.environ.get("NPADV_BLAS") == "numpy":
        return {}, None, None
    try:
        library = ctypes.CDLL(_umath_linalg.__file__)  # finds the symbols that the extension was linked to
    except OSError:
        return {}, None, None
    for product, function, integer in _NAMES:
        try:
            read = _typed(library, function.format("get_num_threads"), [], ctypes.c_int)
            write = _typed(library, function.format("set_num_threads"), [ctypes.c_int], None)
            products = {
                dtype: _typed(library, product.format(letter), _gemm_arguments(real, integer), None)
                for dtype, letter, real in (("f", "s", ctypes.c_float), ("d", "d", ctypes.c_double))
            }
        except AttributeError:
            continue
        if 1 <= read() <= 4096 and _compute_products(products):
            return products, read, write
    return {}, None, None


def _typed(library: ctypes.CDLL, name: str, arguments: list[Any], result: Any) -> Any:
    function = getattr(library, name)
    function.argtypes, function.restype = arguments, result
    return function


def _gemm_arguments(real: Any, integer: Any) -> list[Any]:
    """Return the types of cblas_?gemm's: order, two transpositions, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc."""
    choice, pointer = ctypes.c_int, ctypes.c_void_p
    matrix = [pointer, integer]
    return [choice, choice, choice, integer, integer, integer, real, *matrix, *matrix, real, *matrix]


def _compute_products(products: dict[str, Callable[..., None]]) -> bool:
    """Whether the functions that were found compute y + x @ w."""
    for dtype, gemm in products.items():
        a = np.arange(35.0 * 41).reshape(35, 41).astype(dtype) % 7  # whole numbers, so that all orders agree
        b = np.arange(41.0 * 67).reshape(41, 67).astype(dtype) % 5
        c = np.ones((35, 67), dtype)
        gemm(_ROW_MAJOR, _PLAIN, _PLAIN, 35, 67, 41, 1.0, a.ctypes.data, 41, b.ctypes.data, 67, 1.0, c.ctypes.data, 67)
        if not np.array_equal(c, np.einsum("ij,jk->ik", a, b) + 1):
            return False
    return True


_held = _Held()
_GEMM, _get_threads, _set_threads = _find()


def _reset_after_fork() -> None:
    """Restore the number of threads in a forked child, where no ``one_thread`` block will end."""
    global _held
    before, _held = _held.threads, _Held()
    if before and _set_threads:
        _set_threads(before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
