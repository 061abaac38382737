"""Part e: compute-sanitizer watches one small call of every kernel.

memcheck finds accesses outside of arrays and misaligned ones, racecheck finds races in shared memory. The calls are those of
``cases.py``, with a separate allocation for each array.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.tasks import ROOT, Here, NotHereError, Task

FOUND = 9
"""The exit code with which compute-sanitizer reports that it found errors."""


def tasks(here: Here) -> list[Task]:
    """Return a task for each of the sanitizer's tools."""
    return [
        Task("compute-sanitizer memcheck", functools.partial(watch, here, "memcheck")),
        Task("compute-sanitizer racecheck", functools.partial(watch, here, "racecheck"), share=0.95),
    ]


def program() -> str:
    """Return the path of compute-sanitizer; raise NotHereError if it is not installed."""
    folders = [Path(os.environ.get("CUDA_PATH", "/usr/local/cuda"), "bin"), *Path("/usr/local").glob("cuda-*/bin")]
    package = importlib.util.find_spec("nvidia")
    for place in package.submodule_search_locations or [] if package else []:
        folders += [path.parent for path in Path(place).glob("**/compute-sanitizer")]
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    found = shutil.which("compute-sanitizer", path=path)
    if found is None:
        raise NotHereError("compute-sanitizer")
    return found


def watch(here: Here, tool: str) -> dict[str, Any]:
    """Run the calls under a tool; raise with the beginning of its report if it found something."""
    if here.rehearsal:
        program()  # raises first if it is missing
        raise NotHereError("a GPU")
    options = ["--tool", tool, "--error-exitcode", str(FOUND)]
    if tool == "memcheck":
        options += ["--report-api-errors", "no"]  # CuPy asks for functions that a driver may lack
    command = [program(), *options, sys.executable, "-m", "benchmarks.gpu.cases"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=here.seconds_left() - 1)
    (here.out / f"{tool}.log").write_text(done.stdout + done.stderr, "utf-8")
    errors = [line for line in done.stdout.splitlines() if line.startswith("=========")]
    if done.returncode:
        report = "\n".join(errors[:40]) or done.stderr[-2000:]
        raise AssertionError(f"{tool} ended with exit code {done.returncode}; see {tool}.log\n{report}")
    return {"report": errors[-1] if errors else ""}
