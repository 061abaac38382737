"""A tape written out as a Python program, one line for each record and one for each rule: the machinery of ``npadv/replay.py``.

A ``Step`` is a record without its values: its operation, its settings, and the places that its arguments come from. A ``Tape``
is a list of steps, which it compares with another recording and compiles to a function.
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
        self.past = next((what for step in self.steps if (what := step.untaped(x.data))), "")

    def compile(self) -> Tape:
        """Compile the tape's program to ``run``, which returns the result for another input and its gradient there."""
        names: dict[str, Any] = {"as_array": as_array, "as_gradient": as_gradient, "one": self.one}
        self.program = self._written(names)
        exec(compile(self.program, f"<tape of {len(self.steps)} operations>", "exec"), names)
        self.run = names["run"]
        return self

    def _written(self, names: dict[str, Any]) -> str:
        """Return the program as text, and add the objects that it names to the names."""
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

    def difference(self, other: Tape) -> str:
        """Return the first difference of another recording, or the reason why neither can be replayed; "" for none."""
        if self.past or other.past:
            return self.past or other.past
        if len(self.steps) != len(other.steps):
            return f"{len(self.steps)} operations, then {len(other.steps)}"
        different = next(filter(None, map(Step.difference, self.steps, other.steps)), "")
        reads = self.reads or other.reads
        return different or (f"{reads[0]} read a value while it was recorded" if reads else "")


class Step:
    """A record without its values, which are named by their places: 0 is the input, i is the result of the i-th step."""

    def __init__(self, node: Tensor, places: dict[Tensor, int], depends: set[int]) -> None:
        assert node._operation is not None
        self.op = node._operation
        self.name = self.op.name
        self.number = node.ndim == 0  # its operation may return a NumPy scalar, which is not an array
        self.settings = {name: setting for name, setting in node._kwargs.items() if name != "residuals"}
        self.args: list[Any] = []  # the numbers and arrays among the arguments; None for Tensors
        self.moving: list[tuple[int, int]] = []  # the arguments that are computed, with their places
        self.constants: list[tuple[int, Tensor]] = []  # Tensors made before, such as weights: read at each run
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
        """Return the arguments of a call as text, and add the constants and settings among them to the names."""
        fixed = {f"constant{place}_{i}": a for i, a in enumerate(self.args)}
        given = list(fixed)
        for i, tensor in self.constants:
            fixed[f"constant{place}_{i}"], given[i] = tensor, f"constant{place}_{i}.data"
        for i, source in self.moving:
            given[i] = f"y{source}"
        settings = {f"setting{place}_{setting}": value for setting, value in self.settings.items()}
        names.update(fixed | settings)
        return ", ".join([*given, *(f"{setting}=setting{place}_{setting}" for setting in self.settings)])

    def difference(self, other: Step) -> str:
        """Return the first difference of another recording of this step, "" for none."""
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
        """Return the argument or setting that is the input's own array, not a Tensor: replaying would not update it."""
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
    return f"an array {a.shape}" if isinstance(a, Tensor) or is_array(a) else repr(a)
