"""Turns, rests, repeated samples and medians: how the benchmarks measure time."""

import os
import time

import numpy as np
import pytest

from benchmarks import timing, worker
from benchmarks.timing import Plan, PreparedTask, race, was_disturbed


class ScriptedWorker:
    """A worker that answers with given times and adds its name to a list at every turn."""

    def __init__(self, name, seconds, turns, cpu=0.0):
        self.name, self.seconds, self.turns, self.cpu = name, list(seconds), turns, cpu

    def ask(self, do, **fields):
        assert do == "time"
        self.turns.append(self.name)
        return {"seconds": self.seconds.pop(0), "cpu": self.cpu, "wall": 1.0, "outcome": 0.5}


def race_of_two(rests=None):
    """Return the rounds and the order of turns of a race on a machine that is ten times slower in its second round."""
    turns = []
    tasks = {
        name: PreparedTask(ScriptedWorker(name, seconds, turns), "task")
        for name, seconds in {"ours": [1.0, 10.0, 1.5], "theirs": [2.0, 20.0, 3.0]}.items()
    }
    sleep = (lambda seconds: None) if rests is None else rests.append
    return race(tasks, Plan(rounds=3, rest=0.25), busy=lambda: 0.0, sleep=sleep), turns


def test_the_order_of_turns_rotates():
    _, turns = race_of_two()
    assert turns == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_ratios_are_taken_within_a_round():
    rounds, _ = race_of_two()
    assert rounds.ratios("ours", "theirs") == [0.5, 0.5, 0.5]  # the medians of all times would give another ratio


def test_every_turn_begins_with_a_rest():
    rests = []
    race_of_two(rests)
    assert rests == [0.25] * 6


def test_undisturbed_samples_are_not_repeated():
    rounds, _ = race_of_two()
    assert (rounds.repeated, rounds.disturbed) == (0, 0)


def test_a_disturbed_sample_is_repeated_while_repeats_are_left():
    clock = iter([0.0, 9.0, 9.0, 9.2, 20.0, 30.0, 30.0, 40.0])  # disturbed, quiet; disturbed, disturbed
    tasks = {"only": PreparedTask(ScriptedWorker("only", [1.0, 2.0, 3.0, 4.0], [], cpu=0.15), "task")}
    rounds = race(tasks, Plan(rounds=2, repeats=2), busy=lambda: next(clock), sleep=lambda _: None)
    assert rounds.seconds["only"] == [2.0, 4.0]
    assert (rounds.repeated, rounds.disturbed) == (2, 1)


def test_a_sample_is_disturbed_if_other_processes_used_noticeable_time():
    assert not was_disturbed(busy=2.0, own=1.99, wall=1.0)
    assert was_disturbed(busy=2.0, own=1.8, wall=1.0)


def test_without_proc_no_sample_counts_as_disturbed(tmp_path):
    assert timing.machine_busy(str(tmp_path / "none")) is None
    tasks = {"only": PreparedTask(ScriptedWorker("only", [1.0], []), "task")}
    rounds = race(tasks, Plan(rounds=1), busy=lambda: None, sleep=lambda _: None)
    assert (rounds.seconds["only"], rounds.disturbed) == ([1.0], 0)


def test_busy_time_is_all_but_idle_and_waiting(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  1 2 3 1000 2000 4 5 6 7 8\ncpu0 1 2 3 1000 2000 4 5 6 7 8\n")
    assert timing.machine_busy(str(stat)) == pytest.approx(21 / os.sysconf("SC_CLK_TCK"))


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"budget": 0.0}])
def test_a_plan_that_measures_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected more than 0"):
        Plan(**wrong)


# A worker's measurement ---------------------------------------------------------------------------------------------------


def test_measure_warms_up_and_returns_the_median_iteration():
    durations = iter([0.05, 0.05, *[0.004, 0.002, 0.003] * 100])
    began = time.perf_counter()
    found = worker.measure(lambda: time.sleep(next(durations)), warmup=0.08, budget=0.03)
    assert 0.0025 < found["seconds"] < 0.004  # the two slow ones are the warm-up
    assert 3 <= found["iterations"] < 30
    assert 0.1 < found["wall"] <= time.perf_counter() - began
    assert found["cpu"] < found["wall"]


def test_measure_takes_at_least_three_iterations():
    calls = []
    assert worker.measure(lambda: calls.append(1), warmup=0.0, budget=1e-9)["iterations"] == 3
    assert len(calls) == 4  # one of them is the warm-up


def test_measure_returns_the_mean_of_the_last_result():
    assert worker.measure(lambda: np.array([1.0, 3.0]), warmup=0.0, budget=1e-9)["outcome"] == 2.0


def test_measure_refuses_a_result_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="expected a finite number"):
        worker.measure(lambda: np.float32("nan"), warmup=0.0, budget=1e-9)
