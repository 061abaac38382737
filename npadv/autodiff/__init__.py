"""The tape: arrays that remember where they came from, and the walk that turns the memory into gradients.

A *primitive* takes arrays and returns an array. Called on a :class:`Tensor` it also leaves a record: which primitive ran,
on what. Each primitive has one gradient rule per argument,

    rule(g, y, *args, **kwargs) = g . dy/d(arg),        g = d(loss)/dy,        y = primitive(*args, **kwargs)

a *vector-Jacobian product*. ``grad`` finds the records between two tensors and applies their rules in reverse order of
creation, adding up what meets (the chain rule). The rules are written once and run two ways: on plain arrays when only
numbers are wanted, so that the walk costs NumPy's time and little more; on Tensors, under ``create_graph=True``, when the
gradient will itself be differentiated, so that the walk leaves a record of its own.

This file knows no operation: those live in ``npadv/ops``, each beside its rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from inspect import Parameter, signature
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from npadv.backend import Array, is_array, shape_of, to_device, to_numpy, xp_of

if TYPE_CHECKING:
    from npadv.autodiff.operators import Operators  # x + y, x.sum(): installed by the operations, a floor above
else:
    Operators = object

Rule = Callable[..., Any]
Record = tuple["Operation", tuple[Any, ...], list[Any], dict[str, Any]]

_recording: ContextVar[bool] = ContextVar("recording", default=True)
_now = count(1).__next__  # the tape's clock: it tells what was made, or changed, after what


class Tensor(Operators):
    """An array, and how it was made.

    Parameters
    ----------
    data : array, or anything ``numpy.asarray`` takes
        The values. An array is kept, not copied; its type (NumPy's or CuPy's) decides where work runs.
    requires_grad : bool
        Record what is computed from this tensor, so that its gradient can be asked for. Floating point only.

    Attributes
    ----------
    data : array
        The values.
    grad : array or None
        Filled by :meth:`backward`, on leaves only.

    Examples
    --------
    >>> import npadv
    >>> x = npadv.Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = (x * x).sum()
    >>> npadv.grad(y, x)
    array([2., 4., 6.])
    """

    __slots__ = (
        "__weakref__",
        "_changed",  # [when the data was last changed in place]: one list for all tensors that look at the same memory
        "_order",  # when it was made: a number no other tensor has, growing with time
        "_record",  # how: (the primitive, what it was called on, the same as arrays, its settings, also "kept"); None: a leaf
        "data",
        "grad",
        "requires_grad",
    )
    __array_ufunc__ = None  # numpy.ndarray + Tensor defers to Tensor.__radd__

    data: Array
    grad: Array | None
    requires_grad: bool

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            raise TypeError("Tensor(data): data is a Tensor already; use .detach() for its values without its history")
        self.data = data = as_array(data)
        if requires_grad and data.dtype.kind != "f":
            raise ValueError(f"Tensor(requires_grad=True): expected a floating-point dtype, got {data.dtype}")
        self.requires_grad = requires_grad
        self.grad = None
        self._order: int = _now()
        self._changed: list[int] = [0]
        self._record: Record | None = None

    # What an array would answer -------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.data.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements."""
        return self.data.dtype

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        body = np.array2string(to_numpy(self.data), separator=", ", prefix="Tensor(", threshold=20)
        return f"Tensor({body}, dtype={self.dtype}{', requires_grad=True' if self.requires_grad else ''})"

    def __bool__(self) -> bool:
        return bool(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def item(self) -> float:
        """Return the only element as a Python number."""
        return self.data.item()

    def numpy(self) -> np.ndarray:
        """Return the values as a NumPy array on the host."""
        return to_numpy(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad:
            raise TypeError("numpy.asarray(tensor) would drop the tensor's history; take tensor.data if that is meant")
        return np.array(self.data, dtype=dtype, copy=copy)

    # History --------------------------------------------------------------------------------------------------------

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by hand and not by a primitive."""
        return self._record is None

    def detach(self) -> Tensor:
        """Return a tensor with the same values (the same memory) and no history."""
        x = Tensor(self.data)
        x._changed = self._changed
        return x

    def backward(self, cotangent: Array | None = None) -> None:
        """Add d(self)/d(leaf) to ``leaf.grad`` for every leaf that requires it: ``grad`` over all leaves."""
        leaves = [node for node in ancestors(self, 0) if node._record is None and node.requires_grad]
        if not leaves:
            raise ValueError("backward: nothing was recorded; no tensor in this computation has requires_grad=True")
        for leaf, g in zip(leaves, grad(self, leaves, cotangent), strict=True):
            leaf.grad = g if leaf.grad is None else leaf.grad + g

    # In-place changes -----------------------------------------------------------------------------------------------

    def mark_changed(self) -> None:
        """Say that ``data`` was changed in place: a gradient through an earlier record will refuse to be wrong."""
        if self._record is not None:
            raise RuntimeError(
                f"in-place change of a recorded result (of {self._record[0].name}): only leaves may be changed in place; "
                "use where(...) or concatenate(...) to build a new tensor, or .detach() to leave the tape"
            )
        self._changed[0] = _now()

    def __setitem__(self, index: Any, value: Any) -> None:
        self.mark_changed()
        self.data[plain_index(index)] = plain_index(value)

    def assign(self, value: Any) -> None:
        """Copy ``value`` into ``data`` in place (shapes must agree) and mark the change."""
        value = plain_index(value)
        if shape_of(value) != self.shape:
            raise ValueError(f"assign(value): expected shape {self.shape}, got {shape_of(value)}")
        self.mark_changed()
        self.data[...] = value

    def to(self, device: str) -> Tensor:
        """Move ``data`` to ``"cpu"`` or ``"cuda"``, in place; returns the tensor itself."""
        self.mark_changed()
        self.data = to_device(self.data, device)
        return self


class Operation:
    """A primitive's entry in the registry: its function on arrays and its gradient rules, one per argument."""

    __slots__ = ("forward", "keeping", "name", "rules")

    def __init__(self, name: str, forward: Callable[..., Any]) -> None:
        self.name = name
        self.forward = forward
        self.keeping: Callable[..., Any] | None = None  # forward, and what it keeps for the rules
        self.rules: Any = _NoRules(name)


class _NoRules:
    """Stands where an operation's rules will: says what is missing when one is asked for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, argnum: int) -> Rule:
        raise NotImplementedError(f"{self.name} has no gradient rule: give it one with defvjp({self.name}, ...)")


class _AnyNumber:
    """The rules of a primitive that takes any number of arguments: one rule, told which argument is meant."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def __getitem__(self, argnum: int) -> Rule:
        return partial(self.rule, argnum)


def _not_differentiable(name: str, argnum: int) -> Rule:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{name} is not differentiable in argument {argnum}")

    return refuse


PRIMITIVES: dict[str, Operation] = {}
"""Every primitive by name. A test walks it and fails for one without a rule or a test."""


def primitive(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of arrays into a primitive: on Tensors it is recorded, on plain arrays it is just itself.

    Positional arguments may be Tensors and are differentiated; keyword arguments are settings and are not.
    The function must not keep or change its arguments in place. Its name is its place in ``PRIMITIVES``; a second primitive
    of the same name takes that place, as when a notebook's cell is run again.

    >>> import npadv
    >>> @npadv.primitive
    ... def cube(x):
    ...     return x * x * x
    >>> npadv.defvjp(cube, lambda g, y, x: g * (3 * x * x))
    >>> x = npadv.Tensor(2.0, requires_grad=True)
    >>> float(npadv.grad(cube(x), x))
    12.0
    """
    op = Operation(forward.__name__, forward)

    @wraps(forward)
    def apply(*args: Any, **kwargs: Any) -> Any:
        # This function is the tape's whole cost on the way forward: it is written for speed, and it is still short.
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
            else:
                values.append(a)
        recorded = recorded and _recording.get()
        if recorded and op.keeping is not None:
            value, kwargs["kept"] = op.keeping(*values, **kwargs)
        else:
            value = forward(*values, **kwargs)
        y = Tensor.__new__(Tensor)
        y.data = value = value if type(value) is np.ndarray else as_array(value)
        y.grad = None
        y._order = _now()
        y._changed = [0] if value.base is None else _changes_of(value.base, args)  # which is a view's
        y.requires_grad = recorded
        y._record = (op, args, values, kwargs) if recorded else None
        return y

    apply.operation = op  # type: ignore[attr-defined]
    PRIMITIVES[op.name] = op
    return apply


def as_array(value: Any) -> Array:
    """Return numbers, NumPy's scalars among them, as arrays of no dimension; an array as it is."""
    return value if is_array(value) and not isinstance(value, np.generic) else np.asarray(value)


def _changes_of(base: Array, args: tuple[Any, ...]) -> list[int]:
    """Return the changes of the argument that a result is a view of: changing one changes the other."""
    for a in args:
        if isinstance(a, Tensor) and (a.data is base or a.data.base is base):
            return a._changed
    return [0]


def defvjp(
    function: Callable[..., Any],
    *rules: Rule | None,
    variadic: bool = False,
    keeping: Callable[..., tuple[Any, Any]] | None = None,
) -> None:
    """Give a primitive its gradient rules, one per positional argument; ``None`` marks one that has no gradient.

    A rule is called as ``rule(g, y, *args, **kwargs)`` and returns the cotangent of its argument, in that argument's
    shape. It must be written with primitives and operators only, since it runs on Tensors when gradients of gradients
    are wanted. ``variadic=True`` takes a single ``rule(argnum, g, y, *args, **kwargs)`` for primitives of any number of
    arguments.

    ``keeping`` saves the rules from computing twice: a function called like the primitive, in its place where a record is
    made, that returns ``(value, kept)``. The rules are given ``kept`` as a keyword. It is made of plain arrays, so on Tensors
    they must do without, or the second derivative misses what depends on the argument through it.
    """
    op = operation_of(function)
    expected = 1 if variadic else len(positional_parameters(op.forward))
    if len(rules) != expected or (variadic and rules[0] is None):
        raise ValueError(
            f"defvjp({op.name}): expected {expected} rule(s), one per positional argument, got {len(rules)}"
        )
    if variadic:
        op.rules = _AnyNumber(rules[0])  # type: ignore[arg-type]
    else:
        op.rules = tuple(rule or _not_differentiable(op.name, i) for i, rule in enumerate(rules))
    op.keeping = keeping


def positional_parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that a primitive is differentiated in: those that are not keyword-only."""
    if isinstance(function, np.ufunc):  # whose signature also has an array for the output
        return [f"x{i}" for i in range(function.nin)]
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in signature(function).parameters.values() if p.kind in kinds]


def operation_of(function: Callable[..., Any]) -> Operation:
    """Return the registry entry of a primitive."""
    op = getattr(function, "operation", None)
    if not isinstance(op, Operation):
        raise TypeError(f"expected a function made by @primitive, got {function!r}")
    return op


@contextmanager
def recording(enabled: bool) -> Iterator[None]:
    """Switch the record on or off, in this thread or task only."""
    token = _recording.set(enabled)
    try:
        yield
    finally:
        _recording.reset(token)


def no_record() -> AbstractContextManager[None]:
    """Compute without leaving a record, in this thread or task only.

    >>> import npadv
    >>> x = npadv.Tensor(1.0, requires_grad=True)
    >>> with npadv.no_record():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """
    return recording(False)


def value_of(x: Any) -> Any:
    """Return the array of a Tensor, and anything else unchanged.

    Rules use it for what is constant in the neighbourhood of a point: a mask, an index, a sign.
    """
    return x.data if isinstance(x, Tensor) else x


def plain_index(x: Any) -> Any:
    """Return an index, or a value, with the Tensors in it replaced by their arrays."""
    return tuple(map(value_of, x)) if isinstance(x, tuple) else value_of(x)


# The walk -------------------------------------------------------------------------------------------------------------


def ancestors(y: Tensor, oldest: int) -> list[Tensor]:
    """Return ``y`` and the recorded tensors it was made from, none older than ``oldest``, in order of creation."""
    found = {y._order: y}
    stack = [y]
    while stack:
        record = stack.pop()._record
        if record:
            for a in record[1]:
                if isinstance(a, Tensor) and a.requires_grad and a._order >= oldest and a._order not in found:
                    found[a._order] = a
                    stack.append(a)
    return [found[order] for order in sorted(found)]


def grad(y: Tensor, wrt: Any, cotangent: Any = None, *, create_graph: bool = False, unused: str = "raise") -> Any:
    """Return the gradient of ``y``, weighted by ``cotangent``, with respect to ``wrt``.

    Parameters
    ----------
    y : Tensor
        What to differentiate. With more than one element it needs a ``cotangent``.
    wrt : Tensor or sequence of Tensor
        What to differentiate by. Only the records between these and ``y`` are visited, so the gradient of an input
        costs nothing for the parameters.
    cotangent : array or Tensor of ``y``'s shape, optional
        The vector of the vector-Jacobian product; 1 by default.
    create_graph : bool
        Return Tensors that can be differentiated again, instead of plain arrays.
    unused : {"raise", "zeros"}
        What to do when ``y`` does not depend on one of ``wrt``.

    Returns
    -------
    array (Tensor if ``create_graph``), or a list of them where ``wrt`` is a sequence
        Each in the shape and dtype of its ``wrt``.

    Raises
    ------
    ValueError
        ``y`` or one of ``wrt`` was not recorded, or ``y`` does not depend on it.
    RuntimeError
        A tensor was changed in place after it was recorded.

    Examples
    --------
    >>> import npadv
    >>> x = npadv.Tensor(3.0, requires_grad=True)
    >>> first = npadv.grad(x * x * x, x, create_graph=True)
    >>> float(first.data), float(npadv.grad(first, x))
    (27.0, 18.0)
    """
    token = _recording.set(create_graph)  # whatever no_record() says: else a second derivative would silently be 0
    try:
        if isinstance(wrt, Tensor):
            return _gradients(y, [wrt], cotangent, create_graph, unused)[0]
        return _gradients(y, list(wrt), cotangent, create_graph, unused)
    finally:
        _recording.reset(token)


def _gradients(y: Tensor, wrt: list[Tensor], cotangent: Any, create_graph: bool, unused: str) -> list[Any]:
    g = _checked_cotangent(y, wrt, cotangent, unused)
    targets = {w._order for w in wrt}

    # Forward: keep the records that lead from a target to y. A target's own past is of no interest.
    on_path = set(targets)
    path = []
    if y.requires_grad and wrt:
        for node in ancestors(y, min(targets)):
            if node._record:
                for a in node._record[1]:
                    if isinstance(a, Tensor) and a._order in on_path:
                        on_path.add(node._order)
                        path.append(node)
                        break

    # Backward: hand each record's cotangent on to its arguments.
    cotangents: dict[int, Any] = {y._order: Tensor(g) if create_graph and not isinstance(g, Tensor) else g}
    for node in reversed(path):
        order = node._order
        g = cotangents[order] if order in targets else cotangents.pop(order)
        op, args, values, kwargs = node._record  # type: ignore[misc]
        inputs, output = (args, node) if create_graph else (values, node.data)
        changed = node._changed[0] > order
        for i, a in enumerate(args):
            if isinstance(a, Tensor):
                if a._changed[0] > order:
                    changed = True
                if a._order in on_path:
                    contribution = op.rules[i](g, output, *inputs, **kwargs)
                    known = cotangents.get(a._order)
                    cotangents[a._order] = contribution if known is None else known + contribution
        if changed:
            _refuse_changed(node)

    return [_finished(cotangents.get(w._order), w, k, create_graph, unused) for k, w in enumerate(wrt)]


def _checked_cotangent(y: Tensor, wrt: list[Tensor], cotangent: Any, unused: str) -> Any:
    if unused not in ("raise", "zeros"):
        raise ValueError(f"grad(unused=...): expected 'raise' or 'zeros', got {unused!r}")
    if not isinstance(y, Tensor):
        raise TypeError(f"grad(y): expected a Tensor, got {type(y).__name__}")
    for k, w in enumerate(wrt):
        if not isinstance(w, Tensor):
            raise TypeError(f"grad(wrt[{k}]): expected a Tensor, got {type(w).__name__}")
        if not w.requires_grad:
            raise ValueError(f"grad(wrt[{k}]): this tensor was not recorded; make it with requires_grad=True")
    if not y.requires_grad and unused == "raise":
        raise ValueError("grad(y): y was not recorded; no tensor it was made from has requires_grad=True")
    if cotangent is None:
        if y.data.size != 1:
            raise ValueError(f"grad(y): y has shape {y.shape}; give a cotangent of that shape, or reduce y to a scalar")
        return one_like(y.data)
    if not isinstance(cotangent, Tensor):
        cotangent = xp_of(y.data).asarray(cotangent, dtype=y.dtype)
    if cotangent.shape != y.shape:
        raise ValueError(f"grad(cotangent): expected y's shape {y.shape}, got {cotangent.shape}")
    return cotangent


def _finished(g: Any, w: Tensor, k: int, create_graph: bool, unused: str) -> Any:
    """Give a cotangent its target's dtype and its final form."""
    if g is None:
        if unused == "raise":
            raise ValueError(
                f"grad(wrt[{k}]): y does not depend on this tensor; pass unused='zeros' if that is expected"
            )
        g = xp_of(w.data).zeros_like(w.data)
    if create_graph:
        g = g if isinstance(g, Tensor) else Tensor(g)
        return g if g.dtype == w.dtype else g.astype(w.dtype)
    return as_gradient(g.data if isinstance(g, Tensor) else g, w.data)


def one_like(y: Array) -> Array:
    """Return the cotangent of a result of one element: 1, in its shape and dtype."""
    return np.array(1, y.dtype, ndmin=y.ndim) if type(y) is np.ndarray else xp_of(y).ones_like(y)


def as_gradient(g: Array, x: Array) -> Array:
    """Return what the rules made of a cotangent as an array of x's kind and dtype."""
    return g if type(g) is type(x) and g.dtype == x.dtype else xp_of(x).asarray(g, dtype=x.dtype)


def _refuse_changed(node: Tensor) -> None:
    op, args, _, _ = node._record  # type: ignore[misc]
    shapes = [a.shape for a in args if isinstance(a, Tensor)]
    raise RuntimeError(
        f"grad: an argument of {op.name} (recorded with shapes {shapes}), or its result, was changed in place "
        "after it was recorded; its gradient can no longer be computed. Take the gradient before the change, or recompute"
    )
