"""Asking an oracle: a model that gives labels alone, and each at a price.

An ``Archive`` is the only way from an attack to its oracle. It counts, never asks beyond the budget nor about the same point
twice, and writes down every answer before anything else can happen: a run that was stopped begins with what it has paid for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npadv.autodiff import no_record
from npadv.backend import Array, like, to_numpy
from npadv.files import load_arrays, save_arrays
from npadv.functional import check_labels
from npadv.progress import interrupts_held

Oracle = Callable[[Any], Any]
"""Maps a batch (N, ...) to labels (N,), integers."""


def ask(oracle: Oracle, x: Array, classes: int) -> Array:
    """Return the oracle's labels (N,) of x, or raise a ValueError that says what came instead.

    >>> ask(lambda x: x @ np.ones((2, 3)), np.ones((1, 2)), 3)
    Traceback (most recent call last):
    ValueError: oracle: expected shape (1,), one class per example, got (1, 3)
    """
    with no_record():
        return check_labels(oracle(x), classes, len(x), name="oracle")


@dataclass
class Labelled:
    """Points with labels: what ``fit`` asks of a Split, without its four axes and its box."""

    images: Any
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


class Archive:
    """All that was asked, with the answers, on the host and, if there is a path, on disk.

    Parameters
    ----------
    oracle : callable
        Who is asked.
    seeds : (n, ...) array
        The first points of the run; where they live, the oracle gets its points.
    classes : int
        How many there are.
    budget : int
        The most labels to ask for, those that are read from disk included.
    at_once : int
        Points in a call of the oracle.
    path : path, optional
        The file.
    """

    def __init__(
        self, oracle: Oracle, seeds: Array, classes: int, budget: int, at_once: int, path: str | os.PathLike[str] | None
    ) -> None:
        self.oracle, self.seeds, self.classes, self.budget, self.at_once = oracle, seeds, classes, budget, at_once
        self.path = path
        self.known: dict[bytes, tuple[np.ndarray, int]] = {}  # all points ever asked, by this run and those it resumes
        self.met: dict[bytes, None] = {}  # those of this run, in order
        self.first = list({point.tobytes(): None for point in to_numpy(seeds)})
        if len(self.first) > budget:
            raise ValueError(f"budget: expected at least {len(self.first)}, a query for each seed, got {budget}")

    @property
    def queries(self) -> int:
        """How many labels have been asked for, in this run and before."""
        return len(self.known)

    def left(self) -> int:
        """Return how many points the run may still add; a resumed run counts as the one it resumes has counted."""
        return self.budget - len(self.met)

    def data(self) -> Labelled:
        """Return the run's points and labels."""
        points, labels = zip(*(self.known[key] for key in self.met), strict=True)
        return Labelled(np.stack(points), np.array(labels, np.int64))

    def add(self, x: Array) -> None:
        """Take points in, with the labels that are known or that the oracle is asked for, as far as the budget goes."""
        fresh = {key: point for point in to_numpy(x) if (key := point.tobytes()) not in self.met}
        unknown = [(key, point) for key, point in fresh.items() if key not in self.known]
        unknown = unknown[: self.budget - self.queries]
        for i in range(0, len(unknown), self.at_once):
            self._buy(unknown[i : i + self.at_once])
        self.met.update((key, None) for key in fresh if key in self.known)

    def _buy(self, some: list[tuple[bytes, np.ndarray]]) -> None:
        with interrupts_held() as interrupted:
            labels = ask(self.oracle, like(np.stack([point for _, point in some]), self.seeds), self.classes)
            answers = zip(some, to_numpy(labels).tolist(), strict=True)
            self.known.update((key, (point, label)) for (key, point), label in answers)
            self._save()
            if interrupted():
                raise KeyboardInterrupt

    def _save(self) -> None:
        if self.path is not None:
            x = np.array([point for point, _ in self.known.values()], self.seeds.dtype)
            labels = np.array([label for _, label in self.known.values()], np.int64)
            save_arrays(self.path, {"x": x.reshape(-1, *self.seeds.shape[1:]), "labels": labels})

    def open(self, resume: bool) -> None:
        """Read what is on disk; if there is nothing, see that there can be, before anything is paid for."""
        if self.path is None:
            return
        if not Path(self.path).exists():
            self._save()
            return
        name = os.fspath(self.path)
        if not resume:
            raise FileExistsError(f"{name}: exists; pass resume=True to continue that run, or remove it")
        arrays = load_arrays(self.path)
        if arrays.keys() != {"x", "labels"}:
            raise ValueError(f"{name}: expected an archive of points asked and labels, got another .npz file")
        x, labels = arrays["x"], check_labels(arrays["labels"], self.classes, len(arrays["x"]), name=f"{name}: labels")
        if x.shape[1:] != self.seeds.shape[1:] or x.dtype != self.seeds.dtype:
            raise ValueError(
                f"{name}: expected points of shape {self.seeds.shape[1:]} and {self.seeds.dtype}, "
                f"got {x.shape[1:]} and {x.dtype}"
            )
        keys = [point.tobytes() for point in x]
        if any(a != b for a, b in zip(keys, self.first, strict=False)):
            raise ValueError(f"{name}: was written with other seeds")
        if len(keys) > self.budget:
            raise ValueError(f"budget: expected at least {len(keys)}, as many as {name} has labels, got {self.budget}")
        self.known = dict(zip(keys, zip(x, labels.tolist(), strict=True), strict=True))
