"""Replay: the gradient of one function at many points, recorded a few times and from then on only computed.

For one input and a small network, NumPy's work takes a third of the time. The rest is Python's: in every call it finds out
which primitive comes next, and leaves a record. But a tape is a program. Its records say, in order, which primitive ran on
which values, so they are written out as a function, one line for each primitive and one for each rule, with no Tensor made
and nothing searched for; ``Replay.program`` shows it. The results are the same to the last bit.

A record does not say why a computation was done. A function may branch on its input (``if x.max() > 1``), or compute a number
outside of the tape, with NumPy, and use it as a constant. So a tape is replayed only if all of this holds:

- the tapes of two different inputs are the same: the same primitives on the same values, with the same numbers and the same
  constant arrays. An array is the same only if it is the same object, as parameters and labels are;
- so is the tape of a third input, whose elements are the second's times random factors between 1/2 and 1: a constant that
  was computed from the values would differ there, even if it agreed by chance on the first two;
- no value was read from a Tensor meanwhile, by a comparison, ``float``, ``int``, ``bool``, ``item`` or ``numpy``.

A function that fails one of these is recorded anew at every call, and ``repr`` says why. What remains undetected is a branch
or a constant that is computed from ``x.data`` and is the same at all three inputs, such as the position of the largest pixel
or ``if x.data.sum() > 0``. Do not replay a function that has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.autodiff import Tensor, ancestors, as_array, as_gradient, grad, one_like, recording, value_of
from npadv.autodiff.tensor import watch_reads
from npadv.backend import Array, is_array, like, xp_of


class Replay:
    """A scalar function of one array, called for its value and its gradient.

    Parameters
    ----------
    function : callable
        Takes a Tensor and returns one of a single element. It must be a function, with no side effects and nothing random,
        and what it does must not change: after changing a model's layers, as opposed to its weights, make a new Replay.

    Returns
    -------
    value, gradient : arrays
        By a call with an array: the result of ``function``, and its gradient in the array's shape and dtype. The first two
        calls with different arrays of one shape and dtype are recorded, the second also at a third input; later calls are
        replayed. Changes of parameters, and of arrays in place, take effect.

    Raises
    ------
    TypeError, ValueError
        By a call: the argument is no floating-point array; the function returns no Tensor of one element that depends on
        it.

    Examples
    --------
    >>> gradient = Replay(lambda x: (x * x).sum())
    >>> for point in ([1.0, 2.0], [3.0, 4.0], [5.0, 6.0]):
    ...     value, g = gradient(np.array(point))
    >>> value, g
    (array(61.), array([10., 12.]))
    >>> gradient
    Replay(<lambda>: float64 (2,) replayed, 2 operations)

    If the recordings differ, the function is not replayed:

    >>> gradient = Replay(lambda x: x.sum() * float(x.data.max()))
    >>> for point in ([1.0, 2.0], [3.0, 4.0], [5.0, 6.0]):
    ...     value, g = gradient(np.array(point))
    >>> value, g
    (array(66.), array([6., 6.]))
    >>> gradient
    Replay(<lambda>: float64 (2,) recorded anew each time: argument 1 of multiply was 2.0, then 4.0)

    >>> gradient = Replay(lambda x: x.sum() if x.sum() > 0 else x.sum() * 2)
    >>> for point in ([1.0, 2.0], [3.0, 4.0]):
    ...     value, g = gradient(np.array(point))
    >>> gradient
    Replay(<lambda>: float64 (2,) recorded anew each time: a comparison read a value while it was recorded)
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._tapes: dict[Any, _Tape | _Once | str] = {}

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Return the function's value at x, and its gradient there."""
        kind = _kind(x)
        known = self._tapes.get(kind)
        if isinstance(known, _Tape):
            return known.run(x)
        value, gradient, tape = self._record(x)
        if not isinstance(known, str):
            self._tapes[kind] = self._learned(known, tape, x)
        return value, gradient

    def _record(self, x: Array) -> tuple[Array, Array, _Tape]:
        """Return the function's value and gradient at x, and the tape of its computation."""
        with recording(True), watch_reads() as reads:
            point = Tensor(x, requires_grad=True)
            y = self.function(point)
        return y.data if isinstance(y, Tensor) else y, grad(y, point), _Tape(point, y, reads)

    def _learned(self, known: _Tape | _Once | str | None, tape: _Tape, x: Array) -> _Tape | _Once | str:
        """Return what is known after another recording: a tape to replay, or the reason (str) why there is none."""
        if (
            not isinstance(known, _Once) or (known.x == x).all()
        ):  # at the same input, tapes agree whatever they depend on
            return known or _Once(tape, x)
        reason = known.tape.difference(tape)
        if reason:
            return reason
        try:
            _, _, third = self._record(_scaled_at_random(x))
        except Exception as error:
            return f"{type(error).__name__} at a third input"
        return tape.difference(third) or tape.compile()

    def program(self, x: Array) -> str:
        """Return the Python that arrays of x's shape and dtype are replayed by; empty while there is none.

        ``y1, y2, ...`` are the values on the way up, ``d1, d2, ...`` their cotangents on the way down. The operations, the
        rules and all that does not depend on the input have names of their own.

        >>> gradient = Replay(lambda x: (x * x).sum())
        >>> for point in ([1.0, 2.0], [3.0, 4.0]):
        ...     value, g = gradient(np.array(point))
        >>> print(gradient.program(np.array([5.0, 6.0])))
        def run(y0):
            y1 = op1_multiply(y0, y0)
            y2 = op2_sum(y1, axis=setting2_axis, keepdims=setting2_keepdims); y2 = as_array(y2)
            d2 = one.copy()
            d1 = rule2_0(d2, y2, y1, axis=setting2_axis, keepdims=setting2_keepdims)
            del d2
            d0 = rule1_0(d1, y1, y0, y0)
            d0 = d0 + rule1_1(d1, y1, y0, y0)
            del d1
            return y2, as_gradient(d0, y0)
        """
        tape = self._tapes.get(_kind(x))
        return tape.program if isinstance(tape, _Tape) else ""

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        kinds = [f"{dtype} {shape} {_state(tape)}" for (_, dtype, shape), tape in self._tapes.items()]
        return f"Replay({name}: {'; '.join(kinds) or 'not called yet'})"


