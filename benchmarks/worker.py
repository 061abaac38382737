"""One side of a comparison, in a process of its own: reads a request a line, answers a line, and else sleeps.

    python -m benchmarks.worker benchmarks.sides.torch_side '{"threads": 2}'

Requests and answers are JSON objects. ``{"do": "prepare", "name": .., "task": .., "settings": {..}}`` builds what a later
``{"do": "time", "name": .., "warmup": .., "budget": ..}`` runs; ``COMMANDS`` below lists them all. Whatever goes wrong is an
answer too: ``{"error": ..}``, or ``{"missing": ..}`` for a library that is not installed. The end of the input ends the
worker, so that none outlives who started it.

A side is a module with ``TASKS``, functions from settings to a function without arguments that does the work once, and
``start(**options)``, called first, which returns the versions of what it measures.
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
LEAST_ITERATIONS = 3  # of which a median can be taken


def measure(step: Step, *, warmup: float, budget: float) -> dict[str, Any]:
    """Run a step for ``warmup`` seconds, then for ``budget`` seconds; return the median of the latter, in seconds.

    ``cpu`` and ``wall`` cover the whole call, for whoever wants to know what else the machine was doing; ``outcome`` is what
    the last step returned, as a number: the mean of an array.
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
        if after - started >= budget and len(times) >= LEAST_ITERATIONS:
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
    """Run a step ``settle`` times, then ``steps`` times more; return what it did to the process's memory (bytes, faults)."""
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
        "peak": after.ru_maxrss * 1024,  # /proc is there, so this is Linux, which counts in kilobytes
        "growth": growth,
        "faults_per_step": (after.ru_minflt - faults) / steps,
        "steps": steps,
    }


def resident() -> int:
    """Return the bytes of memory that the process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Server:
    """Holds what was prepared, and answers requests about it."""

    def __init__(self, side: ModuleType, versions: dict[str, str]) -> None:
        self.side, self.versions = side, versions
        self.steps: dict[str, Step] = {}

    def prepare(self, name: str, task: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Build a task, and run it once, so that what cannot run says so before anything is timed."""
        if task not in self.side.TASKS:
            raise LookupError(f"task: expected one of {', '.join(self.side.TASKS)}, got {task!r}")
        self.steps[name] = step = self.side.TASKS[task](**settings)
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
    """Answer requests until there are no more; ``load`` is called at the first one, so that its failure is an answer too."""
    server = None
    for line in requests:
        try:
            server = server or load()
            answer = server.answer(json.loads(line))
        except ModuleNotFoundError as error:
            answer = {"missing": error.name or str(error)}
        except NotImplementedError as error:
            answer = {"skip": str(error)}
        except Exception as error:  # the side's own, of whatever kind: the parent reports it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def main(module: str, options: str) -> None:
    """Serve one side over this process's standard input and output."""
    # What libraries print would be taken for answers: they get the standard error, and the pipe a descriptor of its own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def load() -> Server:
        side = importlib.import_module(module)
        return Server(side, side.start(**json.loads(options)))

    serve(load, sys.stdin, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
