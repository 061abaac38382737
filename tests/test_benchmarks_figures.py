"""Whole commands and scaling, which the benchmarks measure beside the ratios."""

import os
import sys
from typing import ClassVar

import numpy as np
import pytest

from benchmarks import figures
from benchmarks.process import ROOT
from benchmarks.timing import Plan

WORK = np.array([1.0, 2, 4, 8, 16])


def test_a_fixed_cost_plus_a_rate_is_a_line():
    law = figures.scaling_law(WORK, 3.0 + 0.5 * WORK, first=2)
    assert law["from_linear"] == pytest.approx(0, abs=1e-3)
    assert 0.4 < law["exponent"] < 0.9


def test_quadratic_growth_has_exponent_2_and_is_far_from_a_line():
    law = figures.scaling_law(WORK, 0.1 * WORK**2, first=2)
    assert law["exponent"] == pytest.approx(2)
    assert law["from_linear"] > 0.15


def test_wall_time_of_a_command():
    seconds, _ = figures.wall_time([sys.executable, "-c", "import time; time.sleep(0.2)"], dict(os.environ))
    assert 0.2 < seconds < 5


def test_a_failing_command_raises_with_the_last_line_of_its_errors():
    with pytest.raises(ChildProcessError, match="ValueError: wrong"):
        figures.wall_time([sys.executable, "-c", "raise ValueError('wrong')"], dict(os.environ))


# Whole commands -----------------------------------------------------------------------------------------------------------


def test_without_mnist_its_epochs_are_skipped(monkeypatch):
    monkeypatch.setattr(figures, "mnist_folder", lambda: None)
    monkeypatch.setattr(figures, "wall_time", lambda command, environment: (2.0, False))
    found = figures.processes(2, lambda text: None, rounds=2)
    assert found.pop("demo npadv")["median"] == 2.0
    commands = [f"{network} {library}" for network in ("maxout_mlp", "syn_convnet") for library in ("npadv", "torch")]
    assert found == dict.fromkeys(commands, "skipped: MNIST's files are in none of npadv's data folders")


@pytest.fixture
def commands(monkeypatch):
    """Let maxout commands fail and the demo be disturbed; return the commands that ran and what was found."""
    monkeypatch.setattr(figures, "mnist_folder", lambda: ROOT)
    ran = []

    def wall_time(command, environment):
        ran.append(command)
        if "maxout_mlp" in command:
            raise ChildProcessError("out of memory")
        return 1.0, "demo" in command

    monkeypatch.setattr(figures, "wall_time", wall_time)
    return ran, figures.processes(2, lambda text: None, rounds=1)


def test_the_reason_of_a_failed_command_is_its_result(commands):
    _, found = commands
    assert found["maxout_mlp npadv"] == found["maxout_mlp torch"] == "failed: out of memory"


def test_a_disturbed_command_is_repeated_and_then_counted(commands):
    ran, found = commands
    assert found["syn_convnet torch"]["disturbed"] == 0
    assert found["demo npadv"]["disturbed"] == 1
    assert sum("demo" in command for command in ran) == 1 + figures.MAX_REPEATS


# Scaling ------------------------------------------------------------------------------------------------------------------


class ProportionalWorker:
    """A worker whose time is proportional to the batch; torch's is twice npadv's."""

    ended: ClassVar[list[str]] = []

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended.append(self.name)

    def ask(self, do, **fields):
        if do == "prepare":
            self.batch = fields["settings"]["batch"]
            return {}
        return {"seconds": self.batch * (1.0 if self.name == "npadv" else 2.0), "cpu": 0.0, "wall": 1e9}


@pytest.fixture
def series(monkeypatch):
    monkeypatch.setattr(figures, "BATCHES", (1, 2, 4))
    monkeypatch.setattr(figures, "WIDTHS", (1, 2))
    monkeypatch.setattr(figures, "FIRST_PRODUCT_BOUND", {"batch": 1, "width": 1})
    monkeypatch.setattr(ProportionalWorker, "ended", [])
    return figures.scaling(lambda threads: ProportionalWorker, [1, 2], Plan(rounds=1, rest=0.0), lambda text: None)


def test_scaling_has_a_series_for_each_number_of_threads_size_and_library(series):
    assert [(s["threads"], s["grows"], s["side"]) for s in series] == [
        (threads, grows, library)
        for threads in (1, 2)
        for grows in ("batch", "width")
        for library in ("npadv", "torch")
    ]


def test_scaling_measures_every_size(series):
    assert series[1]["seconds"] == [2.0, 4.0, 8.0]
    assert series[1]["exponent"] == 1.0


def test_scaling_ends_its_workers(series):
    assert sorted(ProportionalWorker.ended) == ["npadv"] * 4 + ["torch"] * 4
