"""A tape written out as a Python program, one line for each record and one for each rule: the machinery of ``npadv/replay.py``.

A ``Tape`` is a list of ``Step`` objects. A step is a record without its values: its operation, its settings, and the places
of its arguments, where place 0 is the input and place i the result of the i-th step. For y2 = op2(y1, y0) the program has the
lines

    y2 = op2(y1, y0)
    d1 = rule2_0(d2, y2, y1, y0)        the rule of argument 0, and so on: the chain rule, in reverse order
    d0 = rule2_1(d2, y2, y1, y0)

Two tapes can be compared, and a tape is compiled to a function with Python's ``compile``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.autodiff.checks import one_like
from npadv.autodiff.gradient import ancestors, as_gradient
from npadv.autodiff.tensor import Tensor, as_array, value_of
from npadv.backend import Array, is_array, xp_of


class Tape:
    """The records between an input and a result, as a list of steps to run."""

    def __init__(self, x: Tensor, y: Tensor, reads: list[str]) -> None:
        self.reads = reads
        places, depends = {x: 0}, {0}
        self.steps: list[Step] = []
        for node in ancestors(y, x._order):
            if not node.is_leaf:
                step = Step(node, places, depends)
                self.steps.append(step)
                places[node] = len(self.steps)
                if step.rules:
                    depends.add(len(self.steps))
        self.back = [(place, self.steps[place - 1]) for place in sorted(depends - {0}, reverse=True)]
        self.program = ""
        self.run: Callable[[Array], tuple[Array, Array]]
        self.one = one_like(y.data)
        self.bypass = next((what for step in self.steps if (what := step.bypass(x.data))), "")

    def compile(self) -> Tape:
        """Compile the tape's program to ``run``, which returns the result for another input and its gradient there."""
        names: dict[str, Any] = {"as_array": as_array, "as_gradient": as_gradient, "one": self.one}
        self.program = self._source(names)
        exec(compile(self.program, f"<tape of {len(self.steps)} operations>", "exec"), names)
        self.run = names["run"]
        return self

    def _source(self, names: dict[str, Any]) -> str:
        """Return the program as text, and add the objects that it names to the names."""
        lines = ["def run(y0):"]
        for place, step in enumerate(self.steps, 1):
            lines.append(f"    {step.line(place, names)}")
        lines.append(f"    d{len(self.steps)} = one.copy()")
        begun = set()  # the values that have received a cotangent
        for place, step in self.back:
            for i, source in step.rules:
                known = f"d{source} + " if source in begun else ""
                lines.append(f"    d{source} = {known}{step.rule_call(i, place, names)}")
                begun.add(source)
            lines.append(f"    del d{place}")
        return "\n".join([*lines, f"    return y{len(self.steps)}, as_gradient(d0, y0)", ""])

    def difference(self, other: Tape) -> str:
        """Return the first difference of another recording, or the reason why neither can be replayed; "" for none."""
        if self.bypass or other.bypass:
            return self.bypass or other.bypass
        if len(self.steps) != len(other.steps):
            return f"{len(self.steps)} operations, then {len(other.steps)}"
        different = next(filter(None, map(Step.difference, self.steps, other.steps)), "")
        reads = self.reads or other.reads
        return different or (f"{reads[0]} read a value while it was recorded" if reads else "")


class Step:
    """A record without its values."""

    def __init__(self, node: Tensor, places: dict[Tensor, int], depends: set[int]) -> None:
        assert node._operation is not None
        self.op = node._operation
        self.name = self.op.name
        self.number = node.ndim == 0  # its operation may return a NumPy scalar, which is not an array
        self.settings = {name: setting for name, setting in node._kwargs.items() if name != "residuals"}
        self.args: list[Any] = []  # the numbers and arrays among the arguments; None for Tensors
        self.computed: list[
            tuple[int, int]
        ] = []  # the arguments that are results of steps, or the input, with their places
        self.constants: list[tuple[int, Tensor]] = []  # Tensors made before, such as weights: read at each run
        self.rules: list[tuple[int, int]] = []  # the arguments that depend on the input, with their places
        for i, a in enumerate(node._args):
            self.args.append(None if isinstance(a, Tensor) else a)
            if isinstance(a, Tensor):
                place = places.get(a)
                if place is None:
                    self.constants.append((i, a))
                else:
                    self.computed.append((i, place))
                    if place in depends:
                        self.rules.append((i, place))

    def line(self, place: int, names: dict[str, Any]) -> str:
        """Return the step as a line of Python, and add its operation, settings and constants to the names."""
        name = f"op{place}_{self.name if self.name.isidentifier() else ''}"
        names[name] = self.op.forward_with_residuals or self.op.forward
        results = f"y{place}, residuals{place}" if self.op.forward_with_residuals else f"y{place}"
        line = f"{results} = {name}({self._arguments(place, names)})"
        return f"{line}; y{place} = as_array(y{place})" if self.number else line

    def rule_call(self, i: int, place: int, names: dict[str, Any]) -> str:
        """Return the cotangent of argument i as an expression, and add the rule to the names."""
        name = f"rule{place}_{i}"
        names[name] = self.op.rules[i]
        residuals = f", residuals=residuals{place}" if self.op.forward_with_residuals else ""
        return f"{name}(d{place}, y{place}, {self._arguments(place, names)}{residuals})"

    def _arguments(self, place: int, names: dict[str, Any]) -> str:
        """Return the arguments of a call as text, and add the constants and settings among them to the names."""
        fixed = {f"constant{place}_{i}": a for i, a in enumerate(self.args)}
        given = list(fixed)
        for i, tensor in self.constants:
            fixed[f"constant{place}_{i}"], given[i] = tensor, f"constant{place}_{i}.data"
        for i, source in self.computed:
            given[i] = f"y{source}"
        settings = {f"setting{place}_{setting}": value for setting, value in self.settings.items()}
        names.update(fixed | settings)
        return ", ".join([*given, *(f"{setting}=setting{place}_{setting}" for setting in self.settings)])

    def difference(self, other: Step) -> str:
        """Return the first difference of another recording of this step, "" for none."""
        if self.name != other.name:
            return f"{self.name} was computed, then {other.name}"
        if self.computed != other.computed:
            return f"{self.name} was computed from other values than before"
        own, others = self._fixed(), other._fixed()
        for what in own | others:
            a, b = own.get(what, "not given"), others.get(what, "not given")
            if not _same(a, b):
                return f"{what} of {self.name} was {_brief(a)}, then {_brief(b)}"
        return ""

    def bypass(self, x: Array) -> str:
        """Return the reason not to replay if an argument or setting is the input's own array and not its Tensor, else "".

        Such a value changes from input to input, but it is always the same object.
        """
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


def _same(a: Any, b: Any) -> bool:
    """Whether two constants are the same: arrays and Tensors by identity, others by value."""
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, Tensor) or is_array(a):
        return False
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _brief(a: Any) -> str:
    """Return a constant as text, an array by its shape."""
    return f"an array {a.shape}" if isinstance(a, Tensor) or is_array(a) else repr(a)
