"""Part d: the speed of the kernels, of a training step and of attacks, each against another implementation.

A ratio is npadv's time divided by the other's, so below 1 npadv is faster. TF32 is off for both, and both must compute the
same result before they are timed. A sample is a series of calls between two CUDA events, long enough to keep the GPU's queue
full. The two take turns, a ratio is taken within each turn, and the median ratio is reported with its quartiles. Calls come
from Python: where a kernel takes less time than its launch, some 10 us, both times are those of the launch.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.rows import Call, Comparison, Row, comparisons
from benchmarks.gpu.tasks import Here, NotHereError, Task

MIN_SAMPLE_SECONDS = 0.01


def tasks(here: Here) -> list[Task]:
    """Return a task for each comparison."""
    if here.rehearsal:
        os.environ["NPADV_KERNELS"] = "cpu"  # kernels take NumPy's arrays, which PyTorch can share
    # torch.compile alone takes most of a minute.
    shares = {c.title: 0.8 if c.title.startswith("same step") else 0.5 for c in comparisons(here)}
    return [Task(c.title, functools.partial(timed, here, c), shares[c.title]) for c in comparisons(here)]


def timed(here: Here, comparison: Comparison) -> dict[str, Any]:
    """Make a row's arrays, compare its results, measure its times."""
    row = comparison.make()
    try:
        torch: Any = here.torch()
        torch.backends.cudnn.benchmark = True  # cuDNN tries its algorithms and keeps the fastest
        torch.set_grad_enabled(False)
    except NotHereError:
        pass
    xp = np if here.rehearsal else here.xp
    apart = {} if row.tolerance is None else {"apart": agreement(row, xp)}
    if here.rehearsal:
        return {**measure(row, processor_clock, turns=3, min_seconds=0.0), **apart}
    measured = measure(row, gpu_clock(xp))
    if row.bytes:
        measured["bytes_per_second"] = {name: row.bytes / measured[name] for name in ("npadv_seconds", "seconds")}
    return {**measured, **apart}


def agreement(row: Row, xp: Any) -> float:
    """Return the largest difference of the two results, relative to the largest element; raise if it exceeds rounding."""
    a, b = xp.asarray(row.ours()), xp.from_dlpack(row.theirs())
    difference = float(abs(a - b).max() / abs(b).max())
    if not difference < (row.tolerance or 0):
        raise AssertionError(
            f"{row.title}: npadv and {row.against} must agree to rounding, but differ by {difference:.1e}"
        )
    return difference


def measure(
    row: Row, clock: Callable[[Call, int], float], turns: int | None = None, min_seconds: float = MIN_SAMPLE_SECONDS
) -> dict[str, Any]:
    """Time a row's two functions in turn; ``clock(call, times)`` returns the seconds of that many calls."""
    calls = (row.ours, row.theirs)
    times = [_calls_per_sample(clock, call, min_seconds) for call in calls]
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns or row.turns):
        for i in (0, 1) if turn % 2 else (1, 0):
            seconds[i].append(clock(calls[i], times[i]) / times[i])
    low, median, high = statistics.quantiles([a / b for a, b in zip(*seconds, strict=True)], n=4)
    ours, theirs = map(statistics.median, seconds)
    ratio = {"low": low, "median": median, "high": high}
    return {"against": row.against, "npadv_seconds": ours, "seconds": theirs, "ratio": ratio}


def _calls_per_sample(clock: Callable[[Call, int], float], call: Call, min_seconds: float) -> int:
    """Return the number of calls that fill a sample. These calls also compile, tune and warm up everything."""
    times = 1
    clock(call, 1)
    while clock(call, times) < min_seconds:
        times *= 2
    return times


def gpu_clock(cupy: Any) -> Callable[[Call, int], float]:
    """Return a clock that reads CUDA events."""
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()

    def clock(call: Call, times: int) -> float:
        begin.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(begin, end)) / 1000

    return clock


def processor_clock(call: Call, times: int) -> float:
    """Return the seconds of some calls by the processor's clock, for a rehearsal."""
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - begin
