"""The tests marked ``gpu``, in a process of their own: a task of part b."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.tasks import ROOT, Here, NotHereError

GPU_TESTS = ("capture", "kernels_conv", "kernels_layers", "kernels_step", "kernels_steps", "kernels_updates")


def gpu_tests(here: Here) -> dict[str, Any]:
    """Run the tests marked ``gpu`` in a process of their own; return the counts, and raise with the names that failed."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        raise NotHereError(" and ".join(missing))
    report = here.out / "pytest.jsonl"
    report.unlink(missing_ok=True)
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in (GPU_TESTS[3:4] if here.rehearsal else GPU_TESTS)]
    options = ["-q", "-m", "gpu", "-p", "benchmarks.gpu.pytest_lines", "-p", "no:cacheprovider", "--gpu-lines"]
    command = [sys.executable, "-m", "pytest", *options, str(report), *files]
    with open(here.out / "pytest.log", "wb") as log:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=os.environ, stdout=log, stderr=log, timeout=here.seconds_left() - 2
            )
            code: int | None = done.returncode
        except subprocess.TimeoutExpired:
            code = None
    found = outcomes(report)
    failed = [test for test, outcome in found.items() if outcome == "failed"]
    counts = {o: list(found.values()).count(o) for o in ("passed", "failed", "skipped")}
    if code is None:
        raise TimeoutError(f"the tests were stopped at their time limit after {counts}; failed: {failed}")
    if failed or code not in (0, 5):
        raise AssertionError(f"pytest ended with code {code} after {counts}; failed: {failed}; see pytest.log")
    return {"tests": counts}


def outcomes(report: Path) -> dict[str, str]:
    """Return the outcome of each test, from the lines that ``pytest_lines.py`` wrote."""
    lines = report.read_text("utf-8").splitlines() if report.exists() else []
    return {entry["test"]: entry["outcome"] for entry in map(json.loads, lines)}
