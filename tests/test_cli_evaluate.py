"""``npadv evaluate``: its numbers are those of ``npadv.evaluation``, its page shows them, and Ctrl-C loses nothing."""

import html
import json
import os
import re
import sys
from functools import partial

import fake_cupy
import numpy as np
import pytest

from npadv import evaluation
from npadv.attacks import fgsm, linearized, pgd
from npadv.commands import runner
from npadv.commands.evaluation_numbers import numbers_of
from npadv.commands.presets import PRESETS, RADII, Preset
from npadv.data import DATASETS, digits
from npadv.nn import load_network
from npadv.train import evaluate

TINY = Preset("tiny", examples=12, steps=3, windows=2, points=5, carlini_wagner=2)
CLEAN = re.compile(r"\[(\d+)/(\d+)\] .+  \d+\.\d s")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(PRESETS, "standard", TINY)


@pytest.fixture(scope="module")
def other(weights, tmp_path_factory):
    """Return a file of other weights of the same network."""
    model = load_network(weights)
    w = model.parameters()[0]
    noise = np.random.default_rng(0).normal(0, 0.3, w.shape).astype(np.float32)
    w.assign(w.data + noise)
    model.save(tmp_path_factory.mktemp("other") / "noisy.npz")
    return tmp_path_factory.getbasetemp() / "other0" / "noisy.npz"


@pytest.fixture
def evaluated(run, weights, other, tmp_path):
    """Return what an evaluation of two models printed, the page, and the results."""
    code, out, err = run("evaluate", "--model", weights, other, "--out", tmp_path / "e", "--seed", 4)
    assert (code, err) == (0, "")
    assert sorted(os.listdir(tmp_path / "e")) == ["index.html", "results.json"]
    page, results = ((tmp_path / "e" / name).read_text("utf-8") for name in ("index.html", "results.json"))
    return out, page, json.loads(results)


def test_the_numbers_are_those_of_the_measurements(evaluated, weights, other):
    _, _, results = evaluated
    models = {"digits": load_network(weights), "noisy": load_network(other)}  # a folder's name, and a file's
    test, radii = digits().test[:12], RADII["digits"]
    x, y = test.images, test.labels
    assert results["complete"] is True
    assert results["clean_error"] == {name: evaluate(model, digits().test).error for name, model in models.items()}

    attacks = {"FGSM, linf": fgsm, "PGD, linf": partial(pgd, steps=3), "PGD, l2": partial(pgd, steps=3, norm="l2")}
    assert results["accuracy"].keys() == attacks.keys()
    for name, attack in attacks.items():
        eps = radii.l2 if "l2" in name else radii.linf
        curve = evaluation.robustness_curve(models, x, y, attack=attack, eps=eps)
        found = results["accuracy"][name]
        assert found["eps"] == list(eps)
        for key, rates in (("models", curve.accuracy()), ("worst_so_far", curve.worst_so_far())):
            for i, model in enumerate(models):
                assert found[key][model]["hits"] == rates.hits[i].tolist()
                assert found[key][model]["rate"] == rates.rate[i].tolist()
                assert found[key][model]["low"] == rates.low[i].tolist()

    for norm in ("l2", "linf"):
        for name, model in models.items():
            d = evaluation.minimal_distances(model, x, y, attack=partial(linearized, steps=50, norm=norm))
            found = results["distances"][f"DeepFool, {norm}"][name]
            assert found["quartiles"][1] == d.median
            assert found["examples"] == 12
            assert found["already_wrong"] == (d.distance == 0).sum()
    assert results["distances"]["Carlini and Wagner, l2"]["digits"]["examples"] == 2

    matrix = evaluation.transfer_matrix(models, models, x, y, attack=partial(fgsm, eps=0.25))
    assert results["transfer"]["all_examples"]["rate"] == matrix.errors().rate.tolist()
    fooled = matrix.errors("crafter_right", "crafter_fooled")
    assert results["transfer"]["crafter_right_then_fooled"]["hits"] == fooled.hits.tolist()
    for name, model in models.items():
        sources = {key: value for key, value in models.items() if key != name}
        checks = evaluation.masking_checks(model, x, y, eps=0.1, steps=3, sources=sources, rng=np.random.default_rng(4))
        assert list(results["masking"][name]) == [check.name for check in checks]
        for check in checks:
            assert results["masking"][name][check.name]["explanation"] == check.explanation
        windows = evaluation.church_windows(model, x[:2], y[:2], eps=0.25, points=5, rng=np.random.default_rng(4))
        share = (windows.classes == windows.labels[:, None, None]).mean()
        assert results["church_windows"][name] == {"true_class_share": share, "examples": 2}
    assert results["plan"]["examples"] == 12
    assert results["seed"] == 4
    assert {name: model["network"] for name, model in results["models"].items()} == dict.fromkeys(
        models, "softmax_regression"
    )
    assert {"versions", "machine", "device"} <= results.keys()


