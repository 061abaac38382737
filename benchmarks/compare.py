"""Runs workloads: starts the sides a group needs, lets them race, and returns a row of numbers for each workload."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from benchmarks.process import UnsupportedError, Worker
from benchmarks.timing import Contestant, Plan, Rounds, race, summary
from benchmarks.workloads import SIDES, Workload

Row = dict[str, Any]
Say = Callable[[str], None]
Start = Callable[[str], Worker]  # from a side's name


def starter(threads: int, *, keep_tuning: bool = False) -> Start:
    """Return the function that starts a side with so many threads."""
    return lambda side: SIDES[side].start(threads, keep_tuning=keep_tuning)


def versions(sides: Iterable[str], start: Start) -> dict[str, str]:
    """Return what each side says it measures; raise MissingLibraryError for one that is not installed."""
    found: dict[str, str] = {}
    for side in dict.fromkeys(sides):
        with start(side) as worker:
            found |= worker.ask("hello")["versions"]
    return found


def compare(workloads: Iterable[Workload], plan: Plan, start: Start, say: Say) -> Iterator[Row]:
    """Yield a row for each workload as it is finished."""
    for _, group in itertools.groupby(workloads, key=lambda workload: workload.group):
        members = list(group)
        with ExitStack() as stack:
            sides = dict.fromkeys(entry.side for workload in members for entry in workload.entries.values())
            workers = {side: stack.enter_context(start(side)) for side in sides}
            for workload in members:
                yield _run(workload, workers, plan, say)


def _run(workload: Workload, workers: Mapping[str, Worker], plan: Plan, say: Say) -> Row:
    """Return one workload's row."""
    row: Row = {"key": workload.key, "title": workload.title}
    contestants = {}
    for i, (name, entry) in enumerate(workload.entries.items()):
        worker, label = workers[entry.side], f"{workload.key}.{i}"
        try:
            worker.ask("prepare", name=label, task=entry.task, settings=dict(entry.settings))
        except UnsupportedError as error:
            return row | {"skipped": str(error)}
        contestants[name] = Contestant(worker, label)
    rounds = race(
        contestants, plan, progress=lambda finished: say(f"{workload.key:4} round {finished}/{plan.rounds}  {workload.title}")
    )  # fmt: skip
    for contestant in contestants.values():
        contestant.worker.ask("drop", name=contestant.name)
    return row | results(workload, rounds)


def results(workload: Workload, rounds: Rounds) -> Row:
    """Return the numbers of a row: seconds and ratios with their quartiles, bars, and what disturbed them."""
    ratios: dict[str, Any] = {}
    for name in workload.entries:
        if name == workload.ours:
            continue
        ratios[name] = summary(rounds.ratios(workload.ours, name))
        if name in workload.bars:
            bar = workload.bars[name]
            ratios[name] |= {"at_most": bar.at_most, "aim": bar.aim}
    return {
        "ours": workload.ours,
        "seconds": {name: summary(times) for name, times in rounds.seconds.items()},
        "ratios": ratios,
        "rounds": rounds.seconds,
        "repeated_samples": rounds.repeated,
        "disturbed_samples": rounds.disturbed,
    }


# Bars --------------------------------------------------------------------------------------------------------------------

SLACK = 1.15  # a bar is missed by more than the noise of a shared machine
CHECK_RUNS, CHECK_MISSES = 3, 2


def misses(rows: Iterable[Row]) -> set[tuple[str, str]]:
    """Return the (key, baseline) of every ratio that exceeds its bar by more than the slack."""
    return {
        (row["key"], name)
        for row in rows
        for name, ratio in row.get("ratios", {}).items()
        if "at_most" in ratio and ratio["median"] > SLACK * ratio["at_most"]
    }


def repeated_misses(runs: Iterable[Iterable[Row]]) -> list[tuple[str, str]]:
    """Return the ratios that missed their bar in at least two of the runs: what fails a check."""
    counts: dict[tuple[str, str], int] = {}
    for rows in runs:
        for miss in misses(rows):
            counts[miss] = counts.get(miss, 0) + 1
    return sorted(miss for miss, count in counts.items() if count >= CHECK_MISSES)
