"""How well a classifier does: its outputs on many images, its mean cross-entropy and its error rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.autodiff import no_record, value_of
from npadv.backend import Array, like, to_numpy
from npadv.data.dataset import Split, batches
from npadv.functional import check_labels, cross_entropy


@dataclass(frozen=True)
class Score:
    """The mean cross-entropy (nats) and the error rate (a fraction) of a classifier on a split."""

    loss: float
    error: float


def evaluate(model: Any, split: Split, *, batch_size: int = 500) -> Score:
    """Return the model's score on a split, in inference."""
    reference = reference_array(model)
    total, wrong = 0.0, 0
    for x, y in batches(split, batch_size):
        logits = predict(model, like(x, reference), batch_size=batch_size)
        check_labels(y, logits.shape[1])
        total += float(cross_entropy(logits.astype(np.float64), y, reduction="sum"))
        wrong += int((logits.argmax(axis=1) != y).sum())
    return Score(total / len(split), wrong / len(split))


def predict(model: Any, images: Any, *, batch_size: int = 500) -> np.ndarray:
    """Return the model's outputs for all images, in inference and in batches, as a NumPy array (N, K)."""
    if len(images) == 0:
        raise ValueError("predict(images): expected at least one image, got an empty batch")
    with no_record():
        chunks = [model(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
    return np.concatenate([to_numpy(value_of(chunk)) for chunk in chunks])


def reference_array(model: Any) -> Array:
    """Return an array of the model's state, which shows on which device its inputs must lie; any callable is on the CPU."""
    tensors = model.named_tensors() if hasattr(model, "named_tensors") else ()
    return next((tensor.data for _, tensor in tensors), np.zeros(0))
