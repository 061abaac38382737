"""The base of the update rules: the loop over the parameters, weight decay, constraints and state.

A parameter may have a ``step_scale``, which multiplies the step size for this parameter, and a ``constraint``, which is
applied after each update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from npadv import capture, optim_on_device
from npadv.autodiff import Tensor
from npadv.backend import Array, like, to_numpy, xp_of
from npadv.schedules import Schedule


class Optimizer:
    """The base of update rules. A rule defines ``update``; see ``optim.py`` for examples.

    Attributes
    ----------
    parameters : list of Tensor
        The tensors that ``step`` changes, each once, even if it was given twice.
    step_size : float or Schedule
        Size of the steps.
    weight_decay : float
        This multiple of a parameter is added to its gradient.
    updates, epoch : int
        Number of updates made; number of whole epochs finished, which ``fit`` sets.
    memory : dict of str to list of array
        The arrays of the rule, such as velocities and averages: for each name, one array for each parameter.
    """

    def __init__(self, parameters: Sequence[Tensor], step_size: float | Schedule, weight_decay: float) -> None:
        self.parameters = list({id(p): p for p in parameters}.values())  # a dict keeps the order and drops repetitions
        if not self.parameters:
            raise ValueError("optimizer(parameters): expected at least one parameter, got none")
        check_setting("step_size", step_size)
        check_setting("weight_decay", weight_decay)
        self.step_size, self.weight_decay = step_size, weight_decay
        self.updates = self.epoch = 0
        self.memory: dict[str, list[Array]] = {}

    def step(self, gradients: Sequence[Array]) -> None:
        """Change every parameter by its gradient, in place."""
        self._check(gradients)
        if capture.active():
            optim_on_device.step(self, gradients)
        else:
            step_size = self.now(self.step_size)
            for i, (p, g) in enumerate(zip(self.parameters, gradients, strict=True)):
                if self.weight_decay:
                    g = g + self.weight_decay * p.data
                self.update(i, p.data, g, step_size * getattr(p, "step_scale", 1.0))
        for p in self.parameters:
            constraint = getattr(p, "constraint", None)
            if constraint is not None:
                constraint(p.data)
        self.count_update()

    def update(self, i: int, p: Array, g: Array, step_size: float) -> None:
        """Change array ``p``, the i-th parameter, in place by its gradient ``g``; each update rule defines this."""
        raise NotImplementedError(f"{type(self).__name__} defines no update(i, p, g, step_size)")

    def now(self, setting: float | Schedule) -> float:
        """Return the present value of a number or schedule."""
        return float(setting(self.updates, self.epoch) if callable(setting) else setting)

    def count_update(self) -> None:
        """Count an update, and mark the parameters as changed: a gradient through an older record then raises an error."""
        for p in self.parameters:
            p.mark_changed()
        self.updates += 1

    # State ----------------------------------------------------------------------------------------------------------

    def remember(self, *names: str) -> None:
        """Make arrays of zeros in ``memory``, for each name one array for each parameter."""
        for name in names:
            self.memory[name] = [xp_of(p.data).zeros_like(p.data) for p in self.parameters]

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of all state that a resumed run needs, as NumPy arrays by name."""
        arrays = {f"{name}.{i}": to_numpy(a).copy() for name, kept in self.memory.items() for i, a in enumerate(kept)}
        return {"counts": np.array([self.updates, self.epoch]), **arrays}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the arrays that ``state`` returned; names and shapes must agree."""
        own = self.state()
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            raise ValueError("optimizer state: does not fit this optimizer and its parameters")
        self.updates, self.epoch = (int(n) for n in state["counts"])
        for name, kept in self.memory.items():
            kept[:] = [like(state[f"{name}.{i}"].copy(), a) for i, a in enumerate(kept)]

    # Captured steps, see optim_on_device.py -------------------------------------------------------------------------

    def update_on_device(self, i: int, p: Array, g: Array, settings: Array, scale: float) -> None:
        """Apply weight decay and the rule of ``update`` in a kernel that reads ``settings()`` from the device's memory."""
        raise NotImplementedError(f"{type(self).__name__} defines no update_on_device(i, p, g, settings, scale)")

    def settings(self) -> list[float]:
        """Return the numbers of the next update that change from step to step, for ``update_on_device``."""
        return [self.now(self.step_size)]

    # Checks ---------------------------------------------------------------------------------------------------------

    def _check(self, gradients: Sequence[Array]) -> None:
        expected, got = [p.shape for p in self.parameters], [g.shape for g in gradients]
        if got != expected:
            raise ValueError(f"step(gradients): expected one for each parameter, of shapes {expected}, got {got}")


def check_setting(name: str, value: float | Schedule, below: float = float("inf")) -> None:
    """Raise a ValueError unless a number lies in [0, below); the values of schedules are not checked."""
    if not callable(value) and not 0 <= value < below:
        limit = "" if below == float("inf") else f" and below {below}"
        raise ValueError(f"{name}: expected a number of at least 0{limit}, got {value!r}")
