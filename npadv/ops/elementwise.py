"""Operations that act on each element alone, with NumPy's broadcasting.

An element that is broadcast is used many times, so its gradient is the sum of the gradients of its uses: ``unbroadcast``
computes it. At ties the first argument wins: ``maximum(a, b)`` has the derivative of ``a`` where they are equal, and
``relu(x)``, which is ``maximum(0, x)``, has the derivative 0 at 0. ``abs`` has the derivative 0 at 0, and ``clip`` has the
derivative 1 at both ends of its interval. Tests check these conventions. On integers, functions that NumPy also has return the
same as NumPy's; ``sigmoid`` and ``softplus`` compute in float64.
"""

from __future__ import annotations

import math
from typing import Any

from npadv.autodiff import defvjp, primitive, value_of
from npadv.backend import as_floating, special_of, xp_of
from npadv.fast import elementwise as fast
from npadv.fast import faster
from npadv.ops.shape import unbroadcast

# Arithmetic -----------------------------------------------------------------------------------------------------------


@primitive
def add(a: Any, b: Any) -> Any:
    """Return a + b."""
    return a + b


@primitive
def subtract(a: Any, b: Any) -> Any:
    """Return a - b."""
    return a - b


@primitive
def multiply(a: Any, b: Any) -> Any:
    """Return a * b, element by element."""
    return a * b


@primitive
def divide(a: Any, b: Any) -> Any:
    """Return a / b, element by element."""
    return a / b


@primitive
def power(a: Any, b: Any) -> Any:
    """Return a ** b. The derivative in b exists for a > 0; at a = 0 it is taken to be 0."""
    return a**b


@primitive
def negative(x: Any) -> Any:
    """Return -x."""
    return -x


defvjp(add, lambda g, y, a, b: unbroadcast(g, a), lambda g, y, a, b: unbroadcast(g, b))
defvjp(subtract, lambda g, y, a, b: unbroadcast(g, a), lambda g, y, a, b: unbroadcast(-g, b))
defvjp(multiply, lambda g, y, a, b: unbroadcast(g * b, a), lambda g, y, a, b: unbroadcast(g * a, b))
defvjp(divide, lambda g, y, a, b: unbroadcast(g / b, a), lambda g, y, a, b: unbroadcast(-g * y / b, b))
defvjp(
    power,
    lambda g, y, a, b: unbroadcast(g * b * a ** _one_less(b), a),
    lambda g, y, a, b: unbroadcast(g * where(value_of(a) == 0, 0.0, y) * _log(a), b),
)
defvjp(negative, lambda g, y, x: -g)


def _one_less(b: Any) -> Any:
    """Return b - 1, but 0 for b = 0: the derivative of a**0, which is 0 * a**-1, is then 0 also at a = 0."""
    return b - (value_of(b) != 0)  # minus a boolean, float32 stays float32


def _log(a: Any) -> Any:
    """Return log(a), but 0 for a = 0. A Python number gives a Python number, with which float32 stays float32."""
    y = log(a + (value_of(a) == 0))
    return float(y) if isinstance(a, int | float) else y


# Functions of one argument --------------------------------------------------------------------------------------------


@primitive
def exp(x: Any) -> Any:
    """Return e**x."""
    return xp_of(x).exp(x)


@primitive
def log(x: Any) -> Any:
    """Return the natural logarithm of x."""
    return xp_of(x).log(x)


@primitive
def log1p(x: Any) -> Any:
    """Return log(1 + x), accurate for small x."""
    return xp_of(x).log1p(x)


@primitive
def expm1(x: Any) -> Any:
    """Return e**x - 1, accurate for small x."""
    return xp_of(x).expm1(x)


@primitive
def sin(x: Any) -> Any:
    """Return the sine of x, in radians."""
    return xp_of(x).sin(x)


@primitive
def cos(x: Any) -> Any:
    """Return the cosine of x, in radians."""
    return xp_of(x).cos(x)


@primitive
def erf(x: Any) -> Any:
    """Return the error function: 2 / sqrt(pi) times the integral of exp(-t**2) from 0 to x."""
    return special_of(x).erf(x)


@primitive
def sqrt(x: Any) -> Any:
    """Return the square root of x; its derivative at 0 is infinite."""
    return xp_of(x).sqrt(x)


@primitive
def square(x: Any) -> Any:
    """Return x**2."""
    return x * x


@primitive
def abs(x: Any) -> Any:
    """Return |x|; its derivative is sign(x), so 0 at 0."""
    return xp_of(x).abs(x)


@primitive
def sign(x: Any) -> Any:
    """Return -1, 0 or 1; its derivative is 0 everywhere, the jump at 0 included."""
    return xp_of(x).sign(x)


