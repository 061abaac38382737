"""Datasets from checked files, as NumPy arrays in [0, 1], and minibatches of them.

``digits`` needs no download; ``mnist`` and ``cifar10`` are downloaded once. ``load`` finds them by name. Importing this package
imports neither scikit-learn nor pooch; the loaders import them when they are called.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from npadv.data.cifar10 import cifar10
from npadv.data.dataset import Dataset, Split, batches
from npadv.data.digits import digits
from npadv.data.files import DataError
from npadv.data.mnist import mnist

__all__ = ["DATASETS", "DataError", "Dataset", "Split", "batches", "cifar10", "digits", "load", "mnist"]

DATASETS: dict[str, Callable[..., Dataset]] = {"digits": digits, "mnist": mnist, "cifar10": cifar10}


def load(name: str, **options: Any) -> Dataset:
    """Load the dataset called ``name``; ``options`` go to its loader.

    Raises
    ------
    ValueError
        There is no such dataset, or a file is missing or wrong (DataError).

    Examples
    --------
    >>> len(load("digits", test_size=97).test)
    97
    >>> load("cifar")
    Traceback (most recent call last):
    ValueError: name must be one of digits, mnist, cifar10, got 'cifar'; did you mean 'cifar10'?
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(str(name), DATASETS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"name must be one of {', '.join(DATASETS)}, got {name!r}{hint}")
    return DATASETS[name](**options)
