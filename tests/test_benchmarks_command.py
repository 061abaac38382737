"""The benchmarks' command line: what it prints, writes, keeps after an interrupt, and refuses."""

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from benchmark_cases import REFUSED, SLEEPING, has_ended

from benchmarks import __main__ as command_line
from benchmarks import compare
from benchmarks.process import MissingLibraryError
from benchmarks.timing import Plan


@dataclass(frozen=True)
class PlanWithoutPauses(Plan):
    warmup: float = 0.0
    rest: float = 0.0
    repeats: int = 0


@pytest.fixture
def bench(fake_worker, monkeypatch, tmp_path):
    """Let the command line compare sleeping workers, and write its results into a folder of the test.

    ``bench.slow`` holds the factor by which each contender sleeps longer, ``bench.output`` is the file of results.
    """
    bench = SimpleNamespace(slow={"ours": 1.0, "theirs": 4.0}, output=tmp_path / "speed" / "cpu.json", workers=[])

    def start(name):
        bench.workers.append(fake_worker(name, slow=bench.slow[name]))
        return bench.workers[-1]

    monkeypatch.setattr(command_line, "RESULTS", bench.output)
    monkeypatch.setattr(command_line, "Plan", PlanWithoutPauses)
    monkeypatch.setattr(command_line, "select", lambda keys, peers=False: [SLEEPING, REFUSED])
    monkeypatch.setattr(command_line, "versions", lambda contenders, start: {"fake": "1"})
    monkeypatch.setattr(command_line, "starter", lambda threads, keep_tuning=False: start)
    for name, nothing in {"memory": {}, "processes": {}, "scaling": []}.items():
        monkeypatch.setattr(command_line, name, lambda *a, _nothing=nothing, **k: _nothing)
    return bench


QUICKLY = ["cpu", "--rounds", "2", "--budget", "0.01"]


def test_a_full_run_writes_its_results(bench):
    assert command_line.main(QUICKLY) == 0
    results = json.loads(bench.output.read_text("utf-8"))
    assert {"settings", "versions", "machine", "device", "rows", *command_line.EXTRAS} == set(results)
    assert results["settings"]["threads"] == 2
    assert results["rows"][0]["ratios"]["theirs"]["median"] == pytest.approx(0.25, abs=0.15)


def test_a_full_run_prints_the_ratios_that_it_writes(bench, capsys):
    assert command_line.main(QUICKLY) == 0
    results = json.loads(bench.output.read_text("utf-8"))
    ratio = results["rows"][0]["ratios"]["theirs"]["median"]
    assert f"{ratio:6.2f}" in capsys.readouterr().out


def test_written_numbers_have_four_digits(bench):
    command_line.main(QUICKLY)
    results = json.loads(bench.output.read_text("utf-8"))
    assert command_line.rounded(results) == results


def test_selected_workloads_are_printed_and_not_written(bench, capsys):
    assert command_line.main([*QUICKLY, "--only", "x1"]) == 0
    assert not bench.output.exists()
    assert "sleeping" in capsys.readouterr().out


def test_a_check_within_the_bars_exits_with_0(bench):
    assert command_line.main([*QUICKLY, "--check"]) == 0
    assert not bench.output.exists()


def test_a_check_that_misses_a_bar_prints_it_and_exits_with_1(bench, capsys):
    bench.slow["ours"] = 8.0
    assert command_line.main([*QUICKLY, "--check"]) == 1
    assert "check: x1 against theirs: at most 0.40, got " in capsys.readouterr().out
    assert not bench.output.exists()


@pytest.fixture
def interrupted(bench, monkeypatch, capsys):
    """Interrupt a run in its second workload, with the results of a complete run already written."""
    bench.output.parent.mkdir()
    bench.output.write_text("a complete run")
    race = compare.race

    def interrupt(*arguments, **options):
        monkeypatch.setattr(compare, "race", stop)
        return race(*arguments, **options)

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "race", interrupt)
    monkeypatch.setattr(command_line, "select", lambda keys, peers=False: [SLEEPING, replace(SLEEPING, key="y1")])
    bench.exit_code = command_line.main(QUICKLY)
    bench.errors = capsys.readouterr().err
    return bench


def test_an_interrupt_is_reported(interrupted):
    assert interrupted.exit_code == 130
    assert interrupted.errors == "benchmarks: interrupted\n"


def test_an_interrupt_keeps_the_finished_rows_and_the_results_of_a_complete_run(interrupted):
    assert interrupted.output.read_text() == "a complete run"
    partial = json.loads(interrupted.output.with_suffix(".partial.json").read_text("utf-8"))
    assert [row["key"] for row in partial["rows"]] == ["x1"]


def test_an_interrupt_ends_all_workers(interrupted):
    assert len(interrupted.workers) == 4
    assert all(has_ended(worker.pid) for worker in interrupted.workers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "zz"], "--only: expected some of a, b, c1"),
        (["--rounds", "0"], "rounds: expected more than 0, got 0"),
        (["--threads", "0"], "--threads: expected at least 1, got 0"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, message, capsys):
    assert command_line.main(["cpu", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_library_is_reported_before_anything_is_measured(monkeypatch, capsys):
    def missing(contenders, start):
        raise MissingLibraryError("torch needs torch, which is missing")

    monkeypatch.setattr(command_line, "versions", missing)
    assert command_line.main(["cpu", "--only", "a"]) == 2
    assert capsys.readouterr().err == "benchmarks: torch needs torch, which is missing\n"
