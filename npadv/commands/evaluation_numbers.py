"""The numbers of ``npadv evaluate``, as ``results.json`` holds them."""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv.commands.runner import Measurements
from npadv.evaluation import Rate


def numbers_of(found: Measurements) -> dict[str, Any]:
    """Return all measurements as plain numbers: rates as counts with their 95% intervals, infinite distances as null."""
    matrix = found.transfer
    return {
        "complete": found.complete,
        "seconds": found.seconds,
        "clean_error": found.clean,
        "accuracy": {
            attack: {
                "eps": curve.eps,
                "examples": curve.correct.shape[-1],
                "models": {name: _rate(curve.accuracy(), i) for i, name in enumerate(curve.models)},
                "worst_so_far": {name: _rate(curve.worst_so_far(), i) for i, name in enumerate(curve.models)},
            }
            for attack, curve in found.curves.items()
        },
        "distances": {
            attack: {
                name: {
                    "examples": len(d.distance),
                    "already_wrong": int((d.distance == 0).sum()),
                    "not_broken": int(np.isinf(d.distance).sum()),
                    "quartiles": [_finite(d.quantile(q)) for q in (0.25, 0.5, 0.75)],
                }
                for name, d in of_models.items()
            }
            for attack, of_models in found.distances.items()
            if of_models
        },
        "transfer": matrix
        and {
            "crafters": matrix.crafters,
            "targets": matrix.targets,
            "clean": _rate(matrix.clean()),
            "all_examples": _rate(matrix.errors()),
            "crafter_right_then_fooled": _rate(matrix.errors("crafter_right", "crafter_fooled")),
        },
        "masking": {
            name: {
                check.name: {
                    "suspicious": check.suspicious,
                    "explanation": check.explanation,
                    "numbers": {key: _finite(value) for key, value in check.numbers.items()},
                }
                for check in checks
            }
            for name, checks in found.checks.items()
        },
        "church_windows": {
            name: {"true_class_share": float((w.classes == w.labels[:, None, None]).mean()), "examples": len(w.labels)}
            for name, w in found.windows.items()
        },
    }


def _rate(rate: Rate, *where: int) -> dict[str, Any]:
    parts = {"hits": rate.hits, "count": rate.count, "rate": rate.rate, "low": rate.low, "high": rate.high}
    return {name: _listed(np.asarray(values)[where]) for name, values in parts.items()}


def _listed(values: np.ndarray) -> Any:
    """Return an array as lists, in which a number that is not finite, as the rate of none, is None."""
    return [_listed(value) for value in values] if values.ndim else _finite(values.item())


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
