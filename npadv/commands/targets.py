"""Which test images ``npadv attack`` attacks, and which classes its ``--target`` names."""

from __future__ import annotations

import numpy as np

from npadv.commands.parser import suggestion
from npadv.data import Split

RULES = ("next", "random", "least")
"""Values of ``--target`` that give each example a target of its own."""


def read_target(text: str | None, classes: int) -> int | str | None:
    """Return the class that ``--target`` names, or the rule by which each example has its own.

    >>> read_target("3", 10), read_target("least", 10), read_target(None, 10)
    (3, 'least', None)
    """
    if text is None or text in RULES:
        return text
    if text.isdecimal() and int(text) < classes:
        return int(text)
    raise ValueError(
        f"--target: expected a class, 0 to {classes - 1}, or one of {', '.join(RULES)}, got {text!r}"
        f"{suggestion(text, RULES)}"
    )


def choose_examples(test: Split, target: int | str | None, wanted: int | None, default: int) -> np.ndarray:
    """Return the indices of the first test images, without those whose true class is the target."""
    index = np.flatnonzero(test.labels != target) if isinstance(target, int) else np.arange(len(test))
    if wanted is not None and wanted > len(index):
        raise ValueError(f"--examples: expected at most {len(index)}, got {wanted}")
    return index[: wanted or default]


def target_classes(
    target: int | str | None, labels: np.ndarray, logits: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """Return the target class of each example, never its true class; None for an untargeted attack.

    >>> target_classes("least", np.array([0, 1]), np.array([[0.0, 1, 2], [5, 1, 2]]), np.random.default_rng(0))
    array([1, 2])
    """
    classes = logits.shape[1]
    if target is None:
        return None
    if target == "next":
        return np.asarray((labels + 1) % classes)
    if target == "random":
        return np.asarray((labels + rng.integers(1, classes, len(labels))) % classes)
    if target == "least":
        others = logits.astype(np.float64)
        others[np.arange(len(labels)), labels] = np.inf
        return np.asarray(others.argmin(axis=1))
    return np.full_like(labels, target)
