"""The command line: what it writes, what it refuses and in which words, and that Ctrl-C loses nothing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

from npadv import __version__
from npadv.data import digits
from npadv.nn import NETWORKS, network
from npadv.train import evaluate

TRAIN = ["train", "softmax_regression", "--data", "digits"]
LONG = [*TRAIN, "--epochs", "40"]


# What is there --------------------------------------------------------------------------------------------------------


def test_help_names_every_command(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for command in ("demo", "train", "attack"):
        assert f"\n    {command} " in out
        code, own, err = run(command, "--help")
        assert (code, err) == (0, "")
        assert f"usage: npadv {command}" in own


def test_it_runs_as_a_module_and_says_its_version():
    done = subprocess.run([sys.executable, "-m", "npadv", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"npadv {__version__}\n", "")


def test_the_networks_are_listed_with_a_sentence_each(run):
    code, out, _ = run("train", "--list")
    names = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    assert (code, names) == (0, list(NETWORKS))
    assert "`" not in out


@pytest.mark.parametrize("words", ["train --list", "attack --list", "evaluate --list"])
@pytest.mark.parametrize("columns", [70, 300])
def test_a_listing_fits_the_terminal(run, monkeypatch, words, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = run(*words.split())
    assert max(map(len, out.splitlines())) <= min(columns, 100)


# Training -------------------------------------------------------------------------------------------------------------


def test_training_writes_weights_and_a_result_that_describe_each_other(run, tmp_path):
    code, out, err = run(
        *TRAIN, "--epochs", 2, "--seed", 3, "--adversarial", 0.05, "--step-size", 0.2, "--out", tmp_path / "r"
    )
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()[:2]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert sorted(os.listdir(tmp_path / "r")) == ["result.json", "weights.npz"]

    result = json.loads((tmp_path / "r" / "result.json").read_text())
    asked = {"network": "softmax_regression", "data": "digits", "epochs": 2, "seed": 3}
    asked |= {"adversarial_eps": 0.05, "alpha": 0.5, "step_size": 0.2, "train_examples": 1500, "test_examples": 297}
    assert {key: result[key] for key in asked} == asked
    assert [row["epoch"] for row in result["history"]] == [1, 2]
    assert {"python", "numpy", "scipy", "npadv"} <= result["versions"].keys()
    assert result["device"] == {"name": "cpu"}

    model = network("softmax_regression", rng=np.random.default_rng(0)).load(tmp_path / "r" / "weights.npz")
    score = evaluate(model, digits().test)
    assert (result["test_loss"], result["test_error"]) == (score.loss, score.error)
    assert f"test error {score.error:.2%}" in out


def test_a_seed_fixes_the_result(run, tmp_path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(*TRAIN, "--epochs", 1, "--seed", seed, "--out", tmp_path / name)
        weights.append((tmp_path / name / "weights.npz").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_the_default_folder_names_the_options_that_change_the_recipe(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--step-size", "1/4"], ["--adversarial", "0.1", "--alpha", "0.7", "--seed", 2]):
        code, out, _ = run(*TRAIN, "--epochs", 1, *options)
        assert code == 0
        assert "after 1 epoch (seed" in out
    names = ["adversarial-0.1-alpha-0.7-2", "step-0.25-0", "0"]
    assert sorted(os.listdir("runs")) == sorted(f"softmax_regression-data-digits-{name}" for name in names)


def test_a_finished_run_is_resumed_to_its_result(run, tmp_path):
    whole = run(*TRAIN, "--epochs", 1, "--out", tmp_path)[1].splitlines()[-1]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = f"{tmp_path} is complete, nothing is left to do; {whole}\n"
    assert run(*TRAIN, "--epochs", 1, "--out", tmp_path, "--resume") == (0, done, "")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    code, _, err = run(*TRAIN, "--epochs", 1, "--out", tmp_path, "--resume", "--seed", 1)
    assert (code, err) == (2, f"npadv train: {tmp_path / 'result.json'}: was written with seed=0, this run has 1\n")


@pytest.mark.parametrize("kept", ["result.json", "weights.npz"])
def test_a_result_is_not_overwritten(run, tmp_path, kept):
    (tmp_path / kept).write_text("precious")
    code, _, err = run(*TRAIN, "--epochs", 1, "--out", tmp_path)
    assert code == 2
    assert err == f"npadv train: {tmp_path / kept}: exists; choose another --out, or remove it to train again\n"
    assert os.listdir(tmp_path) == [kept]
    assert (tmp_path / kept).read_text() == "precious"


# Ctrl-C ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Return the folder of a run that Ctrl-C stopped, the process's exit code and what it said."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    command = [sys.executable, "-m", "npadv", *LONG, "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()  # the first epoch is done
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    return folder, process.returncode, err


def test_ctrl_c_leaves_a_checkpoint_and_nothing_half_written(interrupted):
    folder, code, err = interrupted
    hint = f"the run so far is in {folder / 'checkpoint.npz'}; the same command with --resume goes on"
    assert (code, err) == (130, f"npadv: interrupted; {hint}\n")
    assert os.listdir(folder) == ["checkpoint.npz"]


def test_a_resumed_run_ends_as_an_uninterrupted_one(interrupted, run, tmp_path):
    shutil.copytree(interrupted[0], tmp_path / "resumed")
    whole = run(*LONG, "--out", tmp_path / "whole")
    resumed = run(*LONG, "--out", tmp_path / "resumed", "--resume")
    assert whole[0] == resumed[0] == 0
    assert len(resumed[1].splitlines()) < len(whole[1].splitlines())  # it did not begin anew
    assert sorted(os.listdir(tmp_path / "resumed")) == ["result.json", "weights.npz"]

    weights, results = [], []
    for name in ("whole", "resumed"):
        weights.append((tmp_path / name / "weights.npz").read_bytes())
        result = json.loads((tmp_path / name / "result.json").read_text())
        del result["train_seconds"], result["wall_seconds_of_last_run"]
        for row in result["history"]:
            del row["seconds"]
        results.append(result)
    assert weights[0] == weights[1]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "an unfinished run is there; continue it with --resume, or remove it"),
        (["--resume", "--seed", "1"], "was written with seed=0, this run has 1"),
        (["--resume", "--step-size", "0.5"], "was written with step_size=None, this run has 0.5"),
        (["--resume", "--adversarial", "0.1"], "was written with adversarial_eps=None, this run has 0.1"),
    ],
)
def test_an_unfinished_run_is_neither_overwritten_nor_continued_as_another(interrupted, run, options, message):
    folder = interrupted[0]
    before = (folder / "checkpoint.npz").read_bytes()
    code, _, err = run(*LONG, "--out", folder, *options)
    assert code == 2
    assert err == f"npadv train: {folder / 'checkpoint.npz'}: {message}\n"
    assert os.listdir(folder) == ["checkpoint.npz"]
    assert (folder / "checkpoint.npz").read_bytes() == before


# What goes wrong ------------------------------------------------------------------------------------------------------

INTEGER, NUMBER = "expected an integer of at least", "expected a finite number of at least 0"
NAMES = ", ".join(NETWORKS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data mnits", "--data: expected one of digits, mnist, cifar10, got 'mnits'; did you mean 'mnist'?"),
        ("--device tpu-3", "--device: expected one of cpu, cuda, got 'tpu-3'"),
        ("--device cda", "--device: expected one of cpu, cuda, got 'cda'; did you mean 'cuda'?"),
        ("--epochs 0", f"--epochs: {INTEGER} 1, got '0'"),
        ("--epochs 1.5", f"--epochs: {INTEGER} 1, got '1.5'"),
        ("--epochs many", f"--epochs: {INTEGER} 1, got 'many'"),
        ("--seed -1", f"--seed: {INTEGER} 0, got '-1'"),
        ("--step-size nan", "--step-size: expected a finite number above 0, got 'nan'"),
        ("--step-size 0", "--step-size: expected a finite number above 0, got '0'"),
        ("--step-size -0.1", "--step-size: expected a finite number above 0, got '-0.1'"),
        ("--adversarial 8/0", f"--adversarial: {NUMBER}, got '8/0'"),
        ("--adversarial inf", f"--adversarial: {NUMBER}, got 'inf'"),
        ("--alpha half", f"--alpha: {NUMBER}, got 'half'"),
        ("--out", "--out: expected one argument"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(run, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert run(*TRAIN, *options.split()) == (2, "", f"npadv train: argument {message} (see npadv train --help)\n")
    assert os.listdir(tmp_path) == []


def test_a_weight_of_clean_examples_without_adversarial_ones_is_refused(run, tmp_path):
    code, _, err = run(*TRAIN, "--alpha", "0.5", "--out", tmp_path / "run")
    assert (code, err) == (2, "npadv train: --alpha: expected together with --adversarial EPS\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "npadv: the following arguments are required: COMMAND (see npadv --help)"),
        ("train", "npadv train: the following arguments are required: NETWORK (see npadv train --help)"),
        (
            "train maxout_mpl",
            f"npadv train: network: expected one of {NAMES}, got 'maxout_mpl'; did you mean 'maxout_mlp'?",
        ),
        ("train resnet", f"npadv train: network: expected one of {NAMES}, got 'resnet'"),
        ("train softmax_regression --lr 1", "npadv: unrecognized arguments: --lr 1 (see npadv --help)"),
        (
            "train softmax_regression --data digits --adversarial 0.1 --alpha 2",
            "npadv train: alpha: expected a weight in [0, 1], got 2.0",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(run, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert run(*argv.split()) == (2, "", message + "\n")
    assert os.listdir(tmp_path) == []


def test_a_command_that_was_nearly_right_is_suggested(run):
    code, _, err = run("trian")
    assert code == 2
    assert re.fullmatch(
        r"npadv: argument COMMAND: expected one of .*, got 'trian'; did you mean 'train'\? \(.*\)\n", err
    )


def test_the_exit_code_reaches_the_shell():
    done = subprocess.run([sys.executable, "-m", "npadv", "train", "resnet"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("npadv train: network: expected one of maxout_mlp")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_is_a_file_is_refused_before_training(run, tmp_path):
    (tmp_path / "file").write_text("precious")
    code, out, err = run(*TRAIN, "--epochs", 1, "--out", tmp_path / "file")
    assert (code, out) == (2, "")
    assert err == f"npadv train: --out: expected a folder, got the file {tmp_path / 'file'}\n"


@pytest.mark.parametrize(
    ("cupy", "message"),
    [
        (None, 'needs CuPy, which is not installed: pip install "npadv[gpu-cuda13]"'),
        (types.SimpleNamespace(is_available=lambda: False), "no CUDA device"),
    ],
    ids=["without CuPy", "without a device"],
)
def test_a_gpu_that_is_not_there_is_one_sentence(run, tmp_path, monkeypatch, cupy, message):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    code, out, err = run(*TRAIN, "--device", "cuda", "--out", tmp_path / "r")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == []


def test_a_training_that_diverges_is_one_sentence(run, tmp_path):
    with np.errstate(all="ignore"):
        code, _, err = run(*TRAIN, "--epochs", 1, "--step-size", "1e38", "--out", tmp_path / "r")
    assert code == 2
    assert err == "npadv train: fit: the training loss is nan in epoch 1; try a smaller step size\n"
    assert os.listdir(tmp_path) == []
