"""A part of the proof is a list of tasks: named functions, each of which returns the numbers of one row of the results.

A module with a part has one function, ``tasks(here)``. A task fails by raising an error, and raises NotHereError if
something that it needs is not installed.
"""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from npadv.backend import require_cupy, to_numpy

ROOT = Path(__file__).resolve().parents[2]


class NotHereError(Exception):
    """Something that a task needs is not on this machine; the message names it."""


@dataclass(frozen=True)
class Task:
    """A function with a name, which is unique in its part.

    Attributes
    ----------
    run : callable
        Returns the row's numbers and texts by name; may be empty.
    share : float
        The task may use this fraction of the time that its part has left when the task begins.
    """

    name: str
    run: Callable[[], dict[str, Any]]
    share: float = 0.5


@dataclass
class Here:
    """Where a part runs.

    Attributes
    ----------
    xp : module
        CuPy, or the stand-in for it.
    rehearsal : bool
        It is the stand-in: sizes are tiny, and times mean nothing.
    out : Path
        The folder of the results.
    end : float
        The time, on ``time.monotonic``'s clock, at which the task that runs now is stopped.
    """

    xp: Any
    rehearsal: bool
    out: Path
    end: float = field(default_factory=lambda: time.monotonic() + 3600)

    def seconds_left(self) -> float:
        """Return the seconds that the task that runs now may still take."""
        return self.end - time.monotonic()

    def torch(self) -> Any:
        """Return PyTorch with TF32 off; raise NotHereError unless it is installed and computes where ``xp`` does."""
        try:
            import torch
        except ImportError:
            raise NotHereError("PyTorch") from None
        if not (self.rehearsal or torch.cuda.is_available()):
            raise NotHereError("a PyTorch that sees the GPU")
        # PyTorch's convolutions use TF32 by default, which keeps 10 bits of a float32's 23.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        return torch

    @contextlib.contextmanager
    def no_waits(self) -> Iterator[None]:
        """Raise if the host waits for the GPU in the block: reading a value back is such a wait."""
        if not self.rehearsal:
            import cupyx

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the function is marked as experimental
                with cupyx.allow_synchronize(False):
                    yield
            return
        counts: dict[str, int] = sys.modules["fake_cupy"].COUNTS
        before = dict(counts)
        yield
        for name in ("waits", "downloads"):
            if counts[name] != before[name]:
                raise AssertionError(f"expected no {name}, got {counts[name] - before[name]}")


@contextlib.contextmanager
def place(rehearsal: bool, out: Path) -> Iterator[Here]:
    """Give the place where a part runs: the GPU, or for a rehearsal the stand-in for CuPy of the tests."""
    if not rehearsal:
        yield Here(require_cupy(), rehearsal, out)
        return
    sys.path.append(str(ROOT / "tests"))
    import fake_cupy  # type: ignore[import-not-found]

    with fake_cupy.installed():
        yield Here(sys.modules["cupy"], rehearsal, out)


def compare(got: Any, expected: Any, tolerance: float, what: str = "", *, least: float = 1e-30) -> float:
    """Return the largest difference of two arrays, relative to the largest element; raise if it exceeds the tolerance.

    An array whose largest element is below ``least`` is compared relative to ``least``.
    """
    a, b = to_numpy(got), to_numpy(expected)
    if a.shape != b.shape:
        raise AssertionError(f"{what}: expected the shape {b.shape}, got {a.shape}")
    if not a.size:
        return 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    scale = max(float(np.abs(b).max()), least)
    difference = float(np.abs(a - b).max()) / scale
    if not difference <= tolerance:  # NaN too
        raise AssertionError(
            f"{what}: expected at most {tolerance:.0e} of the largest element apart, got {difference:.1e}"
        )
    return difference
