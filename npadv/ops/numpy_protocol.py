"""NumPy's functions on Tensors: ``np.tanh(x @ w) + b`` is recorded, so a model written in plain NumPy is a model.

NumPy asks its arguments before it computes. A ufunc such as ``np.tanh`` calls ``__array_ufunc__`` of an argument that has it
(NEP 13), other functions such as ``np.sum`` call ``__array_function__`` (NEP 18). Tensor answers with the operation that
``UFUNCS`` and ``FUNCTIONS`` name. Functions without a gradient, such as comparisons, compute on the values and return plain
arrays. For all others Tensor raises a TypeError, so that no history is lost without a word.

Operators ask too where the array stands on the left: ``array + tensor`` takes about half a microsecond longer than
``tensor + array``, which calls the operation at once.

>>> import numpy as np
>>> import npadv
>>> x = npadv.Tensor([0.0, 1.0], requires_grad=True)
>>> npadv.grad(np.sum(np.exp(x)), x)
array([1.        , 2.71828183])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from inspect import Signature, signature
from typing import Any

import numpy as np

from npadv.autodiff import Tensor, as_array, value_of
from npadv.backend import like
from npadv.ops import einsum, elementwise, linalg, rearrange, reduce, shape, sort, statistics

# Ufuncs ---------------------------------------------------------------------------------------------------------------

UFUNCS: dict[Any, Callable[..., Any]] = {
    np.absolute: elementwise.abs,
    np.add: elementwise.add,
    np.cos: elementwise.cos,
    np.divide: elementwise.divide,
    np.exp: elementwise.exp,
    np.expm1: elementwise.expm1,
    np.fabs: elementwise.abs,
    np.log: elementwise.log,
    np.log10: lambda x: elementwise.log(x) / float(np.log(10)),
    np.log1p: elementwise.log1p,
    np.log2: lambda x: elementwise.log(x) / float(np.log(2)),
    np.matmul: linalg.matmul,
    np.maximum: elementwise.maximum,
    np.minimum: elementwise.minimum,
    np.multiply: elementwise.multiply,
    np.negative: elementwise.negative,
    np.positive: lambda x: x,
    np.power: elementwise.power,
    np.reciprocal: lambda x: elementwise.divide(1, x),
    np.sign: elementwise.sign,
    np.sin: elementwise.sin,
    np.sqrt: elementwise.sqrt,
    np.square: elementwise.square,
    np.subtract: elementwise.subtract,
    np.tan: lambda x: elementwise.sin(x) / elementwise.cos(x),
    np.tanh: elementwise.tanh,
}
"""The operation for each ufunc."""

UFUNCS_BY_NAME: dict[str, Callable[..., Any]] = {"erf": elementwise.erf, "expit": elementwise.sigmoid}
"""The operation for ufuncs of ``scipy.special``, which is imported only where it is used."""


def _on_values(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes on the values of Tensors, and returns what NumPy returns."""

    def compute(*args: Any, **kwargs: Any) -> Any:
        return function(*map(_values, args), **{name: _values(value) for name, value in kwargs.items()})

    return compute


def _values(x: Any) -> Any:
    """Return x with the Tensors in it replaced by their arrays."""
    return type(x)(map(_values, x)) if type(x) in (tuple, list) else value_of(x)


UFUNCS.update(
    (ufunc, _on_values(ufunc))
    for ufunc in (
        *(np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal),
        *(np.isfinite, np.isinf, np.isnan, np.signbit),
        *(np.logical_and, np.logical_not, np.logical_or, np.logical_xor),
    )
)


_absent = object()


def _array_ufunc(
    tensor: Tensor, ufunc: Any, method: str, a: Any, b: Any = _absent, *further: Any, **settings: Any
) -> Any:
    """Compute a ufunc of Tensors by the operation that has its gradient rule: NumPy's ``__array_ufunc__``.

    ``array + tensor`` comes here too, so a and b have names of their own: that is faster than ``*inputs``.
    """
    if method == "__call__" and not settings:
        operation = UFUNCS.get(ufunc) or UFUNCS_BY_NAME.get(ufunc.__name__)
        if operation is not None:
            return operation(a) if b is _absent else operation(a, b)
    name = f"numpy.{ufunc.__name__}" if method == "__call__" else f"numpy.{ufunc.__name__}.{method}"
    if "out" in settings:
        raise TypeError(f"{name}: an array that a Tensor is written into, or added to in place, would drop its history")
    if settings:
        raise TypeError(f"{name} of a Tensor: {', '.join(settings)} is not supported")
    raise _no_rule(name)


