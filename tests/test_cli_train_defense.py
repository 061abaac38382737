"""``npadv train --defense``: its options are the defenses' own, and its files say which defense there was."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from npadv import defenses
from npadv.attacks import pgd
from npadv.cli import build_parser
from npadv.commands.defenses import DEFENSES, ELSEWHERE, NOT_HERE, TrainingRun, balanced
from npadv.data import Split, digits
from npadv.functional import cross_entropy
from npadv.nn import Dense, Flatten, Sequential, load_network, network
from npadv.nn.module import read_about
from npadv.train import evaluate

TRAIN = ["train", "softmax_regression", "--data", "digits", "--epochs", "1"]
GIVEN = {  # the options that a defense cannot do without
    "adversarial_training": ["--eps", "0.1"],
    "robust_optimization": ["--eps", "0.05"],
    "virtual_adversarial_training": ["--eps", "0.5"],
    "input_noise": ["--sigma", "0.1"],
    "weight_decay": ["--coefficient", "1e-3"],
}


def defended(run, name, out, *options):
    """Train with a defense; return the result, the facts in the file of weights, and the output."""
    code, text, err = run(*TRAIN, "--defense", name, *(options or GIVEN.get(name, [])), "--out", out)
    assert (code, err) == (0, "")
    return json.loads((out / "result.json").read_text()), read_about(out / "weights.npz"), text


# The registry ---------------------------------------------------------------------------------------------------------


def test_every_public_defense_is_in_the_registry_or_has_a_reason_not_to_be():
    assert DEFENSES.keys() | NOT_HERE.keys() == set(defenses.__all__)
    assert not DEFENSES.keys() & NOT_HERE.keys()
    assert all(entry.function.__name__ == name for name, entry in DEFENSES.items())


def test_the_list_explains_each(run):
    code, out, err = run("train", "--list-defenses")
    rows = {row.split()[0]: " ".join(row.split()) for row in re.split(r"\n(?=\w)", out.rstrip())}
    assert (code, err) == (0, "")
    assert list(rows) == [*DEFENSES, *NOT_HERE]
    for name, entry in DEFENSES.items():
        assert entry.summary in rows[name]
        assert entry.paper in rows[name]
        assert all(option.flag in rows[name] for option in entry.options)
    assert "`" not in out


@pytest.mark.parametrize("name", DEFENSES)
def test_options_and_their_defaults_are_the_functions_own(name):
    own = {
        key: inspect.Parameter.empty if key == "eps" and parameter.default is None else parameter.default
        for key, parameter in inspect.signature(DEFENSES[name].function).parameters.items()
        if key not in ELSEWHERE
    }
    own |= {option.name: option.default for option in DEFENSES[name].more}
    assert {option.name: option.default for option in DEFENSES[name].options} == own
    arguments = vars(build_parser().parse_args([*TRAIN, "--defense", name, *GIVEN.get(name, [])]))
    for key, default in own.items():
        assert arguments[key] == (default if default is not inspect.Parameter.empty else float(GIVEN[name][1]))


@pytest.mark.parametrize("name", DEFENSES)
def test_the_help_of_a_defense_describes_its_options(run, name):
    code, out, _ = run("train", "--defense", name, "--help")
    assert code == 0
    own = out.partition(f"options of {name}:")[2]
    for option in DEFENSES[name].options:
        assert re.search(rf"^  {option.flag} .*?\w{{3}}", own, re.MULTILINE)
        assert option.help


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFENSES)
def test_each_trains_and_its_files_name_it(run, tmp_path, name):
    one_epoch = ["--temperature", "2"] if name == "defensive_distillation" else []  # at 20 it takes more
    result, about, _ = defended(run, name, tmp_path, *one_epoch)
    options = {option.name: result["defense_options"][option.name] for option in DEFENSES[name].options}
    assert result["defense"] == name
    assert result["defense_options"] == options
    assert about["defense"] == {"name": name, **options}
    model = load_network(tmp_path / "weights.npz")
    assert evaluate(model, digits().test).error == result["test_error"] < 0.5


def test_an_undefended_network_names_no_defense(run, tmp_path):
    assert run(*TRAIN, "--out", tmp_path)[0] == 0
    assert read_about(tmp_path / "weights.npz") == {"network": "softmax_regression", "options": {}, "data": "digits"}


def test_adversarial_is_short_for_adversarial_training(run, tmp_path):
    long = defended(run, "adversarial_training", tmp_path / "long", "--eps", "0.1", "--alpha", "0.3")
    assert run(*TRAIN, "--adversarial", "0.1", "--alpha", "0.3", "--out", tmp_path / "short")[0] == 0
    ours, theirs = (load_network(tmp_path / name / "weights.npz") for name in ("long", "short"))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)
    assert theirs.about["defense"] == {"name": "adversarial_training", "eps": 0.1, "alpha": 0.3}
    assert long[1]["defense"].items() > theirs.about["defense"].items()


def test_the_default_folder_names_the_defense_and_the_options_that_were_changed(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (
        ["label_smoothing", "--targets", "eps/(k-1)"],
        ["adversarial_training", "--eps", "1/4", "--alpha", "0.3"],
    ):
        assert run(*TRAIN, "--defense", *words)[0] == 0
    names = ["adversarial_training-eps-0.25-alpha-0.3-0", "label_smoothing-targets-eps_(k-1)-0"]
    assert sorted(os.listdir("runs")) == [f"softmax_regression-data-digits-defense-{name}" for name in names]


def test_an_option_may_be_shortened_and_joined(run, tmp_path):
    code, _, err = run(*TRAIN, "--def=input_noise", "--sig", "0.1", "--out", tmp_path)
    assert (code, err) == (0, "")


# What a signature cannot say ------------------------------------------------------------------------------------------


def prepared(name, **changes):
    """Return what a defense makes of a small training set: the loss and the images."""
    rng = np.random.default_rng(0)
    images = Split(rng.random((40, 1, 2, 2)).astype(np.float32), np.arange(40) % 4)
    options = {option.name: option.default for option in DEFENSES[name].options}
    return *DEFENSES[name].prepare({**options, **changes}, TrainingRun(images, 0, None)), images


@pytest.mark.parametrize("name", ["adversarial_training", "robust_optimization"])
def test_more_steps_are_projected_gradient_descent(name):
    rng = np.random.default_rng(0)
    model = Sequential(Flatten(), Dense(4, 4, rng=rng))
    alpha = {"alpha": 0.0} if name == "adversarial_training" else {}
    loss, train, _ = prepared(name, eps=0.3, norm="l2", steps=5, **alpha)
    worst = pgd(model, train.images, train.labels, eps=0.3, norm="l2", steps=5).x_adv
    assert loss(model, train.images, train.labels, rng=rng).item() == pytest.approx(
        cross_entropy(model(worst), train.labels).item(), rel=1e-6
    )


def test_a_few_labels_are_of_all_classes_and_an_epoch_stays_as_long():
    _, train, images = prepared("virtual_adversarial_training", eps=0.1, labels=8)
    assert len(train) == len(images)
    kept = {image.tobytes() for image in train.images}
    assert len(kept) == 8
    assert kept < {image.tobytes() for image in images.images}
    assert np.bincount(train.labels).tolist() == [10] * 4


def test_the_labels_that_are_kept_depend_on_the_seed():
    labels = np.repeat(np.arange(3), [5, 50, 500])
    first, again, other = (balanced(labels, 12, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.bincount(labels[first]).tolist() == [4, 4, 4]
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)
    assert np.bincount(labels[balanced(labels, 25, np.random.default_rng(0))]).tolist() == [5, 10, 10]


def test_distillation_keeps_its_teacher(run, tmp_path):
    _, _, out = defended(run, "defensive_distillation", tmp_path, "--temperature", "2", "--seed", "1")
    assert [line for line in out.splitlines() if line.endswith(":")] == ["teacher:", "student:"]
    assert sorted(os.listdir(tmp_path)) == ["result.json", "teacher.npz", "weights.npz"]
    teacher, student = (load_network(tmp_path / file) for file in ("teacher.npz", "weights.npz"))
    assert np.abs(teacher.parameters()[0].data - student.parameters()[0].data).max() > 1e-3
    assert evaluate(teacher, digits().test).error < 0.5
    # A second run does not overwrite it.
    code, _, err = run(*TRAIN, "--defense", "defensive_distillation", "--temperature", "2", "--out", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "exists; choose another --out" in err


# Ctrl-C ---------------------------------------------------------------------------------------------------------------

DISTIL = ["train", "softmax_regression", "--data", "digits", "--epochs", "15", "--defense", "defensive_distillation"]


def interrupt(folder, *, after):
    """Start a distillation, and press Ctrl-C after some lines of output."""
    command = [sys.executable, "-m", "npadv", *DISTIL, "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(after):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize(
    ("after", "left"),
    [(3, ["teacher-checkpoint.npz"]), (19, ["checkpoint.npz", "teacher.npz"])],
    ids=["teacher", "student"],
)
def test_an_interrupted_distillation_resumes_to_the_bit(run, tmp_path, after, left):
    code, err = interrupt(tmp_path / "a", after=after)
    assert (code, sorted(os.listdir(tmp_path / "a"))) == (130, left)
    assert f"the run so far is in {tmp_path / 'a' / left[0]}; the same command with --resume goes on" in err

    code, _, err = run(*DISTIL, "--out", tmp_path / "a")
    assert (code, err.count("\n")) == (2, 1)
    assert "an unfinished run is there; continue it with --resume" in err
    code, _, err = run(*DISTIL, "--temperature", "3", "--out", tmp_path / "a", "--resume")
    assert (code, err.count("\n")) == (2, 1)
    assert "was written with defense_options={'temperature': 20.0}, this run has {'temperature': 3.0}" in err

    if after > 15:
        code, _, err = run(*DISTIL, "--epochs", "16", "--out", tmp_path / "a", "--resume")
        assert (code, err) == (
            2,
            f"npadv train: {tmp_path / 'a' / 'teacher.npz'}: was written with epochs=15, this run has 16\n",
        )

    assert run(*DISTIL, "--out", tmp_path / "a", "--resume")[0] == 0
    assert run(*DISTIL, "--out", tmp_path / "b")[0] == 0
    for file in ("teacher.npz", "weights.npz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_finished_run_is_that_of_its_defense(run, tmp_path):
    defended(run, "input_noise", tmp_path)
    own = ["--defense", "input_noise", "--sigma", "0.1"]
    code, out, _ = run(*TRAIN, *own, "--out", tmp_path, "--resume")
    assert (code, "is complete, nothing is left to do" in out) == (0, True)
    code, _, err = run(*TRAIN, "--out", tmp_path, "--resume")
    assert (code, err) == (
        2,
        f"npadv train: {tmp_path / 'result.json'}: was written with defense='input_noise', this run has None\n",
    )


# What goes wrong ------------------------------------------------------------------------------------------------------


NAMES, TARGETS = ", ".join(DEFENSES), "published, .91/.01, eps/(k-1)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "label_smothing",
            f"argument --defense: expected one of {NAMES}, got 'label_smothing'; did you mean 'label_smoothing'?",
        ),
        ("input_noise", "the following arguments are required: --sigma"),
        ("input_noise --sigma some", "argument --sigma: expected a finite number, got 'some'"),
        ("weight_decay --coefficient 1 --norm l3", "argument --norm: expected one of l1, l2, got 'l3'"),
        ("label_smoothing --targets published2", f"argument --targets: expected one of {TARGETS}, got 'published2'"),
    ],
)
def test_a_wrong_name_or_option_is_one_line(run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*TRAIN, "--defense", *words.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"npadv train: {message}")
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--defense input_noise --sigma=-1", "--sigma: expected a finite number of at least 0, got -1.0"),
        ("--defense adversarial_training --eps 0.1 --alpha 2", "--alpha: expected a weight in [0, 1], got 2.0"),
        ("--defense robust_optimization --eps=-1", "--eps: expected a finite number of at least 0, got -1.0"),
        ("--defense robust_optimization --eps 0.1 --steps 0", "--steps: expected an integer of at least 1, got 0"),
        (
            "--defense defensive_distillation --temperature 0",
            "--temperature: expected a finite number above 0, got 0.0",
        ),
        (
            "--defense virtual_adversarial_training --eps 1 --labels 1501",
            "--labels: expected 1 to 1500, the images of the training set, got 1501",
        ),
        (
            "--defense input_noise --sigma 1 --adversarial 0.1",
            "--adversarial: expected without --defense: it is short for --defense adversarial_training",
        ),
    ],
)
def test_a_wrong_value_is_one_line(run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert run(*TRAIN, *words.split()) == (2, "", f"npadv train: {message}\n")
    assert os.listdir(tmp_path) == []


def test_an_option_of_another_defense_is_refused(run, tmp_path):
    code, _, err = run(
        *TRAIN, "--defense", "input_noise", "--sigma", "1", "--temperature", "3", "--out", tmp_path / "a"
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "--temperature 3" in err


def test_a_teacher_without_its_settings_is_refused(run, tmp_path):
    network("softmax_regression", rng=np.random.default_rng(0)).save(tmp_path / "teacher.npz")
    code, _, err = run(*DISTIL, "--out", tmp_path, "--resume")
    assert (code, err) == (2, f"npadv train: {tmp_path / 'teacher.npz'}: expected the settings of a run, got None\n")
