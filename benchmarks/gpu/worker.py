"""Run the tasks of one part in this process, and append a line of JSON to a file for each event.

    python -m benchmarks.gpu.worker KEY MODULE --lines FILE --out FOLDER --seconds N [--first I] [--rehearse]

======================================  ===========================================================
line                                    meaning
======================================  ===========================================================
``{"planned": [names]}``                the part's tasks
``{"begins": name}``                    a task begins; if no result follows, it ended the process
``{"name": name, "status": ...}``       its result: "ok" with numbers, "failed", or "not here"
======================================  ===========================================================

A task that exceeds its time ends the process, after a watchdog thread has written where it was. So does a failure after which
the GPU refuses all work, as it does after an access outside of its memory. The supervisor then starts another process with
the task that follows.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import re
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from benchmarks.gpu.tasks import Here, NotHereError, Task, place

UNUSABLE = 75
"""The exit code of a process whose GPU refuses all work."""

LEAST_SECONDS = 2.0
"""A task begins only if its part has this much time left."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a part's tasks from the given one on; return 0 unless the GPU became unusable."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("key")
    parser.add_argument("module")
    parser.add_argument("--lines", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args(argv)
    end = time.monotonic() + options.seconds
    with open(options.lines, "a", encoding="utf-8") as lines, open(stack_file(options.out), "w") as stacks:
        faulthandler.enable(stacks)
        faulthandler.dump_traceback_later(options.seconds, exit=True, file=stacks)  # importing may hang, too
        with place(options.rehearse, options.out) as here:
            tasks = importlib.import_module(options.module).tasks(here)
            write(lines, {"planned": [task.name for task in tasks]})
            for task in tasks[options.first :]:
                left = end - time.monotonic()
                if left < LEAST_SECONDS:
                    break
                limit = max(LEAST_SECONDS, task.share * left)
                here.end = time.monotonic() + limit
                faulthandler.dump_traceback_later(limit, exit=True, file=stacks)
                write(lines, {"begins": task.name})
                row = result(options.key, task, here)
                write(lines, row)
                if row["status"] == "failed" and not usable(here):
                    return UNUSABLE
        faulthandler.cancel_dump_traceback_later()
    return 0


def stack_file(out: Path) -> Path:
    """Return the file to which the watchdog writes where a process was when it ended."""
    return out / "stacks.txt"


def write(lines: TextIO, line: dict[str, Any]) -> None:
    """Append a line, at once."""
    lines.write(json.dumps(line, default=float) + "\n")
    lines.flush()


def result(part: str, task: Task, here: Here) -> dict[str, Any]:
    """Run a task and return its row."""
    begin = time.monotonic()
    row: dict[str, Any]
    try:
        row = {"status": "ok", **task.run()}
    except NotHereError as error:
        row = {"status": "not here", "message": f"needs {error}"}
    except Exception as error:
        path = traceback_file(here.out, part, task.name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(traceback.format_exc(), "utf-8")
        message = f"{type(error).__name__}: {error}".strip()
        row = {"status": "failed", "message": message[:2000], "traceback": str(path.relative_to(here.out))}
    return {"name": task.name, "wall_seconds": round(time.monotonic() - begin, 3), **row}


def traceback_file(out: Path, part: str, name: str) -> Path:
    """Return the file for a task's traceback."""
    plain = re.sub(r"[^a-zA-Z0-9]+", "-", f"{part} {name}").strip("-")
    return out / "tracebacks" / f"{plain}.txt"


def usable(here: Here) -> bool:
    """Return whether the GPU still works: after some faults it refuses everything until the process ends."""
    try:
        here.xp.cuda.Device().synchronize()
    except Exception:
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
