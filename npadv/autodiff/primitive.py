"""Primitives: functions of arrays that leave a record when they are called on Tensors, and their gradient rules.

Each primitive has one gradient rule for each argument,

    rule(g, y, *args, **kwargs) = g . dy/d(arg),        g = d(loss)/dy,        y = primitive(*args, **kwargs)

a *vector-Jacobian product*. A rule is written once and runs in two modes. On plain arrays it computes numbers, and the
backward pass costs little more than NumPy's own time. On Tensors, under ``create_graph=True``, it is recorded like any other
computation, and the gradient can be differentiated again.

No operation is defined here: the operations are in ``npadv/ops``, each beside its rule.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial, wraps
from inspect import Parameter, signature
from typing import Any

import numpy as np

from npadv.autodiff.tensor import Tensor, as_array, tick, value_of
from npadv.backend import Array, is_array, xp_of

Rule = Callable[..., Any]

PRIMITIVES: dict[str, Operation] = {}
"""Every primitive by name. The tests fail for a primitive that has no gradient rule or no test."""


class Operation:
    """The registry entry of a primitive: its function on arrays and its gradient rules, one for each argument."""

    __slots__ = ("forward", "forward_with_residuals", "name", "rules")

    def __init__(self, name: str, forward: Callable[..., Any]) -> None:
        self.name = name
        self.forward = forward
        self.forward_with_residuals: Callable[..., Any] | None = None
        self.rules: Any = _NoRules(name)


def primitive(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of arrays into a primitive: on Tensors it is recorded, on plain arrays it runs as it is.

    Positional arguments may be Tensors and are differentiated; keyword arguments are settings and are not. The function
    must not keep its arguments or change them in place. A plain array among the arguments must stay unchanged until the
    gradient is taken: the record keeps the array itself and, unlike for a Tensor, a change of it is not noticed. The
    primitive's name is its key in ``PRIMITIVES``; a second primitive of the same name replaces the first, as when a
    notebook's cell is run again.

    >>> import npadv
    >>> @npadv.primitive
    ... def cube(x):
    ...     return x * x * x
    >>> npadv.defvjp(cube, lambda g, y, x: g * (3 * x * x))
    >>> x = npadv.Tensor(2.0, requires_grad=True)
    >>> float(npadv.grad(cube(x), x))
    12.0
    """
    operation = Operation(forward.__name__, forward)
    new, ndarray, is_recording = object.__new__, np.ndarray, _recording.get  # looked up once

    @wraps(forward)
    def apply(*args: Any, **kwargs: Any) -> Any:
        # All that the tape costs on the way forward is this function, so it is written for speed.
        for a in args:
            if isinstance(a, Tensor):
                break
        else:
            return forward(*args, **kwargs)

        recorded = False
        values = []
        for a in args:
            if isinstance(a, Tensor):
                values.append(a.data)
                if a.requires_grad:
                    recorded = True
            elif type(a) is list:
                return apply(*_with_lists_copied(args), **kwargs)
            else:
                values.append(a)
        recorded = recorded and is_recording()

        if recorded and operation.forward_with_residuals is not None:
            value, kwargs["residuals"] = operation.forward_with_residuals(*values, **kwargs)
        else:
            value = forward(*values, **kwargs)

        y = new(Tensor)
        y.data = value = value if type(value) is ndarray else as_array(value)
        y.grad = None
        y.requires_grad = recorded
        y._order = tick()
        y._version = [0] if value.base is None else _version_of(value.base, args)
        if recorded:
            y._operation, y._args, y._values, y._kwargs = operation, args, values, kwargs
        else:
            y._operation = None
        return y

    apply.operation = operation  # type: ignore[attr-defined]
    PRIMITIVES[operation.name] = operation
    return apply


def _with_lists_copied(args: tuple[Any, ...]) -> list[Any]:
    """Return the arguments with lists copied: a later change of a list must not change the record."""
    xp = xp_of(*map(value_of, args))

    def copied(a: Any) -> Any:
        if type(a) is not list:
            return a
        return tuple(a) if any(map(is_array, a)) else xp.asarray(a)  # a list of numbers is an array

    return [copied(a) for a in args]


