"""The GPU's timings on a machine without a GPU: both sides of a row compute the same, and missing results are named."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernel_cases import needs_compiler

from benchmarks.gpu import command, rows, timings
from benchmarks.gpu.tasks import Here

ROOT = Path(__file__).resolve().parents[1]


@needs_compiler
def test_both_functions_of_each_row_compute_the_same(monkeypatch, tmp_path):
    """On small arrays, with NumPy in CuPy's place and PyTorch on the CPU."""
    pytest.importorskip("torch")
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    comparisons = [c for c in rows.comparisons(Here(np, True, tmp_path)) if not c.title.startswith("attack")]
    made = [c.make() for c in comparisons]
    assert [row.title for row in made] == [c.title for c in comparisons]
    for row in made:
        assert any(
            row.title.startswith(f"{group} ") and row.against == command.GROUPS[group] for group in command.GROUPS
        )
        if row.tolerance is None:
            row.ours(), row.theirs()  # a copy of memory has no result to compare
        else:
            assert timings.agreement(row, np) < 1e-5
    wrong = made[0]._replace(theirs=lambda: made[0].theirs() * 1.01)
    with pytest.raises(AssertionError, match="conv2d a layer: npadv and cuDNN must agree to rounding, but differ by"):
        timings.agreement(wrong, np)


def test_ratios_are_taken_within_a_turn_of_long_samples():
    slow = itertools.cycle([1.0, 1.0, 3.0])  # every third call takes three times as long
    calls = []

    def clock(call, times):
        calls.append((call, times))
        return call() * times * 1e-4

    row = rows.Row("conv2d x", lambda: 2.0, lambda: 4.0, "cuDNN")
    found = timings.measure(row, clock, turns=9, min_seconds=0.01)
    assert found["ratio"] == {"low": 0.5, "median": 0.5, "high": 0.5}
    assert (found["npadv_seconds"], found["seconds"]) == pytest.approx((2e-4, 4e-4))
    assert {(call(), times) for call, times in calls[-18:]} == {(2.0, 64), (4.0, 32)}  # at least 0.01 s
    turns = [call() for call, _ in calls[-18:]]
    assert turns[:4] == [4.0, 2.0, 2.0, 4.0]  # the first one alternates
    noisy = rows.Row("conv2d x", lambda: 2.0 * next(slow), lambda: 4.0, "cuDNN")
    assert timings.measure(noisy, clock, turns=9)["ratio"]["high"] > 0.5


def test_the_table_names_rows_that_were_not_measured(tmp_path):
    assert command.table() in (ROOT / "README.md").read_text("utf-8")
    file = tmp_path / "gpu.json"
    assert command.table(file).count("| not measured |") == len(command.GROUPS)
    found = [{"name": "machine", "status": "ok", "card": "Card 9000"}, {"name": "sign step 3x3", "status": "failed"}]
    found += [
        {"name": f"sign step {n}", "status": "ok", "ratio": {"median": r}} for n, r in (("1x1", 1.0), ("2x2", 4.0))
    ]
    file.write_text(json.dumps({"rows": found}))
    lines = command.table(file).splitlines()
    assert "Card 9000" in lines[0]
    assert "| sign step | copy | 2.00 (1.00 to 4.00) |" in lines
    assert sum("not measured" in line for line in lines) == len(command.GROUPS) - 1


def test_without_a_gpu_the_error_is_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    def none():
        raise RuntimeError("computing on a GPU needs one")

    monkeypatch.setattr(command, "require_cupy", none)
    assert command.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "computing on a GPU needs one\n"
    assert not list(tmp_path.iterdir())
    assert command.main(["--table", "--out", str(tmp_path)]) == 0
    assert "not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rehearse"], "--out: expected a folder for the results"),
        (["--out", "x", "--parts", "a,z"], "--parts: expected some of a,b,c,d,e,f, got z"),
        (["--out", "x", "--budget", "0"], "--budget: expected seconds above 0, got 0"),
    ],
)
def test_a_wrong_option_is_named(arguments, message, capsys):
    assert command.main(arguments) == 2
    assert capsys.readouterr().err == f"benchmarks.gpu: {message}\n"


@pytest.mark.parametrize("module", [["benchmarks.gpu"], ["benchmarks", "gpu"]])
def test_it_runs_in_the_root_of_a_checkout(module):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", *module, "--table"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("| kernel, float32 on")


@pytest.mark.gpu
def test_a_row_is_measured_on_a_gpu(tmp_path):
    cupy, torch = pytest.importorskip("cupy"), pytest.importorskip("torch")
    if not (cupy.is_available() and torch.cuda.is_available()):
        pytest.skip("no CUDA device for both CuPy and PyTorch")
    here = Here(cupy, False, tmp_path)
    row = rows.convolution(rows.Convolution("a layer", 4, 9, 8, 5, 2), "conv2d", cupy, here)
    assert timings.agreement(row, cupy) < row.tolerance
    step = rows.adversarial_step(8, "adversarial step", cupy, here)
    assert timings.agreement(step, cupy) < step.tolerance
    assert timings.measure(row, timings.gpu_clock(cupy), turns=3)["ratio"]["median"] > 0
