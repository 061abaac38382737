"""The README keeps its word: its numbers are those that runs wrote, its commands exist."""

import json
import re
from pathlib import Path

import pytest

from npadv.cli import build_parser

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
    assert f"| {result['train_seconds'] / 60:.1f} min |" in row
    assert len(result["history"]) == result["epochs"]
    assert {"versions", "machine", "device"} <= set(result)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_command_of_a_row_is_the_one_that_made_its_run(path):
    result, row = json.loads(path.read_text("utf-8")), ROWS[path.name]
    (command,) = re.findall(r"`npadv ([^`]+)`", row)
    arguments = build_parser().parse_args(command.split())
    made = (arguments.network, arguments.epochs, arguments.step_size, arguments.adversarial, arguments.seed)
    assert made == (result["network"], result["epochs"], result["step_size"], result["adversarial_eps"], result["seed"])


def test_both_commands_are_one_line_each_with_an_environment_of_their_own():
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv && ")]
    assert [command.split(" && ")[-1] for command in commands] == [".venv/bin/npadv demo", ".venv/bin/pytest"]


def test_every_file_it_points_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link
