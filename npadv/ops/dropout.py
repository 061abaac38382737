"""Dropout with masks that are never stored: a mask is computed from a seed and a count, once forward and once backward.

NumPy's generators run on the host, so their masks must be drawn there and copied to a GPU. :class:`DeviceRandom` is a state
of two numbers in the device's memory. The mask of a layer is a function of it, the random generator Philox, which the kernel
``kernels/dropout.cu`` evaluates for each element. This is faster, and it is the only source of masks for a recorded step
(``npadv.capture``), which repeats the arguments of its kernels but reads the state anew at each replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from npadv import capture, kernels
from npadv.autodiff import defvjp, primitive
from npadv.backend import Array, like, to_numpy, xp_of
from npadv.fast import dropout as fast
from npadv.fast.on_cupy import on_cupy


@primitive
@on_cupy(fast.dropout)
def dropout(x: Any, *, rate: float, draw: Draw, rescale: bool = True) -> Any:
    """Return x with each element set to zero with probability ``rate``, by a mask of a :class:`DeviceRandom`.

    Element i is kept if the i-th random number, an integer in [0, 2**32), is at least rate * 2**32. ``rescale`` divides the
    kept elements by 1 - rate. The operation is linear, so its gradient is the operation itself with the same mask.
    """
    kept = random_words(x, draw) >= min(round(rate * 2**32), 2**32 - 1)
    return x * kept * x.dtype.type(1 / (1 - rate) if rescale else 1)


defvjp(dropout, lambda g, y, x, rate, draw, rescale=True: dropout(g, rate=rate, draw=draw, rescale=rescale))


def random_words(x: Array, draw: Draw) -> Array:
    """Return a random integer in [0, 2**32) for each element of x, the same whenever the same mask is drawn."""
    xp, (seed, offset) = xp_of(x), (draw.state[:1], draw.state[1:])
    counters = xp.arange(-(-x.size // 4)).astype(np.uint64)  # four integers from each
    words = kernels.philox_reference(counters, offset + xp.uint64(draw.number), seed)
    return words.reshape(-1)[: x.size].reshape(x.shape)


class DeviceRandom:
    """A random state for dropout in a device's memory, in place of a NumPy generator in training.

    Parameters
    ----------
    seed : int
        In [0, 2**64): the number of a sequence of masks.
    reference : array
        Any array on the device.

    Examples
    --------
    >>> random = DeviceRandom(2024, np.zeros(1))
    >>> x, draw = np.ones(8), random.draw()
    >>> bool((dropout(x, rate=0.5, draw=draw) == dropout(x, rate=0.5, draw=draw)).all())
    True
    >>> random.advance()  # the step is over; its masks cannot be computed any more
    >>> random.state()
    {'state': array([2024,    1], dtype=uint64)}
    """

    def __init__(self, seed: int, reference: Array) -> None:
        if not 0 <= seed < 2**64:
            raise ValueError(f"DeviceRandom(seed): expected an integer in [0, 2**64), got {seed!r}")
        self.memory = like(np.array([seed, 0], np.uint64), reference)  # seed, offset
        self.steps = self.draws = 0  # steps finished; masks drawn in the present one

    def draw(self) -> Draw:
        """Return the next mask of this step. Each call of each layer draws one."""
        self.draws += 1
        return Draw(self, self.draws - 1, self.steps)

    def advance(self) -> None:
        """End a step, after its last gradient. The next step draws other masks."""
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
        """Return everything that a resumed run needs."""
        return {"state": to_numpy(self.memory).copy()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what ``state`` returned."""
        if state.keys() != {"state"} or state["state"].shape != (2,) or state["state"].dtype != np.uint64:
            raise ValueError("random state: expected seed and offset of masks on a device")
        self.memory[...] = like(state["state"], self.memory)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"DeviceRandom has no {name}: a captured step can draw the masks of dropout, no other random numbers"
        )


class Draw(NamedTuple):
    """The number of a mask: the ``number``-th of a step of a random state."""

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
