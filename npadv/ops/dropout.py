"""Dropout by masks that are never stored: computed from a seed and a count wherever one is needed, forward and backward.

NumPy's generators live on the host, so their masks must be made there and carried over. :class:`DeviceRandom` is a state of
two numbers in the memory of the device, and the mask of a layer a function of it, which the kernel ``kernels/dropout.cu``
computes for each element where it stands. That is quicker, and the only way that a recorded step (``npadv.capture``) draws
new masks at each replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from npadv import capture, kernels
from npadv.autodiff import defvjp, primitive
from npadv.backend import Array, like, to_numpy, xp_of


class DeviceRandom:
    """A random state for dropout in the memory of a device; takes the place of a NumPy generator in training.

    Parameters
    ----------
    seed : int
        In [0, 2**64): which of the sequences of masks.
    reference : array
        Any array on the device.

    Examples
    --------
    >>> random = DeviceRandom(2024, np.zeros(1))
    >>> x, draw = np.ones(8), random.draw()
    >>> bool((dropout(x, rate=0.5, draw=draw) == dropout(x, rate=0.5, draw=draw)).all())
    True
    >>> random.advance()  # a step is over: its masks are gone
    >>> random.state()
    {'state': array([2024,    1], dtype=uint64)}
    """

    def __init__(self, seed: int, reference: Array) -> None:
        if not 0 <= seed < 2**64:
            raise ValueError(f"DeviceRandom(seed): expected an integer in [0, 2**64), got {seed!r}")
        self.memory = like(np.array([seed, 0], np.uint64), reference)  # seed, offset
        self.steps = self.draws = 0  # the steps finished, and the masks drawn in this one

    def draw(self) -> Draw:
        """Return the next mask of this step: one for each layer, and for each time that it is called."""
        self.draws += 1
        return Draw(self, self.draws - 1, self.steps)

    def advance(self) -> None:
        """End a step, after its last gradient: the next one draws other masks."""
        draws = self.draws
        if draws and xp_of(self.memory) is np:
            self.memory[1] += np.uint64(draws)
        elif draws:
            kernels.dropout_advance(self.memory, draws)
        self._count()
        capture.on_replay(self._count)

    def _count(self) -> None:
        self.steps, self.draws = self.steps + 1, 0

    def state(self) -> dict[str, np.ndarray]:
        """Return what a resumed run needs."""
        return {"state": to_numpy(self.memory).copy()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what ``state`` returned."""
        if state.keys() != {"state"} or state["state"].shape != (2,) or state["state"].dtype != np.uint64:
            raise ValueError("random state: expected seed and offset of masks on a device")
        self.memory[...] = like(state["state"], self.memory)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"DeviceRandom has no {name}: a captured step can draw the masks of dropout, and nothing else"
        )


class Draw(NamedTuple):
    """One of a random state's masks: which, and of which step."""

    random: DeviceRandom
    number: int
    step: int

    @property
    def state(self) -> Array:
        """Seed and offset, while the mask can still be computed from them."""
        if self.random.steps != self.step:
            raise RuntimeError(
                f"dropout: the masks of step {self.step} are gone, step {self.random.steps} has begun; "
                "take the gradient before DeviceRandom.advance()"
            )
        return self.random.memory


@primitive
def dropout(x: Any, *, rate: float, draw: Draw, rescale: bool = True) -> Any:
    """Return x with each element zeroed with probability ``rate``, by a mask of a :class:`DeviceRandom`.

    ``rescale`` divides what is kept by 1 - rate. The operation is linear, so its gradient is itself: the same mask again.
    """
    run = kernels.dropout_reference if xp_of(x) is np else kernels.dropout
    return run(x, rate, draw.state, draw=draw.number, rescale=rescale)


defvjp(dropout, lambda g, y, x, rate, draw, rescale=True: dropout(g, rate=rate, draw=draw, rescale=rescale))