@primitive
def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent of x."""
    return xp_of(x).tanh(x)


@primitive
def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + exp(-x)), with full relative precision on both sides.

    >>> import numpy as np
    >>> float(sigmoid(np.float64(-800.0))), float(sigmoid(np.float64(800.0)))
    (0.0, 1.0)
    """
    xp, x = xp_of(x), as_floating(x)
    z = xp.exp(-xp.abs(x))  # at most 1: cannot overflow
    return xp.where(x >= 0, xp.ones_like(z), z) / (1 + z)


@primitive
def softplus(x: Any) -> Any:
    """Return log(1 + exp(x)), without overflow; its derivative is ``sigmoid``."""
    xp, x = xp_of(x), as_floating(x)
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


@primitive
@faster(fast.relu)
def relu(x: Any) -> Any:
    """Return maximum(0, x); its derivative at 0 is 0."""
    return xp_of(x).maximum(x, 0)


@primitive
def astype(x: Any, *, dtype: Any) -> Any:
    """Return x in another floating-point dtype; the gradient has the dtype of x."""
    return x.astype(dtype)


defvjp(exp, lambda g, y, x: g * y)
defvjp(log, lambda g, y, x: g / x)
defvjp(log1p, lambda g, y, x: g / (1 + x))
defvjp(expm1, lambda g, y, x: g * exp(x))
defvjp(sin, lambda g, y, x: g * cos(x))
defvjp(cos, lambda g, y, x: -g * sin(x))
defvjp(erf, lambda g, y, x: g * (2 / math.sqrt(math.pi) * exp(-x * x)))
defvjp(sqrt, lambda g, y, x: g * 0.5 / y)
defvjp(square, lambda g, y, x: g * (2 * x))
defvjp(abs, lambda g, y, x: g * xp_of(value_of(x)).sign(value_of(x)))
defvjp(sign, lambda g, y, x: xp_of(value_of(x)).zeros_like(value_of(x)))
defvjp(tanh, lambda g, y, x: g * (1 - y * y))
defvjp(sigmoid, lambda g, y, x: g * (y * (1 - y)))
defvjp(softplus, lambda g, y, x: g * sigmoid(x))
defvjp(relu, lambda g, y, x: masked(g, is_positive(value_of(y))))
defvjp(
    astype,
    lambda g, y, x, dtype: (
        astype(g, dtype=x.dtype) if y.dtype.kind == "f" else xp_of(value_of(x)).zeros_like(value_of(x))
    ),
)


# Choices --------------------------------------------------------------------------------------------------------------


@primitive
def maximum(a: Any, b: Any) -> Any:
    """Return the larger of a and b; at ties the gradient goes to a."""
    return xp_of(a, b).maximum(a, b)


@primitive
def minimum(a: Any, b: Any) -> Any:
    """Return the smaller of a and b; at ties the gradient goes to a."""
    return xp_of(a, b).minimum(a, b)


@primitive
def where(condition: Any, a: Any, b: Any) -> Any:
    """Return a where the condition (a boolean array) holds, else b."""
    return xp_of(condition, a, b).where(condition, a, b)


@primitive
def clip(x: Any, low: Any, high: Any) -> Any:
    """Return x confined to [low, high]; the gradient passes where low <= x <= high, the ends included.

    ``low`` or ``high`` may be None for no bound.
    """
    return xp_of(x).clip(x, low, high)


defvjp(
    maximum,
    lambda g, y, a, b: unbroadcast(masked(g, value_of(a) >= value_of(b)), a),
    lambda g, y, a, b: unbroadcast(masked(g, value_of(a) < value_of(b)), b),
)
defvjp(
    minimum,
    lambda g, y, a, b: unbroadcast(masked(g, value_of(a) <= value_of(b)), a),
    lambda g, y, a, b: unbroadcast(masked(g, value_of(a) > value_of(b)), b),
)
defvjp(
    where,
    None,
    lambda g, y, condition, a, b: unbroadcast(where(condition, g, 0), a),
    lambda g, y, condition, a, b: unbroadcast(where(condition, 0, g), b),
)
defvjp(
    clip,
    lambda g, y, x, low, high: unbroadcast(masked(g, _is_between(value_of(x), value_of(low), value_of(high))), x),
    None,
    None,
)


# Masks ----------------------------------------------------------------------------------------------------------------


@faster(fast.masked)
def masked(g: Any, mask: Any) -> Any:
    """Return g where the mask holds, and 0 elsewhere."""
    return g * mask


@faster(fast.is_positive)
def is_positive(y: Any) -> Any:
    """Return y > 0."""
    return y > 0


def _is_between(x: Any, low: Any, high: Any) -> Any:
    """Return low <= x <= high, where None is no bound."""
    above = True if low is None else x >= low
    return above & (x == x if high is None else x <= high)
