"""The outputs of a model on many images, and the mean cross-entropy and error rate of a classifier."""

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
    """Return the model's score on a split, in inference; a label outside the model's classes raises a ValueError.

    >>> from npadv import nn
    >>> model = nn.network("softmax_regression", rng=np.random.default_rng(0), inputs=4)
    >>> split = Split(np.ones((3, 1, 2, 2), np.float32), np.array([0, 1, 2]))
    >>> round(evaluate(model, split).loss, 1)  # log 10: untrained, all classes are about equally likely
    2.3
    """
    reference = reference_array(model)
    total, wrong = 0.0, 0
    for x, y in batches(split, batch_size):
        logits = predict(model, like(x, reference), batch_size=batch_size)
        check_labels(y, logits.shape[1])
        total += float(cross_entropy(logits.astype(np.float64), y, reduction="sum"))
        wrong += int((logits.argmax(axis=1) != y).sum())
    return Score(total / len(split), wrong / len(split))


def predict(model: Any, images: Any, *, batch_size: int = 500) -> np.ndarray:
    """Return the model's outputs for all images, in inference and in batches, as a NumPy array (N, K).

    An empty array of images raises a ValueError.

    >>> predict(lambda x: x.reshape(len(x), -1), np.ones((3, 1, 2, 2)), batch_size=2).shape
    (3, 4)
    """
    if len(images) == 0:
        raise ValueError("predict(images): expected at least one image, got an empty batch")
    with no_record():
        chunks = [model(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
    return np.concatenate([to_numpy(value_of(chunk)) for chunk in chunks])


def reference_array(model: Any) -> Array:
    """Return an array of the model's state: inputs must lie on its device. Without state, the model is on the CPU."""
    tensors = model.named_tensors() if hasattr(model, "named_tensors") else ()
    return next((tensor.data for _, tensor in tensors), np.zeros(0))
