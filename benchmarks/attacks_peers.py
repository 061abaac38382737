"""The speed of npadv's attacks against those of foolbox, torchattacks and the Adversarial Robustness Toolbox (art).

    pip install -e ".[peers]"
    python -m benchmarks attacks --only fgsm pgd jsma linearized carlini_wagner

Each library runs in a separate process, as in ``python -m benchmarks cpu``. All get the same trained network, the same images
(which the network classifies correctly) and the same settings under npadv's names; ``contenders/foolbox_attacks.py`` and the
files beside it translate these for each library. The libraries take turns, and ratios are taken within a round. npadv's copy
of the network scores all adversarial examples: how many images changed class (or reached their target), and the distances of
the images on which both libraries succeeded. ``tests/test_peers.py`` compares the examples themselves.

A library that attacks one image after another gets ``--images`` of them instead of ``--batch``: its time an image does not
depend on their number.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contenders import victims
from benchmarks.process import Worker
from benchmarks.timing import Plan, PreparedTask, race, summary
from npadv import no_record

THREADS = 2
FIVE_ROUNDS = Plan(rounds=5, budget=1.0, repeats=5)
THREE_ROUNDS = Plan(rounds=3, warmup=0.0, repeats=1)
ONE_ROUND = Plan(rounds=1, warmup=0.0, repeats=0)
MLP, CONVNET = "784-1200-1200-10", "convnet"
EPOCHS = {"mnist": 1, "digits": 20}
GIB = 1 << 30


class Comparison(NamedTuple):
    """An attack with its settings, the libraries that have it, and the bars that npadv must hold.

    Attributes
    ----------
    options : mapping
        The settings, under npadv's names.
    peers : mapping of str to mapping
        The libraries that have the attack, each with the settings that differ from ``options``.
    distance : str
        The measure of distance: linf, l2, or l0 for the number of changed pixels.
    min_speedup : float, optional
        The fastest peer's time divided by npadv's must be at least this.
    max_memory : int, optional
        The bytes that npadv's process may hold.
    one_by_one : tuple of str
        The peers that attack one image after another.
    plan : Plan
        The number of rounds: fewer where an attack takes seconds.
    """

    attack: str
    network: str
    options: Mapping[str, Any]
    peers: Mapping[str, Mapping[str, Any]]
    distance: str
    min_speedup: float | None = None
    max_memory: int | None = None
    one_by_one: tuple[str, ...] = ()
    plan: Plan = THREE_ROUNDS


ALL_PEERS: Mapping[str, Mapping[str, Any]] = {"foolbox": {}, "torchattacks": {}, "art": {}}
PGD = {"eps": 0.1, "step": 0.01, "steps": 40}
DEEPFOOL = {"norm": "l2", "steps": 50, "overshoot": 0.02}

COMPARISONS: dict[str, tuple[Comparison, ...]] = {
    "fgsm": tuple(
        Comparison("fgsm", network, {"eps": 0.1}, ALL_PEERS, "linf", min_speedup=1.0, plan=FIVE_ROUNDS)
        for network in (MLP, CONVNET)
    ),
    "pgd": (Comparison("pgd", MLP, PGD, ALL_PEERS, "linf", min_speedup=1.0, plan=FIVE_ROUNDS),),
    "pgd_convnet": (Comparison("pgd", CONVNET, PGD, ALL_PEERS, "linf", min_speedup=1.0, plan=ONE_ROUND),),
    "jsma": (
        Comparison(
            "jsma",
            MLP,
            {"theta": 1.0, "pixels": 78, "targeted": True},
            {"art": {}, "torchattacks": {}},
            "l0",
            min_speedup=3.0,
            max_memory=GIB,
            one_by_one=("torchattacks",),
        ),
    ),
    "linearized": (
        Comparison(
            "linearized",
            MLP,
            DEEPFOOL,
            {"foolbox": {}, "torchattacks": {}},
            "l2",
            min_speedup=3.0,
            one_by_one=("torchattacks",),
        ),
    ),
    "carlini_wagner": (
        Comparison(
            "carlini_wagner",
            MLP,
            {"searches": 4, "steps": 50, "step": 0.05},
            {"foolbox": {}, "torchattacks": {"searches": 1, "steps": 200}},  # as many evaluations of the model
            "l2",
            plan=ONE_ROUND,
        ),
    ),
}
"""The comparisons behind each value of ``--only``."""


def run(part: str, *, batch: int, images: int, say: Callable[[str], Any] = print) -> list[dict[str, Any]]:
    """Measure one part's attacks; return a row for each, and pass its lines of text to ``say`` when it is finished."""
    rows = []
    for comparison in COMPARISONS[part]:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            workers = {library: stack.enter_context(start_worker(library)) for library in ("npadv", *comparison.peers)}
            row = _row(comparison, workers, Path(folder), batch, min(images, batch))
        rows.append(row)
        say("\n".join(lines(row)))
    return rows


