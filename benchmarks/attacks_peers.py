"""How fast npadv's attacks are beside those of foolbox, torchattacks and the Adversarial Robustness Toolbox (art).

    pip install -e ".[peers]"
    python -m benchmarks attacks --only fgsm pgd jsma linearized carlini_wagner

Each library is a process of its own, as in ``python -m benchmarks cpu``, and gets the same trained network, the same images
(that the network classifies correctly) and the same settings, in the words of npadv: ``sides/foolbox_side.py`` and its
neighbours say what these are in each library. They take turns, and ratios are taken within a round. What they find is judged
by npadv's copy of the network, the same for all: how many images changed class (or reached their target), and how far they
were moved, on the images where both succeeded. ``tests/test_peers.py`` compares the examples themselves.

A library that attacks one image after another gets ``--images`` of them instead of ``--batch``: its time an image does not
depend on how many there are.
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

from benchmarks.process import Worker
from benchmarks.sides import victims
from benchmarks.timing import Contestant, Plan, race, summary
from npadv import no_record

THREADS = 2
QUICK = Plan(rounds=5, budget=1.0, repeats=5)
SLOW = Plan(rounds=3, warmup=0.0, repeats=1)
ONCE = Plan(rounds=1, warmup=0.0, repeats=0)
MLP, CONVNET = "784-1200-1200-10", "convnet"
EPOCHS = {"mnist": 1, "digits": 20}
GIB = 1 << 30


class Duel(NamedTuple):
    """An attack with its settings, and what is asked of it.

    Attributes
    ----------
    options : mapping
        The settings, npadv's.
    peers : mapping of str to mapping
        The libraries that have the attack, and which of the settings they get in another way.
    distance : str
        What counts as far: linf, l2, or l0 for the number of changed pixels.
    least : float, optional
        How many times as fast as the fastest peer npadv should be at least.
    memory : int, optional
        How many bytes npadv's process may hold at most.
    singly : tuple of str
        The peers that attack one image after another.
    plan : Plan
        How often they take turns: less often where an attack takes seconds.
    """

    attack: str
    network: str
    options: Mapping[str, Any]
    peers: Mapping[str, Mapping[str, Any]]
    distance: str
    least: float | None = None
    memory: int | None = None
    singly: tuple[str, ...] = ()
    plan: Plan = SLOW


ALL: Mapping[str, Mapping[str, Any]] = {"foolbox": {}, "torchattacks": {}, "art": {}}
PGD = {"eps": 0.1, "step": 0.01, "steps": 40}
DEEPFOOL = {"norm": "l2", "steps": 50, "overshoot": 0.02}

DUELS: dict[str, tuple[Duel, ...]] = {
    "fgsm": tuple(Duel("fgsm", network, {"eps": 0.1}, ALL, "linf", 1.0, plan=QUICK) for network in (MLP, CONVNET)),
    "pgd": (Duel("pgd", MLP, PGD, ALL, "linf", 1.0, plan=QUICK),),
    "pgd_convnet": (Duel("pgd", CONVNET, PGD, ALL, "linf", 1.0, plan=ONCE),),
    "jsma": (
        Duel(
            "jsma",
            MLP,
            {"theta": 1.0, "pixels": 78, "targeted": True},
            {"art": {}, "torchattacks": {}},
            "l0",
            3.0,
            GIB,
            ("torchattacks",),
        ),
    ),
    "linearized": (
        Duel("linearized", MLP, DEEPFOOL, {"foolbox": {}, "torchattacks": {}}, "l2", 3.0, singly=("torchattacks",)),
    ),
    "carlini_wagner": (
        Duel(
            "carlini_wagner",
            MLP,
            {"searches": 4, "steps": 50, "step": 0.05},
            {"foolbox": {}, "torchattacks": {"searches": 1, "steps": 200}},  # as many looks at the model
            "l2",
            plan=ONCE,
        ),
    ),
}
"""By part of the command line."""


def run(part: str, *, batch: int, images: int, say: Callable[[str], Any] = print) -> list[dict[str, Any]]:
    """Measure a part's attacks and return a row for each; lines are said as they are found."""
    rows = []
    for duel in DUELS[part]:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            workers = {side: stack.enter_context(_start(side)) for side in ("npadv", *duel.peers)}
            row = _row(duel, workers, Path(folder), batch, min(images, batch))
        rows.append(row)
        say("\n".join(lines(row)))
    return rows


def _start(side: str) -> Worker:
    module = "npadv_attacks" if side == "npadv" else side
    worker = Worker.of(side, f"benchmarks.sides.{module}_side", threads=THREADS)
    worker.extra = "peers"
    return worker


