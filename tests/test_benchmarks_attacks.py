"""The benchmark of attacks beside other libraries', with npadv in the libraries' places: what it measures, says and writes."""

import json

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks import attacks_peers
from benchmarks.attacks_peers import Duel, verdicts
from benchmarks.process import ROOT, MissingLibraryError, Worker
from benchmarks.sides import victims
from benchmarks.timing import Plan

QUICK = Plan(rounds=2, budget=0.01, warmup=0.0, rest=0.0, repeats=0)
RESULTS = ROOT / "benchmarks" / "speed" / "attacks.json"


@pytest.fixture
def small_duels(monkeypatch):
    """Let npadv race against itself on the digits, once one image after another."""
    monkeypatch.delenv("NPADV_DATA", raising=False)
    monkeypatch.setattr(attacks_peers, "EPOCHS", {"digits": 10})
    duels = (
        Duel("fgsm", "784-20-10", {"eps": 0.2}, {"a": {"eps": 0.1}, "b": {}}, "linf", 0.01, 1 << 34, ("b",), QUICK),
        Duel("jsma", "784-20-10", {"pixels": 20, "targeted": True}, {"a": {}}, "l0", 1e9, plan=QUICK),
    )
    monkeypatch.setattr(attacks_peers, "DUELS", {"fgsm": duels})
    monkeypatch.setattr(
        attacks_peers, "_start", lambda side: Worker.of(side, "benchmarks.sides.npadv_attacks_side", threads=1)
    )


def test_a_duel_measures_and_judges_both_sides(small_duels, capsys, tmp_path):
    pytest.importorskip("sklearn")
    output = tmp_path / "attacks.json"
    output.write_text(json.dumps({"lbfgs": [1], "fgsm": ["old"], "runs": {"lbfgs": {"settings": {}}}}))
    arguments = ["attacks", "--only", "fgsm", "--batch", "24", "--images", "3", "--output", str(output)]
    assert command_line.main(arguments) == 0
    results = json.loads(output.read_text("utf-8"))
    assert results["lbfgs"] == [1]  # a part that was not measured stays as it was
    assert set(results["runs"]) == {"lbfgs", "fgsm"}
    assert results["runs"]["fgsm"]["versions"]["npadv"]

    fgsm, jsma = results["fgsm"]
    a, b = fgsm["peers"]["a"], fgsm["peers"]["b"]
    assert (fgsm["npadv"]["images"], a["images"], b["images"]) == (24, 24, 3)
    assert (a["distance"], a["npadv_distance"]) == pytest.approx((0.1, 0.2))  # it was given another eps
    assert a["success"] < a["npadv_success"] == fgsm["npadv"]["success"]
    assert b["success"] == b["npadv_success"]
    for row in (fgsm, jsma):
        ours = row["npadv"]["seconds"]
        for peer in row["peers"].values():
            assert peer["faster"]["median"] == pytest.approx(peer["seconds"]["median"] / ours["median"], rel=0.5)
    assert 0 < fgsm["peak"] < 1 << 34
    assert all(v["holds"] for v in fgsm["verdicts"])
    assert [v["holds"] for v in jsma["verdicts"]] == [False, True, True]
    assert jsma["peers"]["a"]["distance"] > 1

    said = capsys.readouterr().out
    assert "fgsm, 784-20-10, digits, 24 images" in said
    assert "MISSED  at least 1e+09 times as fast as a" in said


def peer(**numbers):
    found = {"seconds": {"median": 2.0}, "faster": {"median": 2.0}, "success": 0.9, "npadv_success": 0.9}
    return found | {"distance": 1.0, "npadv_distance": 1.0} | numbers


@pytest.mark.parametrize(
    ("peers", "peak", "held"),
    [
        ({"x": peer()}, None, [True, True, True]),
        ({"x": peer(faster={"median": 1.4})}, None, [False, True, True]),
        ({"x": peer(npadv_success=0.87)}, None, [True, False, True]),
        ({"x": peer(npadv_success=0.885)}, None, [True, True, True]),
        ({"x": peer(npadv_distance=1.001)}, None, [True, True, False]),
        ({"x": peer(distance=None)}, None, [True, True]),
        ({"x": peer()}, 100, [True, True, True, True]),
        ({"x": peer()}, 101, [True, False, True, True]),
        # The fastest is the one to beat.
        ({"x": peer(), "y": peer(seconds={"median": 1.0}, faster={"median": 1.0})}, None, [False, *[True] * 4]),
    ],
)
def test_what_holds(peers, peak, held):
    duel = Duel("linearized", "784-20-10", {}, {name: {} for name in peers}, "l2", 1.5, None if peak is None else 100)
    assert [v["holds"] for v in verdicts(duel, {"peers": peers}, peak)] == held


def test_a_victim_is_the_same_read_again(tmp_path):
    pytest.importorskip("sklearn")
    victim = victims.train("784-20-10", 10, data="digits", epochs=10)
    victim.save(tmp_path / "victim.npz")
    again = victims.Victim.load(tmp_path / "victim.npz")
    assert again.network == victim.network
    for ours, other in zip([*victim.weights, victim.x, victim.y], [*again.weights, again.x, again.y], strict=True):
        np.testing.assert_array_equal(ours, other)
    logits = np.asarray(victims.npadv_victim(again)(again.x).data)
    np.testing.assert_array_equal(logits.argmax(axis=1), victim.y)  # those it classifies correctly
    assert (victims.targets(np.array([3, 9])) == [4, 0]).all()


def test_a_missing_library_is_one_sentence_that_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "art.py").write_text("raise ModuleNotFoundError(name='art')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with (
        attacks_peers._start("art") as worker,
        pytest.raises(MissingLibraryError, match=r"pip install -e \"\.\[peers\]\""),
    ):
        worker.ask("hello")


def test_the_committed_results_are_those_the_readme_tells_of():
    results = json.loads(RESULTS.read_text("utf-8"))
    assert set(attacks_peers.DUELS) <= set(results)
    assert set(results["runs"]) == set(results) - {"runs"}
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    ratios = []
    for part in ("fgsm", "pgd", "pgd_convnet", "jsma", "linearized"):
        for row in results[part]:
            fastest = min(row["peers"].values(), key=lambda side: side["seconds"]["median"])
            ratios.append(fastest["faster"]["median"])
    told = (
        "{:.1f} and {:.1f} times as fast as the fastest of them for one step of the fast gradient sign (dense network, "
        "convolutional network), {:.1f} and {:.1f} times for 40 steps of projected gradient descent, {:.1f} times for saliency "
        "maps and {:.1f} times for DeepFool"
    )
    assert told.format(*ratios) in readme
    batched = [row["batched"] for row in results["lbfgs"]]
    faster, of_one = ([row[key] for row in batched] for key in ("faster", "faster_than_one_thread"))
    told = (
        "{:.0f} to {:.0f} times as fast per image as SciPy on one after another, and {:.0f} to {:.0f} times as fast as SciPy "
        "with one thread"
    )
    assert told.format(min(faster), max(faster), min(of_one), max(of_one)) in readme
