"""The committed results of the benchmarks, their picture, the README's numbers, and the examples in docstrings."""

import doctest
import importlib
import json

import pytest

from benchmarks import __main__ as command_line
from benchmarks import draw
from benchmarks.process import ROOT
from benchmarks.workloads import select

# The picture --------------------------------------------------------------------------------------------------------------


def results_to_draw():
    ratio = {"median": 0.6, "low": 0.55, "high": 0.7, "at_most": 0.8, "aim": 0.6}
    rows = [
        {"key": key, "title": key, "ratios": {"torch": ratio, "torch tuned": ratio | {"median": 1.2}}}
        for key in ("a", "c1", "g1f", "g1i", "pa")
    ]
    times = {"sizes": [16, 64, 256], "seconds": [0.001, 0.003, 0.01], "exponent": 0.9, "from_linear": 0.05}
    series = [
        {"side": "npadv", "threads": threads, "grows": grows, **times}
        for threads in (1, 2)
        for grows in ("batch", "width")
    ]
    return {
        "settings": {"threads": 2},
        "machine": {"processor": "a processor"},
        "versions": {"torch": "2"},
        "rows": [*rows, {"key": "e", "title": "e", "skipped": "why"}],
        "scaling": series,
    }


def draw_from(results, folder):
    """Write results to a file, draw them by the command line, and return the exit code and the picture's path."""
    path = folder / "cpu.json"
    path.write_text(json.dumps(results), "utf-8")
    return command_line.main(["draw", "--input", str(path)]), path.with_suffix(".png")


def test_group_p_and_skipped_rows_are_not_drawn():
    assert [row["key"] for row in draw.drawn_rows(results_to_draw()["rows"])] == ["a", "c1", "g"]


def test_single_convolutions_are_drawn_as_one_row():
    row = draw.drawn_rows(results_to_draw()["rows"])[-1]
    assert row["ratios"]["torch"]["median"] == pytest.approx(0.6)
    assert row["ratios"]["torch tuned"]["points"] == [1.2, 1.2]


@pytest.mark.parametrize("missing", [[], ["scaling"]])
def test_the_picture_is_1800_pixels_wide(missing, tmp_path):
    pytest.importorskip("matplotlib")
    results = {name: value for name, value in results_to_draw().items() if name not in missing}
    code, picture = draw_from(results, tmp_path)
    assert code == 0
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") == 1800


def test_results_without_rows_are_refused(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    code, _ = draw_from(results_to_draw() | {"rows": []}, tmp_path)
    assert code == 2
    assert "expected results with at least one finished row" in capsys.readouterr().err


# The committed results ----------------------------------------------------------------------------------------------------

RESULTS = json.loads(command_line.RESULTS.read_text("utf-8"))
ROWS = {row["key"]: row for row in RESULTS["rows"]}
README = " ".join((ROOT / "README.md").read_text("utf-8").split())


def test_they_are_those_of_a_complete_run():
    assert {w.key for w in select([])} <= set(ROWS)
    assert {"settings", "versions", "machine", *command_line.EXTRAS} <= set(RESULTS)


def test_they_can_be_drawn():
    assert draw.drawn_rows(RESULTS["rows"])
    assert command_line.RESULTS.with_suffix(".png").exists()


@pytest.mark.parametrize("network", ["maxout_mlp", "syn_convnet"])
def test_the_readme_gives_the_time_of_an_epoch(network):
    ours, theirs = (RESULTS["processes"][f"{network} {library}"]["median"] for library in ("npadv", "torch"))
    assert f"{ours:.1f} s against {theirs:.1f}" in README


def test_the_readme_gives_the_memory_of_training():
    ours, theirs = (round(RESULTS["memory"][library]["peak"] / (1 << 20), -1) for library in ("npadv", "torch"))
    assert f"peaks at {ours:.0f} MiB where PyTorch takes {theirs:.0f}" in README


def microseconds(key, entry):
    return f"{ROWS[key]['seconds'][entry]['median'] * 1e6:.0f}"


def test_the_readme_gives_the_time_of_a_single_gradient():
    recorded, torch, textbook = (microseconds("pf1", entry) for entry in ("recorded", "torch", "textbook"))
    assert f"npadv takes {recorded} us, PyTorch {torch} and NumPy by hand, without a tape, {textbook}." in README


def test_the_readme_gives_the_time_of_a_replayed_gradient():
    ours, jax = microseconds("pf1", "npadv"), microseconds("pf1", "jax")
    assert f"`npadv.Replay` takes {ours} us, code that JAX compiled {jax};" in README
    ours, jax = microseconds("pf3", "npadv"), microseconds("pf3", "jax")
    assert f"784-1200-1200-10, {ours} us against {jax}." in README


def test_the_readme_gives_the_slowest_convolution():
    slowest = max(row["ratios"]["torch"]["median"] for key, row in ROWS.items() if key.startswith("g"))
    assert f"up to {slowest:.1f} times as slow as oneDNN's" in README


# Examples in docstrings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["__main__", "figures", "problems", "process", "table", "timing", "workloads"])
def test_docstring_examples(name):
    results = doctest.testmod(importlib.import_module(f"benchmarks.{name}"))
    assert results.attempted > 0
    assert results.failed == 0
