"""``npadv attack gaussian_rubbish``, ``gradient_rubbish``, ``evolved_rubbish``: inputs of no class, made and classified.

There are no examples to attack, and so no labels, distances or errors: the result is how often the network is confident.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npadv import attacks
from npadv.attacks import RubbishResult
from npadv.backend import to_numpy
from npadv.commands.folder import check_folder
from npadv.commands.models import Model, open_data, open_model
from npadv.commands.options import Option, keywords, named_by_flags, options_of, summary
from npadv.data import Dataset
from npadv.environment import environment
from npadv.files import atomic_write, save_arrays, write_json
from npadv.progress import spent, track
from npadv.report import check_installed, image_grid, png

SHOWN = 20  # inputs in the picture
FILES = ("examples.npz", "result.json")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make rubbish, write the folder, print a line, and return the contents of ``result.json``."""
    if not arguments.no_picture:
        check_installed("matplotlib")
    rubbish = RUBBISH[arguments.attack]
    model = open_model(arguments.model, network=arguments.network, device=arguments.device)
    dataset = open_data(arguments.data, model)
    count = getattr(arguments, "examples", None) or rubbish.examples or len(dataset.classes)
    options = keywords(rubbish.options, arguments)
    settings = {
        "attack": arguments.attack,
        **model.facts,
        "trained_on": model.data,
        "data": dataset.name,
        "examples": count,
        "batch": arguments.batch if rubbish.examples else None,
        "seed": arguments.seed,
        "attack_options": options,
    }
    out = arguments.out or Path("runs") / f"{arguments.attack}-{model.name}-{arguments.seed}"
    check_folder(out, *FILES, overwrite=arguments.overwrite)

    parts, began, stopped = list[RubbishResult](), time.perf_counter(), False
    try:
        for part in _make_batches(rubbish, model, dataset, count, options, arguments):
            parts.append(part)
    except KeyboardInterrupt as stop:
        stopped = True
        if (best := getattr(stop, "result", None)) is not None:  # of an evolution: the best inputs so far
            parts.append(best)
        if not parts:
            raise KeyboardInterrupt("no input is finished; nothing was written") from None
    seconds = time.perf_counter() - began

    arrays = _joined(parts)
    confident = arrays["confident"]
    result = {
        **settings,
        "complete": not stopped,
        "made": len(confident),
        "confident": float(confident.mean()),
        "mean_confidence": float(arrays["confidence"].mean()),
        "mean_confidence_of_errors": float(arrays["confidence"][confident].mean()) if confident.any() else None,
        "hit": float((arrays["prediction"] == arrays["target"]).mean()) if "target" in arrays else None,
        "queries": sum(part.queries for part in parts),
        "seconds": seconds,
        **environment(arguments.device),
    }
    drawing = out / "examples.png"
    if arguments.no_picture:
        drawing.unlink(missing_ok=True)
    else:
        atomic_write(drawing, _picture(arrays, dataset))
    save_arrays(out / "examples.npz", {**arrays, "settings": np.array(json.dumps(settings))})
    write_json(out / "result.json", result)
    if stopped:
        raise KeyboardInterrupt(f"the inputs made so far are in {out}")
    print(sentence(result, out))
    return result


def _make_batches(
    rubbish: Rubbish,
    model: Model,
    dataset: Dataset,
    count: int,
    options: Mapping[str, Any],
    arguments: argparse.Namespace,
) -> Iterator[RubbishResult]:
    """Yield the results of the batches. An evolution is one batch, and draws its own progress bar."""
    show = False if arguments.quiet else None
    size = arguments.batch if rubbish.examples else count
    starts = range(0, count, size)
    bar = {"total": len(starts), "label": arguments.attack, "show": show if rubbish.examples else False}
    for start in track(starts, **bar):
        rng = np.random.default_rng([arguments.seed, start])
        batch = Batch(min(size, count - start), start, rng, arguments.device, show)
        with named_by_flags(rubbish.options):
            yield rubbish.make(rubbish.attack, model, dataset, batch, **options)