def _kind(x: Array) -> tuple[type, Any, tuple[int, ...]]:
    """Return what all inputs of one tape have in common: type, dtype and shape."""
    if not is_array(x):
        raise TypeError(f"Replay(x): expected an array, got {type(x).__name__}")
    return type(x), x.dtype, x.shape


class _Once:
    """A tape that was recorded once, and a copy of its input."""

    def __init__(self, tape: _Tape, x: Array) -> None:
        self.tape, self.x = tape, x.copy()


def _scaled_at_random(x: Array) -> Array:
    """Return x, each element times a random factor between 1/2 and 1: within every box that holds x and 0."""
    factors = np.random.default_rng(0).uniform(0.5, 1, x.shape).astype(x.dtype)
    return x * like(factors, x)


def _state(tape: _Tape | _Once | str) -> str:
    if isinstance(tape, str):
        return f"recorded anew each time: {tape}"
    return "recorded at one input" if isinstance(tape, _Once) else f"replayed, {len(tape.steps)} operations"


class _Step:
    """A record without its values. The values it takes are known by their place: 0 for the input, i for the i-th step."""

    def __init__(self, node: Tensor, places: dict[Tensor, int], depends: set[int]) -> None:
        assert node._operation is not None
        self.op = node._operation
        self.name = self.op.name
        self.number = node.ndim == 0  # an operation may return NumPy's scalars as numbers without axes
        self.settings = {name: setting for name, setting in node._kwargs.items() if name != "residuals"}
        self.args: list[Any] = []  # the numbers and arrays among the arguments; None for Tensors
        self.moving: list[tuple[int, int]] = []  # the arguments that are computed, with their places
        self.constants: list[tuple[int, Tensor]] = []  # those that were there before: their values are read at each run
        self.rules: list[tuple[int, int]] = []  # the arguments that depend on the input, with their places
        for i, a in enumerate(node._args):
            self.args.append(None if isinstance(a, Tensor) else a)
            if isinstance(a, Tensor):
                place = places.get(a)
                if place is None:
                    self.constants.append((i, a))
                else:
                    self.moving.append((i, place))
                    if place in depends:
                        self.rules.append((i, place))

    def written(self, place: int, names: dict[str, Any]) -> str:
        """Return the step as a line of Python, and add its operation, settings and constants to the names."""
        name = f"op{place}_{self.name if self.name.isidentifier() else ''}"
        names[name] = self.op.forward_with_residuals or self.op.forward
        results = f"y{place}, residuals{place}" if self.op.forward_with_residuals else f"y{place}"
        line = f"{results} = {name}({self._given(place, names)})"
        return f"{line}; y{place} = as_array(y{place})" if self.number else line

    def written_rule(self, i: int, place: int, names: dict[str, Any]) -> str:
        """Return the cotangent of argument i as an expression, and add the rule to the names."""
        name = f"rule{place}_{i}"
        names[name] = self.op.rules[i]
        residuals = f", residuals=residuals{place}" if self.op.forward_with_residuals else ""
        return f"{name}(d{place}, y{place}, {self._given(place, names)}{residuals})"

    def _given(self, place: int, names: dict[str, Any]) -> str:
        """Return the arguments as they stand in a call."""
        fixed = {f"constant{place}_{i}": a for i, a in enumerate(self.args)}
        given = list(fixed)
        for i, tensor in self.constants:
            fixed[f"constant{place}_{i}"], given[i] = tensor, f"constant{place}_{i}.data"
        for i, source in self.moving:
            given[i] = f"y{source}"
        settings = {f"setting{place}_{setting}": value for setting, value in self.settings.items()}
        names.update(fixed | settings)
        return ", ".join([*given, *(f"{setting}=setting{place}_{setting}" for setting in self.settings)])

    def difference(self, other: _Step) -> str:
        """Return how another recording of this step differs; nothing if it does not."""
        if self.name != other.name:
            return f"{self.name} was computed, then {other.name}"
        if self.moving != other.moving:
            return f"{self.name} was computed of other values than before"
        own, others = self._fixed(), other._fixed()
        for what in own | others:
            a, b = own.get(what, "not given"), others.get(what, "not given")
            if not _same(a, b):
                return f"{what} of {self.name} was {_brief(a)}, then {_brief(b)}"
        return ""

    def untaped(self, x: Array) -> str:
        """Return the argument or setting that is the input's own memory: one object, though its values change."""
        shares = xp_of(x).may_share_memory
        for what, a in self._fixed().items():
            for part in a if isinstance(a, tuple | list) else (a,):
                array = value_of(part)
                if is_array(array) and not isinstance(array, np.generic) and shares(array, x):
                    return f"{what} of {self.name} was the input itself, past the tape"
        return ""

    def _fixed(self) -> dict[str, Any]:
        """Return the arguments and settings that do not come from another step, by name."""
        given = {**dict(enumerate(self.args)), **dict(self.constants)}
        return {**{f"argument {i}": a for i, a in given.items()}, **self.settings}


