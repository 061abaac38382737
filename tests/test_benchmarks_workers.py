"""Worker processes of the benchmarks: their answers, their errors, their environment and their end."""

import os
import statistics
import subprocess
import sys
import time

import pytest
from benchmark_cases import QUICK, has_ended

from benchmarks.process import ROOT, MissingLibraryError, UnsupportedError, Worker, WorkerError, worker_environment
from benchmarks.timing import PreparedTask, race


def any_program(code):
    """Return a worker that runs a Python program."""
    return Worker("odd", [sys.executable, "-c", code], os.environ, limit=5.0)


def prepare(worker, task, **settings):
    worker.ask("prepare", name="x", task=task, settings=settings)


def test_a_worker_reports_its_versions(fake_worker):
    assert fake_worker().ask("hello") == {"versions": {"fake": "2 threads"}}


def test_a_task_that_sleeps_twice_as_long_takes_twice_the_time(fake_worker):
    tasks = {"ours": PreparedTask(fake_worker(), "x"), "theirs": PreparedTask(fake_worker(slow=2.0), "x")}
    for task in tasks.values():
        prepare(task.worker, "sleep", seconds=0.005)
    rounds = race(tasks, QUICK, busy=lambda: None)
    assert statistics.median(rounds.ratios("ours", "theirs")) == pytest.approx(0.5, abs=0.12)


def memory_of(worker, task, **settings):
    prepare(worker, task, **settings)
    try:
        return worker.ask("memory", name="x", settle=2, steps=8)
    except UnsupportedError as error:
        pytest.skip(str(error))


def test_memory_that_a_step_keeps_is_measured(fake_worker):
    found = memory_of(fake_worker(), "leak", size=2**20)
    assert 7 * 2**20 < found["growth"] < 12 * 2**20
    assert found["faults_per_step"] > 100
    assert found["peak"] > found["growth"]


def test_memory_of_a_step_that_keeps_nothing_does_not_grow(fake_worker):
    found = memory_of(fake_worker(), "sleep", seconds=0.0)
    assert found["growth"] < 2**20
    assert found["faults_per_step"] < 50


# Errors -------------------------------------------------------------------------------------------------------------------


def test_an_error_in_a_task_is_reported(fake_worker):
    with pytest.raises(WorkerError, match="fake, asked to prepare x: ValueError: too bad"):
        prepare(fake_worker(), "fail", message="too bad")


def test_an_unsupported_task_is_reported(fake_worker):
    with pytest.raises(UnsupportedError, match="fake: not here"):
        prepare(fake_worker(), "refuse")


def test_an_unknown_task_is_reported(fake_worker):
    with pytest.raises(WorkerError, match=r"task: expected one of sleep, fail, .* got 'jump'"):
        prepare(fake_worker(), "jump")


def test_a_task_that_was_not_prepared_is_reported(fake_worker):
    with pytest.raises(WorkerError, match="KeyError"):
        fake_worker().ask("time", name="x", warmup=0.0, budget=0.001)


def test_a_worker_goes_on_after_an_error(fake_worker):
    worker = fake_worker()
    with pytest.raises(WorkerError):
        prepare(worker, "fail", message="too bad")
    prepare(worker, "sleep", seconds=0.0)
    worker.ask("drop", name="x")


def test_a_missing_library_is_one_sentence_that_names_the_extra(fake_worker):
    with pytest.raises(MissingLibraryError) as error:
        fake_worker(missing="no_such_library").ask("hello")
    assert str(error.value) == 'fake needs no_such_library, which is missing; run: pip install -e ".[bench]"'


def test_a_crash_is_reported_with_the_exit_code_and_the_last_line_of_its_errors(fake_worker):
    worker = fake_worker()
    with pytest.raises(WorkerError, match="fake, asked to prepare x: ended with exit code 7: out of memory"):
        prepare(worker, "crash")
    with pytest.raises(WorkerError, match="ended with exit code 7"):
        worker.ask("hello")


@pytest.mark.parametrize("answer", ["not JSON", "[1]", ""])
def test_an_answer_that_is_no_json_object_is_an_error(answer):
    with any_program(f"input(); print({answer!r}, flush=True); input()") as worker:  # noqa: SIM117
        with pytest.raises(WorkerError, match="odd, asked to hello: expected a line of JSON, got"):
            worker.ask("hello")


def test_a_worker_that_does_not_answer_in_time_is_an_error():
    with any_program("import time; time.sleep(60)") as worker:
        worker.limit = 0.2
        with pytest.raises(WorkerError, match=r"odd, asked to hello: no answer within 0.2 s"):
            worker.ask("hello")


# End and environment ------------------------------------------------------------------------------------------------------


def test_closing_ends_a_worker_at_once(fake_worker):
    worker = fake_worker()
    worker.ask("hello")
    began = time.perf_counter()
    worker.close()
    assert time.perf_counter() - began < 2
    assert has_ended(worker.pid)


def test_a_worker_ends_when_its_input_ends():
    command = [sys.executable, "-m", "benchmarks.worker", "benchmarks.contenders.textbook_tasks", '{"threads": 1}']
    done = subprocess.run(command, cwd=ROOT, input=b'{"do": "hello"}\n', capture_output=True, timeout=60)
    assert done.returncode == 0
    assert b"versions" in done.stdout


def test_workers_start_without_the_variables_that_tune_a_library(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert "OPENBLAS_CORETYPE" not in worker_environment(3)
    assert worker_environment(3, keep_tuning=True)["OPENBLAS_CORETYPE"] == "Haswell"


def test_workers_get_the_number_of_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment = worker_environment(3)
    assert {environment[f"{library}_NUM_THREADS"] for library in ("OMP", "OPENBLAS", "MKL")} == {"3"}


def test_a_contenders_own_variables_are_kept():
    assert worker_environment(3, {"MALLOC_TRIM_THRESHOLD_": "9"})["MALLOC_TRIM_THRESHOLD_"] == "9"
