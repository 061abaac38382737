"""The L-BFGS attack beside SciPy's L-BFGS-B, given one image after another.

The same model, weights, precision and outer search, written out below as one would without npadv's attack. Time is per
image, since the slow side gets fewer of them: its rate does not depend on how many. Beside the times stand what they bought:
the mean distance found (images that all ways attacked), and how often the model was asked about an image.

NumPy and SciPy each bring a BLAS with threads of its own, and where the machine has no core for all of them they spend their
time waiting for one another. One image at a time suffers most, so it is measured twice: with the threads that everything here
has, and with one. Every way runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import problems
from benchmarks.process import WorkerError, worker_environment
from npadv import Tensor, grad, no_record
from npadv.attacks import lbfgs
from npadv.functional import cross_entropy

MLP = "784-1200-1200-10"
SEARCHES, MAX_ITERATIONS = 4, 100


class Case(NamedTuple):
    """A network and a precision, and how many times as fast as one at a time each way should be: at least, and as an aim."""

    network: str
    dtype: str
    scipy: tuple[float, float]
    batched: tuple[float, float]


LBFGS = (
    Case(MLP, "float64", (8.0, 14.0), (20.0, 30.0)),
    Case(MLP, "float32", (1.2, 1.2), (4.0, 4.0)),
    Case("syn_convnet", "float64", (2.0, 2.0), (6.0, 6.0)),
    Case("syn_convnet", "float32", (2.0, 2.0), (6.0, 6.0)),
)


class Measured(NamedTuple):
    """What one way of attacking came to, per image."""

    seconds: float
    distances: list[float]  # NaN where no adversarial example was found
    evaluations: float


WAYS = {"one at a time": None, "one at a time, one thread": 1, "scipy": None, "batched": None}
"""Ways of attacking, and how many threads they have: the first two SciPy alone, the others npadv's solvers."""


def run(*, batch: int, images: int, say: Callable[[str], Any] = print) -> list[dict[str, Any]]:
    """Measure all cases and return a row for each; lines are said as they are found."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    few = min(images, batch)
    say(
        f"L-BFGS attack, {threads} threads, batch {batch} ({few} images one at a time), {SEARCHES} values of lambda, "
        f"at most {MAX_ITERATIONS} iterations; one run"
    )
    rows = []
    for case in LBFGS:
        row: dict[str, Any] = {"network": case.network, "dtype": case.dtype, "threads": threads}
        for name, own in WAYS.items():
            way = _elsewhere(name.split(",")[0], case, batch=batch, images=few, threads=own or threads)
            slow = row.get("one at a time", {"seconds": way.seconds})
            row[name] = {
                "seconds": way.seconds,
                "faster": slow["seconds"] / way.seconds,
                "distance": float(np.nanmean(way.distances[:few])),
                "found": float(np.isfinite(way.distances).mean()),
                "evaluations": way.evaluations,
            }
            verdict = ""
            if least_and_aim := {"scipy": case.scipy, "batched": case.batched}.get(name):
                row[name]["at_least"], row[name]["aim"] = least_and_aim
                row[name]["faster_than_one_thread"] = row["one at a time, one thread"]["seconds"] / way.seconds
                verdict = "{faster:5.1f} times as fast (at least {at_least:g}, aim {aim:g})".format(**row[name])
                verdict += "; {faster_than_one_thread:.1f} of one thread".format(**row[name])
            say(
                f"{case.network:17} {case.dtype}  {name:25} {way.seconds * 1e3:8.1f} ms an image, {way.evaluations:5.0f} "
                f"evaluations, distance {row[name]['distance']:.4f}, found {row[name]['found']:4.0%}  {verdict}".rstrip()
            )
        rows.append(row)
    return rows


def _elsewhere(way: str, case: Case, *, threads: int, **sizes: int) -> Measured:
    """Measure one way in a process of its own."""
    request = {"way": way, "network": case.network, "dtype": case.dtype, **sizes}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.attacks_lbfgs", json.dumps(request)],
        env=worker_environment(threads),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise WorkerError(f"{way} on {case.network}: {done.stderr.strip().splitlines()[-1]}")
    return Measured(**json.loads(done.stdout))


def measure(way: str, network: str, dtype: str, *, batch: int, images: int) -> Measured:
    """Measure one way here."""
    model, x, targets = _problem(network, dtype, batch)
    if way == "one at a time":
        x, targets = x[:images], targets[:images]
    attack = _attack(model, way)
    attack(x[:2], targets[:2])  # SciPy's import, the first touch of memory
    started = time.perf_counter()
    distances, evaluations = attack(x, targets)
    return Measured((time.perf_counter() - started) / len(x), distances.tolist(), evaluations / len(x))


def _problem(network: str, dtype: str, batch: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return a network, images, and for each a class that it is not in."""
    from benchmarks.sides.npadv_side import build

    model = build(network).astype(np.dtype(dtype))
    x, labels = problems.batch(network, batch)
    x = x.astype(dtype)
    with no_record():
        own = model(x).data.argmax(axis=1)
    return model, x, (own + 1 + labels % (problems.CLASSES - 1)) % problems.CLASSES


def _attack(model: Any, solver: str) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, int]]:
    def attack(x: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, int]:
        if solver == "one at a time":
            return one_at_a_time(model, x, targets)
        result = lbfgs(
            model, x, targets, targeted=True, solver=solver, searches=SEARCHES, max_iterations=MAX_ITERATIONS
        )
        return np.where(result.success, result.distance, np.nan), int(result.queries.sum())

    return attack


def one_at_a_time(model: Any, x: np.ndarray, targets: Sequence[int] | np.ndarray) -> tuple[np.ndarray, int]:
    """Attack image after image with ``scipy.optimize.minimize``; return the distances, NaN for failures, and evaluations."""
    from scipy.optimize import Bounds, minimize

    distances, evaluations = np.full(len(x), np.nan), 0
    for i, target in enumerate(targets):
        label, centre = np.array([target]), x[i].ravel().astype(np.float64)
        weight, succeeds, fails = 1.0, 0.0, np.inf

        def classify(flat: np.ndarray, i: int = i) -> int:
            with no_record():
                return int(model(flat.astype(x.dtype).reshape(1, *x[i].shape)).data.argmax())

        for _ in range(SEARCHES):

            def objective(
                flat: np.ndarray,
                weight: float = weight,
                centre: np.ndarray = centre,
                label: np.ndarray = label,
                i: int = i,
            ) -> tuple[float, np.ndarray]:
                point, eta = Tensor(flat.astype(x.dtype).reshape(1, *x[i].shape), requires_grad=True), flat - centre
                loss = cross_entropy(model(point), label, reduction="sum")
                g = np.asarray(grad(loss, point)).ravel().astype(np.float64)
                return weight * float(eta @ eta) + loss.item(), 2 * weight * eta + g

            solution = minimize(
                objective,
                centre,
                jac=True,
                method="L-BFGS-B",
                bounds=Bounds(0.0, 1.0),
                options={"maxiter": MAX_ITERATIONS, "ftol": 10 * float(np.finfo(x.dtype).eps)},
            )
            evaluations += solution.nfev + 1
            if classify(solution.x) == target:
                succeeds = max(succeeds, weight)
                distances[i] = np.nanmin([distances[i], np.linalg.norm(solution.x.astype(x.dtype) - centre)])
            else:
                fails = min(fails, weight)
            if succeeds > 0 and fails < np.inf:
                weight = float(np.sqrt(succeeds * fails))
            else:
                weight = 10 * succeeds if succeeds else fails / 10
    return distances, evaluations


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))._asdict()))