class _Tape:
    """The records between an input and a result, as a list of steps to run."""

    def __init__(self, x: Tensor, y: Tensor, reads: list[str]) -> None:
        self.reads = reads
        places, depends = {x: 0}, {0}
        self.steps: list[_Step] = []
        for node in ancestors(y, x._order):
            if not node.is_leaf:
                step = _Step(node, places, depends)
                self.steps.append(step)
                places[node] = len(self.steps)
                if step.rules:
                    depends.add(len(self.steps))
        self.back = [(place, self.steps[place - 1]) for place in sorted(depends - {0}, reverse=True)]
        self.program = ""
        self.run: Callable[[Array], tuple[Array, Array]]
        self.one = one_like(y.data)
        self.past = next((what for step in self.steps if (what := step.untaped(x.data))), "")

    def compile(self) -> _Tape:
        """Compile the tape's program to ``run``, which returns the result for another input and its gradient there."""
        names: dict[str, Any] = {"as_array": as_array, "as_gradient": as_gradient, "one": self.one}
        self.program = self._written(names)
        exec(compile(self.program, f"<tape of {len(self.steps)} operations>", "exec"), names)
        self.run = names["run"]
        return self

    def _written(self, names: dict[str, Any]) -> str:
        """Return the program, and add the objects that its names mean to the names."""
        lines = ["def run(y0):"]
        for place, step in enumerate(self.steps, 1):
            lines.append(f"    {step.written(place, names)}")
        lines.append(f"    d{len(self.steps)} = one.copy()")
        begun = set()  # the values that have received a cotangent
        for place, step in self.back:
            for i, source in step.rules:
                known = f"d{source} + " if source in begun else ""
                lines.append(f"    d{source} = {known}{step.written_rule(i, place, names)}")
                begun.add(source)
            lines.append(f"    del d{place}")
        return "\n".join([*lines, f"    return y{len(self.steps)}, as_gradient(d0, y0)", ""])

    def difference(self, other: _Tape) -> str:
        """Return the first difference of another recording, or the reason why neither can be replayed; "" for none."""
        if self.past or other.past:
            return self.past or other.past
        if len(self.steps) != len(other.steps):
            return f"{len(self.steps)} operations, then {len(other.steps)}"
        different = next(filter(None, map(_Step.difference, self.steps, other.steps)), "")
        reads = self.reads or other.reads
        return different or (f"{reads[0]} read a value while it was recorded" if reads else "")


def _same(a: Any, b: Any) -> bool:
    """Whether two constants are the same: arrays by identity, others by their values."""
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, Tensor) or is_array(a):
        return False
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _brief(a: Any) -> str:
    return f"an array {a.shape}" if isinstance(a, Tensor) or is_array(a) else repr(a)
