"""The product of two matrices, by one of the four kernels ``kernels/matmul_1_naive.cu`` to ``matmul_4_prefetch.cu``.

The library runs the last one. The others are there to be read and tried: ``version=`` chooses one. All four add up an
element in the same order, so on the CPU their results agree to the bit.
"""

from __future__ import annotations

from npadv.backend import Array
from npadv.kernels.checks import check_shape
from npadv.kernels.launch import THREADS, check_arrays, contiguous, covering, empty, launch

__all__ = ["matmul"]

FILES = {1: "matmul_1_naive", 2: "matmul_2_tiles", 3: "matmul_3_registers", 4: "matmul_4_prefetch"}
TILES = {2: 16, 3: 64, 4: 64}  # rows and columns of the results that a block computes


def matmul(
    a: Array,
    b: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Array = None,
    version: int | None = None,
) -> Array:
    """Return ``op(a) @ op(b) + bias``, where ``op`` transposes if ``transpose_a`` or ``transpose_b`` is true.

    The gradients of a dense layer ``y = x w + b`` are products too: ``dx = g w^T``, ``dw = x^T g``, and ``db`` is a row of
    ones times ``g``. A transposed view such as ``w.T`` is read in place, without a copy.

    Parameters
    ----------
    a : cupy.ndarray, (M, K), or (K, M) with ``transpose_a``
    b : cupy.ndarray, (K, N), or (N, K) with ``transpose_b``
    bias : cupy.ndarray, (N,), optional
        Added to every row.
    version : 1, 2, 3 or 4, optional
        The kernel that computes it; by default 4.

    Returns
    -------
    cupy.ndarray, (M, N)
        Each element is summed in the order of K: the same bits on every run.

    Raises
    ------
    TypeError, ValueError
        An argument is not as above; nothing has been launched.
    RuntimeError
        CuPy is not installed or sees no GPU.
    """
    name = "matmul"
    check_arrays(name, {"a": a, "b": b} if bias is None else {"a": a, "b": b, "bias": bias})
    for which, matrix in (("a", a), ("b", b)):
        if matrix.ndim != 2:
            raise ValueError(f"{name}: {which} must be a matrix, got shape {matrix.shape}")
    (M, K), (depth, N) = a.shape[:: -1 if transpose_a else 1], b.shape[:: -1 if transpose_b else 1]
    if depth != K:
        raise ValueError(f"{name}: b must have the K of a, {K}, got {depth} of shape {b.shape}")
    if bias is not None:
        check_shape(name, "bias", bias, (N,), "the shape (N,)")
        bias = contiguous(bias)
    version = max(FILES) if version is None else version
    if version not in FILES:
        raise ValueError(f"{name}: version must be one of {', '.join(map(str, FILES))}, got {version!r}")
    (a, a_transposed), (b, b_transposed) = _as_stored(a, transpose_a), _as_stored(b, transpose_b)
    c = empty(a, (M, N))
    threads = c.size if version == 1 else -(-M // TILES[version]) * -(-N // TILES[version]) * THREADS
    args = {"a": a, "b": b, "bias": bias, "c": c, "M": M, "N": N, "K": K}
    kernel = f"matmul_{'nt'[a_transposed]}{'nt'[b_transposed]}"
    launch(FILES[version], kernel, args, blocks=covering(threads))
    return c


def _as_stored(matrix: Array, transposed: bool) -> tuple[Array, bool]:
    """Return a matrix that is contiguous, and whether the kernel must transpose it."""
    if matrix.flags.f_contiguous and not matrix.flags.c_contiguous:
        return matrix.T, not transposed
    return contiguous(matrix), bool(transposed)
