"""``npadv attack gaussian_rubbish`` and its kin: inputs of no class, written as they were made."""

import json
import os
import re
from dataclasses import replace

import fake_cupy
import numpy as np
import pytest

from npadv.attacks import evolved_rubbish, gaussian_rubbish, gradient_rubbish
from npadv.commands.rubbish import RUBBISH
from npadv.files import load_arrays
from npadv.nn import load_network

QUICK = {
    "gaussian_rubbish": "--examples 7 --batch 3 --mean -0.25 --deviation 0.5",
    "gradient_rubbish": "--examples 7 --batch 3 --steps 4 --decay 0.001",
    "evolved_rubbish": "--generations 3 --population 8",
}
SHAPE = (1, 28, 28)


def command(name, weights, out, *more):
    return ["attack", name, "--model", weights, *QUICK[name].split(), "--out", out, "--seed", 2, *more]


def expected(name, weights):
    """Return what the functions themselves make of the same random numbers."""
    model = load_network(weights)
    if name == "evolved_rubbish":
        rng = np.random.default_rng([2, 0])
        return [evolved_rubbish(model, SHAPE, generations=3, population=8, rng=rng, progress=False)]
    parts = []
    for start, n in ((0, 3), (3, 3), (6, 1)):
        rng = np.random.default_rng([2, start])
        if name == "gaussian_rubbish":
            parts.append(gaussian_rubbish(model, SHAPE, n=n, mean=-0.25, deviation=0.5, rng=rng))
        else:
            noise = rng.random((n, *SHAPE)).astype(np.float32)
            target = np.arange(start, start + n) % 10
            parts.append(gradient_rubbish(model, noise, target, steps=4, decay=0.001, progress=False))
    return parts


@pytest.mark.parametrize("name", RUBBISH)
def test_the_files_hold_what_was_made(run, weights, tmp_path, name):
    code, out, err = run(*command(name, weights, tmp_path))
    assert (code, err) == (0, "")
    assert sorted(os.listdir(tmp_path)) == ["examples.npz", "examples.png", "result.json"]
    assert (tmp_path / "examples.png").read_bytes()[:4] == b"\x89PNG"
    arrays, parts = load_arrays(tmp_path / "examples.npz"), expected(name, weights)
    for key in ("x", "prediction", "confidence", "confident"):
        np.testing.assert_array_equal(arrays[key], np.concatenate([getattr(part, key) for part in parts]))
    result = json.loads((tmp_path / "result.json").read_text("utf-8"))
    settings = json.loads(str(arrays["settings"]))
    assert settings.items() <= result.items()
    n = len(arrays["x"])
    assert result["made"] == result["examples"] == n == (10 if name == "evolved_rubbish" else 7)
    assert result["complete"] is True
    assert result["queries"] == sum(part.queries for part in parts)
    assert result["confident"] == arrays["confident"].mean()
    assert result["mean_confidence"] == pytest.approx(arrays["confidence"].mean())
    if name == "gaussian_rubbish":
        assert result["hit"] is None
    else:
        np.testing.assert_array_equal(arrays["target"], np.arange(n) % 10)
        assert result["hit"] == (arrays["prediction"] == arrays["target"]).mean()
    assert {"versions", "machine", "device"} <= result.keys()
    assert len(out.splitlines()) == 1
    assert out.startswith(
        f"{name} on softmax_regression, {n} inputs of no class: confident on {result['confident']:.2%}"
    )


@pytest.mark.parametrize("name", RUBBISH)
def test_an_interrupt_keeps_what_was_made(run, weights, tmp_path, monkeypatch, name):
    entry, calls, part = RUBBISH[name], [], expected(name, weights)[0]

    class Interrupted(KeyboardInterrupt):
        result = part

    def make(*args, **options):
        calls.append(1)
        if name == "evolved_rubbish":
            raise Interrupted
        if len(calls) == 2:
            raise KeyboardInterrupt
        return entry.make(*args, **options)

    monkeypatch.setitem(RUBBISH, name, replace(entry, make=make))
    code, out, err = run(*command(name, weights, tmp_path, "--no-picture"))
    hint = "" if name == "evolved_rubbish" else "; the same command with --resume goes on"
    assert (code, out, err) == (130, "", f"npadv: interrupted; the inputs made so far are in {tmp_path}{hint}\n")
    assert sorted(os.listdir(tmp_path)) == ["examples.npz", "result.json"]
    result = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert result["complete"] is False
    assert result["made"] == len(part.x)
    np.testing.assert_array_equal(load_arrays(tmp_path / "examples.npz")["x"], part.x)


