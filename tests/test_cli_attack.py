"""``npadv attack``: its options are the attacks' own, and its files hold what the attacks return."""

import inspect
import os
import re
import sys

import fake_cupy
import numpy as np
import pytest
from attack_commands import PLAIN, QUICK, command, read

from npadv import attacks
from npadv.attacks import fgsm
from npadv.cli import build_parser
from npadv.commands import adapters, rubbish
from npadv.commands.adapters import ELSEWHERE, RunContext
from npadv.commands.models import open_model
from npadv.commands.options import described, options_of
from npadv.commands.registry import ATTACKS, NOT_HERE
from npadv.commands.rubbish import RUBBISH
from npadv.commands.targets import target_classes
from npadv.data import digits
from npadv.files import load_arrays
from npadv.nn import load_network
from npadv.train import predict

PNG = b"\x89PNG\r\n\x1a\n"


# The registry ---------------------------------------------------------------------------------------------------------


def test_every_public_attack_is_in_the_registry_or_has_a_reason_not_to_be():
    public = {name for name in attacks.__all__ if inspect.isfunction(getattr(attacks, name))}
    assert ATTACKS.keys() | RUBBISH.keys() | NOT_HERE.keys() == public
    assert not (ATTACKS.keys() | RUBBISH.keys()) & NOT_HERE.keys()
    assert all(entry.attack.__name__ == name for name, entry in ATTACKS.items() if not entry.preset)
    assert all(entry.attack.__name__ == name for name, entry in RUBBISH.items())
    assert all(len(reason) > 20 for reason in NOT_HERE.values())
    assert QUICK.keys() == ATTACKS.keys()


def test_the_list_explains_each(run):
    code, out, err = run("attack", "--list")
    rows = re.split(r"\n(?=\w)", out.rstrip())  # a row goes on in lines that begin with spaces
    lines = {row.split()[0]: " ".join(row.split()) for row in rows}
    assert (code, err) == (0, "")
    assert list(lines) == [*ATTACKS, *RUBBISH, *NOT_HERE]
    for name, entry in (ATTACKS | RUBBISH).items():
        assert entry.summary in lines[name]
        assert lines[name].endswith(f" {entry.paper}.")
    assert "in Python" in lines["tangent"]


@pytest.mark.parametrize("name", [*ATTACKS, *RUBBISH])
def test_options_and_their_defaults_are_the_functions_own(name):
    entry = (ATTACKS | RUBBISH)[name]
    elsewhere = (*ELSEWHERE, *entry.without) if name in ATTACKS else rubbish.ELSEWHERE
    own = {
        key: getattr(entry, "preset", {}).get(key, parameter.default)
        for key, parameter in inspect.signature(entry.attack).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and key not in elsewhere
    }
    assert set(getattr(entry, "without", ())) <= set(inspect.signature(entry.attack).parameters)
    options = {option.name: option for option in entry.options}
    own |= {option.name: option.default for option in getattr(entry, "more", ())}
    assert options.keys() == own.keys()
    required = {key for key, default in own.items() if default is inspect.Parameter.empty}
    given = [word for key in sorted(required) for word in (f"--{key}", "5")]
    arguments = build_parser().parse_args(["attack", name, "--model", "w.npz", *given])
    assert {key: getattr(arguments, key) for key in own} == own | dict.fromkeys(required, 5)
    assert all(option.help and "``" not in option.help for option in options.values())
    assert not any(option.help.startswith("As for") for option in options.values())


def test_an_option_that_is_missing_is_asked_for(run):
    code, _, err = run("attack", "fgsm", "--model", "w.npz")
    assert code == 2
    assert err == "npadv attack fgsm: the following arguments are required: --eps (see npadv attack fgsm --help)\n"


def test_what_a_docstring_says_of_an_option_is_its_help(run):
    code, out, _ = run("attack", "pgd", "--help")
    assert code == 0
    text = " ".join(out.split())
    for name, (_, meaning) in described(attacks.pgd).items():
        assert (meaning in text) == (name not in (*ELSEWHERE, "model", "x", "y")), name
    assert "{linf,l2,l1}" in text


def test_a_function_whose_options_cannot_be_typed_is_refused():
    with pytest.raises(TypeError, match=r"tangent: basis: expected a number, a text or a bool, got"):
        options_of(attacks.tangent, without=ELSEWHERE)


