"""Variance and standard deviation, products, and running sums.

With the mean m over n elements, var(x) = sum((x - m)**2) / (n - ddof), and std(x) is its square root.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from npadv.autodiff import defvjp, primitive
from npadv.backend import xp_of
from npadv.ops.elementwise import astype, sqrt, square
from npadv.ops.rearrange import flip, moveaxis, ravel
from npadv.ops.reduce import Axis, mean, reduced_axes, sum
from npadv.ops.shape import concatenate, getitem, reshape

# Spread ---------------------------------------------------------------------------------------------------------------


def var(x: Any, *, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Any:
    """Return the variance over the given axes: sum((x - mean(x))**2) / (n - ddof), n the number of elements.

    >>> import numpy as np
    >>> float(var(np.array([1.0, 3.0]))), float(var(np.array([1.0, 3.0]), ddof=1))
    (1.0, 2.0)
    """
    count = math.prod(x.shape[a] for a in reduced_axes(x, axis))
    if count - ddof <= 0:
        raise ValueError(f"var: expected more than {ddof} elements, got shape {x.shape} over axis {axis}")
    if x.dtype == np.float16:  # whose squares overflow
        return astype(var(astype(x, dtype=np.float32), axis=axis, ddof=ddof, keepdims=keepdims), dtype=np.float16)
    return sum(square(x - mean(x, axis=axis, keepdims=True)), axis=axis, keepdims=keepdims) / (count - ddof)


def std(x: Any, *, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Any:
    """Return the standard deviation, the square root of ``var``; its derivative is infinite where all elements are equal."""
    return sqrt(var(x, axis=axis, ddof=ddof, keepdims=keepdims))


# Products -------------------------------------------------------------------------------------------------------------


def prod(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the product over the given axes, 1 for none; its gradient, the product of the others, is exact at zeros.

    The first half of the elements is multiplied by the second half, until one element is left. Multiplications have a
    gradient rule already. The usual rule, the product divided by each element, would fail where an element is 0.

    >>> import numpy as np
    >>> import npadv
    >>> x = npadv.Tensor([2.0, 0.0, 5.0], requires_grad=True)
    >>> npadv.grad(prod(x), x)
    array([ 0., 10.,  0.])
    """
    wide = np.empty(0, x.dtype).prod().dtype  # integers of 64 bits for shorter ones
    x = x if x.dtype == wide else x.astype(wide)
    axes = reduced_axes(x, axis)
    stay = tuple(n for a, n in enumerate(x.shape) if a not in axes)
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    n = math.prod(x.shape[a] for a in axes)
    factors = reshape(moveaxis(x, axes, tuple(range(len(axes)))), shape=(n, *stay))
    if n == 0:
        factors = 1 + sum(factors, axis=0, keepdims=True)  # a sum of none is 0
    while len(factors) > 1:
        half = len(factors) // 2
        first, second, rest = (
            getitem(factors, index=part) for part in (slice(half), slice(half, 2 * half), slice(2 * half, None))
        )
        factors = first * second
        if len(rest):
            factors = concatenate([factors, rest])
    return reshape(factors, shape=kept if keepdims else stay)


# Running sums ---------------------------------------------------------------------------------------------------------


@primitive
def cumsum_along(x: Any, *, axis: int) -> Any:
    """Return the sums of the elements so far, along an axis."""
    return xp_of(x).cumsum(x, axis=axis)


defvjp(cumsum_along, lambda g, y, x, axis: flip(cumsum_along(flip(g, axis), axis=axis), axis))


def cumsum(x: Any, axis: int | None = None) -> Any:
    """Return the sums of the elements so far, along an axis, or of all elements in the order they are read.

    >>> import numpy as np
    >>> cumsum(np.array([1.0, 2.0, 3.0])).tolist()
    [1.0, 3.0, 6.0]
    """
    if axis is None:
        return cumsum_along(ravel(x), axis=0)
    return cumsum_along(x, axis=normalize_axis_index(axis, x.ndim))