def _no_rule(name: str) -> TypeError:
    """Return the error for a function that has no gradient rule."""
    instead = f"use {INSTEAD[name]}, or " if name in INSTEAD else ""
    return TypeError(
        f"{name} of a Tensor has no gradient rule: {instead}write one with npadv.primitive and npadv.defvjp; "
        "where no gradient is needed, compute on tensor.data"
    )


INSTEAD = {
    "numpy.add.reduce": "npadv.ops.sum",
    "numpy.average": "npadv.ops.mean",
    "numpy.fmax": "npadv.ops.maximum",
    "numpy.fmin": "npadv.ops.minimum",
    "numpy.add.accumulate": "npadv.ops.cumsum",
    "numpy.linalg.norm": "npadv.ops.sqrt(npadv.ops.sum(x * x))",
    "numpy.logaddexp": "npadv.ops.logsumexp",
    "numpy.logaddexp.reduce": "npadv.ops.logsumexp",
    "numpy.maximum.reduce": "npadv.ops.max",
    "numpy.minimum.reduce": "npadv.ops.min",
    "numpy.multiply.outer": "npadv.ops.outer",
    "numpy.multiply.reduce": "npadv.ops.prod",
    "numpy.nan_to_num": "npadv.ops.where",
    "numpy.partition": "npadv.ops.topk",
    "numpy.select": "npadv.ops.where",
    "numpy.trace": "npadv.ops.einsum('ii', x)",
    "numpy.vdot": "npadv.ops.dot",
}
"""The operations to use in the place of functions that have no gradient rule here."""

# Other functions: each takes NumPy's arguments, in NumPy's order ------------------------------------------------------


