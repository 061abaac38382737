"""Update rules: gradient descent with momentum, Adam, and the papers' schedules.

An optimizer holds parameters and, after ``step(gradients)``, has changed them in place. Its step size and momentum are
numbers or *schedules*, functions ``schedule(update, epoch)`` of the number of updates made and of whole epochs finished;
``fit`` keeps ``optimizer.epoch``. What a parameter says of itself is obeyed here: its ``step_scale`` multiplies the step
size, its ``constraint`` is applied after each update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv import capture, kernels
from npadv.autodiff import Tensor
from npadv.backend import Array, like, to_numpy, xp_of
from npadv.fast.parallel import halves

Schedule = Callable[[int, int], float]

# Schedules ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExponentialDecay:
    """initial / factor**update, but not below ``floor``: the maxout networks', with factors such as 1.000004.

    >>> ExponentialDecay(0.1, factor=2.0, floor=0.03)(1, 0), ExponentialDecay(0.1, factor=2.0, floor=0.03)(5, 0)
    (0.05, 0.03)
    """

    initial: float
    factor: float
    floor: float = 0.0

    def __call__(self, update: int, epoch: int) -> float:
        """Return the value after ``update`` updates."""
        return max(self.floor, self.initial * self.factor**-update)


@dataclass(frozen=True)
class InverseDecay:
    """initial / (1 + rate * update): [SYN]'s on MNIST, with a rate of 5e-6.

    >>> InverseDecay(0.01, rate=0.5)(2, 0)
    0.005
    """

    initial: float
    rate: float

    def __call__(self, update: int, epoch: int) -> float:
        """Return the value after ``update`` updates."""
        return self.initial / (1 + self.rate * update)


@dataclass(frozen=True)
class StepDecay:
    """initial * factor**(epoch // every): [SYN]'s on CIFAR-10, halved every 25 epochs.

    >>> [StepDecay(1.0, every=25)(0, epoch) for epoch in (0, 24, 25, 50)]
    [1.0, 1.0, 0.5, 0.25]
    """

    initial: float
    every: int
    factor: float = 0.5

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"StepDecay(every): expected at least 1 epoch, got {self.every}")

    def __call__(self, update: int, epoch: int) -> float:
        """Return the value in the given epoch."""
        return float(self.initial * self.factor ** (epoch // self.every))


@dataclass(frozen=True)
class Linear:
    """From ``initial`` at epoch ``start`` straight to ``final`` at epoch ``end``, constant outside.

    The maxout networks' momentum grows so, from .5 to .7 over epochs 1 to 250.

    >>> [round(Linear(0.5, 0.7, end=250)(0, epoch), 3) for epoch in (0, 125, 250, 300)]
    [0.5, 0.6, 0.7, 0.7]
    """

    initial: float
    final: float
    end: int
    start: int = 0

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise ValueError(f"Linear(end): expected an epoch after the start, {self.start}, got {self.end}")

    def __call__(self, update: int, epoch: int) -> float:
        """Return the value in the given epoch."""
        share = min(1.0, max(0.0, (epoch - self.start) / (self.end - self.start)))
        return self.initial + share * (self.final - self.initial)


# Optimizers -----------------------------------------------------------------------------------------------------------


class Optimizer:
    """The base of update rules: knows the parameters, counts updates and epochs, saves and loads its state.

    Attributes
    ----------
    parameters : list of Tensor
        What ``step`` changes.
    updates, epoch : int
        Updates made; whole epochs finished, set by ``fit``.
    memory : dict of str to list of array
        Arrays the rule keeps, one per parameter: velocities, averages.
    """

    def __init__(self, parameters: Sequence[Tensor], step_size: float | Schedule, weight_decay: float) -> None:
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError("optimizer(parameters): expected at least one parameter, got none")
        check_setting("step_size", step_size)
        check_setting("weight_decay", weight_decay)
        self.step_size, self.weight_decay = step_size, weight_decay
        self.updates = self.epoch = 0
        self.memory: dict[str, list[Array]] = {}

    def now(self, setting: float | Schedule) -> float:
        """Return the present value of a number or schedule."""
        return setting(self.updates, self.epoch) if callable(setting) else setting

    def step(self, gradients: Sequence[Array]) -> None:
        """Change every parameter by its gradient, in place."""
        expected, came = [p.shape for p in self.parameters], [g.shape for g in gradients]
        if came != expected:
            raise ValueError(f"step(gradients): expected one for each parameter, of shapes {expected}, got {came}")
        captured = capture.active()
        step_size = self.now(self.step_size)
        settings = self._settings() if captured else None
        for i, (p, g) in enumerate(zip(self.parameters, gradients, strict=True)):
            scale = getattr(p, "step_scale", 1.0)
            if captured:
                self.update_on_device(i, p.data, g, settings, scale)
            else:
                self.update(i, p.data, g + self.weight_decay * p.data if self.weight_decay else g, step_size * scale)
            constraint = getattr(p, "constraint", None)
            if constraint is not None:
                constraint(p.data)
        self._count()
        capture.on_replay(self._count)
        capture.guard(self._assumed)

    def _count(self) -> None:
        """Do the host's part of a step."""
        for p in self.parameters:
            p.mark_changed()
        self.updates += 1

    def update(self, i: int, p: Array, g: Array, step_size: float) -> None:
        """Change array ``p``, the i-th parameter, in place; what an update rule writes."""
        raise NotImplementedError(f"{type(self).__name__} defines no update(i, p, g, step_size)")

    def update_on_device(self, i: int, p: Array, g: Array, settings: Array, scale: float) -> None:
        """Do what ``update`` does, weight decay included, in a kernel that reads ``settings()`` from the device's memory.

        The step of a captured run (:mod:`npadv.capture`), which repeats every other argument as it is now.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no update_on_device(i, p, g, settings, scale)")

    def settings(self) -> list[float]:
        """Return the numbers of the next update that change from step to step, for ``update_on_device``."""
        return [self.now(self.step_size)]

    def _settings(self) -> Array:
        """Return the settings on the device, kept up to date; refuse a rule that would not be the one they are for."""
        rule = next(kind for kind in type(self).__mro__ if "update" in vars(kind))
        if "update_on_device" not in vars(rule):
            raise NotImplementedError(f"{rule.__name__} defines update, and no update_on_device for captured steps")
        return capture.device_scalars(self.settings, self.parameters[0].data)

    def _assumed(self) -> list[Any]:
        """Return what a recorded step has as it is: settings that are no schedules, and where the arrays lie."""
        fixed = [
            value for name, value in vars(self).items() if name not in ("step_size", "momentum", "updates", "epoch")
        ]
        own = [(p.data, getattr(p, "step_scale", 1.0), getattr(p, "constraint", None)) for p in self.parameters]
        kept = [*self.memory.values(), *own]
        return [
            *(value for value in fixed if isinstance(value, int | float | tuple)),
            *(a for some in kept for a in some),
        ]

    def remember(self, *names: str) -> None:
        """Make memories of zeros, one array for each parameter."""
        for name in names:
            self.memory[name] = [xp_of(p.data).zeros_like(p.data) for p in self.parameters]

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of all that a resumed run needs, as NumPy arrays by name."""
        arrays = {f"{name}.{i}": to_numpy(a).copy() for name, kept in self.memory.items() for i, a in enumerate(kept)}
        return {"counts": np.array([self.updates, self.epoch]), **arrays}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what ``state`` returned; names and shapes must agree."""
        own = self.state()
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            raise ValueError("optimizer state: does not fit this optimizer and its parameters")
        self.updates, self.epoch = (int(n) for n in state["counts"])
        for name, kept in self.memory.items():
            kept[:] = [like(state[f"{name}.{i}"].copy(), a) for i, a in enumerate(kept)]


class SGD(Optimizer):
    """Gradient descent with momentum.

    With gradient g (weight decay included), velocity v and step size s,

        v <- momentum * v + (1 - dampening) * g,        p <- p - s * v        (Nesterov: p - s * (g + momentum * v)).

    Dampening equal to the momentum makes v an average of gradients: [SYN]'s published code runs so.

    >>> p = Tensor(np.array([1.0]), requires_grad=True)
    >>> SGD([p], 0.5).step([np.array([1.0])])
    >>> p.data
    array([0.5])
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        step_size: float | Schedule,
        *,
        momentum: float | Schedule = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, step_size, weight_decay)
        check_setting("momentum", momentum, below=1)
        check_setting("dampening", dampening)
        if nesterov and (dampening or momentum == 0):
            raise ValueError("SGD(nesterov=True): expected momentum and no dampening")
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov
        if momentum != 0:
            self.remember("velocity")

    def update(self, i: int, p: Array, g: Array, step_size: float) -> None:
        """Apply the rule above."""
        if self.momentum == 0:
            p -= step_size * g
            return
        momentum = self.now(self.momentum)

        def rule(p: Array, v: Array, g: Array) -> None:
            v *= momentum
            v += (1 - self.dampening) * g if self.dampening else g
            p -= step_size * (g + momentum * v if self.nesterov else v)

        halves(rule, p, self.memory["velocity"][i], g)

    def settings(self) -> list[float]:
        """Return step size and, where there is a velocity, momentum."""
        return [self.now(self.step_size), *([self.now(self.momentum)] if "velocity" in self.memory else [])]

    def update_on_device(self, i: int, p: Array, g: Array, settings: Array, scale: float) -> None:
        """Apply the rule in ``kernels.sgd``."""
        options: dict[str, Any] = {"weight_decay": self.weight_decay, "scale": scale}
        if "velocity" in self.memory:
            options.update(velocity=self.memory["velocity"][i], dampening=self.dampening, nesterov=self.nesterov)
        kernels.sgd(p, g, settings, **options)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1): steps of about the step size, whatever the gradient's scale.

    m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2,  p <- p - s * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon).

    >>> p = Tensor(np.array([1.0]), requires_grad=True)
    >>> Adam([p], 0.5).step([np.array([1e-3])])
    >>> p.data.round(4)
    array([0.5])
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        step_size: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, step_size, weight_decay)
        for beta in betas:
            check_setting("betas", beta, below=1)
        self.betas, self.epsilon = betas, epsilon
        self.remember("mean", "square")

    def update(self, i: int, p: Array, g: Array, step_size: float) -> None:
        """Apply the rule above."""
        (b1, b2), t = self.betas, self.updates + 1
        m, v = self.memory["mean"][i], self.memory["square"][i]

        def rule(p: Array, m: Array, v: Array, g: Array) -> None:
            m *= b1
            m += (1 - b1) * g
            v *= b2
            v += (1 - b2) * g * g
            p -= (step_size / (1 - b1**t)) * m / (xp_of(v).sqrt(v / (1 - b2**t)) + self.epsilon)

        halves(rule, p, m, v, g)

    def settings(self) -> list[float]:
        """Return step size, t and the corrections 1 - b1^t, 1 - b2^t: by the host, as ``update`` computes them."""
        t = self.updates + 1
        return [self.now(self.step_size), t, *(1 - beta**t for beta in self.betas)]

    def update_on_device(self, i: int, p: Array, g: Array, settings: Array, scale: float) -> None:
        """Apply the rule in ``kernels.adam``."""
        averages = self.memory["mean"][i], self.memory["square"][i]
        options: dict[str, Any] = {"weight_decay": self.weight_decay, "scale": scale}
        kernels.adam(p, g, *averages, settings, betas=self.betas, epsilon=self.epsilon, **options)


def check_setting(name: str, value: float | Schedule, below: float = float("inf")) -> None:
    """Raise a ValueError unless a number lies in [0, below); schedules are taken at their word."""
    if not callable(value) and not 0 <= value < below:
        raise ValueError(
            f"{name}: expected a number of at least 0{'' if below == float('inf') else f' and below {below}'}, got {value!r}"
        )
