"""The outer search of the L-BFGS attack: bisection on log lambda.

    lambda <- 10 lambda                    while every lambda so far has succeeded
    lambda <- lambda / 10                  while every lambda so far has failed
    lambda <- sqrt(succeeds * fails)       from then on: the middle of log(succeeds) and log(fails)

``succeeds`` is the largest lambda known to reach the class and ``fails`` the smallest known not to. A larger lambda penalises
the perturbation more, so the smallest perturbation lies near the largest lambda that succeeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


def next_weight(succeeds: float, fails: float) -> float:
    """Return the next lambda to try, between the largest that succeeds (0: none yet) and the smallest that fails (inf).

    >>> next_weight(1.0, math.inf), next_weight(0.0, 1.0), next_weight(1.0, 100.0)
    (10.0, 0.1, 10.0)
    """
    if succeeds == 0:
        return fails / 10
    if fails == math.inf:
        return succeeds * 10
    return math.sqrt(succeeds) * math.sqrt(fails)  # the root of the product might under- or overflow


class Trial(NamedTuple):
    """One inner problem, solved for one lambda.

    ``objective`` and ``residual`` belong to the solver's float64 solution; ``distance`` and ``success`` to the same point
    in the dtype of the examples, which is what the attack returns.
    """

    target: int
    weight: float  # lambda
    objective: float
    distance: float  # ||eta||_2
    success: bool
    evaluations: int  # of the model, with or without its gradient
    message: str  # why the solver stopped
    residual: float  # of the Karush-Kuhn-Tucker conditions: see box_optimization.py


@dataclass
class Search:
    """The search for the largest lambda that brings one example into one class; the nearest success is kept.

    It is a job for the solvers: its present problem is that of the present lambda.
    """

    example: int
    target: int
    weight: float  # the present lambda
    left: int  # the number of trials still to come
    trials: list[Trial] = field(default_factory=list)
    nearest: tuple[Trial, np.ndarray] | None = None
    succeeds: float = 0.0
    fails: float = math.inf

    def record(self, trial: Trial, point: np.ndarray) -> None:
        """Store the trial of the present lambda, and choose the next lambda."""
        self.trials.append(trial)
        self.left -= 1
        if trial.success:
            self.succeeds = max(self.succeeds, self.weight)
            if self.nearest is None or trial.distance < self.nearest[0].distance:
                self.nearest = trial, point
        else:
            self.fails = min(self.fails, self.weight)
        self.weight = next_weight(self.succeeds, self.fails)