# What is written ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=ATTACKS)
def attacked(request, run, weights, tmp_path):
    """Return an attack's name, and what its run printed and wrote."""
    code, out, err = run(*command(request.param, weights, tmp_path / "out"))
    assert (code, err) == (0, "")
    return request.param, out, tmp_path / "out"


def test_the_files_hold_what_the_attack_returns(attacked, weights, tmp_path):
    name, out, folder = attacked
    assert set(os.listdir(folder)) - {"queries.npz"} == {"examples.npz", "examples.png", "result.json"}
    assert (folder / "examples.png").read_bytes()[:8] == PNG
    arrays, settings, result = read(folder)
    model, test = load_network(weights), digits().test[:12]
    opened = open_model(weights, network=None, device="cpu")
    work = RunContext(opened, digits(), tmp_path / "again", seed=0, device="cpu", resume=False, progress=False)
    attack, _ = ATTACKS[name].begin(work, settings["attack_options"])
    parts = [
        attack(test.images[i : i + 5], test.labels[i : i + 5], targeted=False, rng=np.random.default_rng([0, i]))
        for i in (0, 5, 10)
    ]
    for key in ("x_adv", "success", "distance", "queries", "prediction"):
        np.testing.assert_array_equal(arrays[key], np.concatenate([getattr(part, key) for part in parts]), err_msg=key)
    for flag in parts[0].flags:
        np.testing.assert_array_equal(arrays[f"flags/{flag}"], np.concatenate([part.flags[flag] for part in parts]))
    np.testing.assert_array_equal(arrays["x"], test.images)
    np.testing.assert_array_equal(arrays["labels"], test.labels)
    np.testing.assert_array_equal(arrays["index"], np.arange(12))
    np.testing.assert_array_equal(arrays["prediction_before"], predict(model, test.images).argmax(axis=1))
    np.testing.assert_array_equal(arrays["prediction"], predict(model, arrays["x_adv"]).argmax(axis=1))
    assert {len(array) for array in arrays.values() if array.ndim} == {12}

    assert {key: result[key] for key in settings if key != "device"} == {
        k: v for k, v in settings.items() if k != "device"
    }
    assert result["complete"] is True
    assert result["attacked"] == 12
    assert result["network"] == "softmax_regression"
    assert result["data"] == result["trained_on"] == "digits"  # which the file of weights says
    assert result["clean_error"] == np.mean(arrays["prediction_before"] != test.labels)
    assert result["error"] == np.mean(arrays["prediction"] != test.labels)
    turned = (arrays["prediction_before"] == test.labels) & (arrays["prediction"] != test.labels)
    assert result["turned"] == turned.sum()
    assert result["success_rate"] == np.mean(arrays["success"])
    assert result["queries_per_example"] == np.mean(arrays["queries"])
    moved = arrays["success"] & ~arrays["flags/already_wrong"]
    assert result["median_distance"] == (np.median(arrays["distance"][moved]) if moved.any() else None)
    assert result["flags"] == {flag: np.sum(arrays[f"flags/{flag}"]) for flag in parts[0].flags}
    assert {"versions", "machine", "device"} <= result.keys()

    assert len(out.splitlines()) == 1
    assert out.startswith(f"{name} on softmax_regression with 12 images of digits: error {result['clean_error']:.2%}, ")
    assert f"under attack {result['error']:.2%}" in out
    assert f"({result['distance']})" in out or result["median_distance"] is None
    assert str(folder) in out


def test_the_distance_is_measured_as_the_result_says(attacked):
    _, _, folder = attacked
    arrays, _, result = read(folder)
    d = (arrays["x_adv"] - arrays["x"]).reshape(12, -1).astype(np.float64)
    size = {
        "linf": lambda: np.abs(d).max(axis=1),
        "l2": lambda: np.linalg.norm(d, axis=1),
        "l1": lambda: np.abs(d).sum(axis=1),
        "pixels": lambda: (d != 0).sum(axis=1),
    }
    np.testing.assert_allclose(arrays["distance"], size[result["distance"]](), rtol=1e-5, atol=1e-6)


def test_an_example_does_not_depend_on_its_batch(run, weights, tmp_path):
    for batch in (4, 12):
        run(*command("linearized", weights, tmp_path / str(batch), PLAIN, "--batch", batch))
    one, other = (read(tmp_path / str(batch))[0] for batch in (4, 12))
    assert one.keys() == other.keys()
    np.testing.assert_allclose(one["x_adv"], other["x_adv"], atol=1e-6)