def _joined(parts: list[RubbishResult]) -> dict[str, np.ndarray]:
    names = ["x", "prediction", "confidence", "confident"]
    names += ["target"] if parts[0].target is not None else []
    arrays = {name: np.concatenate([to_numpy(getattr(part, name)) for part in parts]) for name in names}
    for flag in parts[0].flags:
        arrays[f"flags/{flag}"] = np.concatenate([to_numpy(part.flags[flag]) for part in parts])
    return arrays


def sentence(result: Mapping[str, Any], out: Path) -> str:
    """Return a result in one line."""
    hit = "" if result["hit"] is None else f", classified as the target {result['hit']:.2%}"
    return (
        f"{result['attack']} on {result['network']}, {result['made']:,} inputs of no class: confident on "
        f"{result['confident']:.2%}{hit}; mean confidence {result['mean_confidence']:.2%}; {result['queries']:,} queries; "
        f"{spent(result['seconds'])}; results in {out}"
    )


def _picture(arrays: Mapping[str, np.ndarray], dataset: Dataset) -> bytes:
    """Return a PNG of the first inputs, each with its predicted class; values outside [0, 1] are clipped."""
    few = {name: array[:SHOWN] for name, array in arrays.items()}
    captions = [f"{dataset.classes[k]}  {p:.1%}" for k, p in zip(few["prediction"], few["confidence"], strict=True)]
    return png(image_grid(few["x"].clip(0, 1), columns=5, captions=captions))


# The three kinds of rubbish -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rubbish:
    """One kind of rubbish.

    Attributes
    ----------
    attack : callable
        A function of ``npadv.attacks``.
    paper : str
        The papers that describe it.
    examples : int
        Default number of inputs; 0 for attacks that make one for each class, all at once.
    make : callable
        From the attack, the model, its data set, a ``Batch`` and the attack's options to a result.
    """

    attack: Callable[..., RubbishResult]
    paper: str
    examples: int
    make: Callable[..., RubbishResult]

    @property
    def summary(self) -> str:
        """One sentence that describes the attack, without its full stop."""
        return summary(self.attack)

    @property
    def options(self) -> list[Option]:
        """The attack's own options."""
        return options_of(self.attack, without=ELSEWHERE)


ELSEWHERE = ("n", "bounds", "dtype", "device", "batch_size", "rng", "resume", "progress")
"""Parameters without an option, or with one that all attacks share."""


class Batch(NamedTuple):
    """The number of inputs to make, the index of the first, and the generator, device and progress bar to use."""

    n: int
    start: int
    rng: np.random.Generator
    device: str
    progress: bool | None


def _gaussian(attack: Any, model: Model, dataset: Dataset, batch: Batch, **options: Any) -> RubbishResult:
    one: dict[str, Any] = {"shape": dataset.test.images.shape[1:], "dtype": dataset.test.images.dtype}
    made: RubbishResult = attack(model, n=batch.n, device=batch.device, rng=batch.rng, **one, **options)
    return made


def _gradient(attack: Any, model: Model, dataset: Dataset, batch: Batch, **options: Any) -> RubbishResult:
    """Climb from uniform noise towards each class in turn."""
    images = dataset.test.images
    noise = batch.rng.random((batch.n, *images.shape[1:])).astype(images.dtype)
    target = (batch.start + np.arange(batch.n)) % len(dataset.classes)
    made: RubbishResult = attack(model, model.on_device(noise), model.on_device(target), progress=False, **options)
    return made


def _evolved(attack: Any, model: Model, dataset: Dataset, batch: Batch, **options: Any) -> RubbishResult:
    one: dict[str, Any] = {"shape": dataset.test.images.shape[1:], "dtype": dataset.test.images.dtype}
    made: RubbishResult = attack(model, device=batch.device, rng=batch.rng, progress=batch.progress, **one, **options)
    return made


RUBBISH: dict[str, Rubbish] = {
    "gaussian_rubbish": Rubbish(attacks.gaussian_rubbish, "[WG] 1.2.6; Goodfellow et al. 2014", 1000, _gaussian),
    "gradient_rubbish": Rubbish(attacks.gradient_rubbish, "Nguyen et al. 2015; Simonyan et al. 2013", 100, _gradient),
    "evolved_rubbish": Rubbish(attacks.evolved_rubbish, "[WG] 1.2.6; Nguyen et al. 2015", 0, _evolved),
}
