"""``npadv attack``, asked for the wrong thing: one line that says what."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from attack_commands import PLAIN, command, read

from npadv import data
from npadv.data import Dataset, Split, digits
from npadv.files import load_arrays, save_arrays


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "npadv attack: the following arguments are required: NAME .*"),
        (
            "fgms --eps 1",
            r"npadv attack: argument NAME: expected one of fgsm, .*, got 'fgms'; did you mean 'fgsm'\? .*",
        ),
        ("fgsm --eps x", "npadv attack fgsm: argument --eps: expected a finite number, got 'x' .*"),
        ("fgsm --eps inf", "npadv attack fgsm: argument --eps: expected a finite number, got 'inf' .*"),
        ("fgsm --eps -1", "npadv attack: --eps: expected a finite number of at least 0, got -1.0"),
        (
            "pgd --eps 1 --steps 1.5",
            "npadv attack pgd: argument --steps: expected an integer of at least 0, got '1.5' .*",
        ),
        (
            "pgd --eps 1 --norm l22",
            r"npadv attack pgd: argument --norm: expected one of linf, l2, l1, got 'l22'; did you mean 'l2'\? .*",
        ),
        ("fgsm --eps 1 --steps 3", "npadv attack fgsm: no option --steps; there are --model, .*, --eps, .*"),
        ("pgd --eps 1 --step-count=3", r"npadv attack pgd: no option --step-count; .*, --steps, .*did you mean .*"),
        ("pgd --eps 1 --stps 3", r"npadv attack pgd: no option --stps; .*; did you mean '--steps'\? .*"),
        ("pgd --eps 1 --mom 3", "npadv attack pgd: no option --mom; .*"),  # nothing is guessed
        ("fgsm --eps 1 extra", "npadv attack fgsm: unexpected argument 'extra' .*"),
        ("virtual_adversarial --eps 1 --target 3", "npadv attack virtual_adversarial: no option --target; .*"),
        (
            "fgsm --eps 1 --examples 0",
            "npadv attack fgsm: argument --examples: expected an integer of at least 1, got '0' .*",
        ),
        # What only the attack can know; it has seen the model by then.
        ("pgd --eps 1 --steps 0", "npadv attack: --steps: expected an integer of at least 1, got 0"),
        ("pgd --eps 1 --restarts 2", "npadv attack: --restarts: expected random_start=True .*"),
        ("carlini_wagner --weight 0", "npadv attack: --weight: expected a positive number, got 0.0"),
        (
            "fgsm --eps 1 --target 10",
            "npadv attack: --target: expected a class, 0 to 9, or one of next, random, least, got '10'",
        ),
        ("fgsm --eps 1 --target lest", r"npadv attack: --target: expected .*, got 'lest'; did you mean 'least'\?"),
        ("fgsm --eps 1 --examples 298", "npadv attack: --examples: expected at most 297, got 298"),
        (
            "fgsm --eps 1 --network maxout_mlp",
            r"npadv attack: --model: .*: expected weights of 'maxout_mlp', got those of .*",
        ),
    ],
)
def test_a_wrong_command_is_one_line_that_says_what(run, weights, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    name, *options = words.split() or [""]
    code, out, err = run("attack", *([name, "--model", weights, *options] if name else []))
    assert (code, out) == (2, "")
    assert re.fullmatch(message + "\n", err), err
    assert os.listdir(tmp_path) == []


def _folder(path, weights):
    path.mkdir()


def _folder_of_weights(path, weights):
    path.mkdir()
    (path / "weights.npz").write_bytes(weights.read_bytes())


def _anonymous(path, weights):
    arrays = load_arrays(weights)
    del arrays["about"]
    save_arrays(path, arrays)


def _reshaped(path, weights):
    save_arrays(path, load_arrays(weights) | {"layers.1.weight": np.zeros((3, 10), np.float32)})


def _about(text):
    return lambda path, weights: save_arrays(path, load_arrays(weights) | {"about": np.array(text)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, weights: None, "{}: no such file"),
        (_folder, "expected a file of weights, got the folder {}"),
        (_folder_of_weights, "expected a file of weights, got the folder {}; did you mean {}/weights.npz?"),
        (
            lambda path, weights: path.write_bytes(weights.read_bytes()[:-30]),
            "{}: expected an .npz archive of arrays, .*",
        ),
        (lambda path, weights: path.write_text("weights"), "{}: expected an .npz archive of arrays, .*"),
        (_anonymous, "{}: does not say which network it holds; name it \\(on the command line, with --network\\)"),
        (_reshaped, r"{}: layers.1.weight: expected shape \(784, 10\) and float32, got \(3, 10\) and float32"),
        (_about("{"), "{}: about: expected facts as JSON, got '{{'"),
        (_about("[1]"), r"{}: about: expected facts as JSON, got '\[1\]'"),
        (_about('{"network": "resnet"}'), "{}: network: expected one of .*, got 'resnet'"),
        (
            _about('{"network": "softmax_regression", "options": {"depth": 3}}'),
            "{}: .*unexpected keyword argument 'depth'",
        ),
        (
            _about('{"network": "softmax_regression", "options": {"inputs": 4}}'),
            "{}: layers.1.weight: expected shape .*",
        ),
    ],
)
def test_a_file_that_is_no_model_is_one_line(run, weights, tmp_path, make, message):
    path = tmp_path / "w.npz"
    make(path, weights)
    code, out, err = run("attack", "fgsm", "--eps", "0.1", "--model", path, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    expected = "npadv attack: --model: " + message.replace("?", r"\?").format(*[re.escape(str(path))] * 2) + "\n"
    assert re.fullmatch(expected, err), err
    assert not (tmp_path / "out").exists()


def test_a_file_that_does_not_name_its_network_needs_the_name(run, weights, tmp_path):
    _anonymous(tmp_path / "w.npz", weights)
    words = [*command("fgsm", tmp_path / "w.npz", tmp_path / "a", PLAIN), "--network", "softmax_regression"]
    code, _, err = run(*words)
    assert code == 2
    assert err == "npadv attack: --data: expected a data set, since the weights do not agree on one; they name none\n"
    assert run(*words, "--data", "digits")[0] == 0
    run(*command("fgsm", weights, tmp_path / "b", PLAIN))
    np.testing.assert_array_equal(read(tmp_path / "a")[0]["x_adv"], read(tmp_path / "b")[0]["x_adv"])


def fake(images, classes=10):
    split = Split(np.zeros((20, *images), np.float32), np.arange(20) % classes)
    return lambda: Dataset("cifar10", split, split, tuple(map(str, range(classes))))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (fake((3, 32, 32)), r"softmax_regression of .*: images \(3, 32, 32\): .*3072.*"),
        (fake((1, 28, 28), 7), r"softmax_regression of .*: expected 7 classes, got outputs \(10,\)"),
    ],
)
def test_a_data_set_of_other_images_or_classes_is_one_line(run, weights, tmp_path, monkeypatch, dataset, message):
    monkeypatch.setitem(data.DATASETS, "cifar10", dataset)
    code, out, err = run(*command("fgsm", weights, tmp_path / "a", "--data", "cifar10"))
    assert (code, out) == (2, "")
    assert re.fullmatch(f"npadv attack: --data: cifar10 does not fit {message}\n", err), err


def test_a_data_set_that_the_network_was_not_trained_on_is_said(run, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "mnist", lambda: replace(digits(), name="mnist"))
    code, out, _ = run(*command("fgsm", weights, tmp_path, PLAIN, "--data", "mnist"))
    assert code == 0
    assert "on softmax_regression, trained on digits, with 12 images of mnist: " in out


def test_a_folder_that_is_a_file_is_refused(run, weights, tmp_path):
    (tmp_path / "a").write_text("precious")
    code, _, err = run(*command("fgsm", weights, tmp_path / "a"))
    assert (code, err) == (2, f"npadv attack: --out: expected a folder, got the file {tmp_path / 'a'}\n")


def test_a_listing_needs_no_model_and_help_imports_no_attack():
    code = "import sys; from npadv.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(any(name.startswith(('npadv.attacks', 'npadv.nn')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
