"""The whole proof on the stand-in for CuPy, and with planted faults: one costs its task, never the others."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kernel_cases import needs_compiler
from subprocesses import run_python

from benchmarks.gpu import supervisor
from benchmarks.gpu.command import main, report
from benchmarks.gpu.supervisor import Part
from npadv.fast import ENABLED
from npadv.kernels import sources

ROOT = Path(__file__).resolve().parents[1]

FAULTS = {
    "nothing": "dict()",
    "nan": "{'apart': float('nan')}",
    "error": "fail('a planted error')",
    "missing": "lack('a planted library')",
    "hang": "time.sleep(1000)",
    "crash": "os.kill(os.getpid(), signal.SIGSEGV)",
    "exit": "os._exit(3)",
}
MODULE = """
import os, signal, time
from benchmarks.gpu.tasks import NotHereError, Task

def fail(text): raise ValueError(text)
def lack(text): raise NotHereError(text)

def tasks(here):
    return [Task("before", lambda: {"number": 1}), Task("fault", lambda: FAULT, share=0.4), Task("after", dict)]
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Return a function that makes a part whose second task has a fault."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    def make(fault):
        text = "def tasks(here: planted" if fault == "syntax" else MODULE.replace("FAULT", FAULTS[fault])
        (tmp_path / f"planted_{fault}.py").write_text(text)
        return Part(fault, f"a part with {fault}", f"planted_{fault}", 10)

    return make


def run(parts, out, budget=60.0):
    """Return the results of a rehearsal, which the file has too."""
    results = supervisor.run(parts, out, budget, rehearse=True, say=lambda text: None)
    assert json.loads((out / "gpu.json").read_text()) == results
    return results


def statuses(results, part):
    return {row["name"]: row["status"] for row in results["rows"] if row["part"] == part}


needs_fast = pytest.mark.skipif(not ENABLED, reason="NPADV_FAST=off: a graph cannot hold the matrix products of cuBLAS")


@needs_compiler
@needs_fast
def test_every_part_runs_on_the_stand_in(tmp_path, capsys):
    assert main(["--all", "--rehearse", "--out", str(tmp_path), "--budget", "400"]) == 0
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert [facts["status"] for facts in results["parts"]] == ["complete"] * 6, results["parts"]
    rows = {row["name"]: row for row in results["rows"]}
    assert {row["status"] for row in rows.values()} <= {"ok", "not here"}
    assert {f"compiles {name}.cu" for name in sources.names()} <= set(rows)
    assert rows["machine"]["card"] == "no card"
    assert "needs a GPU" in rows["driver"]["message"]
    assert rows["replayed to the bit: syn_convnet, adversarial"]["status"] == "ok"
    assert rows["launches of an adversarial step"]["launches"] > 10
    for tool in ("memcheck", "racecheck"):
        assert rows[f"compute-sanitizer {tool}"]["message"] in ("needs compute-sanitizer", "needs a GPU")
    assert "not here: a, driver: needs a GPU" in capsys.readouterr().out


@needs_compiler
def test_a_fault_is_reported_and_does_not_stop_the_others(planted, tmp_path):
    faults = ["error", "missing", "crash", "exit", "syntax", "nan", "nothing"]
    results = run([planted(fault) for fault in faults], tmp_path / "out")
    fates = {
        "error": "failed",
        "missing": "not here",
        "crash": "failed",
        "exit": "failed",
        "nan": "ok",
        "nothing": "ok",
    }
    for fault, fate in fates.items():
        assert statuses(results, fault) == {"before": "ok", "fault": fate, "after": "ok"}, fault
    rows = {row["part"]: row for row in results["rows"] if row["name"] not in ("before", "after")}
    assert rows["nan"]["apart"] == "NaN"
    assert rows["error"]["message"] == "ValueError: a planted error"
    assert "in fail" in (tmp_path / "out" / rows["error"]["traceback"]).read_text()
    assert rows["missing"]["message"] == "needs a planted library"
    assert rows["exit"]["message"] == "its process ended with exit code 3"
    assert "Segmentation fault" in (tmp_path / "out" / rows["crash"]["traceback"]).read_text()
    assert rows["syntax"]["name"] == "start of part syntax"
    assert "SyntaxError" in rows["syntax"]["message"]
    text = "\n".join(report(results))
    assert "failed: error, fault: ValueError: a planted error (tracebacks/" in text
    assert "not here: missing, fault: needs a planted library" in text


@needs_compiler
def test_a_hang_is_cut_at_its_limit(planted, tmp_path):
    begin = time.monotonic()
    results = run([planted("hang"), planted("nothing")], tmp_path / "out", budget=30)
    assert time.monotonic() - begin < 30
    assert statuses(results, "hang") == {"before": "ok", "fault": "stopped", "after": "ok"}
    assert statuses(results, "nothing") == {"before": "ok", "fault": "ok", "after": "ok"}
    (row,) = (row for row in results["rows"] if row["status"] == "stopped")
    assert row["message"] == "stopped at its time limit"
    assert "planted_hang.py" in (tmp_path / "out" / row["traceback"]).read_text()  # where it was


@needs_compiler
def test_a_small_budget_says_what_it_left_out(planted, tmp_path, monkeypatch):
    begin = time.monotonic()
    monkeypatch.chdir(tmp_path)  # a relative folder is the caller's, not the workers'
    results = run([planted("hang"), planted("nothing")], Path("out"), budget=6)
    assert (tmp_path / "out" / "lines").is_dir()
    assert time.monotonic() - begin < 10
    assert [facts["status"] for facts in results["parts"]][1] == "left out"
    assert "left out: part nothing, a part with nothing" in report(results)


@needs_compiler
def test_sigterm_leaves_what_was_finished(planted, tmp_path):
    planted("hang")
    code = (
        "import sys, pathlib; from benchmarks.gpu import supervisor as s;"
        "s.run([s.Part('hang', '', 'planted_hang', 1)], pathlib.Path(sys.argv[1]), 60, rehearse=True)"
    )
    file = tmp_path / "out" / "gpu.json"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], cwd=ROOT, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (file.exists() and json.loads(file.read_text())["rows"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    results = json.loads(file.read_text())
    assert results["stopped"]
    assert statuses(results, "hang") == {"before": "ok"}
    (facts,) = results["parts"]
    assert facts["left_out"] == ["fault", "after"]


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_cupy_has_the_names_that_only_a_gpu_reaches():
    names = ["cupy.cuda.Event", "cupy.cuda.get_elapsed_time", "cupy.cuda.set_allocator", "cupy.from_dlpack"]
    names += ["cupy.random.RandomState", "cupyx.allow_synchronize", "cupy.cuda.Device"]
    names += [f"cupy.cuda.runtime.{name}" for name in ("driverGetVersion", "runtimeGetVersion", "getDeviceProperties")]
    code = f"import cupy, cupyx; print([name for name in {names} if eval(name) is None])"
    assert run_python(f"import warnings; warnings.simplefilter('ignore'); {code}") == "[]\n"


def test_pytorchs_profiler_has_the_times_that_are_read():
    torch = pytest.importorskip("torch")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.ones(3).sum()
    row = profile.key_averages()[0]
    assert row.self_device_time_total == 0
    assert row.count >= 1
    assert isinstance(row.key, str)
