"""npadv's L-BFGS attack against SciPy's L-BFGS-B, which attacks one image after another.

All methods have the same model, weights, precision and outer search; ``one_at_a_time`` below is the attack as one would write
it with SciPy alone. Times are per image, because the slow method gets fewer images: its time an image does not depend on their
number. Beside each time stand the mean distance found (over the images that all methods attacked) and the number of model
evaluations an image.

NumPy and SciPy each bring a BLAS with a thread pool of its own. Where the machine has too few cores for both pools, the
threads spend their time waiting. This costs most with one image at a time, so that method is measured twice: with as many
threads as the others, and with one. Every method runs in a separate process.
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
    """A network, a precision, and for each of npadv's two solvers the speedup it must reach (a minimum and an aim)."""

    network: str
    dtype: str
    scipy: tuple[float, float]
    batched: tuple[float, float]


CASES = (
    Case(MLP, "float64", (8.0, 14.0), (20.0, 30.0)),
    Case(MLP, "float32", (1.2, 1.2), (4.0, 4.0)),
    Case("syn_convnet", "float64", (2.0, 2.0), (6.0, 6.0)),
    Case("syn_convnet", "float32", (2.0, 2.0), (6.0, 6.0)),
)


class Measured(NamedTuple):
    """The results of one method: seconds and model evaluations per image, and the distance of each adversarial example."""

    seconds: float
    distances: list[float]  # NaN where no adversarial example was found
    evaluations: float


METHODS = {"one at a time": None, "one at a time, one thread": 1, "scipy": None, "batched": None}
"""Methods and their number of threads, None for all. The first two use SciPy alone, the others are npadv's solvers."""


def run(*, batch: int, images: int, say: Callable[[str], Any] = print) -> list[dict[str, Any]]:
    """Measure all cases; return a row for each, and pass a line of text to ``say`` after each measurement."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    few = min(images, batch)
    say(
        f"L-BFGS attack, {threads} threads, batch {batch} ({few} images one at a time), {SEARCHES} values of lambda, "
        f"at most {MAX_ITERATIONS} iterations; one run"
    )
    rows = []
    for case in CASES:
        row: dict[str, Any] = {"network": case.network, "dtype": case.dtype, "threads": threads}
        for name, own_threads in METHODS.items():
            method = name.split(",")[0]
            measured = _measure_in_process(method, case, batch=batch, images=few, threads=own_threads or threads)
            slowest = row.get("one at a time", {"seconds": measured.seconds})
            row[name] = {
                "seconds": measured.seconds,
                "faster": slowest["seconds"] / measured.seconds,
                "distance": float(np.nanmean(measured.distances[:few])),
                "found": float(np.isfinite(measured.distances).mean()),
                "evaluations": measured.evaluations,
            }
            verdict = ""
            if least_and_aim := {"scipy": case.scipy, "batched": case.batched}.get(name):
                row[name]["at_least"], row[name]["aim"] = least_and_aim
                row[name]["faster_than_one_thread"] = row["one at a time, one thread"]["seconds"] / measured.seconds
                verdict = "{faster:5.1f} times as fast (at least {at_least:g}, aim {aim:g})".format(**row[name])
                verdict += "; {faster_than_one_thread:.1f} of one thread".format(**row[name])
            say(
                f"{case.network:17} {case.dtype}  {name:25} {measured.seconds * 1e3:8.1f} ms an image, "
                f"{measured.evaluations:5.0f} evaluations, distance {row[name]['distance']:.4f}, "
                f"found {row[name]['found']:4.0%}  {verdict}".rstrip()
            )
        rows.append(row)
    return rows


def _measure_in_process(method: str, case: Case, *, threads: int, **sizes: int) -> Measured:
    """Measure one method in a separate process."""
    request = {"method": method, "network": case.network, "dtype": case.dtype, **sizes}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.attacks_lbfgs", json.dumps(request)],
        env=worker_environment(threads),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise WorkerError(f"{method} on {case.network}: {done.stderr.strip().splitlines()[-1]}")
    return Measured(**json.loads(done.stdout))


def measure(method: str, network: str, dtype: str, *, batch: int, images: int) -> Measured:
    """Measure one method in this process."""
    model, x, targets = _problem(network, dtype, batch)
    if method == "one at a time":
        x, targets = x[:images], targets[:images]
    attack = _attack(model, method)
    attack(x[:2], targets[:2])  # imports SciPy and touches memory for the first time
    started = time.perf_counter()
    distances, evaluations = attack(x, targets)
    return Measured((time.perf_counter() - started) / len(x), distances.tolist(), evaluations / len(x))


def _problem(network: str, dtype: str, batch: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return a network, images, and for each image a target class: not the one that the network predicts."""
    from benchmarks.contenders.npadv_tasks import build

    model = build(network).astype(np.dtype(dtype))
    x, labels = problems.batch(network, batch)
    x = x.astype(dtype)
    with no_record():
        predicted = model(x).data.argmax(axis=1)
    return model, x, (predicted + 1 + labels % (problems.CLASSES - 1)) % problems.CLASSES


def _attack(model: Any, solver: str) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, int]]:
    """Return the function from images and targets to distances (NaN for failures) and the number of evaluations."""

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
