"""Shared by all measurements: batches in bounded memory, a Ctrl-C that keeps finished work, attacks on a batch, and checks.

Every example is measured on its own, so a measurement of N examples is a loop over batches of them, and a measurement that
is stopped early is that of the examples finished so far. A few numbers for each example are kept, on the host; images are
not.
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
"""Bounds without ends."""

Attack = Callable[..., AttackResult]
Result = TypeVar("Result")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a measurement; ``result`` is the measurement of the examples that were finished."""

    def __init__(self, result: Any) -> None:
        super().__init__("the measurement was stopped; .result holds what was measured")
        self.result = result


def in_batches(
    measure: Callable[[slice], tuple[Any, ...]],
    make_result: Callable[..., Result],
    n: int,
    *,
    batch_size: int,
    label: str,
    progress: bool | None,
) -> Result:
    """Measure n examples, a batch at a time, and make a result of all measurements.

    ``measure(part)`` returns arrays whose last axis is the examples of that part. ``make_result`` takes these arrays, each
    joined over the batches. On Ctrl-C, the result of the finished batches comes with ``Interrupted``.
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
        raise Interrupted(make_result(*_joined(parts))) from stop
    return make_result(*_joined(parts))


def _joined(parts: list[tuple[Any, ...]]) -> list[np.ndarray]:
    return [np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True)]


def classify(model: Model, x: Array) -> np.ndarray:
    """Return the class that a model gives each example, on the host. Its output is logits (N, K), or classes (N,)."""
    with no_record():
        output = value_of(model(x))
    if getattr(output, "shape", None) == (len(x),) and output.dtype.kind in "iu":
        return to_numpy(output)
    return to_numpy(check_logits(output, len(x)).argmax(axis=1))


def craft(
    attack: Attack, model: Model, x: Array, y: np.ndarray, **options: Any
) -> tuple[Array, np.ndarray, np.ndarray]:
    """Attack a batch: return the adversarial examples, and on the host the model's predictions of them and the distances."""
    check_callable("attack", attack)
    result = attack(model, x, like(y, x), **options)
    if not isinstance(result, AttackResult):
        raise ValueError(f"attack: expected an AttackResult, got {type(result).__name__}")
    if result.x_adv.shape != x.shape or result.prediction.shape != y.shape:
        raise ValueError(
            f"attack: expected examples {x.shape} and predictions {y.shape}, "
            f"got {result.x_adv.shape} and {result.prediction.shape}"
        )
    prediction = to_numpy(result.prediction)
    # An attack that takes the true classes for targets counts an example as a success that has its true class already.
    already = to_numpy(result.flags.get("already_wrong", np.zeros(len(y), dtype=bool)))
    if (to_numpy(result.success) & already & (prediction == y)).any():
        raise ValueError("attack: expected an untargeted one, got one that counts the true class as a success")
    return result.x_adv, prediction, to_numpy(result.distance)


# Checks ---------------------------------------------------------------------------------------------------------------


def check_examples(model: Model, x: Any, y: Any) -> np.ndarray:
    """Return the labels on the host; raise a ValueError if the examples, the labels or the model are wrong.

    The model evaluates one example, so that a label out of range is found at the start of a long run, not at its end.
    """
    check_inputs(x, bounds=ANYWHERE)
    check_callable("model", model)
    with no_record():
        classes = check_logits(model(x[:1]), 1).shape[1]
    if y is None:
        raise ValueError("y: expected the true classes (N,), got None")
    labels: np.ndarray = check_labels(to_numpy(value_of(y)), classes, len(x), name="y")
    return labels


def check_callable(name: str, value: Any) -> None:
    """Raise a ValueError unless an argument can be called."""
    if not callable(value):
        raise ValueError(f"{name}: expected a callable, got {value!r}")


def check_models(name: str, models: Any) -> dict[str, Model]:
    """Return models by their names; raise a ValueError unless the argument is such a mapping."""
    if not isinstance(models, Mapping) or not models:
        raise ValueError(f"{name}: expected at least one model by its name, got {models!r}")
    for key, model in models.items():
        if not isinstance(key, str) or not callable(model):
            raise ValueError(f"{name}: expected callables by their names, got {key!r}: {type(model).__name__}")
    return dict(models)


def check_budgets(eps: Any) -> np.ndarray:
    """Return budgets as a float array (E,); raise a ValueError unless they are finite, at least 0 and increasing."""
    values = as_numbers(eps)
    if values is None or values.ndim != 1 or not values.size or not np.isfinite(values).all() or values[0] < 0:
        raise ValueError(f"eps: expected a sequence of finite numbers of at least 0, got {eps!r}")
    if (np.diff(values) <= 0).any():
        raise ValueError(f"eps: expected increasing numbers, got {eps!r}")
    return values


def as_numbers(values: Any) -> np.ndarray | None:
    """Return numbers as a float64 array of any shape; None if they are not numbers."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return None
    return array.astype(np.float64) if array.dtype.kind in "fiu" else None
