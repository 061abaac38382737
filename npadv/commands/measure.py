"""The measurements of ``npadv evaluate``, one after the other, each on its own a call of ``npadv.evaluation``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from npadv.attacks import carlini_wagner, fgsm, linearized, pgd
from npadv.backend import to_numpy
from npadv.commands.models import Model
from npadv.commands.sets import Plan, Radii
from npadv.data import Dataset
from npadv.evaluation import (
    Check,
    ChurchWindows,
    Distances,
    Interrupted,
    RobustnessCurve,
    TransferMatrix,
    church_windows,
    masking_checks,
    minimal_distances,
    robustness_curve,
    transfer_matrix,
)
from npadv.train import evaluate

Models = Mapping[str, Model]


class Pictures(NamedTuple):
    """A few images, what FGSM made of them, and what the model says of both (probabilities)."""

    x: np.ndarray
    x_adv: np.ndarray
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray


@dataclass
class Measured:
    """What was measured so far; by model where each is measured by itself.

    Attributes
    ----------
    clean : error on all test images
    curves : by attack, of all models
    distances : by attack, then by model
    transfer : of FGSM at the largest radius shown, where there are several models
    checks, windows, pictures : by model
    complete : whether this is all of it
    seconds : what it took
    """

    clean: dict[str, float] = field(default_factory=dict)
    curves: dict[str, RobustnessCurve] = field(default_factory=dict)
    distances: dict[str, dict[str, Distances]] = field(default_factory=dict)
    transfer: TransferMatrix | None = None
    checks: dict[str, tuple[Check, ...]] = field(default_factory=dict)
    windows: dict[str, ChurchWindows] = field(default_factory=dict)
    pictures: dict[str, Pictures] = field(default_factory=dict)
    complete: bool = False
    seconds: float = 0.0


class Task(NamedTuple):
    """One measurement: what it is called, how to make it, and where to put it."""

    title: str
    measure: Callable[[], Any]
    keep: Callable[[Any], None]


def measure(
    models: Models,
    dataset: Dataset,
    plan: Plan,
    radii: Radii,
    *,
    seed: int,
    progress: bool | None,
    say: Callable[[str], None],
) -> Measured:
    """Make all measurements; after Ctrl-C, return those that there are, the last of them on fewer examples.

    ``say`` is told of each as it is finished.
    """
    found = Measured()
    tasks = list(_tasks(found, models, dataset, plan, radii, seed=seed, progress=progress))
    for i, task in enumerate(tasks):
        started = time.perf_counter()
        try:
            task.keep(task.measure())
        except Interrupted as stop:
            task.keep(stop.result)
            return found
        except KeyboardInterrupt:
            return found
        finally:
            found.seconds += time.perf_counter() - started
        say(f"[{i + 1}/{len(tasks)}] {task.title}  {time.perf_counter() - started:.1f} s")
    found.complete = True
    return found


def _tasks(
    found: Measured,
    models: Models,
    dataset: Dataset,
    plan: Plan,
    radii: Radii,
    *,
    seed: int,
    progress: bool | None,
) -> Iterator[Task]:
    """Yield the measurements in their order, what is quick first."""
    test = dataset.test[: plan.examples]
    first = next(iter(models.values()))
    x, y = first.on_device(test.images), test.labels
    many: Any = partial(pgd, steps=plan.steps)
    walk: dict[str, Any] = {"progress": progress, "batch_size": 100}

    for name, model in models.items():
        yield Task(f"{name}: clean error", partial(_clean, model, dataset), partial(found.clean.__setitem__, name))
    for attack, function, eps in (
        ("FGSM, linf", fgsm, radii.linf),
        ("PGD, linf", many, radii.linf),
        ("PGD, l2", partial(many, norm="l2"), radii.l2),
    ):
        yield Task(
            f"accuracy under {attack}",
            partial(robustness_curve, models, x, y, attack=function, eps=eps, **walk),
            partial(found.curves.__setitem__, attack),
        )
    searches: dict[str, tuple[Any, int]] = {
        "DeepFool, l2": (partial(linearized, steps=50, norm="l2"), len(x)),
        "DeepFool, linf": (partial(linearized, steps=50, norm="linf"), len(x)),
    }
    if plan.carlini_wagner:
        searches["Carlini and Wagner, l2"] = carlini_wagner, min(plan.carlini_wagner, len(x))
    for attack, (function, n) in searches.items():
        for name, model in models.items():
            yield Task(
                f"{name}: distances by {attack}",
                partial(minimal_distances, model, x[:n], y[:n], attack=function, **walk),
                partial(found.distances.setdefault(attack, {}).__setitem__, name),
            )
    if len(models) > 1:
        yield Task(
            "transfer",
            partial(transfer_matrix, models, models, x, y, attack=partial(fgsm, eps=radii.linf_shown[-1]), **walk),
            partial(setattr, found, "transfer"),
        )
    for name, model in models.items():
        others = {key: other for key, other in models.items() if key != name}
        yield Task(
            f"{name}: checks for masked gradients",
            partial(
                masking_checks,
                model,
                x,
                y,
                eps=radii.claimed,
                steps=plan.steps,
                sources=others or None,
                rng=np.random.default_rng(seed),
                **walk,
            ),
            partial(found.checks.__setitem__, name),
        )
    for name, model in models.items():
        yield Task(
            f"{name}: church windows",
            partial(
                church_windows,
                model,
                x[: plan.windows],
                y[: plan.windows],
                eps=radii.linf_shown[-1],
                points=plan.points,
                rng=np.random.default_rng(seed),
                **walk,
            ),
            partial(found.windows.__setitem__, name),
        )
    for name, model in models.items():
        yield Task(
            f"{name}: pictures",
            partial(_pictures, model, test.images, y, radii.linf_shown[0]),
            partial(found.pictures.__setitem__, name),
        )


def _clean(model: Model, dataset: Dataset) -> float:
    return evaluate(model.network, dataset.test).error


def _pictures(model: Model, images: np.ndarray, labels: np.ndarray, eps: float, count: int = 5) -> Pictures:
    """Return the first few that the model has right and FGSM turns, or as many others as there must be."""
    images, labels = images[:100], labels[:100]
    x_adv = to_numpy(fgsm(model, model.on_device(images), model.on_device(labels), eps=eps).x_adv)
    before, after = model.probabilities(images), model.probabilities(x_adv)
    turned = (before.argmax(axis=1) == labels) & (after.argmax(axis=1) != labels)
    picked = np.sort(np.argsort(~turned, kind="stable")[:count])
    return Pictures(images[picked], x_adv[picked], labels[picked], before[picked], after[picked])
