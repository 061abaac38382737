"""A plugin of pytest that appends a line of JSON for each test to the file of ``--gpu-lines``, at once.

A run that is killed keeps the outcomes until then, unlike one with ``--junit-xml``, which writes at the end.
"""

from __future__ import annotations

import json
from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Add the option."""
    parser.addoption("--gpu-lines", help="append a line of JSON for each test to this file")


def pytest_configure(config: Any) -> None:
    """Register the part that writes."""
    config.pluginmanager.register(Lines(config.getoption("--gpu-lines")), "gpu-lines")


class Lines:
    """Writes a test's outcome: of its call, or of the set-up or the tear-down that failed or skipped it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Append a line."""
        if report.when != "call" and report.passed:
            return
        entry = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
        if report.failed:
            entry["message"] = str(report.longrepr)[-2000:]
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