def _version_of(base: Array, args: tuple[Any, ...]) -> list[int]:
    """Return the version of the argument that a result is a view of: they share memory, so each change concerns both."""
    for a in args:
        if isinstance(a, Tensor) and (a.data is base or a.data.base is base):
            return a._version
    return [0]


# Rules ----------------------------------------------------------------------------------------------------------------


def defvjp(
    function: Callable[..., Any],
    *rules: Rule | None,
    variadic: bool = False,
    forward_with_residuals: Callable[..., tuple[Any, Any]] | None = None,
) -> None:
    """Give a primitive its gradient rules, one for each positional argument; ``None`` marks one that has no gradient.

    A rule is called as ``rule(g, y, *args, **kwargs)`` and returns the cotangent of its argument, in that argument's
    shape. It must be written with primitives and operators only, since it runs on Tensors when gradients of gradients
    are wanted. ``variadic=True`` takes a single ``rule(argnum, g, y, *args, **kwargs)`` for primitives of any number of
    arguments.

    ``forward_with_residuals`` saves time: a rule need not compute again a number that the forward pass has computed. Where
    a record is made, it is called in the primitive's place, with the same arguments, and returns ``(value, residuals)``.
    The rules receive ``residuals`` as a keyword. Residuals are plain arrays, so under ``create_graph=True`` a rule must
    compute them again from the Tensors: otherwise the second derivative lacks their dependence on the arguments.
    """
    operation = operation_of(function)
    expected = 1 if variadic else len(positional_parameters(operation.forward))
    if len(rules) != expected or (variadic and rules[0] is None):
        raise ValueError(
            f"defvjp({operation.name}): expected {expected} rule(s), one per positional argument, got {len(rules)}"
        )
    if variadic:
        operation.rules = _AnyNumber(rules[0])  # type: ignore[arg-type]
    else:
        operation.rules = tuple(rule or _not_differentiable(operation.name, i) for i, rule in enumerate(rules))
    operation.forward_with_residuals = forward_with_residuals


def positional_parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that a primitive is differentiated in: those that are not keyword-only."""
    if isinstance(function, np.ufunc):  # whose signature also has an array for the output
        return [f"x{i}" for i in range(function.nin)]
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in signature(function).parameters.values() if p.kind in kinds]


def operation_of(function: Callable[..., Any]) -> Operation:
    """Return the registry entry of a primitive."""
    operation = getattr(function, "operation", None)
    if not isinstance(operation, Operation):
        raise TypeError(f"expected a function made by @primitive, got {function!r}")
    return operation


class _NoRules:
    """The rules of a primitive before ``defvjp``: each raises an error that says so."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, argnum: int) -> Rule:
        raise NotImplementedError(f"{self.name} has no gradient rule: give it one with defvjp({self.name}, ...)")


class _AnyNumber:
    """The rules of a variadic primitive: one rule, which receives the number of the argument."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def __getitem__(self, argnum: int) -> Rule:
        return partial(self.rule, argnum)


def _not_differentiable(name: str, argnum: int) -> Rule:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{name} is not differentiable in argument {argnum}")

    return refuse


# Whether to record ----------------------------------------------------------------------------------------------------

_recording: ContextVar[bool] = ContextVar("recording", default=True)


class recording:
    """Switch recording on or off within a ``with`` block, in this thread or task only."""

    __slots__ = ("enabled", "token")

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def __enter__(self) -> None:
        self.token = _recording.set(self.enabled)

    def __exit__(self, *error: object) -> None:
        _recording.reset(self.token)


def no_record() -> AbstractContextManager[None]:
    """Switch recording off within a ``with`` block, in this thread or task only.

    >>> import npadv
    >>> x = npadv.Tensor(1.0, requires_grad=True)
    >>> with npadv.no_record():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """
    return recording(False)
