"""npadv's attacks in the form of the other libraries' ``*_attacks.py``: functions that run one and return its examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import npadv
from benchmarks.contenders import victims
from npadv import attacks

Attack = Callable[[], np.ndarray]


def start(*, threads: int) -> dict[str, str]:
    """Return the versions; the number of threads is in the environment."""
    return {"npadv": npadv.__version__, "numpy": np.__version__}


def _attack(attack: Callable[..., Any]) -> Callable[..., Attack]:
    return lambda model, x, y, **settings: lambda: attack(model, x, y, **settings).x_adv


ATTACKS: dict[str, Callable[..., Attack]] = {
    attack.__name__: _attack(attack)
    for attack in (
        attacks.fgsm,
        attacks.steepest_ascent,
        attacks.pgd,
        attacks.linearized,
        attacks.carlini_wagner,
        attacks.jsma,
    )
}
TASKS = {"attack": victims.task(ATTACKS, victims.npadv_victim)}
