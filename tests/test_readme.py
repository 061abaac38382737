"""The README is true: its numbers are those of stored runs, its commands can be parsed, its links exist."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import npadv
from npadv import ops
from npadv.attacks import pgd
from npadv.cli import build_parser
from npadv.commands.attack import sentence

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
ROWS = {
    match[1]: line for line in README.splitlines() if (match := re.search(r"\(benchmarks/results/([\w.-]+)\)", line))
}


def test_the_table_of_trainings_has_a_row_for_each_stored_run():
    assert set(ROWS) == {path.name for path in RESULTS}
    assert len(RESULTS) >= 3


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_trainings_numbers_are_those_of_its_run(path):
    result, row = json.loads(path.read_text("utf-8")), ROWS[path.name]
    assert f"| {result['test_error']:.2%} |" in row
    assert f"| {result['epochs']} |" in row
    assert f"| {result['seed']} |" in row
    assert f"| {result['train_seconds']:.0f} s |" in row
    assert len(result["history"]) == result["epochs"]
    assert {"versions", "machine", "device"} <= set(result)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_trainings_command_is_that_of_its_run(path):
    result, row = json.loads(path.read_text("utf-8")), ROWS[path.name]
    (command,) = re.findall(r"`npadv ([^`]+)`", row)
    arguments = build_parser().parse_args(command.split())
    made = (arguments.network, arguments.epochs, arguments.step_size, arguments.adversarial, arguments.seed)
    assert made == (result["network"], result["epochs"], result["step_size"], result["adversarial_eps"], result["seed"])


# Attacks --------------------------------------------------------------------------------------------------------------

ATTACKED = sorted((ROOT / "benchmarks" / "results" / "attacks").glob("*.json"))
ATTACK_ROWS = {
    match[1]: line
    for line in README.splitlines()
    if (match := re.search(r"\(benchmarks/results/attacks/([\w.-]+)\)", line))
}


def attacked(name):
    return json.loads((ROOT / "benchmarks" / "results" / "attacks" / f"{name}.json").read_text("utf-8"))


def test_the_table_of_attacks_has_a_row_for_each_stored_run():
    assert set(ATTACK_ROWS) == {path.name for path in ATTACKED}
    assert len(ATTACKED) >= 3


@pytest.mark.parametrize("path", ATTACKED, ids=lambda path: path.stem)
def test_an_attacks_numbers_are_those_of_its_run(path):
    result, row = json.loads(path.read_text("utf-8")), ATTACK_ROWS[path.name]
    assert f"| {result['clean_error']:.2%} | {result['error']:.2%} |" in row
    assert result["complete"] is True
    assert result["attacked"] == result["examples"] == 10_000
    assert result["data"] == result["trained_on"] == "mnist"
    assert {"versions", "machine", "device"} <= set(result)


@pytest.mark.parametrize("path", ATTACKED, ids=lambda path: path.stem)
def test_an_attacks_command_is_that_of_its_run(path):
    result, row = json.loads(path.read_text("utf-8")), ATTACK_ROWS[path.name]
    (command,) = re.findall(r"`npadv ([^`]+)`", row)
    arguments = build_parser().parse_args(command.split())
    made = (arguments.attack, arguments.examples, arguments.seed, arguments.batch, arguments.target)
    assert made == (result["attack"], result["examples"], result["seed"], result["batch"], result["target"])
    assert {name: getattr(arguments, name) for name in result["attack_options"]} == result["attack_options"]
    assert re.fullmatch(rf"{result['network']}(-step-0\.1)?-0", arguments.model.parent.name)
    trained = {json.loads(run.read_text("utf-8")).get("weights_sha256") for run in RESULTS}
    assert result["weights_sha256"] in trained


@pytest.mark.parametrize("path", ATTACKED, ids=lambda path: path.stem)
def test_the_attacked_weights_are_those_of_a_stored_training(path):
    result = json.loads(path.read_text("utf-8"))
    trained = [json.loads(run.read_text("utf-8")) for run in RESULTS]
    same = [run for run in trained if run["network"] == result["network"]]
    errors = {run["test_error"] for run in same if run.get("weights_sha256") == result["weights_sha256"]}
    assert errors <= {result["clean_error"]}
    assert errors or result["network"] == "syn_convnet"  # its stored training is older than the hashes


def test_the_quoted_summary_of_an_attack_is_that_of_its_run():
    summary = sentence(attacked("fgsm-softmax_regression"), Path("runs/fgsm-softmax_regression-0"))
    assert summary in " ".join(README.replace("\n> ", " ").split())


def test_fgsm_defeats_softmax_regression():
    assert attacked("fgsm-softmax_regression")["error"] >= 0.99


@pytest.mark.parametrize("network", ["softmax_regression", "syn_convnet"])
def test_one_pixel_changes_some_predictions(network):
    result = attacked(f"one_pixel-{network}")
    assert result["attack_options"]["pixels"] == 1
    assert result["turned"] > 0
    assert result["error"] == pytest.approx(result["clean_error"] + result["turned"] / 10_000, abs=0.002)


def test_each_first_command_is_one_line_that_creates_an_environment():
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv && ")]
    assert [command.split(" && ")[-1] for command in commands] == [".venv/bin/npadv demo", ".venv/bin/pytest"]


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_every_path_in_its_text_exists():
    paths = re.findall(r"`((?:npadv|kernels|tests|tutorials|benchmarks)/[\w./]+)`", README)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


# Attack a model you already have ----------------------------------------------------------------------------------------


def bridges():
    """Return the three blocks of Python in that section: NumPy, PyTorch, JAX."""
    section = README.partition("## Attack a model you already have")[2].partition("\n## ")[0]
    return dict(zip(("numpy", "torch", "jax"), re.findall(r"```python\n(.*?)```", section, re.DOTALL), strict=True))


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_a_model_of_another_library_is_attacked_as_the_readme_says(library):
    rng = np.random.default_rng(0)
    w1, b1, w2 = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 8), (8,), (8, 3)))
    x, y = rng.uniform(0.2, 0.8, (6, 5)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2])
    names = {"np": np, "npadv": npadv, "pgd": pgd, "w1": w1, "b1": b1, "w2": w2, "x": x, "y": y}
    if library == "torch":
        torch = names["torch"] = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
        names["network"] = lambda x: (
            torch.tanh(x @ torch.tensor(w1) + torch.tensor(b1)).clamp(min=0.1) @ torch.tensor(w2)
        )
    if library == "jax":
        names["jax"] = pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
        names["network"] = lambda x: names["jax"].numpy.maximum(names["jax"].numpy.tanh(x @ w1 + b1), 0.1) @ w2
    exec(bridges()[library], names)
    h = lambda x: ops.matmul(ops.maximum(ops.tanh(x @ w1 + b1), 0.1), w2)  # noqa: E731
    expected = pgd(h, x, y, eps=0.1)
    np.testing.assert_allclose(names["result"].x_adv, expected.x_adv, atol=1e-6)