def test_an_example_that_was_broken_stays_broken_in_the_worst_so_far():
    correct = np.array([[[True, True], [False, True], [True, False]]])
    curve = evaluation.RobustnessCurve(("net",), np.array([0.0, 0.1, 0.2]), correct)
    found = numbers_of(runner.Measurements(curves={"FGSM, linf": curve}))["accuracy"]["FGSM, linf"]
    assert found["models"]["net"]["hits"] == [2, 1, 1]
    assert found["worst_so_far"]["net"]["hits"] == [2, 1, 0]
    assert found["models"]["net"]["count"] == [2, 2, 2]


def test_the_page_shows_the_numbers(evaluated):
    out, page, results = evaluated
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    assert "How robust are digits and noisy?" in text
    assert page.count("<img") == 3 + 3 + 1 + 2 + 2  # curves, distances, transfer, windows, pictures
    headings = [html.unescape(heading) for heading in re.findall("<h2[^>]*>(.*?)</h2>", page)]
    assert headings.pop() == "How this was made"
    assert headings == [
        *("Accuracy under FGSM, linf", "Accuracy under PGD, linf", "Accuracy under PGD, l2"),
        *("How far: DeepFool, l2", "How far: DeepFool, linf", "How far: Carlini and Wagner, l2"),
        "What fools one network fools another",
        *("Can the measurement be believed? digits", "Can the measurement be believed? noisy"),
        *("Church windows: digits", "Church windows: noisy", "Examples: digits", "Examples: noisy"),
    ]
    for name, error in results["clean_error"].items():
        assert f"{name} {error:.2%}" in text
        row = next(line for line in out.splitlines() if line.startswith(f"{name} "))
        cells = row.split()[1:]
        assert cells[0] == f"{error:.1%}"
        at = results["accuracy"]["FGSM, linf"]["eps"].index(0.25)
        assert cells[2] == f"{1 - results['accuracy']['FGSM, linf']['models'][name]['rate'][at]:.1%}"
        assert cells[6] == f"{results['distances']['DeepFool, l2'][name]['quartiles'][1]:.3g}"
        assert all(cell in text for cell in cells)
    for checks in results["masking"].values():
        for check in checks.values():
            assert " ".join(check["explanation"].split()) in " ".join(text.split())
    assert "12 test images" in text
    assert "stopped" not in text


def test_each_measurement_is_told_when_it_is_finished(evaluated):
    out, _, _ = evaluated
    told = [CLEAN.fullmatch(line) for line in out.splitlines() if line.startswith("[")]
    assert all(told)
    assert [match[1] for match in told] == [str(i + 1) for i in range(len(told))]
    assert {match[2] for match in told} == {str(len(told))}


def test_one_model_has_no_transfer_and_its_networks_name(run, weights, tmp_path):
    code, out, err = run("evaluate", "--model", weights, "--examples", 5, "--quiet", "--out", tmp_path)
    assert (code, err) == (0, "")
    assert not re.search(r"^\[", out, re.MULTILINE)  # quiet
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert results["transfer"] is None
    assert list(results["models"]) == ["softmax_regression"]
    assert results["accuracy"]["PGD, l2"]["examples"] == results["plan"]["examples"] == 5
    assert "transfer_beats_white_box" not in results["masking"]["softmax_regression"]
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "What fools one network fools another" not in page
    assert "How robust is softmax_regression?" in page