def _row(duel: Duel, workers: Mapping[str, Worker], folder: Path, batch: int, images: int) -> dict[str, Any]:
    versions: dict[str, str] = {}
    for worker in workers.values():
        versions |= worker.ask("hello")["versions"]
    data = "mnist" if os.environ.get("NPADV_DATA") else "digits"
    victim = _victim(duel.network, batch, data)
    victim.save(folder / "all.npz")
    victim._replace(x=victim.x[:images], y=victim.y[:images]).save(folder / "few.npz")

    counts, found = {}, {}
    for side, worker in workers.items():
        few = side in duel.singly
        worker.ask(
            "prepare",
            name="attack",
            task="attack",
            settings={
                "name": duel.attack,
                "victim": str(folder / ("few.npz" if few else "all.npz")),
                "options": {**duel.options, **duel.peers.get(side, {})},
                "to": str(folder / f"{side}.npy"),
            },
        )
        found[side] = np.load(folder / f"{side}.npy")
        counts[side] = len(found[side])
    peak = workers["npadv"].ask("memory", name="attack", settle=0, steps=1)["peak"] if duel.memory else None
    rounds = race({side: Contestant(worker, "attack") for side, worker in workers.items()}, duel.plan)

    ours = np.array(rounds.seconds["npadv"]) / counts["npadv"]
    row: dict[str, Any] = {
        "attack": duel.attack,
        "network": duel.network,
        "options": dict(duel.options),
        "data": data,
        "versions": versions,
        "distance": duel.distance,
        "disturbed_samples": rounds.disturbed,
        "npadv": {"images": counts["npadv"], "seconds": summary(list(ours))},
        "peers": {},
    }
    judge = Judge(duel, victim)
    hits = {side: judge.hits(x) for side, x in found.items()}
    row["npadv"] |= {"success": float(hits["npadv"].mean()), "distance": judge.median(found["npadv"], hits["npadv"])}
    for side in duel.peers:
        n, theirs = counts[side], np.array(rounds.seconds[side]) / counts[side]
        both = hits[side] & hits["npadv"][:n]
        row["peers"][side] = {
            "images": n,
            "settings": dict(duel.peers[side]),
            "seconds": summary(list(theirs)),
            "faster": summary(list(theirs / ours)),  # how many times as fast npadv is
            "success": float(hits[side].mean()),
            "npadv_success": float(hits["npadv"][:n].mean()),
            "distance": judge.median(found[side], both),
            "npadv_distance": judge.median(found["npadv"][:n], both),
        }
    return row | {"peak": peak, "verdicts": verdicts(duel, row, peak)}


@functools.cache
def _victim(network: str, batch: int, data: str) -> victims.Victim:
    return victims.train(network, batch, data=data, epochs=EPOCHS[data])


class Judge:
    """Looks at what the libraries found, with npadv's copy of the network."""

    def __init__(self, duel: Duel, victim: victims.Victim) -> None:
        self.duel, self.victim, self.model = duel, victim, victims.npadv_victim(victim)

    def hits(self, x: np.ndarray) -> np.ndarray:
        """Return which examples changed class, or reached their target."""
        y = self.victim.y[: len(x)]
        with no_record():
            prediction = self.model(x).data.argmax(axis=1)
        if self.duel.options.get("targeted"):
            return np.asarray(prediction == victims.targets(y))
        return np.asarray(prediction != y)

    def median(self, x: np.ndarray, which: np.ndarray) -> float | None:
        """Return the median distance of some examples."""
        if not which.any():
            return None
        d = (x.astype(np.float64) - self.victim.x[: len(x)]).reshape(len(x), -1)[which]
        return float(np.median(DISTANCES[self.duel.distance](d)))


DISTANCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "l0": lambda d: (d != 0).sum(axis=1),
    "l2": lambda d: np.sqrt((d * d).sum(axis=1)),
    "linf": lambda d: np.abs(d).max(axis=1),
}


def verdicts(duel: Duel, row: Mapping[str, Any], peak: int | None) -> list[dict[str, Any]]:
    """Return what was asked, what came, and whether that is enough; of a few images attacked singly, only the time counts."""
    found: list[dict[str, Any]] = []

    def ask(asked: str, got: float, holds: bool) -> None:
        found.append({"asked": asked, "got": got, "holds": holds})

    if duel.least is None:
        return found
    fastest = min(row["peers"], key=lambda side: row["peers"][side]["seconds"]["median"])
    faster = row["peers"][fastest]["faster"]["median"]
    ask(f"at least {duel.least:g} times as fast as {fastest}", faster, faster >= duel.least)
    if duel.memory is not None and peak is not None:
        ask(f"at most {duel.memory / GIB:g} GiB", peak / GIB, peak <= duel.memory)
    for side, peer in row["peers"].items():
        if side in duel.singly:
            continue
        hits, theirs = peer["npadv_success"], peer["success"]
        ask(f"success within 2 points of {side}'s {theirs:.1%}", hits, hits >= theirs - 0.02)
        near, theirs = peer["npadv_distance"], peer["distance"]
        if (
            duel.distance != "linf" and near is not None and theirs is not None
        ):  # in linf all go to the edge of the ball
            ask(f"a median distance of at most {side}'s {theirs:.4g}", near, near <= theirs * (1 + 1e-6))
    return found


def lines(row: Mapping[str, Any]) -> list[str]:
    """Return a row as lines of text."""
    ours = row["npadv"]
    said = [
        f"{row['attack']}, {row['network']}, {row['data']}, {ours['images']} images, {THREADS} threads",
        f"  npadv         {ours['seconds']['median'] * 1e3:9.3f} ms an image, success {ours['success']:.1%}, "
        f"{row['distance']} distance {ours['distance']:.4g}",
    ]
    for side, peer in row["peers"].items():
        distances = (
            ""
            if peer["distance"] is None
            else f", distance {peer['distance']:.4g} (npadv's {peer['npadv_distance']:.4g})"
        )
        said.append(
            f"  {side:13} {peer['seconds']['median'] * 1e3:9.3f} ms an image, success {peer['success']:.1%} "
            f"(npadv's {peer['npadv_success']:.1%}){distances}: npadv is {peer['faster']['median']:.2f} times as fast"
        )
    return said + [f"  {'holds ' if v['holds'] else 'MISSED'}  {v['asked']}: {v['got']:.4g}" for v in row["verdicts"]]
