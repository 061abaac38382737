"""Matrix products, fast: large ones on npadv's threads, small ones with less overhead for each call.

After a product, a thread of NumPy's BLAS keeps its core busy for a while, waiting for the next product. npadv's own threads
(``parallel.py``), on which convolutions run, would have to wait for that core. So products that BLAS would divide among its
threads are divided among npadv's threads instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv import capture, kernels
from npadv.backend import xp_of
from npadv.fast import parallel
from npadv.fast.blas import one_thread

BLAS_THREADS = 1 << 18
"""Multiplications from which BLAS would use several threads."""

OWN_THREADS = 1 << 21
"""Multiplications from which npadv's threads save more time than waking them takes."""


def matmul(a: Any, b: Any) -> Any:
    """Return a @ b."""
    if type(a) is np.ndarray and a.ndim == 2 == b.ndim:
        if len(a) > 1 and a.size * b.shape[1] >= BLAS_THREADS:
            return _large(a, b)
        return a.dot(b)  # equals a @ b for matrices, in half the time for small ones
    if capture.active() and a.ndim == 2 == b.ndim and xp_of(a, b) is not np:  # cuBLAS cannot be recorded with CuPy
        dtype = np.result_type(a.dtype, b.dtype)
        return kernels.matmul(a.astype(dtype, copy=False), b.astype(dtype, copy=False))
    return a @ b


def affine(x: Any, w: Any, b: Any) -> Any:
    """Return x @ w + b, the bias added in place."""
    y = matmul(x, w)
    if b.dtype != y.dtype:
        return y + b
    y += b if len(y) > 1 else b[None]  # NumPy adds small arrays of equal shapes in half the time
    return y


def _large(a: Any, b: Any) -> Any:
    """Return a @ b for large matrices, by halves of the longer side of the result."""
    (m, k), n = a.shape, b.shape[1]
    if b.shape[0] != k or a.dtype != b.dtype or m * k * n < OWN_THREADS:
        with one_thread():
            return a @ b
    y = np.empty((m, n), dtype=a.dtype)

    def part(i: int) -> None:
        if m > n:
            half = slice(m * i // 2, m * (i + 1) // 2)
            np.matmul(a[half], b, out=y[half])
        else:
            half = slice(n * i // 2, n * (i + 1) // 2)
            np.matmul(a, b[:, half], out=y[:, half])

    parallel.run(part, 2)
    return y
