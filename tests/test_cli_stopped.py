"""Commands that are stopped: killed at random instants and by every signal, they lose nothing that was finished.

``NPADV_KILL_SECONDS=600 pytest tests/test_cli_stopped.py`` kills runs for ten minutes for each command.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from attack_commands import PLAIN, command, read
from test_cli_evaluate import TINY

from npadv import files
from npadv.commands.presets import PRESETS
from npadv.files import load_arrays

SECONDS = float(os.environ.get("NPADV_KILL_SECONDS", "0"))
LONG = ["--examples", "240", "--batch", "4", "--steps", "60", "--quiet"]  # about two seconds
TRAIN = ["train", "softmax_regression", "--data", "digits", "--epochs", "60", "--quiet"]


def started(*words):
    """Start a command in a process of its own."""
    argv = [sys.executable, "-m", "npadv", *map(str, words)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stopped_after(delay, number, *words):
    """Start a command, send it a signal after a while, and return its exit code and what it said."""
    with started(*words) as process:
        time.sleep(delay)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    return process.returncode, err


def finished_parts(out):
    return sorted(path.name for path in (out / "examples.parts").glob("*.npz"))


def wait_for(condition, process):
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


# Killed ---------------------------------------------------------------------------------------------------------------


def kill_some_then_finish(words, out, rng, longest):
    """Kill a command at three random instants, then let it come to its end."""
    for _ in range(3):
        code, err = stopped_after(rng.uniform(0.3, longest), signal.SIGKILL, *words, "--out", out, "--resume")
        assert code in (0, -signal.SIGKILL), err
    with started(*words, "--out", out, "--resume") as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


@pytest.mark.parametrize("kind", ["attack", "train"])
def test_a_run_killed_at_random_instants_ends_as_a_whole_one(run, weights, tmp_path, kind):
    words = TRAIN if kind == "train" else [*command("pgd", weights, tmp_path)[:-6], *LONG, PLAIN]
    began = time.monotonic()
    assert run(*words, "--out", tmp_path / "whole")[0] == 0
    longest = 3 + time.monotonic() - began  # start-up included
    seed, end = int(time.time_ns() % 2**31) if SECONDS else 0, time.monotonic() + SECONDS
    for case in range(10**9):
        if case >= 1 and time.monotonic() >= end:
            break
        out = tmp_path / "killed"
        kill_some_then_finish(words, out, np.random.default_rng([seed, case]), longest)
        assert sorted(os.listdir(out)) == sorted(os.listdir(tmp_path / "whole")), f"seed {seed}, case {case}"
        if kind == "train":
            assert (out / "weights.npz").read_bytes() == (tmp_path / "whole" / "weights.npz").read_bytes()
        else:
            (arrays, _, result), (expected, _, _) = read(out), read(tmp_path / "whole")
            assert (result["complete"], result["attacked"]) == (True, 240)
            arrays.pop("seconds"), expected.pop("seconds")
            np.testing.assert_equal(arrays, expected)
        shutil.rmtree(out)


def test_a_killed_attack_keeps_every_finished_batch(run, weights, tmp_path):
    words = [*command("pgd", weights, tmp_path / "a")[:-6], *LONG, "--steps", "400", "--out", tmp_path / "a", PLAIN]
    with started(*words) as process:
        wait_for(lambda: len(finished_parts(tmp_path / "a")) >= 3, process)
        process.kill()
    parts = finished_parts(tmp_path / "a")
    assert not (tmp_path / "a" / "result.json").exists()
    first = load_arrays(tmp_path / "a" / "examples.parts" / parts[0])
    assert len(first["x_adv"]) == 4
    code, _, err = run(*words)
    assert code == 2
    assert "examples.parts: exists; choose another --out, --resume it if it is partial, or --overwrite it" in err
    with started(*words, "--resume") as process:
        wait_for(lambda: len(finished_parts(tmp_path / "a")) > len(parts), process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    arrays, _, result = read(tmp_path / "a")
    assert result["attacked"] == len(arrays["x_adv"]) > 4 * len(parts)
    np.testing.assert_array_equal(arrays["x_adv"][:4], first["x_adv"])


def test_a_stop_between_the_two_files_is_not_called_complete(run, weights, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("npadv.commands.results.write_json", full)
        code, _, err = run(*command("fgsm", weights, tmp_path, PLAIN))
    assert (code, err) == (2, f"npadv attack: {tmp_path / 'result.json'}: No space left on device\n")
    assert (tmp_path / "examples.npz").exists()
    assert not (tmp_path / "result.json").exists()
    assert run(*command("fgsm", weights, tmp_path, PLAIN, "--resume"))[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["examples.npz", "result.json"]
    assert read(tmp_path)[2]["complete"] is True


def test_temporary_files_of_killed_runs_are_cleared(run, weights, tmp_path):
    for name in (".examples.npz.0123abcd", ".result.json.89abcdef", ".examples.npz.other", ".mine.npz.0123abcd"):
        (tmp_path / name).write_text("left")
    assert run(*command("fgsm", weights, tmp_path, PLAIN))[0] == 0
    assert sorted(os.listdir(tmp_path)) == [".examples.npz.other", ".mine.npz.0123abcd", "examples.npz", "result.json"]


# Signals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_stops_an_attack_and_a_training_as_ctrl_c_does(weights, tmp_path, number):
    out = tmp_path / "attack"
    words = [*command("pgd", weights, out)[:-6], *LONG, "--steps", "400", "--out", out, PLAIN]
    with started(*words) as process:
        wait_for(lambda: finished_parts(out), process)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    result = json.loads((out / "result.json").read_text())
    assert err == (
        f"npadv: interrupted; {result['attacked']} of 240 examples are in {out}; the same command with --resume goes on\n"
    )
    assert result["complete"] is False
    assert sorted(os.listdir(out)) == ["examples.npz", "result.json"]

    out = tmp_path / "train"
    with started(*TRAIN[:-3], "--epochs", "5000", "--out", out) as process:
        process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("the same command with --resume goes on\n")
    assert os.listdir(out) == ["checkpoint.npz"]


def test_an_ignored_signal_stays_ignored(weights, tmp_path):
    """As under nohup: the terminal is closed, and the run goes on."""
    argv = [sys.executable, "-m", "npadv", *map(str, command("pgd", weights, tmp_path / "a")[:-6]), *LONG, PLAIN]
    argv += ["--out", str(tmp_path / "a")]
    ignoring = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=ignoring) as process:
        wait_for(lambda: finished_parts(tmp_path / "a"), process)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert read(tmp_path / "a")[2]["complete"] is True


# A full disk ----------------------------------------------------------------------------------------------------------


def full_for(name, monkeypatch):
    """Let the disk be full when a file of this name is written."""
    real = files.os.replace

    def replace(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)


@pytest.mark.parametrize("name", ["0000005.npz", "examples.npz", "result.json"])
def test_an_attack_on_a_full_disk_names_the_file_and_goes_on_later(run, weights, tmp_path, monkeypatch, name):
    assert run(*command("fgsm", weights, tmp_path / "whole", PLAIN))[0] == 0
    out = tmp_path / "a"
    with monkeypatch.context() as patch:
        full_for(name, patch)
        code, _, err = run(*command("fgsm", weights, out, PLAIN))
    where = out / "examples.parts" / name if name.startswith("0") else out / name
    assert (code, err) == (2, f"npadv attack: {where}: No space left on device\n")
    assert run(*command("fgsm", weights, out, PLAIN, "--resume"))[0] == 0
    assert sorted(os.listdir(out)) == ["examples.npz", "result.json"]
    np.testing.assert_array_equal(read(out)[0]["x_adv"], read(tmp_path / "whole")[0]["x_adv"])


@pytest.mark.parametrize("name", ["index.html", "results.json", "checkpoint.npz"])
def test_an_evaluation_on_a_full_disk_is_not_called_complete(run, weights, tmp_path, monkeypatch, name):
    monkeypatch.setitem(PRESETS, "standard", TINY)
    words = ["evaluate", "--model", weights, "--quiet", "--out", tmp_path]
    with monkeypatch.context() as patch:
        full_for(name, patch)
        code, _, err = run(*words)
    assert (code, err) == (2, f"npadv evaluate: {tmp_path / name}: No space left on device\n")
    assert not (tmp_path / "results.json").exists()
    assert run(*words, "--resume")[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["index.html", "results.json"]


@pytest.mark.parametrize("name", ["weights.npz", "result.json", "checkpoint.npz"])
def test_a_training_on_a_full_disk_names_the_file_and_goes_on_later(run, tmp_path, monkeypatch, name):
    words = [*TRAIN[:-3], "--epochs", "2", "--out"]
    assert run(*words, tmp_path / "whole")[0] == 0
    out = tmp_path / "a"
    with monkeypatch.context() as patch:
        full_for(name, patch)
        code, _, err = run(*words, out)
    assert (code, err) == (2, f"npadv train: {out / name}: No space left on device\n")
    assert run(*words, out, "--resume")[0] == 0
    assert sorted(os.listdir(out)) == ["result.json", "weights.npz"]
    assert (out / "weights.npz").read_bytes() == (tmp_path / "whole" / "weights.npz").read_bytes()