def test_a_seed_fixes_what_is_drawn(run, weights, tmp_path):
    found = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(*command("pgd", weights, tmp_path / folder, PLAIN, "--seed", seed))
        found.append(read(tmp_path / folder)[0]["x_adv"])
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()
    assert (found[0][:5] != found[0][5:10]).any()


@pytest.mark.parametrize("target", ["next", "random", "least", "3"])
def test_targets(run, weights, tmp_path, target):
    code, out, _ = run(*command("fgsm", weights, tmp_path, PLAIN, "--target", target, "--eps", "0.3", "--batch", "12"))
    arrays, settings, result = read(tmp_path)
    labels, goals = arrays["labels"], arrays["target"]
    test = digits().test
    logits = predict(load_network(weights), test.images)
    if target == "3":
        test = test[test.labels != 3]
        assert settings["target"] == 3
        np.testing.assert_array_equal(arrays["index"], np.flatnonzero(digits().test.labels != 3)[:12])
        assert (goals == 3).all()
    elif target == "next":
        np.testing.assert_array_equal(goals, (labels + 1) % 10)
    elif target == "least":
        np.testing.assert_array_equal(goals, logits[:12].argmin(axis=1))
    else:
        assert len(set((goals - labels) % 10)) > 3
    np.testing.assert_array_equal(labels, test.labels[:12])
    assert (goals != labels).all()
    assert code == 0
    np.testing.assert_array_equal(arrays["success"], arrays["prediction"] == goals)
    model, own = load_network(weights), test[:12]
    np.testing.assert_array_equal(arrays["x_adv"], fgsm(model, own.images, goals, eps=0.3, targeted=True).x_adv)
    assert f"target reached {result['success_rate']:.2%}; " in out
    assert result["success_rate"] == np.mean(arrays["success"])


def test_the_least_likely_class_is_never_the_true_one():
    before = np.array([[0.0, 1.0, 2.0], [5.0, 1.0, 2.0]])
    np.testing.assert_array_equal(target_classes("least", np.array([0, 1]), before, np.random.default_rng(0)), [1, 2])


def test_a_fraction_is_a_number(run, weights, tmp_path):
    assert run(*command("fgsm", weights, tmp_path, PLAIN, "--eps", "8/255"))[0] == 0
    assert read(tmp_path)[1]["attack_options"]["eps"] == 8 / 255


