"""The GPU's benchmark on a machine without a GPU: both sides of a row compute the same, and missing results are named."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernel_cases import needs_compiler

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu)


@needs_compiler
def test_both_functions_of_each_row_compute_the_same(monkeypatch):
    """On small arrays, with NumPy in CuPy's place and PyTorch on the CPU."""
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    rows = [
        *gpu.convolution(gpu.Convolution("a layer", 2, 9, 3, 5, 2, batch=2), np, torch),
        gpu.product(5, 7, 9, np, torch),
        gpu.sign_step(3, 8, np),
        gpu.adversarial_step(4, np, torch, compiled=False),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, mode: function)  # the real one takes half a minute on a CPU
        rows.append(gpu.adversarial_step(4, np, torch, compiled=True))
    rows[4].theirs()  # a copy of memory has no result to compare
    for row in rows:
        assert gpu.agreement(row, np) < 1e-5
        assert any(row.title.startswith(f"{group} ") and row.against == gpu.GROUPS[group] for group in gpu.GROUPS)
    wrong = rows[0]._replace(theirs=lambda: rows[0].theirs() * 1.01)
    with pytest.raises(RuntimeError, match="conv2d a layer: npadv and cuDNN must agree to rounding, but differ by"):
        gpu.agreement(wrong, np)


def test_ratios_are_taken_within_a_turn_of_long_samples():
    slow = itertools.cycle([1.0, 1.0, 3.0])  # every third call takes three times as long
    calls = []

    def clock(call, times):
        calls.append((call, times))
        return call() * times * 1e-4

    row = gpu.Row("conv2d x", lambda: 2.0, lambda: 4.0, "cuDNN")
    found = gpu.measure(row, clock, turns=9, min_seconds=0.01)
    assert found["ratio"] == {"low": 0.5, "median": 0.5, "high": 0.5}
    assert (found["npadv_seconds"], found["seconds"]) == pytest.approx((2e-4, 4e-4))
    assert {(call(), times) for call, times in calls[-18:]} == {(2.0, 64), (4.0, 32)}  # at least 0.01 s
    turns = [call() for call, _ in calls[-18:]]
    assert turns[:4] == [4.0, 2.0, 2.0, 4.0]  # the first one alternates
    noisy = gpu.Row("conv2d x", lambda: 2.0 * next(slow), lambda: 4.0, "cuDNN")
    assert gpu.measure(noisy, clock, turns=9)["ratio"]["high"] > 0.5


def test_the_table_names_rows_that_were_not_measured(tmp_path):
    assert gpu.table() in (ROOT / "README.md").read_text("utf-8")
    file = tmp_path / "gpu.json"
    assert gpu.table(file).count("| not measured |") == len(gpu.GROUPS)
    rows = [{"row": f"sign step {n}", "ratio": {"median": r}} for n, r in (("1x1", 1.0), ("2x2", 4.0))]
    file.write_text(json.dumps({"rows": rows, "environment": {"device": {"card": "Card 9000"}}}))
    lines = gpu.table(file).splitlines()
    assert "Card 9000" in lines[0]
    assert "| sign step | copy | 2.00 (1.00 to 4.00) |" in lines
    assert sum("not measured" in line for line in lines) == len(gpu.GROUPS) - 1


def test_without_a_gpu_the_error_is_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    def none():
        raise RuntimeError("computing on a GPU needs one")

    monkeypatch.setattr(gpu, "require_cupy", none)
    assert gpu.main(["--output", str(tmp_path / "gpu.json")]) == 1
    assert capsys.readouterr().err == "computing on a GPU needs one\n"
    assert not list(tmp_path.iterdir())
    assert gpu.main(["--table", "--output", str(tmp_path / "gpu.json")]) == 0
    assert "not measured" in capsys.readouterr().out


def test_rows_that_were_measured_are_saved_before_the_next_one_fails(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")

    def broken():
        raise RuntimeError("out of memory")

    def rows(xp, torch):
        yield gpu.Row("sign step 1x1", lambda: np.ones(1), lambda: torch.ones(1), "copy")
        yield gpu.Row("conv2d x", broken, broken, "cuDNN")

    facts = {"versions": {}, "device": {"card": "Card 9000"}}
    for name, value in [("require_cupy", lambda: np), ("rows", rows), ("environment", lambda device: facts)]:
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu, "gpu_clock", lambda cupy: lambda call, times: times * 1e-3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 0)
    file = tmp_path / "gpu.json"
    assert gpu.main(["--output", str(file)]) == 1
    assert capsys.readouterr().err == "out of memory\n"
    assert [row["row"] for row in json.loads(file.read_text())["rows"]] == ["sign step 1x1"]


def test_it_runs_in_the_root_of_a_checkout():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--table"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("| kernel, float32 on")


@pytest.mark.gpu
def test_a_row_is_measured_on_a_gpu():
    cupy, torch = pytest.importorskip("cupy"), pytest.importorskip("torch")
    if not (cupy.is_available() and torch.cuda.is_available()):
        pytest.skip("no CUDA device for both CuPy and PyTorch")
    gpu.use_float32(torch)
    row = next(gpu.convolution(gpu.Convolution("a layer", 4, 9, 8, 5, 2), cupy, torch))
    assert gpu.agreement(row, cupy) < row.tolerance
    step = gpu.adversarial_step(8, cupy, torch, compiled=False)
    assert gpu.agreement(step, cupy) < step.tolerance
    assert gpu.measure(row, gpu.gpu_clock(cupy), turns=3)["ratio"]["median"] > 0