def start_worker(library: str) -> Worker:
    """Return a worker that runs a library's attacks."""
    worker = Worker.of(library, f"benchmarks.contenders.{library}_attacks", threads=THREADS)
    worker.extra = "peers"
    return worker


def _row(
    comparison: Comparison, workers: Mapping[str, Worker], folder: Path, batch: int, images: int
) -> dict[str, Any]:
    versions: dict[str, str] = {}
    for worker in workers.values():
        versions |= worker.ask("hello")["versions"]
    data = "mnist" if os.environ.get("NPADV_DATA") else "digits"
    victim = _victim(comparison.network, batch, data)
    victim.save(folder / "all.npz")
    victim._replace(x=victim.x[:images], y=victim.y[:images]).save(folder / "few.npz")

    counts, examples = {}, {}
    for library, worker in workers.items():
        images_file = "few.npz" if library in comparison.one_by_one else "all.npz"
        worker.ask(
            "prepare",
            name="attack",
            task="attack",
            settings={
                "name": comparison.attack,
                "victim": str(folder / images_file),
                "options": {**comparison.options, **comparison.peers.get(library, {})},
                "to": str(folder / f"{library}.npy"),
            },
        )
        examples[library] = np.load(folder / f"{library}.npy")
        counts[library] = len(examples[library])
    peak = workers["npadv"].ask("memory", name="attack", settle=0, steps=1)["peak"] if comparison.max_memory else None
    rounds = race({library: PreparedTask(worker, "attack") for library, worker in workers.items()}, comparison.plan)

    ours = np.array(rounds.seconds["npadv"]) / counts["npadv"]
    row: dict[str, Any] = {
        "attack": comparison.attack,
        "network": comparison.network,
        "options": dict(comparison.options),
        "data": data,
        "versions": versions,
        "distance": comparison.distance,
        "disturbed_samples": rounds.disturbed,
        "npadv": {"images": counts["npadv"], "seconds": summary(list(ours))},
        "peers": {},
    }
    scorer = Scorer(comparison, victim)
    success = {library: scorer.success(x) for library, x in examples.items()}
    row["npadv"] |= {
        "success": float(success["npadv"].mean()),
        "distance": scorer.median_distance(examples["npadv"], success["npadv"]),
    }
    for library in comparison.peers:
        n, theirs = counts[library], np.array(rounds.seconds[library]) / counts[library]
        both = success[library] & success["npadv"][:n]
        row["peers"][library] = {
            "images": n,
            "settings": dict(comparison.peers[library]),
            "seconds": summary(list(theirs)),
            "faster": summary(list(theirs / ours)),  # npadv's speedup
            "success": float(success[library].mean()),
            "npadv_success": float(success["npadv"][:n].mean()),
            "distance": scorer.median_distance(examples[library], both),
            "npadv_distance": scorer.median_distance(examples["npadv"][:n], both),
        }
    return row | {"peak": peak, "verdicts": verdicts(comparison, row, peak)}


