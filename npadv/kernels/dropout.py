"""Dropout whose masks are computed where they are needed, from a seed and a count in the device's memory, and never stored.

``kernels/dropout.cu`` says how, and :mod:`npadv.ops.dropout` computes the same with array expressions. A training step looks
like this, captured in a CUDA graph or not:

1. forward, ``dropout(x, rate, state, draw=0)``; the second dropout layer of a network takes ``draw=1``, and so on;
2. backward, ``dropout(g, rate, state, draw=0)``: the same mask once more;
3. ``state[1] += draws``, on the device: the next step draws other masks.
"""

import numpy as np

from npadv.backend import Array
from npadv.kernels.checks import check_companion, check_shape
from npadv.kernels.launch import check_arrays, contiguous, covering, empty, integer, launch, real_number

__all__ = ["dropout"]

_WORD, _PAIR = 2**32, 2**64


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
        The number of the mask at this offset: one for each dropout layer of a network.
    rescale : bool
        Divide the elements that are kept by 1 - rate.

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


def _threshold(rate: float) -> int:
    return min(round(rate * _WORD), _WORD - 1)
