"""The decorator of functions that a CUDA kernel of ``kernels/`` computes in one launch, on CuPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npadv import kernels
from npadv.fast import faster


def on_cupy(launch: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Name the version of the function below that launches a kernel.

    It runs if the first argument is an array that kernels take (``kernels.takes``). For all others the plain version runs.
    """

    def choose(plain: Callable[..., Any]) -> Callable[..., Any]:
        def fast(x: Any, *args: Any, **settings: Any) -> Any:
            version = launch if kernels.takes(x) else plain
            return version(x, *args, **settings)

        return faster(fast)(plain)

    return choose


def is_from_kernel(winners: Any) -> bool:
    """Return whether the winners of a maximum are the index array (int32) of a kernel, and not masks."""
    return not isinstance(winners, tuple | list) and winners.dtype == "int32"