def test_no_picture_without_matplotlib(run, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run(*command("fgsm", weights, tmp_path / "a"))
    assert (code, out) == (2, "")
    assert err == 'npadv attack: matplotlib is missing; to draw, run: pip install "npadv[demo]"\n'
    assert not (tmp_path / "a").exists()
    assert run(*command("fgsm", weights, tmp_path / "a", "--no-picture"))[0] == 0
    assert sorted(os.listdir(tmp_path / "a")) == ["examples.npz", "result.json"]


# In the small, what the papers say ------------------------------------------------------------------------------------


def test_softmax_regression_is_lost_under_the_fast_gradient_sign(run, weights, tmp_path):
    """Goodfellow et al. 2014 and [WG]: 99.9% on MNIST at eps = .25."""
    run("attack", "fgsm", "--model", weights, "--eps", "0.25", "--out", tmp_path, PLAIN)
    _, _, result = read(tmp_path)
    assert result["attacked"] == 297
    assert result["clean_error"] < 0.08
    assert result["error"] >= 0.99


def test_one_pixel_is_enough_for_some_digits(run, weights, tmp_path):
    """[SYN] fig. 1."""
    run("attack", "one_pixel", "--model", weights, "--out", tmp_path, PLAIN)
    arrays, _, result = read(tmp_path)
    assert result["turned"] >= 3
    assert result["error"] > result["clean_error"]
    assert ((arrays["x_adv"] != arrays["x"]).reshape(297, -1).sum(axis=1) <= 1).all()


# Attacks that need more than a model ----------------------------------------------------------------------------------


def test_features_are_those_of_other_classes_images(run, weights, tmp_path):
    code, out, _ = run(*command("feature", weights, tmp_path, PLAIN, "--eps", "1"))
    arrays, _, result = read(tmp_path)
    assert code == 0
    assert f"taken for the guide {result['success_rate']:.2%}; " in out
    assert result["success_rate"] == 1  # nothing keeps it from being the guide itself
    assert (arrays["prediction"] != arrays["labels"]).mean() > 0.8  # some guides are misread
    assert (arrays["ratio"] < 0.5).all()
    assert "Dense" in result["layer"]
    model, train, rng = load_network(weights), digits().train, np.random.default_rng([0, 0])
    own = [rng.choice(np.flatnonzero(train.labels != label)) for label in arrays["labels"][:5]]
    guides, images = predict(model, train.images[own]), predict(model, arrays["x"][:5])  # the layer is the last
    apart = np.linalg.norm(images.astype(np.float64) - guides, axis=1)
    np.testing.assert_allclose(arrays["feature_distance_before"][:5], apart, rtol=1e-5)


@pytest.mark.parametrize("layer", [0, 3])
def test_a_layer_that_is_not_there_is_one_line(run, weights, tmp_path, layer):
    code, _, err = run(*command("feature", weights, tmp_path / "a", "--layer", layer))
    assert (code, err) == (
        2,
        f"npadv attack: --layer: expected 1 to 2, the layers of softmax_regression, got {layer}\n",
    )


def test_a_black_box_gives_labels_and_they_are_kept(run, weights, tmp_path):
    run(*command("substitute", weights, tmp_path, PLAIN, "--examples", "257"))
    arrays, settings, result = read(tmp_path)
    queries = load_arrays(tmp_path / "queries.npz")
    test = digits().test
    np.testing.assert_array_equal(queries["x"][:40], test.images[-40:])  # the seeds
    np.testing.assert_array_equal(queries["labels"], predict(load_network(weights), queries["x"]).argmax(axis=1))
    assert result["labels_asked_for"] == len(queries["x"]) == 50 == settings["attack_options"]["budget"]
    assert 0 < result["agreement"] <= 1
    np.testing.assert_array_equal(arrays["x"], test.images[:-40])  # all but the seeds
    assert result["error"] > result["clean_error"]
    code, _, err = run(*command("substitute", weights, tmp_path / "b", "--examples", "258"))
    assert (code, err) == (2, "npadv attack: --examples: expected at most 257, got 258\n")
    code, _, err = run(*command("substitute", weights, tmp_path / "b", "--seeds", "297"))
    assert (code, err) == (2, "npadv attack: --seeds: expected 1 to 296, some of the test images, got 297\n")


def test_a_black_box_is_not_asked_again_what_it_has_answered(run, weights, tmp_path, monkeypatch):
    run(*command("substitute", weights, tmp_path / "whole", PLAIN))
    asked, predict_once = [], adapters.predict

    def counted(model, x):
        asked.append(len(x))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return predict_once(model, x)

    monkeypatch.setattr(adapters, "predict", counted)
    folder = tmp_path / "part"
    code, _, err = run(*command("substitute", weights, folder, PLAIN))
    kept = f"the labels asked for so far are in {folder / 'queries.npz'}, for --resume"
    assert (code, err) == (130, f"npadv: interrupted; no example is finished; {kept}\n")
    assert os.listdir(folder) == ["queries.npz"]
    code, _, err = run(*command("substitute", weights, folder, PLAIN))
    assert code == 2
    assert "queries.npz: exists; choose another --out, --resume it if it is partial, or --overwrite it" in err
    asked[:] = [0] * 9
    assert run(*command("substitute", weights, folder, PLAIN, "--resume"))[0] == 0
    assert sum(asked) == 10 + 2 * 12  # the rest of the budget, and each example before and after
    np.testing.assert_array_equal(read(folder)[0]["x_adv"], read(tmp_path / "whole")[0]["x_adv"])
    assert run(*command("substitute", weights, folder, PLAIN, "--overwrite"))[0] == 0
    assert sum(asked) == 10 + 2 * 12 + 50 + 2 * 12


@pytest.mark.parametrize("name", ATTACKS)
def test_on_a_gpu_it_is_the_same_attack(run, weights, tmp_path, name):
    assert run(*command(name, weights, tmp_path / "cpu", PLAIN))[0] == 0
    with fake_cupy.installed():
        code, _, err = run(*command(name, weights, tmp_path / "cuda", PLAIN, "--device", "cuda"))
    assert (code, err) == (0, "")
    here, there = (read(tmp_path / device) for device in ("cpu", "cuda"))
    assert there[2]["device"] == {"name": "cuda", "card": "no card"}
    assert there[2]["error"] == pytest.approx(here[2]["error"], abs=0.1)
    np.testing.assert_allclose(there[0]["x_adv"], here[0]["x_adv"], atol=0.05)
    assert there[0].keys() == here[0].keys()