@pytest.mark.parametrize("name", ["gaussian_rubbish", "gradient_rubbish"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device", "x")])
def test_a_stopped_run_is_continued_to_the_whole_one(run, weights, tmp_path, monkeypatch, name, stop):
    words = [*command(name, weights, tmp_path / "part"), "--no-picture"]
    assert run(*command(name, weights, tmp_path / "whole"), "--no-picture")[0] == 0
    entry, calls = RUBBISH[name], []

    def make(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise stop
        return entry.make(*args, **options)

    with monkeypatch.context() as patch:
        patch.setitem(RUBBISH, name, replace(entry, make=make))
        assert run(*words)[0] == (130 if stop is KeyboardInterrupt else 2)
    assert (tmp_path / "part" / "examples.parts").exists() == (stop is not KeyboardInterrupt)
    assert run(*words, "--resume")[0] == 0
    assert sorted(os.listdir(tmp_path / "part")) == ["examples.npz", "result.json"]
    whole, part = (load_arrays(tmp_path / folder / "examples.npz") for folder in ("whole", "part"))
    for key in whole.keys() - {"seconds"}:
        np.testing.assert_array_equal(part[key], whole[key])
    done = f"{tmp_path / 'part'} is complete: 7 inputs are made, nothing is left to do\n"
    assert run(*words, "--resume") == (0, done, "")
    code, _, err = run(*words, "--resume", "--seed", 3)
    assert (code, err.endswith("was written with seed 2, this run has 3\n")) == (2, True)


def test_an_interrupt_before_anything_is_made_writes_nothing(run, weights, tmp_path, monkeypatch):
    def make(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setitem(RUBBISH, "gaussian_rubbish", replace(RUBBISH["gaussian_rubbish"], make=make))
    code, _, err = run(*command("gaussian_rubbish", weights, tmp_path / "a"))
    assert (code, err) == (130, "npadv: interrupted; no input is finished; nothing was written\n")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("gradient_rubbish", "--steps 0", "npadv attack: --steps: expected an integer of at least 1, got 0"),
        ("gaussian_rubbish", "--threshold 2", r"npadv attack: --threshold: expected a number in \[0, 1\], got 2.0"),
        ("evolved_rubbish", "--examples 3", "npadv attack evolved_rubbish: no option --examples; there are .*"),
        ("gaussian_rubbish", "--target 3", "npadv attack gaussian_rubbish: no option --target; there are .*"),
        (
            "gradient_rubbish",
            "--norm l3",
            "npadv attack gradient_rubbish: argument --norm: expected one of l2, linf, l1, .*",
        ),
    ],
)
def test_a_wrong_option_is_one_line(run, weights, tmp_path, name, words, message):
    code, out, err = run(*command(name, weights, tmp_path / "a", *words.split()))
    assert (code, out) == (2, "")
    assert re.fullmatch(message + "\n", err), err
    assert not (tmp_path / "a").exists()


def test_another_runs_results_are_not_overwritten_unless_told(run, weights, tmp_path):
    (tmp_path / "examples.npz").write_text("precious")
    words = command("gaussian_rubbish", weights, tmp_path, "--no-picture")
    code, _, err = run(*words)
    hint = "exists; choose another --out, --resume it if it is partial, or --overwrite it\n"
    assert (code, err.split(": ")[2]) == (2, hint)
    assert (tmp_path / "examples.npz").read_text() == "precious"
    assert run(*words, "--overwrite")[0] == 0


@pytest.mark.parametrize("name", RUBBISH)
def test_on_a_gpu_it_is_the_same(run, weights, tmp_path, name):
    run(*command(name, weights, tmp_path / "cpu", "--no-picture"))
    with fake_cupy.installed():
        code, _, err = run(*command(name, weights, tmp_path / "cuda", "--no-picture", "--device", "cuda"))
    assert (code, err) == (0, "")
    here, there = (load_arrays(tmp_path / device / "examples.npz") for device in ("cpu", "cuda"))
    # Gradient ascent divides by the length of the gradient. Where the model is certain that is near 0, 1 - p of float32, and
    # its direction has few digits; the two devices round it differently.
    np.testing.assert_allclose(there["x"], here["x"], atol=1e-3 if name == "gradient_rubbish" else 1e-4)
    np.testing.assert_array_equal(there["confident"], here["confident"])
