"""Training steps that are recorded as a CUDA graph and replayed: ``fit(..., capture=True)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.capture import CapturedStep
from npadv.ops import DeviceRandom
from npadv.scores import reference_array


def captured_step(
    update: Callable[..., Any], model: Any, loss: Any, optimizer: Any, rng: np.random.Generator
) -> tuple[CapturedStep, DeviceRandom]:
    """Return a step ``step(x, y)`` that is recorded and replayed, and the random state that draws its dropout masks.

    The update receives that random state, which is seeded by ``rng``, in place of ``rng``.
    """
    reference = reference_array(model)
    masks = DeviceRandom(int(rng.integers(2**64, dtype=np.uint64)), reference)

    def step(x: Any, y: Any) -> Any:
        value = update(model, loss, optimizer, x, y, rng=masks)
        masks.advance()
        return value

    return CapturedStep(step, reference), masks