# Ctrl-C ---------------------------------------------------------------------------------------------------------------


def stop_at(monkeypatch, name, stop):
    """Let a measurement of this name raise ``stop`` when it is called for the second model."""
    calls, function = [], getattr(runner, name)

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise stop
        return function(*args, **options)

    monkeypatch.setattr(runner, name, interrupted)


def test_an_interrupt_keeps_what_was_measured(run, weights, other, tmp_path, monkeypatch):
    stop_at(monkeypatch, "minimal_distances", KeyboardInterrupt())
    code, out, err = run("evaluate", "--model", weights, other, "--out", tmp_path, "--quiet")
    assert (code, out) == (130, "")
    hint = "the same command with --resume goes on"
    assert err == f"npadv: interrupted; the finished measurements are in {tmp_path}; {hint}\n"
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert results["complete"] is False
    assert len(results["accuracy"]) == 3
    assert list(results["distances"]) == ["DeepFool, l2"]
    assert list(results["distances"]["DeepFool, l2"]) == ["digits"]
    assert results["masking"] == {}
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "This evaluation was stopped before its end" in page
    assert page.count("<img") == 4


def test_a_resumed_evaluation_ends_as_a_whole_one(run, weights, other, tmp_path, monkeypatch):
    words = ["evaluate", "--model", weights, other, "--quiet"]
    assert run(*words, "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        stop_at(patch, "minimal_distances", KeyboardInterrupt())
        assert run(*words, "--out", tmp_path / "part")[0] == 130
    assert sorted(os.listdir(tmp_path / "part")) == ["checkpoint.npz", "index.html", "results.json"]
    monkeypatch.setattr(runner, "robustness_curve", pytest.fail)  # finished before, and not measured again
    assert run(*words, "--out", tmp_path / "part", "--resume")[0] == 0
    assert sorted(os.listdir(tmp_path / "part")) == ["index.html", "results.json"]
    whole, resumed = (json.loads((tmp_path / name / "results.json").read_text("utf-8")) for name in ("whole", "part"))
    assert whole.pop("seconds") > 0
    assert resumed.pop("seconds") > 0
    assert resumed == whole
    assert (
        run(*words, "--out", tmp_path / "part", "--resume")[1]
        == f"{tmp_path / 'part'} is complete, nothing is left to do\n"
    )
    code, _, err = run(*words, "--out", tmp_path / "part", "--resume", "--seed", 1)
    assert (code, err) == (
        2,
        f"npadv evaluate: {tmp_path / 'part' / 'results.json'}: was written with seed 0, this run has 1\n",
    )


def test_an_interrupt_within_a_measurement_keeps_its_part(run, weights, other, tmp_path, monkeypatch):
    part = evaluation.Distances(np.array([0.5, np.inf]))
    stop_at(monkeypatch, "minimal_distances", evaluation.Interrupted(part))
    assert run("evaluate", "--model", weights, other, "--out", tmp_path, "--quiet")[0] == 130
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))["distances"]["DeepFool, l2"]["noisy"]
    assert found == {"examples": 2, "already_wrong": 0, "not_broken": 1, "quartiles": [0.5, 0.5, None]}


def test_an_interrupt_before_anything_is_measured_writes_nothing(run, weights, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "evaluate", interrupted)
    code, out, err = run("evaluate", "--model", weights, "--out", tmp_path / "e")
    assert (code, out, err) == (130, "", "npadv: interrupted; no measurement is finished; nothing was written\n")
    assert not (tmp_path / "e").exists()


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_the_sets_are_listed(run):
    code, out, err = run("evaluate", "--list")
    assert (code, err) == (0, "")
    rows = [" ".join(row.split()) for row in re.split(r"\n(?=\w)", out.rstrip())]
    assert [row.split()[0] for row in rows] == [*PRESETS, *RADII]
    assert RADII.keys() == DATASETS.keys()
    for preset, row in zip(PRESETS.values(), rows, strict=False):
        assert f"{preset.examples:,} test images" in row
        assert preset.what in row


