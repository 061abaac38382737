"""Checks of gradient rules against numeric derivatives, for the library's operations and for yours.

For y = f(x) with the Jacobian J, draw a random direction u of x's shape and random weights v of y's shape. The number <v, J u>
is computed twice, from the rules and from values of f alone:

    <grad(y, x, v), u>    and    <v, f(x + h u) - f(x - h u)> / 2h,    a central difference.

If a rule is wrong, the two differ with probability one. The gradient is a function too, and the same check of the gradient
tests the second order. f must be smooth near x: at a kink, the difference is no derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npadv.autodiff import Tensor, grad, no_record, recording


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    *,
    order: int = 2,
    rng: np.random.Generator | None = None,
    step: float = 1e-6,
    rtol: tuple[float, ...] = (1e-5, 1e-4),
    atol: float = 1e-7,
) -> None:
    """Raise an AssertionError unless the gradient of ``f`` at ``args`` is right, to the given order.

    Parameters
    ----------
    f : callable
        Takes Tensors, returns one Tensor. Must be smooth within ``step`` of ``args``.
    args : sequence of float64 arrays
        The point of the check; ``f`` is differentiated with respect to each.
    order : int
        1 checks the gradient, 2 also the gradient's gradient, and so on.
    rng : numpy.random.Generator, optional
        Draws the directions; seed 0 by default.
    step : float
        Of the central difference.
    rtol : tuple of float
        Relative tolerance of each order; the last serves all further ones.
    atol : float
        Absolute tolerance for rounding errors of the difference. It is multiplied by the size of the compared sums, but by
        at least 1. So let ``f`` return numbers of about size 1: an error in much smaller numbers is below this tolerance.

    Raises
    ------
    AssertionError
        A gradient is wrong, or has another shape or dtype than its argument.
    ValueError
        ``args`` is not a sequence of float64 arrays.

    Examples
    --------
    >>> import npadv
    >>> check_grads(lambda x: npadv.ops.tanh(x) * x, [np.array([0.3, -1.2])])
    >>> wrong = npadv.primitive(lambda x: x * x * x)
    >>> npadv.defvjp(wrong, lambda g, y, x: g * 2 * x * x)
    >>> check_grads(wrong, [np.array([2.0])])
    Traceback (most recent call last):
        ...
    AssertionError: order 1, argument 0 of shape (1,): the rules say ..., the difference says ...
    """
    rng = np.random.default_rng(0) if rng is None else rng
    if isinstance(args, np.ndarray | Tensor):
        raise ValueError(f"check_grads(args): expected a list of arrays, got a single {type(args).__name__}; write [x]")
    arrays = [np.asarray(a) for a in args]
    for i, a in enumerate(arrays):
        if a.dtype != np.float64:
            raise ValueError(
                f"check_grads(args[{i}]): expected float64, whose differences mean something, got {a.dtype}"
            )
    _check(f, arrays, 1, order, rng, step, rtol, atol)


def _check(
    f: Callable[..., Any],
    arrays: list[np.ndarray],
    level: int,
    order: int,
    rng: np.random.Generator,
    step: float,
    rtol: tuple[float, ...],
    atol: float,
) -> None:
    """Check the gradient of ``f``, which is the derivative of order ``level``; then, below ``order``, the gradient itself."""
    xs = [Tensor(a, requires_grad=True) for a in arrays]
    y = f(*xs)
    v = rng.standard_normal(y.shape)
    gradients = grad(y, xs, v, unused="zeros")
    for i, (a, g) in enumerate(zip(arrays, gradients, strict=True)):
        where = f"order {level}, argument {i} of shape {a.shape}"
        if g.shape != a.shape or g.dtype != a.dtype:
            raise AssertionError(
                f"{where}: expected a gradient of that shape and {a.dtype}, got {g.shape} and {g.dtype}"
            )
        u = rng.standard_normal(a.shape)
        analytic = float((g * u).sum())
        plus, minus = (_value(f, arrays, i, a + h * u) for h in (step, -step))
        numeric = float((v * (plus - minus)).sum()) / (2 * step)
        scale = max(1.0, float((np.abs(v) * np.maximum(np.abs(plus), np.abs(minus))).sum()), float(np.abs(g * u).sum()))
        if not abs(analytic - numeric) <= rtol[min(level, len(rtol)) - 1] * abs(numeric) + atol * scale:
            raise AssertionError(f"{where}: the rules say {analytic:.12g}, the difference says {numeric:.12g}")
    if level < order:
        _check(_gradient_function(f, len(xs), gradients, rng), [*arrays, v], level + 1, order, rng, step, rtol, atol)


def _value(f: Callable[..., Any], arrays: list[np.ndarray], i: int, replacement: np.ndarray) -> np.ndarray:
    """Return the value of f with the i-th argument replaced."""
    with no_record():
        return np.asarray(f(*[Tensor(replacement if k == i else a) for k, a in enumerate(arrays)]).data)


def _gradient_function(
    f: Callable[..., Any], n: int, gradients: list[np.ndarray], rng: np.random.Generator
) -> Callable[..., Any]:
    """Return the function (x_1, ..., x_n, v) -> <w, grad f(x; v)>, with fixed random weights w, to be checked like ``f``."""
    weights = [rng.standard_normal(g.shape) for g in gradients]

    def function(*arguments: Tensor) -> Any:
        xs = [x if x.requires_grad else Tensor(x.data, requires_grad=True) for x in arguments[:n]]
        with recording(True):  # differences are computed without a record, but the gradient inside needs one
            gs = grad(f(*xs), xs, arguments[n], create_graph=True, unused="zeros")
            return sum(((g * w).sum() for g, w in zip(gs, weights, strict=True)), start=Tensor(np.zeros(())))

    return function
