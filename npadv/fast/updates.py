"""The update rules of optimizers, fast: large arrays are updated by two threads, half each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npadv.fast import faster
from npadv.fast.parallel import halves


def in_halves(plain: Callable[..., None]) -> Callable[..., None]:
    """Make an elementwise function, which changes arrays in place, run on both halves of large arrays at the same time.

    Positional arguments are arrays of one shape; keyword arguments are settings.
    """

    def fast(*arrays: Any, **settings: Any) -> None:
        halves(lambda *parts: plain(*parts, **settings), *arrays)

    return faster(fast)(plain)
