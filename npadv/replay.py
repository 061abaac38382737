"""Replay: the gradient of one function at many points, recorded a few times and then computed without a tape.

For one input and a small network, NumPy's work takes a third of the time. The rest is Python's: in every call, it looks up the
primitives and makes the records again. But a tape is a program: its records list, in order, the primitives and the values that
they ran on. So the tape is written out as a Python function, one line for each primitive and one for each rule, which makes no
Tensors and looks up nothing (``autodiff/program.py``). ``Replay.program`` shows it. The results are the same to the last bit.

A tape does not show the reasons for a computation. A function may branch on its input (``if x.max() > 1``), or compute a number
outside the tape, with NumPy, and use it as a constant. So a tape is replayed only if all of this holds:

- The tapes of two different inputs are the same: the same primitives on the same values, with the same numbers and the same
  constant arrays. An array is the same only if it is the same object, as parameters and labels are.
- The tape of a third input is the same too. Its elements are the second's times random factors between 1/2 and 1. A constant
  that was computed from the values would differ there, even if it agreed by chance at the first two inputs.
- No value was read from a Tensor while it was recorded, by a comparison, ``float``, ``int``, ``bool``, ``item`` or ``numpy``.

A function that fails one of these is recorded anew at every call, and ``repr`` gives the reason. One case is not detected: a
branch or a constant that is computed from ``x.data`` and is the same at all three inputs, such as the position of the largest
pixel or ``if x.data.sum() > 0``. Do not replay such a function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.autodiff import Tensor, grad, recording
from npadv.autodiff.program import Tape
from npadv.autodiff.tensor import watch_reads
from npadv.backend import Array, is_array, like


class Replay:
    """A scalar function of one array, called for its value and its gradient.

    Parameters
    ----------
    function : callable
        Takes a Tensor and returns one of a single element. It must have no side effects, draw no random numbers, and
        compute the same every time. Weights of a model may change; after a change of its layers, make a new Replay.

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
        self._tapes: dict[Any, Tape | _Once | str] = {}

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Return the function's value at x, and its gradient there."""
        kind = _kind(x)
        known = self._tapes.get(kind)
        if isinstance(known, Tape):
            return known.run(x)
        value, gradient, tape = self._record(x)
        if not isinstance(known, str):
            self._tapes[kind] = self._learned(known, tape, x)
        return value, gradient

    def _record(self, x: Array) -> tuple[Array, Array, Tape]:
        """Return the function's value and gradient at x, and the tape of its computation."""
        with recording(True), watch_reads() as reads:
            point = Tensor(x, requires_grad=True)
            y = self.function(point)
        return y.data if isinstance(y, Tensor) else y, grad(y, point), Tape(point, y, reads)

    def _learned(self, known: Tape | _Once | str | None, tape: Tape, x: Array) -> Tape | _Once | str:
        """Return the result of another recording: a tape to replay, the first of two tapes, or the reason for none (str)."""
        # Two tapes of the same input agree even if they depend on its values, so only another input can decide.
        if not isinstance(known, _Once) or (known.x == x).all():
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

        ``y1, y2, ...`` are the values and ``d1, d2, ...`` their cotangents. The operations, the rules, and all constants and
        settings are named objects, such as ``op1_multiply`` for the operation of the first step.

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
        return tape.program if isinstance(tape, Tape) else ""

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        kinds = [f"{dtype} {shape} {_state(tape)}" for (_, dtype, shape), tape in self._tapes.items()]
        return f"Replay({name}: {'; '.join(kinds) or 'not called yet'})"


def _kind(x: Array) -> tuple[type, Any, tuple[int, ...]]:
    """Return the type, dtype and shape of an input: all inputs that agree in them share a tape."""
    if not is_array(x):
        raise TypeError(f"Replay(x): expected an array, got {type(x).__name__}")
    return type(x), x.dtype, x.shape


class _Once:
    """A tape that was recorded once, and a copy of its input."""

    def __init__(self, tape: Tape, x: Array) -> None:
        self.tape, self.x = tape, x.copy()


def _scaled_at_random(x: Array) -> Array:
    """Return x, each element times a random factor between 1/2 and 1: within every box that holds x and 0."""
    factors = np.random.default_rng(0).uniform(0.5, 1, x.shape).astype(x.dtype)
    return x * like(factors, x)


def _state(tape: Tape | _Once | str) -> str:
    if isinstance(tape, str):
        return f"recorded anew each time: {tape}"
    return "recorded at one input" if isinstance(tape, _Once) else f"replayed, {len(tape.steps)} operations"
