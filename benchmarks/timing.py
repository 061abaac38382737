"""How to tell which of two programs is faster on a machine that is never quite quiet.

Contestants take turns. In each round every one of them gets a short rest, a warm-up and a budget of seconds, and reports the
median time of an iteration; whose turn is first rotates, so that no one always follows the same other. A ratio is taken
within a round, where the machine was as slow or as fast for both, and the median of the rounds' ratios is what is reported.
A sample during which other processes were busy is taken again.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Asked(Protocol):
    """What answers requests: a ``process.Worker``, or a test's."""

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Return the answer to a request."""


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes
    ----------
    rounds : int
        Turns of each contestant.
    budget, warmup, rest : float
        Seconds of each turn that are measured; that come before, unmeasured; that nothing happens, so that threads of the
        last contestant which spin for work fall asleep (OpenBLAS's do so for a tenth of a second).
    repeats : int
        How many disturbed samples of a race are taken again; those that come after are kept as they are.
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
class Contestant:
    """A task that a worker has prepared under a name."""

    worker: Asked
    name: str


@dataclass
class Rounds:
    """What the contestants needed: seconds by contestant, one number a round, and how many samples were disturbed."""

    seconds: dict[str, list[float]]
    repeated: int = 0
    disturbed: int = 0
    outcomes: dict[str, float | None] = field(default_factory=dict)

    def ratios(self, ours: str, theirs: str) -> list[float]:
        """Return our time over theirs, round by round."""
        return [a / b for a, b in zip(self.seconds[ours], self.seconds[theirs], strict=True)]


def race(
    contestants: Mapping[str, Contestant],
    plan: Plan,
    *,
    busy: Callable[[], float | None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[int], None] = lambda finished: None,
) -> Rounds:
    """Let contestants take turns, as above; ``progress`` hears of each finished round."""
    busy = busy or machine_busy
    names = list(contestants)
    result = Rounds({name: [] for name in names})
    for i in range(plan.rounds):
        start = i % len(names)
        for name in names[start:] + names[:start]:
            answer = _sample(contestants[name], plan, busy, sleep, result)
            result.seconds[name].append(answer["seconds"])
            result.outcomes[name] = answer.get("outcome")
        progress(i + 1)
    return result


def _sample(
    contestant: Contestant,
    plan: Plan,
    busy: Callable[[], float | None],
    sleep: Callable[[float], None],
    result: Rounds,
) -> dict[str, Any]:
    """Return a worker's answer for one turn, the first that nothing disturbed as long as turns may be repeated."""
    while True:
        sleep(plan.rest)
        before = busy()
        answer = contestant.worker.ask("time", name=contestant.name, warmup=plan.warmup, budget=plan.budget)
        after = busy()
        if before is None or after is None or not was_disturbed(after - before, answer["cpu"], answer["wall"]):
            return answer
        if result.repeated == plan.repeats:
            result.disturbed += 1
            return answer
        result.repeated += 1


# What else the machine was doing -----------------------------------------------------------------------------------------

TOLERATED = 0.1  # of one core's time: a shell, a clock, a terminal
GRAIN = 0.03  # seconds: /proc counts in hundredths, for each core


def was_disturbed(busy: float, own: float, wall: float) -> bool:
    """Tell whether other processes used noticeable time: all cores' busy seconds against the worker's own.

    >>> was_disturbed(busy=1.02, own=1.0, wall=0.5), was_disturbed(busy=1.4, own=1.0, wall=0.7)
    (False, True)
    """
    return busy - own > TOLERATED * wall + GRAIN


def machine_busy(path: str = "/proc/stat") -> float | None:
    """Return the seconds that all cores have been busy since the machine started; None where the system does not tell."""
    try:
        with open(path) as file:
            fields = file.readline().split()
    except OSError:
        return None
    # cpu, user, nice, system, idle, iowait, irq, softirq, steal: all but idling and waiting, time stolen by other machines too
    ticks = [int(value) for value in fields[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


# Numbers to report -------------------------------------------------------------------------------------------------------


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
    """Return the geometric mean, in which a ratio of 2 and one of 1/2 cancel.

    >>> geometric_mean([2.0, 0.5])
    1.0
    """
    return statistics.geometric_mean(values)
