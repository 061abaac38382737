"""Dropout with masks that are never stored: a mask is computed from a seed and a count, once forward and once backward.

NumPy's generators run on the host, so their masks must be drawn there and copied to a GPU. :class:`DeviceRandom` is a state
of two numbers in the device's memory, a seed and an offset. The mask of a layer is a function of these two, computed by the
random generator Philox, on a GPU in ``kernels/dropout.cu``. This is faster. It is also the only source of masks for a
captured step (``npadv.capture``): such a step repeats the arguments of its kernels, but its kernels read the state at each
replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from npadv import capture
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
    """Return a random integer in [0, 2**32) for each element of x; one draw always gives the same integers."""
    xp, (seed, offset) = xp_of(x), (draw.state[:1], draw.state[1:])
    counters = xp.arange(-(-x.size // 4)).astype(np.uint64)  # four integers from each
    words = philox(counters, offset + np.uint64(draw.number), seed)
    return words.reshape(-1)[: x.size].reshape(x.shape)


def philox(low: Array, high: Array, key: Array) -> Array:
    """Return the 4 integers in [0, 2**32) that Philox4x32-10 makes of each counter: (N,) of uint64 to (N, 4) of uint32.

    Ten rounds of multiplying and mixing (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3").

    Parameters
    ----------
    low : array of uint64, (N,)
        The lower halves of the counters.
    high, key : arrays of uint64, (1,) or (N,)
        Their upper halves, and the key.

    Examples
    --------
    The generator's authors publish the result for a counter and a key of zeros:

    >>> zero = np.zeros(1, np.uint64)
    >>> [f"{word:08x}" for word in philox(zero, zero, zero)[0]]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    xp, mask = xp_of(low), np.uint64(2**32 - 1)
    c0, c1, c2, c3 = low & mask, low >> 32, high & mask, high >> 32
    k0, k1 = key & mask, key >> 32
    for _ in range(10):
        even, odd = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)  # 64-bit products
        c0, c1, c2, c3 = (odd >> 32) ^ c1 ^ k0, odd & mask, (even >> 32) ^ c3 ^ k1, even & mask
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & mask, (k1 + np.uint64(0xBB67AE85)) & mask
    return xp.stack([xp.broadcast_to(c, low.shape) for c in (c0, c1, c2, c3)], axis=1).astype(np.uint32)


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
        offset = self.memory[1:]
        offset += np.uint64(self.draws)
        self._count()
        capture.on_replay(self._count)

    def _count(self) -> None:
        self.steps, self.draws = self.steps + 1, 0

    def state(self) -> dict[str, np.ndarray]:
        """Return all state that a resumed run needs."""
        return {"state": to_numpy(self.memory).copy()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the array that ``state`` returned."""
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
