"""Runs one contender's tasks in a separate process: reads a request on each line, writes an answer, and sleeps in between.

    python -m benchmarks.worker benchmarks.contenders.torch_tasks '{"threads": 2}'

Requests and answers are JSON objects. ``{"do": "prepare", "name": .., "task": .., "settings": {..}}`` builds a task, and
``{"do": "time", "name": .., "warmup": .., "budget": ..}`` runs it; ``COMMANDS`` below lists all requests. An error is an
answer as well: ``{"error": ..}``, or ``{"missing": ..}`` for a library that is not installed, or ``{"skip": ..}`` for a task
that the contender does not support. The worker ends when its input ends, so it does not outlive its parent.

A contender is a module with two names. ``start(**options)`` is called first and returns the versions of the library.
``TASKS`` holds functions by name; each takes settings and returns a function without arguments that does the work once.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, TextIO

Step = Callable[[], Any]
MIN_ITERATIONS = 3  # of a measurement, whatever its budget


def measure(step: Step, *, warmup: float, budget: float) -> dict[str, Any]:
    """Run a step for ``warmup`` seconds, then for ``budget`` seconds; return the median of the latter, in seconds.

    ``cpu`` and ``wall`` are the seconds of the whole call, from which the caller computes the load of other processes.
    ``outcome`` is the result of the last step as a number: the mean of an array.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    gc.collect()
    started = time.perf_counter()
    while True:
        outcome = step()
        if time.perf_counter() - started >= warmup:
            break
    times: list[float] = []
    started = time.perf_counter()
    while True:
        before = time.perf_counter()
        outcome = step()
        after = time.perf_counter()
        times.append(after - before)
        if after - started >= budget and len(times) >= MIN_ITERATIONS:
            break
    number = None if outcome is None else float(outcome.mean() if hasattr(outcome, "mean") else outcome)
    if number is not None and not math.isfinite(number):
        raise FloatingPointError(f"the last iteration returned {number}; expected a finite number")
    return {
        "seconds": statistics.median(times),
        "iterations": len(times),
        "outcome": number,
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
    }


def memory(step: Step, *, settle: int, steps: int) -> dict[str, Any]:
    """Run a step ``settle`` times, then ``steps`` times; return the peak in bytes, and the latter's growth and page faults."""
    try:
        import resource

        resident()
    except (ImportError, OSError) as error:
        raise NotImplementedError("this system does not tell how much memory a process holds") from error

    for _ in range(settle):
        step()
    before, faults = resident(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        step()
    growth, after = resident() - before, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "peak": after.ru_maxrss * 1024,  # in kilobytes, since this is Linux (it has /proc)
        "growth": growth,
        "faults_per_step": (after.ru_minflt - faults) / steps,
        "steps": steps,
    }


def resident() -> int:
    """Return the bytes of memory that the process holds now (its resident set)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Server:
    """Holds the prepared tasks and answers requests."""

    def __init__(self, contender: ModuleType, versions: dict[str, str]) -> None:
        self.contender, self.versions = contender, versions
        self.steps: dict[str, Step] = {}

    def prepare(self, name: str, task: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Build a task and run it once, so that an error shows before anything is timed."""
        if task not in self.contender.TASKS:
            raise LookupError(f"task: expected one of {', '.join(self.contender.TASKS)}, got {task!r}")
        self.steps[name] = step = self.contender.TASKS[task](**settings)
        step()
        return {}

    def drop(self, name: str) -> dict[str, Any]:
        """Forget a task and free its memory."""
        self.steps.pop(name, None)
        gc.collect()
        return {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request."""
        fields = dict(request)
        return COMMANDS[fields.pop("do")](self, **fields)


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "hello": lambda server: {"versions": server.versions},
    "prepare": Server.prepare,
    "time": lambda server, name, **times: measure(server.steps[name], **times),
    "memory": lambda server, name, **steps: memory(server.steps[name], **steps),
    "drop": Server.drop,
}


def serve(load: Callable[[], Server], requests: TextIO, answers: TextIO) -> None:
    """Answer requests until the input ends. ``load`` is called at the first one, so that its errors are answers as well."""
    server = None
    for line in requests:
        try:
            server = server or load()
            answer = server.answer(json.loads(line))
        except ModuleNotFoundError as error:
            answer = {"missing": error.name or str(error)}
        except NotImplementedError as error:
            answer = {"skip": str(error)}
        except Exception as error:  # any error of the contender's code: the parent reports it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def main(module: str, options: str) -> None:
    """Serve one contender over this process's standard input and output."""
    # Libraries may print, which must not mix with the answers: answers get a copy of the descriptor of the standard output,
    # and the standard output itself becomes the standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def load() -> Server:
        contender = importlib.import_module(module)
        return Server(contender, contender.start(**json.loads(options)))

    serve(load, sys.stdin, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
