"""Dropout whose masks are computed where they are needed, from a seed and a count in the device's memory, and never stored.

``kernels/dropout.cu`` says how. A training step, captured in a CUDA graph or not, looks like this:

>>> state = np.array([2024, 0], np.uint64)       # seed, offset; on the device
>>> x, g = np.ones((2, 4)), np.ones((2, 4))
>>> y = dropout_reference(x, 0.5, state, draw=0)    # forward; the second layer of a network takes draw=1, and so on
>>> gx = dropout_reference(g, 0.5, state, draw=0)   # backward: the same mask once more
>>> bool((y == gx).all())
True
>>> state[1] += 1                                 # dropout_advance(state, 1): the next step draws another mask

``dropout`` and ``dropout_advance`` are the kernels; ``dropout_reference`` is what they compute, as array expressions.
"""

from typing import Any

import numpy as np

from npadv.backend import Array, xp_of
from npadv.kernels.checks import check_companion, check_shape
from npadv.kernels.launch import check_arrays, contiguous, covering, empty, integer, launch, real_number

__all__ = ["dropout", "dropout_advance", "dropout_reference", "philox_reference"]

_WORD, _PAIR = 2**32, 2**64


def philox_reference(low: Array, high: Any, key: Any) -> Array:
    """Return the 4 words of 32 bits that Philox4x32-10 makes of each counter: (N,) of uint64 to (N, 4) of uint32.

    Parameters
    ----------
    low : array of uint64, (N,)
        The lower halves of the counters.
    high, key : arrays of uint64, (1,) or (N,)
        Their upper halves, and the key.

    Examples
    --------
    The generator's authors publish what must come out:

    >>> zero = np.zeros(1, np.uint64)
    >>> [f"{word:08x}" for word in philox_reference(zero, zero, zero)[0]]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    xp = xp_of(low)
    words = xp.uint64(_WORD - 1)
    c0, c1, c2, c3 = low & words, low >> 32, high & words, high >> 32
    k0, k1 = key & words, key >> 32
    for _ in range(10):
        even, odd = c0 * xp.uint64(0xD2511F53), c2 * xp.uint64(0xCD9E8D57)  # of two words each
        c0, c1, c2, c3 = (odd >> 32) ^ c1 ^ k0, odd & words, (even >> 32) ^ c3 ^ k1, even & words
        k0, k1 = (k0 + xp.uint64(0x9E3779B9)) & words, (k1 + xp.uint64(0xBB67AE85)) & words
    return xp.stack([xp.broadcast_to(c, low.shape) for c in (c0, c1, c2, c3)], axis=1).astype(np.uint32)


def dropout_reference(x: Array, rate: float, state: Array, *, draw: int = 0, rescale: bool = True) -> Array:
    """Return what :func:`dropout` computes, as array expressions."""
    xp = xp_of(x)
    threshold, factor = _threshold(rate), 1 / (1 - rate) if rescale else 1.0
    counters = xp.arange(-(-x.size // 4)).astype(np.uint64)
    bits = philox_reference(counters, state[1:2] + xp.uint64(draw), state[:1]).reshape(-1)[: x.size]
    return x * (bits >= xp.uint32(threshold)).reshape(x.shape) * x.dtype.type(factor)


def dropout(x: Array, rate: float, state: Array, *, draw: int = 0, rescale: bool = True) -> Array:
    """Return ``x`` with each element zeroed with probability ``rate``: forward of ``x``, backward of a gradient alike.

    Element i of ``x`` in C order is kept if word i % 4 of Philox4x32-10 at counter (i // 4, offset + draw), keyed by the
    seed, is at least ``rate * 2**32``. So the same state and draw give the same mask, for any shape, on any device, to
    the bit. NaN stays NaN and infinity becomes NaN where dropped, as they are multiplied by 0.

    Parameters
    ----------
    x : cupy.ndarray
        float32 or float64; made contiguous if it is not.
    rate : float
        Probability of dropping, in [0, 1).
    state : cupy.ndarray of uint64, (2,)
        Seed and offset, on the device of ``x``, read when the kernel runs.
    draw : int
        Which of the masks at this offset: a number for each dropout layer of a network.
    rescale : bool
        Divide what is kept by 1 - rate.

    Returns
    -------
    cupy.ndarray
        Of the shape of ``x``.

    Raises
    ------
    TypeError, ValueError
        An argument is not as above; nothing has been launched.
    RuntimeError
        CuPy is not installed or sees no GPU.
    """
    name = "dropout"
    check_arrays(name, {"x": x})
    check_companion(name, "state", state, np.uint64, ("x", x))
    check_shape(name, "state", state, (2,), "seed and offset")
    rate = float(real_number(name, "rate", rate, np.dtype(np.float64)))
    if not 0 <= rate < 1:
        raise ValueError(f"{name}: rate must be a probability in [0, 1), got {rate!r}")
    draw = integer(name, "draw", draw, most=_PAIR - 1)
    y = empty(x, x.shape)
    factor = 1 / (1 - rate) if rescale else 1.0
    numbers = {"draw": draw, "threshold": _threshold(rate), "factor": factor, "n": x.size}
    launch(name, name, {"x": contiguous(x), "y": y, "state": state, **numbers}, blocks=covering(-(-x.size // 4)))
    return y


def dropout_advance(state: Array, draws: int) -> None:
    """Add ``draws`` to the offset, in place and in the order of the device's queue: after the last backward of a step."""
    name = "dropout_advance"
    check_arrays(name, {"state": state}, (np.dtype(np.uint64),))
    check_shape(name, "state", state, (2,), "seed and offset")
    launch(
        "dropout", name, {"state": state, "draws": integer(name, "draws", draws, most=_PAIR - 1)}, blocks=1, threads=32
    )


def _threshold(rate: float) -> int:
    return min(round(rate * _WORD), _WORD - 1)
