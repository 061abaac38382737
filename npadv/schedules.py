"""Schedules: numbers that change while a network is trained, such as a step size that decays.

A schedule is a function ``schedule(update, epoch)`` of the number of updates made and of the number of whole epochs finished.
An optimizer takes one wherever it takes a step size or a momentum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int, int], float]


@dataclass(frozen=True)
class ExponentialDecay:
    """initial / factor**update, but at least ``floor``. The maxout networks use factors such as 1.000004.

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
    """initial / (1 + rate * update). [SYN] uses a rate of 5e-6 on MNIST.

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
    """initial * factor**(epoch // every). On CIFAR-10, [SYN] halves the step size every 25 epochs.

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
    """A straight line from ``initial`` at epoch ``start`` to ``final`` at epoch ``end``, constant before and after.

    The momentum of the maxout networks grows like this, from .5 to .7 over 250 epochs.

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
