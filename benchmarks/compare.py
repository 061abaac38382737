"""Runs workloads: starts the contenders that a group needs, times them in turns, and returns a row for each workload."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from benchmarks.process import UnsupportedError, Worker
from benchmarks.timing import Plan, PreparedTask, Rounds, race, summary
from benchmarks.workloads import CONTENDERS, Workload

Row = dict[str, Any]
Say = Callable[[str], None]
Start = Callable[[str], Worker]  # from a contender's name


def starter(threads: int, *, keep_tuning: bool = False) -> Start:
    """Return the function that starts a contender with the given number of threads."""
    return lambda contender: CONTENDERS[contender].start(threads, keep_tuning=keep_tuning)


def versions(contenders: Iterable[str], start: Start) -> dict[str, str]:
    """Return the versions of the contenders' libraries; raise MissingLibraryError for one that is not installed."""
    found: dict[str, str] = {}
    for contender in dict.fromkeys(contenders):
        with start(contender) as worker:
            found |= worker.ask("hello")["versions"]
    return found


def compare(workloads: Iterable[Workload], plan: Plan, start: Start, say: Say) -> Iterator[Row]:
    """Yield a row for each workload as it is finished."""
    for _, group in itertools.groupby(workloads, key=lambda workload: workload.group):
        members = list(group)
        with ExitStack() as stack:
            contenders = dict.fromkeys(entry.contender for workload in members for entry in workload.entries.values())
            workers = {contender: stack.enter_context(start(contender)) for contender in contenders}
            for workload in members:
                yield _run(workload, workers, plan, say)


def _run(workload: Workload, workers: Mapping[str, Worker], plan: Plan, say: Say) -> Row:
    """Return one workload's row."""
    row: Row = {"key": workload.key, "title": workload.title}
    tasks = {}
    for i, (name, entry) in enumerate(workload.entries.items()):
        worker, label = workers[entry.contender], f"{workload.key}.{i}"
        try:
            worker.ask("prepare", name=label, task=entry.task, settings=dict(entry.settings))
        except UnsupportedError as error:
            return row | {"skipped": str(error)}
        tasks[name] = PreparedTask(worker, label)

    def progress(finished: int) -> None:
        say(f"{workload.key:4} round {finished}/{plan.rounds}  {workload.title}")

    rounds = race(tasks, plan, progress=progress)
    for task in tasks.values():
        task.worker.ask("drop", name=task.name)
    return row | results(workload, rounds)


def results(workload: Workload, rounds: Rounds) -> Row:
    """Return the numbers of a row: seconds and ratios with their quartiles, bars, and the number of disturbed samples."""
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

BAR_SLACK = 1.15  # a check allows 15% above the bar, for the noise of a shared machine
CHECK_RUNS, CHECK_MISSES = 3, 2


def misses(rows: Iterable[Row]) -> set[tuple[str, str]]:
    """Return the (key, baseline) of every ratio that exceeds its bar by more than the slack."""
    return {
        (row["key"], name)
        for row in rows
        for name, ratio in row.get("ratios", {}).items()
        if "at_most" in ratio and ratio["median"] > BAR_SLACK * ratio["at_most"]
    }


def repeated_misses(runs: Iterable[Iterable[Row]]) -> list[tuple[str, str]]:
    """Return the ratios that missed their bar in at least two of the runs: these fail a check."""
    counts: dict[tuple[str, str], int] = {}
    for rows in runs:
        for miss in misses(rows):
            counts[miss] = counts.get(miss, 0) + 1
    return sorted(miss for miss, count in counts.items() if count >= CHECK_MISSES)
