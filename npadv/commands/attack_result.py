"""The outcome of ``npadv attack``: the numbers of ``result.json``, one line for the terminal, and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npadv.commands.adapters import Adapter
from npadv.commands.models import Model
from npadv.commands.registry import ATTACKS
from npadv.commands.results import Results
from npadv.data import Dataset
from npadv.environment import environment
from npadv.progress import spent
from npadv.report import examples, png

SHOWN = 10  # examples in the picture


def result_of(results: Results, adapter: Adapter) -> dict[str, Any]:
    """Return the contents of ``result.json``: the settings, the error rates, and where they were computed."""
    arrays, settings = results.arrays, dict(results.settings)
    right = arrays["prediction_before"] == arrays["labels"]
    wrong = arrays["prediction"] != arrays["labels"]
    moved = arrays["success"] & ~arrays["flags/already_wrong"]
    return {
        **settings,
        "complete": len(results) == settings["examples"],
        "attacked": len(results),
        "clean_error": float((~right).mean()),
        "error": float(wrong.mean()),
        "turned": int((right & wrong).sum()),
        "success_rate": float(arrays["success"].mean()),
        "median_distance": float(np.median(arrays["distance"][moved])) if moved.any() else None,
        "distance": adapter.measure(settings["attack_options"]),
        "queries_per_example": float(arrays["queries"].mean()),
        "flags": {name.removeprefix("flags/"): int(a.sum()) for name, a in arrays.items() if name.startswith("flags/")},
        "seconds": results.seconds,
        **environment(settings["device"]),
    }


def sentence(result: Mapping[str, Any], out: Path) -> str:
    """Return a result in one line."""
    success = ATTACKS[result["attack"]].success if result["target"] is None else "target reached"
    reached = f", {success} {result['success_rate']:.2%}" if success else ""
    median, unit = result["median_distance"], result["distance"]
    distance = "no example was moved across" if median is None else f"median distance {median:.4g} ({unit})"
    trained = result["trained_on"]
    origin = "" if trained in (None, result["data"]) else f", trained on {trained},"
    return (
        f"{result['attack']} on {result['network']}{origin} with {result['attacked']:,} images of {result['data']}: "
        f"error {result['clean_error']:.2%}, under attack {result['error']:.2%}{reached}; {distance}; "
        f"{result['queries_per_example']:,.4g} queries an example; {spent(result['seconds'])}; results in {out}"
    )


def picture_of(arrays: Mapping[str, np.ndarray], dataset: Dataset, model: Model) -> bytes:
    """Return a PNG of ten examples: first those that were right and that the attack turned, then the others."""
    turned = arrays["success"] & (arrays["prediction_before"] == arrays["labels"])
    picked = np.sort(np.argsort(~turned, kind="stable")[:SHOWN])
    chosen = {name: array[picked] for name, array in arrays.items()}
    names = np.array(dataset.classes)
    before, after = (model.probabilities(chosen[key]) for key in ("x", "x_adv"))
    titles = None
    if "target" in chosen:
        titles = [f"{names[y]}, target {names[t]}" for y, t in zip(chosen["labels"], chosen["target"], strict=True)]
    figure = examples(
        chosen["x"],
        chosen["x_adv"] - chosen["x"],
        chosen["x_adv"],
        true=names[chosen["labels"]],
        before=names[before.argmax(axis=1)],
        after=names[after.argmax(axis=1)],
        confidence_before=before.max(axis=1),
        confidence_after=after.max(axis=1),
        titles=titles,
    )
    return png(figure)
