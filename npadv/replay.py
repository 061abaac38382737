"""A tape run again: the gradient of one function at many points, recorded twice and from then on only computed.

For one input and a small network NumPy's work takes half of the time. The rest is Python's: it finds out in every call which
primitive comes next, and leaves a record of it. But a tape is a program. Its records say, in order, what ran on what, so
another input can be sent down the same list, and a cotangent back up through the same rules, with no Tensor made and nothing
searched for. The numbers are the same to the last bit.

What a record cannot say is why it is there. A function may look at its input and take another way (``if x.max() > 1``), or
compute something past the tape, with NumPy, and hand it in as a constant. So a tape is believed when a second one, of another
input, is the same: the same primitives, on the same values, with the same numbers and on the same constant arrays. An array
is the same only if it is the same object: parameters, labels and everything made beforehand are; what the function made
itself is not. Functions whose tapes differ are computed as ever, and ``repr`` says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.autodiff import Record, Rule, Tensor, ancestors, as_array, as_gradient, grad, one_like, recording, value_of
from npadv.backend import Array, is_array, xp_of


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
        By a call with an array: what ``function`` returns, and its gradient in the array's shape and dtype. The first two
        calls with arrays of one shape and dtype are recorded; from the third on they are replayed. Changes of parameters,
        and of arrays in place, are seen.

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

    A function that goes its own way is not believed:

    >>> gradient = Replay(lambda x: x.sum() * float(x.data.max()))
    >>> for point in ([1.0, 2.0], [3.0, 4.0], [5.0, 6.0]):
    ...     value, g = gradient(np.array(point))
    >>> value, g
    (array(66.), array([6., 6.]))
    >>> gradient
    Replay(<lambda>: float64 (2,) recorded anew each time: argument 1 of multiply was 2.0, then 4.0)
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._tapes: dict[Any, _Tape | _Once | str] = {}

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Return the function's value at x, and its gradient there."""
        if not is_array(x):
            raise TypeError(f"Replay(function)(x): expected an array, got {type(x).__name__}")
        kind = type(x), x.dtype, x.shape
        known = self._tapes.get(kind)
        if isinstance(known, _Tape):
            return known.run(x)
        with recording(True):
            point = Tensor(x, requires_grad=True)
            y = self.function(point)
        gradient = grad(y, point)
        if not isinstance(known, str):
            self._tapes[kind] = _learned(known, _Tape(point, y), x)
        return y.data, gradient

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        kinds = [f"{dtype} {shape} {_state(tape)}" for (_, dtype, shape), tape in self._tapes.items()]
        return f"Replay({name}: {'; '.join(kinds) or 'not called yet'})"


class _Once:
    """A tape that was recorded once, and a copy of the input that it was recorded at."""

    def __init__(self, tape: _Tape, x: Array) -> None:
        self.tape, self.x = tape, x.copy()


def _learned(known: _Once | None, tape: _Tape, x: Array) -> _Tape | _Once | str:
    """Return what is known when another tape has been recorded: one to believe, or why there is none (str)."""
    if known is None or (known.x == x).all():  # of the same input, tapes agree whatever they depend on
        return known or _Once(tape, x)
    return known.tape.difference(tape) or tape


def _state(tape: _Tape | _Once | str) -> str:
    if isinstance(tape, str):
        return f"recorded anew each time: {tape}"
    return "recorded at one input" if isinstance(tape, _Once) else f"replayed, {len(tape.steps)} operations"


class _Step:
    """A record without its values. Those that it takes are known by their place: 0 for the input, i for the i-th step."""

    __slots__ = ("args", "constants", "forward", "moving", "name", "rules", "settings")

    def __init__(self, record: Record, places: dict[int, int], depends: set[int]) -> None:
        op, args, _, self.settings = record
        self.name, self.forward = op.name, op.forward
        self.args: list[Any] = []  # the numbers and arrays among the arguments; None for Tensors
        self.moving: list[tuple[int, int]] = []  # the arguments that are computed, with their places
        self.constants: list[tuple[int, Tensor]] = []  # those that were there before: their values are read at each run
        self.rules: list[tuple[Rule, int]] = []  # for the arguments that depend on the input, with their places
        for i, a in enumerate(args):
            self.args.append(None if isinstance(a, Tensor) else a)
            if isinstance(a, Tensor):
                place = places.get(a._order)
                if place is None:
                    self.constants.append((i, a))
                else:
                    self.moving.append((i, place))
                    if place in depends:
                        self.rules.append((op.rules[i], place))

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
        """Return what is the input's own memory, past the tape: one object, whatever is written there from call to call."""
        shares = xp_of(x).may_share_memory
        for what, a in self._fixed().items():
            for part in a if isinstance(a, tuple | list) else (a,):
                array = value_of(part)
                if is_array(array) and not isinstance(array, np.generic) and shares(array, x):
                    return f"{what} of {self.name} was the input itself, past the tape"
        return ""

    def _fixed(self) -> dict[str, Any]:
        """Return what does not come from another step, by name."""
        given = {**dict(enumerate(self.args)), **dict(self.constants)}
        return {**{f"argument {i}": a for i, a in given.items()}, **self.settings}


class _Tape:
    """The records between an input and a result, as a list of steps to run."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        places, depends = {x._order: 0}, {0}
        self.steps: list[_Step] = []
        for node in ancestors(y, x._order):
            if node._record:
                step = _Step(node._record, places, depends)
                self.steps.append(step)
                places[node._order] = len(self.steps)
                if step.rules:
                    depends.add(len(self.steps))
        self.back = [(place, self.steps[place - 1]) for place in sorted(depends - {0}, reverse=True)]
        self.one = one_like(y.data)
        self.past = next((what for step in self.steps if (what := step.untaped(x.data))), "")

    def run(self, x: Array) -> tuple[Array, Array]:
        """Return the result for another input, and its gradient there."""
        values, inputs = [x], []
        for step in self.steps:
            args = step.args.copy()
            for i, place in step.moving:
                args[i] = values[place]
            for i, tensor in step.constants:
                args[i] = tensor.data
            value = step.forward(*args, **step.settings)
            values.append(value if type(value) is np.ndarray else as_array(value))
            inputs.append(args)

        cotangents: list[Any] = [None] * len(values)
        cotangents[-1] = self.one.copy()  # nothing is newer than the result
        for place, step in self.back:
            g, cotangents[place] = cotangents[place], None
            for rule, source in step.rules:
                contribution = rule(g, values[place], *inputs[place - 1], **step.settings)
                known = cotangents[source]
                cotangents[source] = contribution if known is None else known + contribution
        return values[-1], as_gradient(cotangents[0], x)

    def difference(self, other: _Tape) -> str:
        """Return the first difference of another recording, or what makes both useless; nothing if they are the same."""
        if self.past or other.past:
            return self.past or other.past
        if len(self.steps) != len(other.steps):
            return f"{len(self.steps)} operations, then {len(other.steps)}"
        return next(filter(None, map(_Step.difference, self.steps, other.steps)), "")


def _same(a: Any, b: Any) -> bool:
    """Whether two constants are: arrays by identity, others by what they hold."""
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, Tensor) or is_array(a):
        return False
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _brief(a: Any) -> str:
    return f"an array {a.shape}" if isinstance(a, Tensor) or is_array(a) else repr(a)