def test_the_radii_of_the_table_are_on_the_curves():
    for radii in RADII.values():
        assert set(radii.linf_shown) <= set(radii.linf)
        assert set(radii.l2_shown) <= set(radii.l2)
        assert radii.linf[0] == radii.l2[0] == 0
        assert 0 < radii.claimed < 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--set quik", r"npadv evaluate: argument --set: expected one of .*, got 'quik'; did you mean 'quick'\? .*"),
        ("--examples 298", "npadv evaluate: --examples: expected at most 297, got 298"),
        ("--examples 0", "npadv evaluate: argument --examples: expected an integer of at least 1, got '0' .*"),
        ("--network maxout_mlp", "npadv evaluate: --model: .*: expected weights of 'maxout_mlp', got those of .*"),
        ("--eps 1", "npadv: unrecognized arguments: --eps 1 .*"),
    ],
)
def test_a_wrong_option_is_one_line(run, weights, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("evaluate", "--model", weights, *words.split())
    assert (code, out) == (2, "")
    assert re.fullmatch(message + "\n", err), err
    assert os.listdir(tmp_path) == []


def test_files_that_cannot_be_evaluated_together(run, weights, tmp_path):
    code, _, err = run("evaluate", "--model", weights, weights, "--out", tmp_path / "e")
    assert (code, err) == (2, f"npadv evaluate: --model: expected each file once, got {weights}, {weights}\n")
    model = load_network(weights)
    model.about = {**model.about, "data": "mnist"}
    model.save(tmp_path / "w.npz")
    code, _, err = run("evaluate", "--model", weights, tmp_path / "w.npz", "--out", tmp_path / "e")
    message = "--data: expected a data set, since the weights do not agree on one; they name digits, mnist"
    assert (code, err) == (2, f"npadv evaluate: {message}\n")
    code, _, err = run("evaluate", "--model", weights, tmp_path / "none.npz", "--out", tmp_path / "e")
    assert (code, err) == (2, f"npadv evaluate: --model: {tmp_path / 'none.npz'}: no such file\n")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("kept", ["index.html", "results.json"])
def test_another_runs_page_is_not_overwritten_unless_told(run, weights, tmp_path, kept):
    (tmp_path / kept).write_text("precious")
    code, _, err = run("evaluate", "--model", weights, "--out", tmp_path)
    hint = "exists; choose another --out, --resume it if it is partial, or --overwrite it"
    assert (code, err) == (2, f"npadv evaluate: {tmp_path / kept}: {hint}\n")
    assert (tmp_path / kept).read_text() == "precious"
    assert os.listdir(tmp_path) == [kept]
    assert run("evaluate", "--model", weights, "--out", tmp_path, "--overwrite", "--examples", 2)[0] == 0
    assert (tmp_path / kept).read_text("utf-8") != "precious"


def test_a_folder_that_is_a_file_is_refused(run, weights, tmp_path):
    (tmp_path / "a").write_text("precious")
    code, _, err = run("evaluate", "--model", weights, "--out", tmp_path / "a")
    assert (code, err) == (2, f"npadv evaluate: --out: expected a folder, got the file {tmp_path / 'a'}\n")


def test_what_it_needs_is_asked_for_before_it_measures(run, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, _, err = run("evaluate", "--model", weights, "--out", tmp_path / "e")
    assert code == 2
    assert err == 'npadv evaluate: jinja2 is missing; to draw, run: pip install "npadv[demo]"\n'


def test_on_a_gpu_it_is_the_same(run, weights, other, tmp_path):
    found = {}
    with fake_cupy.installed():
        for device in ("cpu", "cuda"):
            words = ["--out", tmp_path / device, "--quiet", "--device", device]
            code, _, err = run("evaluate", "--model", weights, other, *words)
            assert (code, err) == (0, "")
            found[device] = json.loads((tmp_path / device / "results.json").read_text("utf-8"))
    for key in ("clean_error", "accuracy", "transfer"):
        assert found["cuda"][key] == found["cpu"][key]
    for name in ("digits", "noisy"):
        here, there = (found[device]["distances"]["DeepFool, l2"][name]["quartiles"] for device in ("cpu", "cuda"))
        assert there == pytest.approx(here, rel=1e-3)
