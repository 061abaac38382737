"""Queries to an oracle: a model that returns labels alone, and each label has a price.

A ``QueryLog`` makes all queries of a run. It counts them, stays within the budget, and never queries the same point twice.
It saves the labels of each call before the run goes on, so that a run that was stopped resumes with every label it has
paid for.
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


def query(oracle: Oracle, x: Array, classes: int) -> Array:
    """Return the oracle's labels (N,) of x; raise a ValueError if it returns something else.

    >>> query(lambda x: x @ np.ones((2, 3)), np.ones((1, 2)), 3)
    Traceback (most recent call last):
    ValueError: oracle: expected shape (1,), one class per example, got (1, 3)
    """
    with no_record():
        return check_labels(oracle(x), classes, len(x), name="oracle")


@dataclass
class Labelled:
    """Points and their labels, in the form that ``fit`` trains on."""

    images: Any
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


class QueryLog:
    """All points queried and their labels, on the host and, if there is a path, on disk.

    Parameters
    ----------
    oracle : callable
        The model to query.
    seeds : (n, ...) array
        The first points of the run. The oracle is called with arrays on their device.
    classes : int
        The number of classes.
    budget : int
        The most labels to query, those read from disk included.
    at_once : int
        The number of points in a call of the oracle.
    path : path, optional
        The file.
    """

    def __init__(
        self, oracle: Oracle, seeds: Array, classes: int, budget: int, at_once: int, path: str | os.PathLike[str] | None
    ) -> None:
        self.oracle, self.seeds, self.classes, self.budget, self.at_once = oracle, seeds, classes, budget, at_once
        self.path = path
        # Points are identified by their bytes.
        self.labelled: dict[bytes, tuple[np.ndarray, int]] = {}  # all points ever queried, also by runs resumed from
        self.used: dict[bytes, None] = {}  # the points of this run, in order
        self.seed_keys = list({point.tobytes(): None for point in to_numpy(seeds)})
        if len(self.seed_keys) > budget:
            raise ValueError(f"budget: expected at least {len(self.seed_keys)}, a query for each seed, got {budget}")

    @property
    def queries(self) -> int:
        """The number of labels queried, in this run and in those resumed from."""
        return len(self.labelled)

    def left(self) -> int:
        """Return how many points the run may still add.

        Labels that were read from disk count when the run comes to their points, as they did in the first run.
        """
        return self.budget - len(self.used)

    def data(self) -> Labelled:
        """Return the run's points and labels."""
        points, labels = zip(*(self.labelled[key] for key in self.used), strict=True)
        return Labelled(np.stack(points), np.array(labels, np.int64))

    def add(self, x: Array) -> None:
        """Add points to the run, with their labels from the log or from the oracle, as far as the budget goes."""
        new = {key: point for point in to_numpy(x) if (key := point.tobytes()) not in self.used}
        unlabelled = [(key, point) for key, point in new.items() if key not in self.labelled]
        unlabelled = unlabelled[: self.budget - self.queries]
        for i in range(0, len(unlabelled), self.at_once):
            self._query(unlabelled[i : i + self.at_once])
        self.used.update((key, None) for key in new if key in self.labelled)

    def _query(self, points: list[tuple[bytes, np.ndarray]]) -> None:
        """Query the labels of points in one call, and save them; a Ctrl-C is raised afterwards."""
        with interrupts_held() as interrupted:
            labels = query(self.oracle, like(np.stack([point for _, point in points]), self.seeds), self.classes)
            labelled = zip(points, to_numpy(labels).tolist(), strict=True)
            self.labelled.update((key, (point, label)) for (key, point), label in labelled)
            self._save()
            if interrupted():
                raise KeyboardInterrupt

    def _save(self) -> None:
        if self.path is not None:
            x = np.array([point for point, _ in self.labelled.values()], self.seeds.dtype)
            labels = np.array([label for _, label in self.labelled.values()], np.int64)
            save_arrays(self.path, {"x": x.reshape(-1, *self.seeds.shape[1:]), "labels": labels})

    def open(self, resume: bool) -> None:
        """Read the file. If there is none, write an empty one, so that a path that cannot be written fails before any query."""
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
            raise ValueError(f"{name}: expected a query log of points and labels, got another .npz file")
        x, labels = arrays["x"], check_labels(arrays["labels"], self.classes, len(arrays["x"]), name=f"{name}: labels")
        if x.shape[1:] != self.seeds.shape[1:] or x.dtype != self.seeds.dtype:
            raise ValueError(
                f"{name}: expected points of shape {self.seeds.shape[1:]} and {self.seeds.dtype}, "
                f"got {x.shape[1:]} and {x.dtype}"
            )
        keys = [point.tobytes() for point in x]
        if any(a != b for a, b in zip(keys, self.seed_keys, strict=False)):
            raise ValueError(f"{name}: was written with other seeds")
        if len(keys) > self.budget:
            raise ValueError(f"budget: expected at least {len(keys)}, as many as {name} has labels, got {self.budget}")
        self.labelled = dict(zip(keys, zip(x, labels.tolist(), strict=True), strict=True))