@functools.cache
def _victim(network: str, batch: int, data: str) -> victims.Victim:
    return victims.train(network, batch, data=data, epochs=EPOCHS[data])


class Scorer:
    """Computes success and distances of adversarial examples with npadv's copy of the network."""

    def __init__(self, comparison: Comparison, victim: victims.Victim) -> None:
        self.comparison, self.victim, self.model = comparison, victim, victims.npadv_victim(victim)

    def success(self, x: np.ndarray) -> np.ndarray:
        """Return a mask of the examples that changed class, or reached their target."""
        y = self.victim.y[: len(x)]
        with no_record():
            prediction = self.model(x).data.argmax(axis=1)
        if self.comparison.options.get("targeted"):
            return np.asarray(prediction == victims.targets(y))
        return np.asarray(prediction != y)

    def median_distance(self, x: np.ndarray, mask: np.ndarray) -> float | None:
        """Return the median distance of the examples in the mask, None if there are none."""
        if not mask.any():
            return None
        d = (x.astype(np.float64) - self.victim.x[: len(x)]).reshape(len(x), -1)[mask]
        return float(np.median(DISTANCES[self.comparison.distance](d)))


DISTANCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "l0": lambda d: (d != 0).sum(axis=1),
    "l2": lambda d: np.sqrt((d * d).sum(axis=1)),
    "linf": lambda d: np.abs(d).max(axis=1),
}


def verdicts(comparison: Comparison, row: Mapping[str, Any], peak: int | None) -> list[dict[str, Any]]:
    """Return each requirement, the measured value, and whether it holds.

    A peer that attacks one image after another got only a few images, so only its time counts.
    """
    found: list[dict[str, Any]] = []

    def require(asked: str, got: float, holds: bool) -> None:
        found.append({"asked": asked, "got": got, "holds": holds})

    if comparison.min_speedup is None:
        return found
    fastest = min(row["peers"], key=lambda library: row["peers"][library]["seconds"]["median"])
    faster = row["peers"][fastest]["faster"]["median"]
    require(f"at least {comparison.min_speedup:g} times as fast as {fastest}", faster, faster >= comparison.min_speedup)
    if comparison.max_memory is not None and peak is not None:
        require(f"at most {comparison.max_memory / GIB:g} GiB", peak / GIB, peak <= comparison.max_memory)
    for library, peer in row["peers"].items():
        if library in comparison.one_by_one:
            continue
        ours, theirs = peer["npadv_success"], peer["success"]
        require(f"success within 2 points of {library}'s {theirs:.1%}", ours, ours >= theirs - 0.02)
        ours, theirs = peer["npadv_distance"], peer["distance"]
        if comparison.distance == "linf" or ours is None or theirs is None:
            continue  # in linf every attack moves by eps
        require(f"a median distance of at most {library}'s {theirs:.4g}", ours, ours <= theirs * (1 + 1e-6))
    return found


def lines(row: Mapping[str, Any]) -> list[str]:
    """Return a row as lines of text."""
    ours = row["npadv"]
    text = [
        f"{row['attack']}, {row['network']}, {row['data']}, {ours['images']} images, {THREADS} threads",
        f"  npadv         {ours['seconds']['median'] * 1e3:9.3f} ms an image, success {ours['success']:.1%}, "
        f"{row['distance']} distance {ours['distance']:.4g}",
    ]
    for library, peer in row["peers"].items():
        distances = (
            ""
            if peer["distance"] is None
            else f", distance {peer['distance']:.4g} (npadv's {peer['npadv_distance']:.4g})"
        )
        text.append(
            f"  {library:13} {peer['seconds']['median'] * 1e3:9.3f} ms an image, success {peer['success']:.1%} "
            f"(npadv's {peer['npadv_success']:.1%}){distances}: npadv is {peer['faster']['median']:.2f} times as fast"
        )
    return text + [f"  {'holds ' if v['holds'] else 'MISSED'}  {v['asked']}: {v['got']:.4g}" for v in row["verdicts"]]
