"""Chunked sums: sums over more rows than memory should hold, computed one block at a time, and so are their gradients.

The gradient of a sum is the sum of the gradients. So the rule of ``sum_over_blocks`` is ``sum_over_blocks`` of another
function: it records one block on a separate tape, takes its gradient and drops the tape. Each block is computed again in the
backward pass (checkpointing), and in derivatives of any order only one block's intermediate results exist at a time.

``log_kernel_sum`` is the logarithm of such a sum. It keeps a running maximum, so that no exponential overflows. The weights
exp(t_n - y) of its gradient are at most 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from npadv.autodiff import Tensor, defvjp, grad, primitive, recording
from npadv.backend import Array, xp_of
from npadv.ops.elementwise import exp
from npadv.ops.linalg import matmul
from npadv.ops.shape import getitem

Block = tuple[int, int, int]
"""A column of the result, and where the rows that are summed into it start and stop."""


@primitive
def sum_over_blocks(*args: Any, function: Callable[..., Any], blocks: Sequence[Any]) -> Any:
    """Return the sum of ``function(block, *args)`` over the blocks, differentiable in the args.

    A block is any object, for example a slice of rows. ``function`` takes a block and the arguments, as arrays or as Tensors,
    consists of operations, and returns the same shape for every block.

    >>> import numpy as np
    >>> from npadv import Tensor, grad
    >>> x = Tensor(np.array([2.0]), requires_grad=True)
    >>> y = sum_over_blocks(x, function=lambda power, x: x**power, blocks=[1, 2, 3])
    >>> float(y.data[0]), float(grad(y, x)[0])  # x + x^2 + x^3, 1 + 2 x + 3 x^2
    (14.0, 17.0)
    """
    if not blocks:
        raise ValueError("sum_over_blocks(blocks): expected at least one block, got none")
    total = None
    for block in blocks:
        part = function(block, *args)
        total = part if total is None else total + part
    return total


def _sum_rule(argnum: int, g: Any, y: Any, *args: Any, function: Callable[..., Any], blocks: Sequence[Any]) -> Any:
    return sum_over_blocks(g, *args, function=partial(_pulled_back, function, argnum), blocks=blocks)


def _pulled_back(function: Callable[..., Any], argnum: int, block: Any, g: Any, *args: Any) -> Any:
    """Return g . df / d args[argnum], where f = ``function(block, *args)``.

    The result is an array for arrays, and for Tensors a Tensor, which can be differentiated again.
    """
    own = args[argnum]
    with recording(True):  # the block's own tape, also in a backward pass that records nothing
        own = own if isinstance(own, Tensor) else Tensor(own, requires_grad=True)
        y = function(block, *args[:argnum], own, *args[argnum + 1 :])
        higher = any(isinstance(a, Tensor) for a in (g, *args))
        return grad(y, own, g, create_graph=higher, unused="zeros")


defvjp(sum_over_blocks, _sum_rule, variadic=True)


@primitive
def log_kernel_sum(x: Any, *, points: Array, centre: Array, blocks: Sequence[Block], gamma: float) -> Any:
    """Return y_ik = log sum_n exp(t_in), t_in = gamma (2 <x_i - c, p_n - c> - |p_n - c|^2), over the points p_n of column k.

    t_in = -gamma |x_i - p_n|^2 + gamma |x_i - c|^2, and the second term is the same in every column. So y is the logarithm of a
    sum of Gaussian kernels, plus a term that a softmax over the columns removes. Without that term, y would lose all its
    digits far from the points. A centre near the points keeps the numbers small, and rounding errors with them.

    Parameters
    ----------
    x : (N, D)
        The points at which y is computed, in the precision of x.
    points : (M, D) array
        The points p_n, which are not differentiated.
    centre : (D,) array
        A point among them, such as their mean.
    blocks : sequence of (k, start, stop)
        Points start..stop-1 belong to column k of the result (N, K); every column has a block.
    gamma : float
        One over twice the squared width of the kernel.

    >>> import numpy as np
    >>> settings = {"points": np.array([[0.0], [1.0], [3.0]]), "centre": np.zeros(1), "gamma": 1.0}
    >>> log_kernel_sum(np.array([[1.0]]), blocks=[(0, 0, 2), (1, 2, 3)], **settings).round(4)  # 1 + log(e^-1 + 1), 1 - 4
    array([[ 1.3133, -3.    ]])
    """
    xp = xp_of(x)
    columns = 1 + max(k for k, _, _ in blocks)
    top = xp.full((len(x), columns), -float("inf"), dtype=x.dtype)  # the running maximum
    total = xp.zeros((len(x), columns), dtype=x.dtype)  # of exp(t - top)
    centre = centre.astype(x.dtype, copy=False)
    for k, start, stop in blocks:
        t = _exponents(x - centre, points[start:stop] - centre, gamma)
        higher = xp.maximum(top[:, k], t.max(axis=1))
        t -= higher[:, None]
        total[:, k] = total[:, k] * xp.exp(top[:, k] - higher) + xp.exp(t).sum(axis=1)
        top[:, k] = higher
    return xp.log(total) + top


def _exponents(x: Any, p: Array, gamma: float) -> Any:
    """Return t_in for x_i - c and p_n - c."""
    return matmul(x, p.T) * (2 * gamma) - gamma * (p * p).sum(axis=1)


def _kernel_rule(g: Any, y: Any, x: Any, points: Array, centre: Array, blocks: Sequence[Block], gamma: float) -> Any:
    """Return 2 gamma sum_k g_k sum_n exp(t_n - y_k) (p_n - c): the weighted mean of each column's points, weighted again."""
    centre = centre.astype(x.dtype, copy=False)

    def share(block: Block, g: Any, y: Any, x: Any) -> Any:
        k, start, stop = block
        p = points[start:stop] - centre
        column = (slice(None), slice(k, k + 1))
        weights = exp(_exponents(x - centre, p, gamma) - getitem(y, index=column))
        return matmul(weights * (getitem(g, index=column) * (2 * gamma)), p)

    return sum_over_blocks(g, y, x, function=share, blocks=blocks)


defvjp(log_kernel_sum, _kernel_rule)
