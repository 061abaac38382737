"""Compares the speed of two programs on a machine that is never quite idle.

The programs take turns. In each round, each of them has a short rest, a warm-up, and a budget of seconds, and reports the
median time of an iteration. The order rotates, so that no program always follows the same other one. A ratio is taken within
a round, where the machine was equally fast for both; the median of the rounds' ratios is reported. A sample during which
other processes were busy is repeated.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Answering(Protocol):
    """An object that answers requests, such as a ``process.Worker``."""

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Return the answer to a request."""


@dataclass(frozen=True)
class Plan:
    """The number and the length of the turns.

    Attributes
    ----------
    rounds : int
        Number of turns of each task.
    budget : float
        Seconds of each turn that are measured.
    warmup : float
        Seconds before them, in which the task runs unmeasured.
    rest : float
        Idle seconds before each turn. Threads of the previous task may still spin (OpenBLAS's do for a tenth of a second).
    repeats : int
        How many disturbed samples of a race are repeated. Disturbed samples after these are kept and counted.
    """

    rounds: int = 7
    budget: float = 0.4
    warmup: float = 0.1
    rest: float = 0.15
    repeats: int = 20

    def __post_init__(self) -> None:
        for name in ("rounds", "budget"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class PreparedTask:
    """A worker and the name of a task that it has prepared."""

    worker: Answering
    name: str


@dataclass
class Rounds:
    """The seconds of each task, one number a round, and how many samples were repeated and how many stayed disturbed."""

    seconds: dict[str, list[float]]
    repeated: int = 0
    disturbed: int = 0
    outcomes: dict[str, float | None] = field(default_factory=dict)

    def ratios(self, ours: str, theirs: str) -> list[float]:
        """Return our time over theirs, round by round."""
        return [a / b for a, b in zip(self.seconds[ours], self.seconds[theirs], strict=True)]


def race(
    tasks: Mapping[str, PreparedTask],
    plan: Plan,
    *,
    busy: Callable[[], float | None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[int], None] = lambda finished: None,
) -> Rounds:
    """Time the tasks in turns, as described above; call ``progress`` with the number of finished rounds after each."""
    busy = busy or machine_busy
    names = list(tasks)
    result = Rounds({name: [] for name in names})
    for i in range(plan.rounds):
        start = i % len(names)
        for name in names[start:] + names[:start]:
            answer = _sample(tasks[name], plan, busy, sleep, result)
            result.seconds[name].append(answer["seconds"])
            result.outcomes[name] = answer.get("outcome")
        progress(i + 1)
    return result


def _sample(
    task: PreparedTask,
    plan: Plan,
    busy: Callable[[], float | None],
    sleep: Callable[[float], None],
    result: Rounds,
) -> dict[str, Any]:
    """Return a worker's answer for one turn. Repeat the turn while it was disturbed and repeats are left."""
    while True:
        sleep(plan.rest)
        before = busy()
        answer = task.worker.ask("time", name=task.name, warmup=plan.warmup, budget=plan.budget)
        after = busy()
        if before is None or after is None or not was_disturbed(after - before, answer["cpu"], answer["wall"]):
            return answer
        if result.repeated == plan.repeats:
            result.disturbed += 1
            return answer
        result.repeated += 1


# The load of other processes ---------------------------------------------------------------------------------------------

TOLERATED_LOAD = 0.1  # share of one core's time, for a shell, a clock, a terminal
CLOCK_RESOLUTION = 0.03  # seconds; /proc counts hundredths of a second for each core


def was_disturbed(busy: float, own: float, wall: float) -> bool:
    """Tell whether other processes used noticeable time: compare all cores' busy seconds with the worker's own.

    >>> was_disturbed(busy=1.02, own=1.0, wall=0.5), was_disturbed(busy=1.4, own=1.0, wall=0.7)
    (False, True)
    """
    return busy - own > TOLERATED_LOAD * wall + CLOCK_RESOLUTION


def machine_busy(path: str = "/proc/stat") -> float | None:
    """Return the seconds that all cores have been busy since the machine started; None where /proc is missing."""
    try:
        with open(path) as file:
            fields = file.readline().split()
    except OSError:
        return None
    # The fields are cpu, user, nice, system, idle, iowait, irq, softirq, steal. Busy is all but idle and iowait; steal counts.
    ticks = [int(value) for value in fields[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


# Statistics --------------------------------------------------------------------------------------------------------------


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the quartiles.

    >>> summary([3.0, 1.0, 2.0])
    {'median': 2.0, 'low': 1.5, 'high': 2.5}
    """
    if len(values) == 1:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean: a ratio of 2 and one of 1/2 average to 1.

    >>> geometric_mean([2.0, 0.5])
    1.0
    """
    return statistics.geometric_mean(values)
