"""What all measurements share: checked examples, batches in bounded memory, and a Ctrl-C that loses nothing.

Every example is measured by itself, so a measurement of N examples is a walk through batches of them, and one that is
stopped half-way is the measurement of the examples that were finished. What is kept of an example is a few numbers, on the
host; images are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from npadv.attacks.checks import check_count, check_inputs, check_logits
from npadv.attacks.result import AttackResult, Model
from npadv.autodiff import no_record, value_of
from npadv.backend import Array, like, to_numpy
from npadv.functional import check_labels
from npadv.progress import track

ANYWHERE = (-float("inf"), float("inf"))
Attack = Callable[..., AttackResult]
Conclusion = TypeVar("Conclusion")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a measurement; ``result`` is the measurement of the examples that were finished."""

    def __init__(self, result: Any) -> None:
        super().__init__("the measurement was stopped; .result holds what was measured")
        self.result = result


def in_batches(
    measure: Callable[[slice], tuple[Any, ...]],
    conclude: Callable[..., Conclusion],
    n: int,
    *,
    batch_size: int,
    label: str,
    progress: bool | None,
) -> Conclusion:
    """Measure n examples, a batch at a time, and conclude from all measurements.

    ``measure(part)`` returns arrays whose last axis is the examples of that part; ``conclude`` takes these arrays, each
    joined over the batches. On Ctrl-C, what it makes of the batches that were finished comes with ``Interrupted``.
    """
    check_count("batch_size", batch_size)
    parts: list[tuple[Any, ...]] = []
    starts = range(0, n, batch_size)
    try:
        for start in track(starts, total=len(starts), label=label, show=progress):
            parts.append(measure(slice(start, min(start + batch_size, n))))
    except KeyboardInterrupt as stop:
        if not parts:
            raise
        raise Interrupted(_joined(parts, conclude)) from stop
    return _joined(parts, conclude)


def _joined(parts: list[tuple[Any, ...]], conclude: Callable[..., Conclusion]) -> Conclusion:
    return conclude(*(np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True)))


def check_examples(model: Model, x: Any, y: Any) -> np.ndarray:
    """Return the labels on the host, or raise a ValueError that says what is wrong with examples, labels or model.

    The model is asked for one example, so that a label out of range is found before a long run and not at its end.
    """
    check_inputs(x, bounds=ANYWHERE)
    with no_record():
        classes = check_logits(model(x[:1]), 1).shape[1]
    if y is None:
        raise ValueError("y: expected the true classes (N,), got None")
    labels: np.ndarray = check_labels(to_numpy(value_of(y)), classes, len(x), name="y")
    return labels


def check_models(name: str, models: Any) -> dict[str, Model]:
    """Return a mapping of names to models, or raise a ValueError that says what came instead."""
    if not isinstance(models, Mapping) or not models:
        raise ValueError(f"{name}: expected at least one model by its name, got {models!r}")
    for key, model in models.items():
        if not isinstance(key, str) or not callable(model):
            raise ValueError(f"{name}: expected callables by their names, got {key!r}: {type(model).__name__}")
    return dict(models)


def check_budgets(eps: Any) -> np.ndarray:
    """Return budgets as a float array (E,): at least one, at least 0, finite and increasing."""
    values = np.asarray(eps, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all() or values[0] < 0:
        raise ValueError(f"eps: expected a sequence of finite numbers of at least 0, got {eps!r}")
    if (np.diff(values) <= 0).any():
        raise ValueError(f"eps: expected increasing numbers, got {eps!r}")
    return values


def classify(model: Model, x: Array) -> np.ndarray:
    """Return the class a model gives each example, on the host; a model may give scores (N, K), or the classes (N,)."""
    with no_record():
        output = value_of(model(x))
    if getattr(output, "shape", None) == (len(x),) and output.dtype.kind in "iu":
        return to_numpy(output)
    return to_numpy(check_logits(output, len(x)).argmax(axis=1))


def craft(
    attack: Attack, model: Model, x: Array, y: np.ndarray, **options: Any
) -> tuple[Array, np.ndarray, np.ndarray]:
    """Attack a batch: return what was crafted, the class the model gives it, and its distance, the latter two on the host."""
    result = attack(model, x, like(y, x), **options)
    if not isinstance(result, AttackResult):
        raise ValueError(f"attack: expected an AttackResult, got {type(result).__name__}")
    if result.x_adv.shape != x.shape or result.prediction.shape != y.shape:
        raise ValueError(
            f"attack: expected examples {x.shape} and predictions {y.shape}, "
            f"got {result.x_adv.shape} and {result.prediction.shape}"
        )
    prediction = to_numpy(result.prediction)
    # A targeted attack that was given the true classes as targets had success before it began.
    there = to_numpy(result.flags.get("already_wrong", np.zeros(len(y), dtype=bool)))
    if (to_numpy(result.success) & there & (prediction == y)).any():
        raise ValueError("attack: expected an untargeted one, got one that counts the true class as a success")
    return result.x_adv, prediction, to_numpy(result.distance)
