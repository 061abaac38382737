"""The measurements of ``npadv evaluate``, in their order; each is one call of ``npadv.evaluation``."""

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
from npadv.commands.presets import Preset, Radii
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


SECONDS = "seconds"
"""The time of all measurements so far, among the results by title."""


class Pictures(NamedTuple):
    """A few images, their FGSM examples, and the model's probabilities of both."""

    x: np.ndarray
    x_adv: np.ndarray
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray


@dataclass
class Measurements:
    """The finished measurements.

    Attributes
    ----------
    clean : for each model, the error on all test images
    curves : for each attack, the curves of all models
    distances : for each attack, then for each model
    transfer : of FGSM at the largest radius shown, if there are several models
    checks, windows, pictures : for each model
    complete : whether no measurement is missing
    seconds : their total time
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
    """One measurement: its title, the function that measures, and the function that stores the result."""

    title: str
    measure: Callable[[], Any]
    store: Callable[[Any], None]


def run_measurements(
    models: Models,
    dataset: Dataset,
    preset: Preset,
    radii: Radii,
    *,
    seed: int,
    progress: bool | None,
    say: Callable[[str], None],
    done: dict[str, Any],
    save: Callable[[], None],
) -> Measurements:
    """Make all measurements. After Ctrl-C, return the finished ones; the last of them may be of fewer examples.

    ``done`` holds results by title, those of an earlier run too, which are not measured again. After each measurement its
    result is added, ``save`` is called, and ``say`` with a line.
    """
    found = Measurements(seconds=done.get(SECONDS, 0.0))
    tasks = list(_tasks(found, models, dataset, preset, radii, seed=seed, progress=progress))
    for i, task in enumerate(tasks):
        if task.title in done:
            task.store(done[task.title])
            continue
        started = time.perf_counter()
        try:
            result = task.measure()
            task.store(result)
            done |= {task.title: result, SECONDS: found.seconds + time.perf_counter() - started}
            save()
        except Interrupted as stop:
            task.store(stop.result)
            return found
        except KeyboardInterrupt:
            return found
        finally:
            found.seconds += time.perf_counter() - started
        say(f"[{i + 1}/{len(tasks)}] {task.title}  {time.perf_counter() - started:.1f} s")
    found.complete = True
    return found


def _tasks(
    found: Measurements,
    models: Models,
    dataset: Dataset,
    preset: Preset,
    radii: Radii,
    *,
    seed: int,
    progress: bool | None,
) -> Iterator[Task]:
    """Yield the measurements in their order, quick ones first."""
    test = dataset.test[: preset.examples]
    first = next(iter(models.values()))
    x, y = first.on_device(test.images), test.labels
    many: Any = partial(pgd, steps=preset.steps)
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
    if preset.carlini_wagner:
        searches["Carlini and Wagner, l2"] = carlini_wagner, min(preset.carlini_wagner, len(x))
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
                steps=preset.steps,
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
                x[: preset.windows],
                y[: preset.windows],
                eps=radii.linf_shown[-1],
                points=preset.points,
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
    """Return the first images that the model classifies correctly and FGSM turns; others follow if there are too few."""
    images, labels = images[:100], labels[:100]
    x_adv = to_numpy(fgsm(model, model.on_device(images), model.on_device(labels), eps=eps).x_adv)
    before, after = model.probabilities(images), model.probabilities(x_adv)
    turned = (before.argmax(axis=1) == labels) & (after.argmax(axis=1) != labels)
    picked = np.sort(np.argsort(~turned, kind="stable")[:count])
    return Pictures(images[picked], x_adv[picked], labels[picked], before[picked], after[picked])
