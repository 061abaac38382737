"""The max-norm constraint, fast: one kernel on CuPy (``kernels/max_norm.cu``).

On NumPy, nothing is written if no unit is too long, as after most updates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv import kernels
from npadv.backend import Array, xp_of


def max_norm(constraint: Any, weights: Array) -> None:
    """Shrink the units that are too long, in place."""
    limit, axes = constraint.limit, constraint.axes
    if kernels.takes(weights) and weights.flags.c_contiguous and axes == tuple(range(axes[0], axes[-1] + 1)):
        kernels.max_norm(weights, limit, axes)
        return
    xp = xp_of(weights)
    length = xp.sqrt((weights * weights).sum(axis=axes, keepdims=True))
    if xp is np and length.max(initial=0) <= limit:
        return
    weights *= xp.minimum(1, limit / xp.maximum(length, limit))