def _along(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return a sum, mean or product with NumPy's arguments."""
    return lambda a, axis=None, dtype=None, out=None, keepdims=False: operation(a, axis=_axis(axis), keepdims=keepdims)


def _extreme(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return a maximum or minimum, or its index, with NumPy's arguments."""
    return lambda a, axis=None, out=None, keepdims=False: operation(a, axis=_axis(axis), keepdims=keepdims)


def _spread(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return a variance or standard deviation with NumPy's arguments."""
    return lambda a, axis=None, dtype=None, out=None, ddof=0, keepdims=False: operation(
        a, axis=_axis(axis), ddof=ddof, keepdims=keepdims
    )


def _axis(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def _clip(a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None) -> Any:
    low, high = (min if a_min is None else a_min), (max if a_max is None else a_max)
    return elementwise.clip(a, low, high)


def _where(condition: Any, *choices: Any) -> Any:
    return elementwise.where(value_of(condition), *choices) if choices else np.where(value_of(condition))


def _concatenate(arrays: Sequence[Any], axis: int | None = 0, out: Any = None, *, dtype: Any = None) -> Any:
    if axis is None:
        return shape.concatenate([rearrange.ravel(x) for x in _arrays(arrays)])
    return shape.concatenate(_arrays(arrays), axis)


def _hstack(tup: Sequence[Any], *, dtype: Any = None) -> Any:
    arrays = [rearrange.ravel(x) if x.ndim == 0 else x for x in _arrays(tup)]
    return shape.concatenate(arrays, 0 if arrays[0].ndim == 1 else 1)


def _vstack(tup: Sequence[Any], *, dtype: Any = None) -> Any:
    return shape.concatenate([shape.reshape(x, shape=(1, -1)) if x.ndim < 2 else x for x in _arrays(tup)])


def _arrays(parts: Any) -> list[Any]:
    return [x if isinstance(x, Tensor) else as_array(x) for x in parts]


def _expand_dims(a: Any, axis: Any) -> Any:
    for position in sorted(axis) if isinstance(axis, tuple | list) else (axis,):
        a = shape.expand_dims(a, position)
    return a


def _reshape(a: Any, /, shape_: Any = None, order: str = "C", *, shape: Any = None) -> Any:
    _only("reshape", "order", order, "C")
    return a.reshape(shape_ if shape is None else shape)


def _ravel(a: Any, order: str = "C") -> Any:
    _only("ravel", "order", order, "C")
    return rearrange.ravel(a)


def _transpose(a: Any, axes: Any = None) -> Any:
    return shape.transpose(a, axes=None if axes is None else tuple(axes))


def _pad(array: Any, pad_width: Any, mode: str = "constant", *, constant_values: float = 0.0) -> Any:
    _only("pad", "mode", mode, "constant")
    widths = np.broadcast_to(np.asarray(pad_width), (array.ndim, 2)).tolist()
    return shape.pad(array, widths=tuple((before, after) for before, after in widths), value=constant_values)


def _take(a: Any, indices: Any, axis: int | None = None, out: Any = None) -> Any:
    if axis is None:
        a, axis = rearrange.ravel(a), 0
    return a[(slice(None),) * (axis % a.ndim) + (like(value_of(indices), value_of(a)),)]


def _take_along_axis(arr: Any, indices: Any, axis: int | None = -1) -> Any:
    if axis is None:
        arr, axis = rearrange.ravel(arr), 0
    return shape.take_along_axis(arr, value_of(indices), axis=axis)


def _einsum(*operands: Any, out: Any = None, dtype: Any = None, optimize: Any = False) -> Any:
    return einsum.einsum(*operands)


def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    first, second = _arrays((a, b))
    return linalg.tensordot(first, second, axes)


def _only(function: str, argument: str, value: Any, allowed: Any) -> None:
    if value != allowed:
        raise TypeError(f"numpy.{function} of a Tensor: expected {argument}={allowed!r}, got {value!r}")


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.argmax: _extreme(sort.argmax),
    np.argmin: _extreme(sort.argmin),
    np.broadcast_to: lambda array, shape_: shape.broadcast_to(array, shape=tuple(np.atleast_1d(shape_).tolist())),
    np.clip: _clip,
    np.concatenate: _concatenate,
    np.copy: lambda a: elementwise.astype(a, dtype=a.dtype),
    np.cumsum: lambda a, axis=None, dtype=None, out=None: statistics.cumsum(a, axis),
    np.dot: lambda a, b, out=None: linalg.dot(a, b),
    np.einsum: _einsum,
    np.expand_dims: _expand_dims,
    np.flip: lambda m, axis=None: rearrange.flip(m, axis),
    np.fliplr: lambda m: rearrange.flip(m, 1),
    np.flipud: lambda m: rearrange.flip(m, 0),
    np.hstack: _hstack,
    np.inner: lambda a, b: linalg.tensordot(a, b, ([-1], [-1])),
    np.max: _extreme(reduce.max),
    np.mean: _along(reduce.mean),
    np.min: _extreme(reduce.min),
    np.moveaxis: lambda a, source, destination: rearrange.moveaxis(a, source, destination),
    np.outer: lambda a, b, out=None: linalg.outer(*_arrays((a, b))),
    np.pad: _pad,
    np.prod: _along(statistics.prod),
    np.ravel: _ravel,
    np.repeat: lambda a, repeats, axis=None: rearrange.repeat(a, repeats, axis),
    np.reshape: _reshape,
    np.roll: lambda a, shift, axis=None: rearrange.roll(a, shift, axis),
    np.sort: lambda a, axis=-1, kind=None, *, stable=None: sort.sort(a, axis),
    np.split: lambda ary, indices_or_sections, axis=0: rearrange.split(ary, indices_or_sections, axis),
    np.squeeze: lambda a, axis=None: rearrange.squeeze(a, axis),
    np.stack: lambda arrays, axis=0, out=None, *, dtype=None: shape.stack(_arrays(arrays), axis),
    np.std: _spread(statistics.std),
    np.sum: _along(reduce.sum),
    np.swapaxes: lambda a, axis1, axis2: rearrange.swapaxes(a, axis1, axis2),
    np.take: _take,
    np.take_along_axis: _take_along_axis,
    np.tensordot: _tensordot,
    np.tile: lambda A, reps: rearrange.tile(A, reps),
    np.transpose: _transpose,
    np.var: _spread(statistics.var),
    np.vstack: _vstack,
    np.where: _where,
}
"""The operation for each function that is no ufunc."""

FUNCTIONS.update({np.amax: FUNCTIONS[np.max], np.amin: FUNCTIONS[np.min]})
FUNCTIONS.update(
    (function, _on_values(function))
    for function in (
        *(np.all, np.allclose, np.any, np.array_equal, np.array_equiv, np.isclose),
        *(np.argsort, np.argwhere, np.bincount, np.count_nonzero, np.flatnonzero, np.nonzero, np.searchsorted),
        *(np.array2string, np.array_repr, np.array_str),
        *(np.can_cast, np.may_share_memory, np.ndim, np.result_type, np.shape, np.shares_memory, np.size),
        *(np.empty_like, np.full_like, np.ones_like, np.zeros_like),
    )
)

_signature: Callable[[Any], Signature] = cache(signature)


def _array_function(tensor: Tensor, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
    """Compute a function of Tensors by the operation that has its gradient rule: NumPy's ``__array_function__``."""
    name = f"{function.__module__}.{function.__name__}"
    operation = FUNCTIONS.get(function)
    if operation is None:
        raise _no_rule(name)
    try:
        given = _signature(operation).bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"{name} of a Tensor: {error}") from None
    for argument in ("out", "dtype"):
        if given.get(argument) is not None:
            raise TypeError(f"{name} of a Tensor: {argument} is not supported")
    return operation(*args, **kwargs)


Tensor.__array_ufunc__ = _array_ufunc  # type: ignore[attr-defined]
Tensor.__array_function__ = _array_function  # type: ignore[attr-defined]
