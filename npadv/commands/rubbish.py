"""``npadv attack gaussian_rubbish``, ``gradient_rubbish``, ``evolved_rubbish``: inputs of no class, made and classified.

There are no examples to attack, and so no labels, distances or errors: the result is how often the network is confident.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npadv import attacks
from npadv.attacks import RubbishResult
from npadv.commands.folder import check_folder, open_folder
from npadv.commands.models import Model, open_data, open_model
from npadv.commands.options import Option, keywords, named_by_flags, options_of, summary
from npadv.commands.results import EXAMPLES, PARTS, PICTURE, RESULT, read_result
from npadv.commands.rubbish_results import RubbishResults
from npadv.data import Dataset
from npadv.environment import environment
from npadv.progress import spent, track
from npadv.report import check_installed, image_grid, png

SHOWN = 20  # inputs in the picture


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
    results = RubbishResults(out, settings, dataset.test.images.shape[1:])
    resume = getattr(arguments, "resume", False)
    if resume and arguments.overwrite:
        raise ValueError("--resume: expected without --overwrite, got both")
    with open_folder(out, EXAMPLES, PICTURE, RESULT):
        hint = "--resume it if it is partial, " if rubbish.examples else ""
        check_folder(out, EXAMPLES, RESULT, PARTS, overwrite=arguments.overwrite or resume, hint=hint)
        if resume:
            results.resume()
            if len(results) == count and (out / RESULT).exists() and read_result(out / RESULT).get("complete") is True:
                print(f"{out} is complete: {count} inputs are made, nothing is left to do")
                return read_result(out / RESULT)

        stopped = False
        try:
            _make_batches(rubbish, model, dataset, results, options, arguments)
        except KeyboardInterrupt as stop:
            stopped = True
            if (best := getattr(stop, "result", None)) is not None:  # of an evolution: the best inputs so far
                results.add(best, 0.0)
            if not len(results):
                raise KeyboardInterrupt("no input is finished; nothing was written") from None

        arrays = results.arrays
        confident = arrays["confident"]
        result = {
            **settings,
            "complete": not stopped,
            "made": len(confident),
            "confident": float(confident.mean()),
            "mean_confidence": float(arrays["confidence"].mean()),
            "mean_confidence_of_errors": float(arrays["confidence"][confident].mean()) if confident.any() else None,
            "hit": float((arrays["prediction"] == arrays["target"]).mean()) if "target" in arrays else None,
            "queries": results.queries,
            "seconds": results.seconds,
            **environment(arguments.device),
        }
        results.commit(result, None if arguments.no_picture else _picture(arrays, dataset))
    if stopped:
        more = "; the same command with --resume goes on" if rubbish.examples else ""
        raise KeyboardInterrupt(f"the inputs made so far are in {out}{more}")
    print(sentence(result, out))
    return result


def _make_batches(
    rubbish: Rubbish,
    model: Model,
    dataset: Dataset,
    results: RubbishResults,
    options: Mapping[str, Any],
    arguments: argparse.Namespace,
) -> None:
    """Make the inputs that are missing. An evolution is one batch, and draws its own progress bar."""
    show = False if arguments.quiet else None
    count = results.settings["examples"]
    size = arguments.batch if rubbish.examples else count
    starts, total, done = range(len(results), count, size), -(-count // size), len(results) // size
    bar = {"total": total, "initial": done, "label": arguments.attack, "show": show if rubbish.examples else False}
    for start in track(starts, **bar):
        rng = np.random.default_rng([arguments.seed, start])
        batch = Batch(min(size, count - start), start, rng, arguments.device, show)
        began = time.perf_counter()
        with named_by_flags(rubbish.options):
            result = rubbish.make(rubbish.attack, model, dataset, batch, **options)
        results.add(result, time.perf_counter() - began)


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
