"""Shared by the benchmarks' tests: contenders that are installed, and workers with tasks that only sleep or fail."""

import importlib
import os

import pytest

from benchmarks.process import ROOT, Worker
from benchmarks.timing import Plan
from benchmarks.workloads import Bar, Entry, Workload

QUICK = Plan(rounds=3, budget=0.01, warmup=0.0, rest=0.0)

SLEEPING = Workload(
    "x1",
    "sleeping",
    {name: Entry(name, "sleep", {"seconds": 0.002}) for name in ("ours", "theirs")},
    {"theirs": Bar(at_most=0.4, aim=0.1)},
    ours="ours",
)
REFUSED = Workload("x2", "refusing", {"ours": Entry("ours", "refuse", {})}, {}, ours="ours")

FAKE_CONTENDER = """
import os, sys, time
print("a line that a library prints, which is not an answer")

def start(*, threads, slow=1.0, missing=None):
    global factor
    factor = slow
    if missing:
        __import__(missing)
    return {"fake": f"{threads} threads"}

def sleep(seconds):
    return lambda: time.sleep(factor * seconds)

def fail(message):
    raise ValueError(message)

def refuse():
    raise NotImplementedError("not here")

def crash():
    sys.stderr.write("out of memory\\n"); sys.stderr.flush(); os._exit(7)

def leak(size):
    kept = []
    return lambda: kept.append(bytearray(b"x" * size))

TASKS = {"sleep": sleep, "fail": fail, "refuse": refuse, "crash": crash, "leak": leak}
"""


@pytest.fixture
def fake_worker(tmp_path):
    """Return a function that starts a worker with the tasks above; every worker ends with the test."""
    (tmp_path / "fake_contender.py").write_text(FAKE_CONTENDER)
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    started = []

    def start(name="fake", **options):
        started.append(Worker.of(name, "fake_contender", threads=2, options=options, environment=environment))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


def contender(name):
    """Return a contender's module with its tasks, started; skip where its library is not installed."""
    pytest.importorskip("numpy" if name == "textbook" else name)
    module = importlib.import_module(f"benchmarks.contenders.{name}_tasks")
    module.start(threads=os.cpu_count())  # fewer threads would bind this process to fewer cores
    return module


def has_ended(pid):
    """Tell whether no process has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
