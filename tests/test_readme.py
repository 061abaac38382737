"""The README keeps its word: its numbers are those that runs wrote, its commands exist."""

import json
import re
from pathlib import Path

import pytest

from npadv.cli import build_parser
from npadv.commands.attack import sentence

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
ROWS = {
    match[1]: line for line in README.splitlines() if (match := re.search(r"\(benchmarks/results/([\w.-]+)\)", line))
}


def test_every_result_stands_in_the_table_and_every_row_has_a_result():
    assert set(ROWS) == {path.name for path in RESULTS}
    assert len(RESULTS) >= 3


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_numbers_of_a_row_are_those_of_its_run(path):
    result, row = json.loads(path.read_text("utf-8")), ROWS[path.name]
    assert f"| {result['test_error']:.2%} |" in row
    assert f"| {result['epochs']} |" in row
    assert f"| {result['seed']} |" in row
    assert f"| {result['train_seconds']:.0f} s |" in row
    assert len(result["history"]) == result["epochs"]
    assert {"versions", "machine", "device"} <= set(result)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_command_of_a_row_is_the_one_that_made_its_run(path):
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


def test_every_attack_stands_in_the_table_and_every_row_has_its_result():
    assert set(ATTACK_ROWS) == {path.name for path in ATTACKED}
    assert len(ATTACKED) >= 3


@pytest.mark.parametrize("path", ATTACKED, ids=lambda path: path.stem)
def test_the_numbers_and_the_command_of_an_attack_are_those_of_its_run(path):
    result, row = json.loads(path.read_text("utf-8")), ATTACK_ROWS[path.name]
    assert f"| {result['clean_error']:.2%} | {result['error']:.2%} |" in row
    assert result["complete"] is True
    assert result["attacked"] == result["examples"] == 10_000
    assert result["data"] == result["trained_on"] == "mnist"
    assert {"versions", "machine", "device"} <= set(result)
    (command,) = re.findall(r"`npadv ([^`]+)`", row)
    arguments = build_parser().parse_args(command.split())
    made = (arguments.attack, arguments.examples, arguments.seed, arguments.batch, arguments.target)
    assert made == (result["attack"], result["examples"], result["seed"], result["batch"], result["target"])
    assert {name: getattr(arguments, name) for name in result["attack_options"]} == result["attack_options"]
    assert arguments.model.parent.name == f"{result['network']}-0"
    trained = {json.loads(run.read_text("utf-8")).get("weights_sha256") for run in RESULTS}
    assert result["weights_sha256"] in trained  # of a run in the table above


@pytest.mark.parametrize("path", ATTACKED, ids=lambda path: path.stem)
def test_the_weights_that_were_attacked_are_those_of_a_training(path):
    result = json.loads(path.read_text("utf-8"))
    trained = [json.loads(run.read_text("utf-8")) for run in RESULTS]
    same = [run for run in trained if run["network"] == result["network"]]
    errors = {run["test_error"] for run in same if run.get("weights_sha256") == result["weights_sha256"]}
    assert errors <= {result["clean_error"]}
    assert errors or result["network"] == "syn_convnet"  # whose training here is older than the hashes


def test_what_an_attack_says_of_itself_is_what_it_said():
    said = sentence(attacked("fgsm-softmax_regression"), Path("runs/fgsm-softmax_regression-0"))
    assert said in " ".join(README.replace("\n> ", " ").split())


def test_softmax_regression_is_lost_and_one_pixel_is_enough():
    assert attacked("fgsm-softmax_regression")["error"] >= 0.99
    for name in ("softmax_regression", "syn_convnet"):
        result = attacked(f"one_pixel-{name}")
        assert result["attack_options"]["pixels"] == 1
        assert result["turned"] > 0
        assert result["error"] == pytest.approx(result["clean_error"] + result["turned"] / 10_000, abs=0.002)


def test_both_commands_are_one_line_each_with_an_environment_of_their_own():
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv && ")]
    assert [command.split(" && ")[-1] for command in commands] == [".venv/bin/npadv demo", ".venv/bin/pytest"]


def test_every_file_it_points_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link
