"""Callbacks: functions that ``fit`` calls after each epoch, such as early stopping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass
class Training:
    """The state of a run, which ``fit`` passes to each callback after each epoch; setting ``stop`` ends the run."""

    model: Any
    optimizer: Any
    history: list[dict[str, Any]] = field(default_factory=list)
    stop: bool = False


class Callback(Protocol):
    """A function called after each epoch.

    A callback with a state that checkpoints must hold also has ``state() -> dict of arrays`` and ``load_state(state)``. If it
    has ``finish(training)``, ``fit`` calls that after the last epoch.
    """

    def __call__(self, training: Training) -> None:
        """Read the run so far; set ``training.stop`` to end it."""


class EarlyStopping:
    """Stop after ``patience`` epochs without improvement, and restore the model's best weights.

    Parameters
    ----------
    patience : int
        The number of epochs, at least 1.
    monitor : str
        The column of the history to compare; smaller is better.

    Examples
    --------
    >>> from npadv import nn
    >>> training, stopping = Training(nn.ReLU(), optimizer=None), EarlyStopping(patience=2)
    >>> for epoch, error in enumerate([0.3, 0.1, 0.2, 0.2], 1):
    ...     training.history.append({"epoch": epoch, "validation_error": error})
    ...     stopping(training)
    >>> training.stop, stopping.best_epoch
    (True, 2)
    """

    def __init__(self, patience: int, monitor: str = "validation_error") -> None:
        if patience < 1:
            raise ValueError(f"EarlyStopping(patience): expected at least 1, got {patience}")
        self.patience, self.monitor = patience, monitor
        self.best, self.best_epoch = float("inf"), 0
        self.weights: dict[str, np.ndarray] = {}

    def __call__(self, training: Training) -> None:
        """Compare the newest epoch with the best."""
        row = training.history[-1]
        if row.get(self.monitor) is None:
            raise ValueError(
                f"EarlyStopping(monitor): the history has no {self.monitor!r}; give fit a validation split"
            )
        if row[self.monitor] < self.best:
            self.best, self.best_epoch, self.weights = row[self.monitor], row["epoch"], training.model.state()
        training.stop |= row["epoch"] - self.best_epoch >= self.patience

    def finish(self, training: Training) -> None:
        """Restore the best weights, whether the run was stopped or reached its last epoch."""
        if self.weights:
            training.model.load_state(self.weights)

    def state(self) -> dict[str, np.ndarray]:
        """Return all state that a resumed run needs."""
        return {"best": np.array([self.best, self.best_epoch]), **{f"weights.{k}": v for k, v in self.weights.items()}}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Restore the arrays that ``state`` returned."""
        if "best" not in state:
            raise ValueError("EarlyStopping: the run was begun without it")
        self.best, self.best_epoch = float(state["best"][0]), int(state["best"][1])
        self.weights = {k.removeprefix("weights."): v for k, v in state.items() if k.startswith("weights.")}
