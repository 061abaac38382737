"""Copies and pickles of tensors: whole, and independent of the original.

A copy has its own memory, its own version and its own number in the tape's order, so a change of one does not change the other.
The record of a shallow copy has the same arguments as the original's; the record of a deep copy has copies of them.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from npadv.autodiff.gradient import ancestors
from npadv.autodiff.tensor import Tensor, tick, value_of
from npadv.backend import Array

T = TypeVar("T", bound=Tensor)


def shallow_copy(x: T) -> T:
    """Return a copy with the same history: ``copy.copy``."""
    return _copied(x, args=() if x._operation is None else x._args)


def deep_copy(x: T, memo: dict[int, Any]) -> T:
    """Return a copy with a copy of the history, made oldest first and without recursion: ``copy.deepcopy``."""
    for node in ancestors(x):
        if id(node) not in memo:
            args = () if node._operation is None else tuple(memo.get(id(a), a) for a in node._args)
            memo[id(node)] = _copied(node, args, memo)
    copied: T = memo[id(x)]
    return copied


def _copied(x: T, args: tuple[Any, ...], memo: dict[int, Any] | None = None) -> T:
    """Return a copy that was computed from the given arguments, or a leaf."""
    y = type(x).__new__(type(x))
    for name, value in _own_attributes(x).items():
        setattr(y, name, value if memo is None else copy.deepcopy(value, memo))
    y.data, y.requires_grad = x.data.copy(), x.requires_grad
    y.grad = None if x.grad is None else x.grad.copy()
    y._operation, y._order, y._version = x._operation, tick(), [0]
    if x._operation is not None:
        y._args, y._values, y._kwargs = args, [value_of(a) for a in args], dict(x._kwargs)
    return y


def pickled(x: Tensor) -> tuple[Any, ...]:
    """Return the function and arguments that ``pickle`` stores: those that make the leaf again."""
    if x._operation is not None:
        raise TypeError(
            f"pickle: a recorded result (of {x._operation.name}) cannot be pickled; pickle .detach() for its values"
        )
    return _unpickled, (type(x), x.data, x.requires_grad, x.grad, _own_attributes(x))


def _unpickled(kind: type[T], data: Array, requires_grad: bool, grad: Array | None, own: dict[str, Any]) -> T:
    """Return a leaf from its values and settings, with a new number in this process's order."""
    x = kind.__new__(kind)
    x.data, x.requires_grad, x.grad = data, requires_grad, grad
    x._operation, x._order, x._version = None, tick(), [0]
    for name, value in own.items():
        setattr(x, name, value)
    return x


def _own_attributes(x: Tensor) -> dict[str, Any]:
    """Return the attributes that a subclass has added."""
    slots = {name for kind in type(x).__mro__ for name in getattr(kind, "__slots__", ())} - {*Tensor.__slots__}
    own = {name: getattr(x, name) for name in sorted(slots) if hasattr(x, name)}
    return own | getattr(x, "__dict__", {})
