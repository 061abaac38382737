"""The update rules as CUDA kernels, for training steps that are recorded as a CUDA graph (:mod:`npadv.capture`).

A graph repeats every argument that Python passed to a kernel. So the numbers that change from step to step, such as the step
size, lie in the device's memory, and the kernels read them there (``settings``). All other numbers are guarded: after a change
of one of them, the step is recorded again.

``sgd_settings``, ``sgd``, ``adam_settings`` and ``adam`` are methods of the optimizers in ``optim.py``: ``settings`` and
``update_on_device``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from npadv import capture, kernels
from npadv.backend import Array


def step(optimizer: Any, gradients: Sequence[Array]) -> None:
    """Change every parameter by its gradient, with one kernel for each."""
    _check_rule(optimizer)
    settings = capture.device_scalars(optimizer.settings, optimizer.parameters[0].data)
    for i, (p, g) in enumerate(zip(optimizer.parameters, gradients, strict=True)):
        optimizer.update_on_device(i, p.data, g, settings, getattr(p, "step_scale", 1.0))
    capture.on_replay(optimizer.count_update)
    capture.guard(lambda: _fixed(optimizer))


def sgd_settings(self: Any) -> list[float]:
    """Return the step size and, where there is any, the momentum."""
    return [self.now(self.step_size), *([] if self.momentum == 0 else [self.now(self.momentum)])]


def sgd(self: Any, i: int, p: Array, g: Array, settings: Array, scale: float) -> None:
    """Apply the rule of SGD in ``kernels.sgd``."""
    options: dict[str, Any] = {"weight_decay": self.weight_decay, "scale": scale}
    if self.momentum != 0:
        options.update(velocity=self.memory["velocity"][i], dampening=self.present_dampening, nesterov=self.nesterov)
    kernels.sgd(p, g, settings, **options)


def adam_settings(self: Any) -> list[float]:
    """Return the step size, t, and the bias corrections 1 - b1^t and 1 - b2^t."""
    t = self.updates + 1
    return [self.now(self.step_size), t, *(1 - beta**t for beta in self.betas)]


def adam(self: Any, i: int, p: Array, g: Array, settings: Array, scale: float) -> None:
    """Apply the rule of Adam in ``kernels.adam``."""
    averages = self.memory["mean"][i], self.memory["square"][i]
    options: dict[str, Any] = {"weight_decay": self.weight_decay, "scale": scale}
    kernels.adam(p, g, *averages, settings, betas=self.betas, epsilon=self.epsilon, **options)


CHANGING = {"step_size", "_momentum", "updates", "epoch"}
"""Attributes of optimizers that reach the kernels through ``settings``."""


def _fixed(optimizer: Any) -> list[Any]:
    """Return the numbers and arrays that are fixed in the graph when it is recorded."""
    numbers = [
        value
        for name, value in vars(optimizer).items()
        if name not in CHANGING and isinstance(value, int | float | tuple)
    ]
    numbers += [len(optimizer.settings()), getattr(optimizer, "present_dampening", 0.0)]
    memory = [a for kept in optimizer.memory.values() for a in kept]
    own = [
        fact
        for p in optimizer.parameters
        for fact in (p.data, getattr(p, "step_scale", 1.0), getattr(p, "constraint", None))
    ]
    return [*numbers, *memory, *own]


def _check_rule(optimizer: Any) -> None:
    """Raise a NotImplementedError if a subclass defines ``update`` but inherits the kernel of another rule."""
    rule = next(kind for kind in type(optimizer).__mro__ if "update" in vars(kind))
    if "update_on_device" not in vars(rule):
        raise NotImplementedError(f"{rule.__name__} defines update, and no update_on_device for captured steps")
