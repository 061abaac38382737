"""Starts a process for each part, divides the time among the parts, and writes the results after every row.

A part may use its share of the time that remains when it begins. What a part does not use goes to those after it, and a part
that hangs cannot take the others' time. The parts run in the order in which their results matter.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.tasks import ROOT
from benchmarks.gpu.worker import LEAST_SECONDS, stack_file, traceback_file
from npadv.files import write_json


class Part(NamedTuple):
    """A part: its key, its title, the module with its tasks, and its share of the time beside the other parts' shares."""

    key: str
    title: str
    module: str
    share: float


PARTS = (
    Part("a", "the machine, one kernel of each file", "benchmarks.gpu.machine", 40),
    Part("b", "correctness", "benchmarks.gpu.correctness", 160),
    Part("c", "captured training", "benchmarks.gpu.training", 70),
    Part("d", "timings", "benchmarks.gpu.timings", 120),
    Part("e", "compute-sanitizer", "benchmarks.gpu.sanitizer", 60),
    Part("f", "the time of each kernel", "benchmarks.gpu.kernel_times", 30),
)

LEAST_PART = 3.5  # seconds; starting Python, NumPy and CuPy alone takes some of them
GRACE = 1.0  # seconds after which a process that should have ended itself is killed
POLL = 0.05

Say = Callable[[str], Any]


def run(parts: Sequence[Part], out: Path, budget: float, *, rehearse: bool = False, say: Say = print) -> dict[str, Any]:
    """Run the parts within ``budget`` seconds; return the results, which ``out / "gpu.json"`` has too.

    SIGTERM and Ctrl-C end the part that runs; the results until then are written, with ``"stopped"`` true.
    """
    begin, out = time.monotonic(), out.resolve()  # the workers have another current folder
    results: dict[str, Any] = {
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "budget": budget,
        "rehearsal": rehearse,
        "stopped": False,
        "parts": [{"part": p.key, "title": p.title, "status": "left out", "left_out": None} for p in parts],
        "rows": [],
    }
    (out / "lines").mkdir(parents=True, exist_ok=True)

    def save() -> None:
        results["seconds"] = round(time.monotonic() - begin, 1)
        write_json(out / "gpu.json", results)

    with sigterm_as_interrupt():
        try:
            save()
            for i, part in enumerate(parts):
                left = begin + budget - time.monotonic()
                if left < LEAST_PART + GRACE:
                    say(f"part {part.key}, {part.title}: left out, {left:.0f} s are left")
                    continue
                share = left * part.share / sum(p.share for p in parts[i:])
                limit = min(max(share, LEAST_PART), left - GRACE)
                say(f"part {part.key}, {part.title}: at most {limit:.0f} s")
                facts = results["parts"][i]
                facts.update(status="begun", limit=round(limit, 1))
                with contextlib.closing(run_part(part, out, limit, rehearse, facts)) as rows:
                    for row in rows:
                        results["rows"].append(row)
                        save()
                        say(line(row))
                facts["seconds"] = round(left - (begin + budget - time.monotonic()), 1)
                facts["status"] = "incomplete" if facts["left_out"] else "complete"
                save()
        except KeyboardInterrupt:
            results["stopped"] = True
        finally:
            save()
    return results


def run_part(
    part: Part, out: Path, limit: float, rehearse: bool, facts: dict[str, Any]
) -> Generator[dict[str, Any], None, None]:
    """Yield a part's rows as they are finished. A process that ends before its last task is followed by another one.

    ``facts["left_out"]`` is kept as the list of the tasks that have not run.
    """
    end = time.monotonic() + limit
    first = 0
    while True:
        lines = out / "lines" / f"{part.key}{first}.jsonl"
        log = lines.with_suffix(".log")
        lines.unlink(missing_ok=True)
        options = {"lines": lines, "out": out, "first": first, "seconds": round(end - time.monotonic(), 3)}
        command = [sys.executable, "-m", "benchmarks.gpu.worker", part.key, part.module]
        command += [f"--{name}={value}" for name, value in options.items()] + ["--rehearse"] * rehearse
        running, finished = "", 0
        with started(command, log) as process:
            for entry in follow(lines, process, end + GRACE):
                if "planned" in entry:
                    facts["left_out"] = entry["planned"][first:]
                elif "begins" in entry:
                    running = entry["begins"]
                else:
                    running, finished = "", finished + 1
                    facts["left_out"].remove(entry["name"])
                    yield {"part": part.key, **entry}
            code = process.poll()
        if running:  # the task ended its process
            facts["left_out"].remove(running)
            yield {"part": part.key, **ended(part, running, code, out)}
            finished += 1
        elif not finished and code != 0:
            yield {"part": part.key, **ended(part, f"start of part {part.key}", code, out, log)}
            facts["left_out"] = facts["left_out"] or ["all"]
        first += finished
        if code == 0 or not finished or end - time.monotonic() < LEAST_SECONDS:
            return


@contextlib.contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker in a process group of its own, which is killed at the end: no process that it started outlives it."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def follow(lines: Path, process: subprocess.Popen[bytes], end: float) -> Iterator[dict[str, Any]]:
    """Yield the entries of a file to which a process appends lines, until it has ended or the time is up."""
    position = 0
    while True:
        ended = process.poll() is not None or time.monotonic() > end  # asked before reading: nothing is missed
        text = lines.read_bytes()[position:] if lines.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]  # the last line may be half written
        position += len(whole)
        for text in whole.splitlines():
            yield json.loads(text, parse_constant=str)  # NaN as text: the results are strict JSON
        if ended:
            return
        time.sleep(POLL)


def ended(part: Part, name: str, code: int | None, out: Path, log: Path | None = None) -> dict[str, Any]:
    """Return the row of a task whose process ended, or was killed, before the task did."""
    stack = stack_file(out).read_text("utf-8", "replace") if stack_file(out).exists() else ""
    stack += log.read_text("utf-8", "replace") if log else ""
    late = code is None or stack.startswith("Timeout")
    path = traceback_file(out, part.key, name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(stack, "utf-8")
    message = "stopped at its time limit" if late else f"its process ended with exit code {code}"
    if log and stack.strip():
        message += f": {stack.strip().splitlines()[-1]}"
    status = "stopped" if late else "failed"
    return {"name": name, "status": status, "message": message, "traceback": str(path.relative_to(out))}


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C in the block."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def line(row: dict[str, Any]) -> str:
    """Return a row as a line of text."""
    text = f"  {row['name']:58} {row['status']}"
    if "ratio" in row:
        return f"{text}, {row['ratio']['median']:.2f} of {row['against']}"
    return f"{text}: {row['message'].splitlines()[0]}" if "message" in row else text
