"""Functions that a CUDA kernel of ``kernels/`` computes in one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.backend import xp_of
from npadv.fast import faster

DTYPES = (np.float32, np.float64)
"""The dtypes of the kernels."""


def on_cupy(launch: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Name the version of the function below for CuPy arrays, by a kernel; other arrays and dtypes take the plain one.

    The first argument decides.
    """

    def choose(plain: Callable[..., Any]) -> Callable[..., Any]:
        def fast(x: Any, *args: Any, **settings: Any) -> Any:
            version = plain if xp_of(x) is np or x.dtype not in DTYPES else launch
            return version(x, *args, **settings)

        return faster(fast)(plain)

    return choose
