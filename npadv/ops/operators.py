"""Installs the primitives as operators and methods of Tensor, so that ``x * y + 1`` on Tensors is recorded.

Comparisons, == included, return plain boolean arrays, which have no gradient. Rules and losses use them as masks. A Tensor is
hashed by its identity, so it can be a key of a dict although == compares elements.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from npadv.autodiff import Tensor, value_of
from npadv.autodiff.tensor import note_read
from npadv.backend import is_array
from npadv.ops import elementwise, linalg, rearrange, reduce, shape, sort, statistics


def _compare(operation: Any) -> Any:
    def compare(a: Tensor, b: Any) -> Any:
        note_read("a comparison")
        return operation(a.data, value_of(b))

    return compare


def _reshape(x: Tensor, *dimensions: Any) -> Any:
    """Return the elements in another shape; one dimension may be -1."""
    return shape.reshape(
        x, shape=tuple(dimensions[0]) if len(dimensions) == 1 and not _is_int(dimensions[0]) else dimensions
    )


def _transpose(x: Tensor, *axes: Any) -> Any:
    """Return the axes permuted, reversed by default."""
    axes = tuple(axes[0]) if len(axes) == 1 and not _is_int(axes[0]) else axes
    return shape.transpose(x, axes=axes or None)


def _own_index(index: Any) -> Any:
    """Return an index with copies of its lists and arrays, which may change before the gradient reads them."""
    if isinstance(index, tuple):
        return tuple(map(_own_index, index))
    index = value_of(index)
    return np.array(index) if isinstance(index, list) else index.copy() if is_array(index) else index


def _is_int(x: Any) -> bool:
    return isinstance(x, int | np.integer)


def _reduction(function: Any) -> Any:
    def method(x: Tensor, axis: Any = None, keepdims: bool = False) -> Any:
        return function(x, axis=_axis(axis), keepdims=keepdims)

    method.__doc__ = function.__doc__
    return method


def _reduction_with_ddof(function: Any) -> Any:
    def method(x: Tensor, axis: Any = None, ddof: float = 0, keepdims: bool = False) -> Any:
        return function(x, axis=_axis(axis), ddof=ddof, keepdims=keepdims)

    method.__doc__ = function.__doc__
    return method


def _axis(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def _flatten(x: Tensor) -> Any:
    """Return the elements along one axis, always as a copy."""
    return elementwise.astype(rearrange.ravel(x), dtype=x.dtype)


def _clip(x: Tensor, min: Any = None, max: Any = None) -> Any:
    """Return the elements confined to [min, max]; None for no limit."""
    return elementwise.clip(x, -np.inf if min is None else min, np.inf if max is None else max)


def _only_element(x: Tensor, kind: str) -> Any:
    if x.size != 1:
        raise TypeError(f"{kind}: expected a Tensor of one element, got shape {x.shape}")
    return x.item()


def _format(x: Tensor, spec: str) -> str:
    return format(_only_element(x, f"format(tensor, {spec!r})"), spec) if spec else str(x)


_METHODS: dict[str, Any] = {
    "__add__": elementwise.add,
    "__radd__": lambda a, b: elementwise.add(b, a),
    "__sub__": elementwise.subtract,
    "__rsub__": lambda a, b: elementwise.subtract(b, a),
    "__mul__": elementwise.multiply,
    "__rmul__": lambda a, b: elementwise.multiply(b, a),
    "__truediv__": elementwise.divide,
    "__rtruediv__": lambda a, b: elementwise.divide(b, a),
    "__pow__": elementwise.power,
    "__rpow__": lambda a, b: elementwise.power(b, a),
    "__matmul__": linalg.matmul,
    "__rmatmul__": lambda a, b: linalg.matmul(b, a),
    "__neg__": elementwise.negative,
    "__abs__": elementwise.abs,
    "__eq__": _compare(operator.eq),
    "__ne__": _compare(operator.ne),
    "__lt__": _compare(operator.lt),
    "__le__": _compare(operator.le),
    "__gt__": _compare(operator.gt),
    "__ge__": _compare(operator.ge),
    "__getitem__": lambda x, index: shape.getitem(x, index=_own_index(index)),
    "sum": _reduction(reduce.sum),
    "mean": _reduction(reduce.mean),
    "max": _reduction(reduce.max),
    "min": _reduction(reduce.min),
    "var": _reduction_with_ddof(statistics.var),
    "std": _reduction_with_ddof(statistics.std),
    "prod": _reduction(statistics.prod),
    "cumsum": statistics.cumsum,
    "argmax": sort.argmax,
    "argmin": sort.argmin,
    "argsort": sort.argsort,
    "clip": _clip,
    "dot": linalg.dot,
    "flatten": _flatten,
    "ravel": rearrange.ravel,
    "repeat": rearrange.repeat,
    "squeeze": rearrange.squeeze,
    "swapaxes": rearrange.swapaxes,
    "reshape": _reshape,
    "transpose": _transpose,
    "T": property(_transpose),
    "astype": lambda x, dtype: elementwise.astype(x, dtype=np.dtype(dtype)),
    "__float__": lambda x: float(_only_element(x, "float(tensor)")),
    "__int__": lambda x: int(_only_element(x, "int(tensor)")),
    "__round__": lambda x, ndigits=None: round(_only_element(x, "round(tensor)"), ndigits),
    "__format__": _format,
}


for _name, _method in _METHODS.items():
    setattr(Tensor, _name, _method)
