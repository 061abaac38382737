"""Functions that a CUDA kernel of ``kernels/`` computes in one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npadv import kernels
from npadv.fast import faster


def on_cupy(launch: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Name the version of the function below for CuPy arrays, by a kernel; other arrays and dtypes take the plain one.

    The first argument decides.
    """

    def choose(plain: Callable[..., Any]) -> Callable[..., Any]:
        def fast(x: Any, *args: Any, **settings: Any) -> Any:
            version = launch if kernels.takes(x) else plain
            return version(x, *args, **settings)

        return faster(fast)(plain)

    return choose
