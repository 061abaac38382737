"""The benchmark of attacks against other libraries', with npadv standing in for each of them."""

import json

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks import attacks_peers
from benchmarks.attacks_peers import Comparison, verdicts
from benchmarks.contenders import victims
from benchmarks.process import ROOT, MissingLibraryError, Worker
from benchmarks.timing import Plan

QUICK = Plan(rounds=2, budget=0.01, warmup=0.0, rest=0.0, repeats=0)
RESULTS = ROOT / "benchmarks" / "speed" / "attacks.json"


@pytest.fixture
def measured(monkeypatch, tmp_path, capsys):
    """Return the results and the output of a run in which npadv, on small digits, stands in for every library.

    The file of results exists already, with an attack that is not measured and an old result of one that is.
    """
    pytest.importorskip("sklearn")
    monkeypatch.delenv("NPADV_DATA", raising=False)
    monkeypatch.setattr(attacks_peers, "EPOCHS", {"digits": 10})
    fgsm = Comparison(
        "fgsm",
        "784-20-10",
        {"eps": 0.2},
        {"a": {"eps": 0.1}, "b": {}},
        "linf",
        min_speedup=0.01,
        max_memory=1 << 34,
        one_by_one=("b",),
        plan=QUICK,
    )
    jsma = Comparison(
        "jsma", "784-20-10", {"pixels": 20, "targeted": True}, {"a": {}}, "l0", min_speedup=1e9, plan=QUICK
    )
    monkeypatch.setattr(attacks_peers, "COMPARISONS", {"fgsm": (fgsm, jsma)})
    monkeypatch.setattr(
        attacks_peers, "start_worker", lambda name: Worker.of(name, "benchmarks.contenders.npadv_attacks", threads=1)
    )
    output = tmp_path / "attacks.json"
    output.write_text(json.dumps({"lbfgs": [1], "fgsm": ["old"], "runs": {"lbfgs": {"settings": {}}}}))
    arguments = ["attacks", "--only", "fgsm", "--batch", "24", "--images", "3", "--output", str(output)]
    assert command_line.main(arguments) == 0
    return json.loads(output.read_text("utf-8")), capsys.readouterr().out


def test_a_comparison_of_attacks(measured):
    results, printed = measured
    check_the_file(results)
    check_the_numbers(*results["fgsm"])
    assert "fgsm, 784-20-10, digits, 24 images" in printed
    assert "MISSED  at least 1e+09 times as fast as a" in printed


def check_the_file(results):
    assert results["lbfgs"] == [1]  # an attack that was not measured keeps its results
    assert set(results["runs"]) == {"lbfgs", "fgsm"}
    assert results["runs"]["fgsm"]["versions"]["npadv"]


def check_the_numbers(fgsm, jsma):
    a, b = fgsm["peers"]["a"], fgsm["peers"]["b"]
    assert (fgsm["npadv"]["images"], a["images"], b["images"]) == (24, 24, 3)
    assert (a["distance"], a["npadv_distance"]) == pytest.approx((0.1, 0.2))  # a was given another eps
    assert a["success"] < a["npadv_success"] == fgsm["npadv"]["success"]
    assert b["success"] == b["npadv_success"]
    assert jsma["peers"]["a"]["distance"] > 1
    for row in (fgsm, jsma):
        ours = row["npadv"]["seconds"]
        for peer in row["peers"].values():
            assert peer["faster"]["median"] == pytest.approx(peer["seconds"]["median"] / ours["median"], rel=0.5)
    assert 0 < fgsm["peak"] < 1 << 34
    assert all(v["holds"] for v in fgsm["verdicts"])
    assert [v["holds"] for v in jsma["verdicts"]] == [False, True, True]


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
        # npadv is compared with the fastest peer.
        ({"x": peer(), "y": peer(seconds={"median": 1.0}, faster={"median": 1.0})}, None, [False, *[True] * 4]),
    ],
)
def test_verdicts(peers, peak, held):
    max_memory = None if peak is None else 100
    comparison = Comparison("linearized", "784-20-10", {}, {name: {} for name in peers}, "l2", 1.5, max_memory)
    assert [v["holds"] for v in verdicts(comparison, {"peers": peers}, peak)] == held


@pytest.fixture
def victim():
    pytest.importorskip("sklearn")
    return victims.train("784-20-10", 10, data="digits", epochs=10)


def test_a_saved_victim_is_loaded_unchanged(victim, tmp_path):
    victim.save(tmp_path / "victim.npz")
    loaded = victims.Victim.load(tmp_path / "victim.npz")
    assert loaded.network == victim.network
    for saved, read in zip([*victim.weights, victim.x, victim.y], [*loaded.weights, loaded.x, loaded.y], strict=True):
        np.testing.assert_array_equal(saved, read)


def test_a_victim_classifies_its_images_correctly(victim):
    logits = np.asarray(victims.npadv_victim(victim)(victim.x).data)
    np.testing.assert_array_equal(logits.argmax(axis=1), victim.y)


def test_a_target_is_the_next_class():
    assert victims.targets(np.array([3, 9])).tolist() == [4, 0]


def test_a_missing_library_is_one_sentence_that_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "art.py").write_text("raise ModuleNotFoundError(name='art')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with (
        attacks_peers.start_worker("art") as worker,
        pytest.raises(MissingLibraryError, match=r"pip install -e \"\.\[peers\]\""),
    ):
        worker.ask("hello")


# The committed results ----------------------------------------------------------------------------------------------------

COMMITTED = json.loads(RESULTS.read_text("utf-8"))
README = " ".join((ROOT / "README.md").read_text("utf-8").split())


def test_every_part_has_results_and_the_facts_of_its_run():
    assert set(attacks_peers.COMPARISONS) <= set(COMMITTED)
    assert set(COMMITTED["runs"]) == set(COMMITTED) - {"runs"}


def test_the_readme_gives_the_speed_against_other_libraries():
    ratios = []
    for part in ("fgsm", "pgd", "pgd_convnet", "jsma", "linearized"):
        for row in COMMITTED[part]:
            fastest = min(row["peers"].values(), key=lambda peer: peer["seconds"]["median"])
            ratios.append(fastest["faster"]["median"])
    sentence = (
        "{:.1f} and {:.1f} times as fast as the fastest of them for one step of the fast gradient sign (dense network, "
        "convolutional network), {:.1f} and {:.1f} times for 40 steps of projected gradient descent, {:.1f} times for saliency "
        "maps and {:.1f} times for DeepFool"
    )
    assert sentence.format(*ratios) in README


def test_the_readme_gives_the_speed_of_the_batched_lbfgs():
    batched = [row["batched"] for row in COMMITTED["lbfgs"]]
    faster, than_one_thread = ([row[key] for row in batched] for key in ("faster", "faster_than_one_thread"))
    sentence = (
        "{:.0f} to {:.0f} times as fast per image as SciPy on one after another, and {:.0f} to {:.0f} times as fast as SciPy "
        "with one thread"
    )
    assert sentence.format(min(faster), max(faster), min(than_one_thread), max(than_one_thread)) in README
