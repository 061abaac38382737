"""Labelled images as plain arrays: a ``Split`` of them, a ``Dataset`` of splits, and the ``batches`` of a split.

Splits and data sets are frozen. Nothing is shuffled without a generator, and nothing is rescaled or augmented. The modules
beside this one read the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
import numpy.typing as npt

__all__ = ["Dataset", "Split", "batches"]


@dataclass(frozen=True, eq=False)  # == on arrays is an array, so two splits are equal only if they are the same object
class Split:
    """N images and their N labels.

    Parameters
    ----------
    images : array
        (N, C, H, W), floating point (the loaders give float32), in [0, 1]: the box in which attacks stay.
    labels : array
        (N,), integers; kept as int64.

    Raises
    ------
    ValueError
        If an array has the wrong rank, dtype, length or range.

    Examples
    --------
    >>> import numpy as np
    >>> split = Split(np.zeros((5, 1, 2, 2), np.float32), np.arange(5))
    >>> len(split), split[1:3].labels, split[[4, 0]].labels
    (5, array([1, 2]), array([4, 0]))
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        for name in ("images", "labels"):
            if not isinstance(value := getattr(self, name), np.ndarray):
                raise ValueError(f"{name} must be a NumPy array, got {type(value).__name__}")
        images, labels = self.images, self.labels
        if images.ndim != 4:
            raise ValueError(f"images must have shape (N, C, H, W), got {images.shape}")
        if images.dtype.kind != "f":
            raise ValueError(f"images must be floating point in [0, 1], got dtype {images.dtype}")
        if labels.ndim != 1:
            raise ValueError(f"labels must have shape (N,), got {labels.shape}")
        if labels.dtype.kind not in "iu":
            raise ValueError(f"labels must be integers, got dtype {labels.dtype}")
        if len(images) != len(labels):
            raise ValueError(f"images and labels must be equally many, got {len(images)} and {len(labels)}")
        # Written so that NaN fails too: it makes both comparisons false.
        if images.size and not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(f"images must lie in [0, 1], got values in [{images.min()}, {images.max()}]")
        object.__setattr__(self, "labels", labels.astype(np.int64, copy=False))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | npt.ArrayLike) -> Split:
        """Take the examples of a slice (a view), of an array of indices or of a boolean mask (copies)."""
        if isinstance(index, Integral):
            raise TypeError(
                f"index must be a slice, an array of indices or a mask, got {index}; one example is [i:i+1]"
            )
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.ndim != 1 or (index.size and index.dtype.kind not in "iub"):
                raise TypeError(f"index must be 1-D integers or booleans, got shape {index.shape} of {index.dtype}")
            index = index if index.size else index.astype(np.intp)  # np.asarray([]) is float64
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split of the same kind of images, the names of the classes, and perhaps a validation split.

    Parameters
    ----------
    name : str
        The name in figures and file names.
    train, test, validation : Split
        Splits of images of one shape; labels index ``classes``.
    classes : sequence of str
        One name per class.

    Raises
    ------
    ValueError
        If a label has no class, or the splits' images differ in shape.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    validation: Split | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        for name in ("train", "test", "validation"):
            split = getattr(self, name)
            if split is None or not len(split):
                continue
            low, high = split.labels.min(), split.labels.max()
            if low < 0 or high >= len(self.classes):
                raise ValueError(f"{name}.labels must be in 0..{len(self.classes) - 1}, got {low}..{high}")
            if split.images.shape[1:] != self.train.images.shape[1:]:
                expected, got = self.train.images.shape[1:], split.images.shape[1:]
                raise ValueError(f"{name}.images must have the training images' shape {expected}, got {got}")

    def hold_out(self, n: int) -> Dataset:
        """Move the last ``n`` training examples into a validation split.

        The papers tune on the last 10,000 of MNIST's 60,000 and train on the first 50,000. The splits are views.

        Raises
        ------
        ValueError
            If ``n`` is not in 1..len(train)-1, or a validation split exists already.

        Examples
        --------
        >>> import numpy as np
        >>> split = Split(np.zeros((6, 1, 2, 2), np.float32), np.arange(6))
        >>> data = Dataset("six", split, split, tuple("abcdef")).hold_out(2)
        >>> data.train.labels, data.validation.labels
        (array([0, 1, 2, 3]), array([4, 5]))
        """
        if self.validation is not None:
            raise ValueError(
                f"{self.name} has a validation split of {len(self.validation)} already; hold out only once"
            )
        if not isinstance(n, Integral) or not 0 < n < len(self.train):
            raise ValueError(f"n must be an integer in 1..{len(self.train) - 1}, got {n!r}")
        return replace(self, train=self.train[:-n], validation=self.train[-n:])


def batches(
    split: Split,
    size: int,
    *,
    rng: np.random.Generator | None = None,
    order: npt.ArrayLike | None = None,
    drop_last: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (images, labels) minibatches that cover the split once.

    Parameters
    ----------
    split : Split
        The examples.
    size : int
        Examples per batch.
    rng : numpy.random.Generator, optional
        Shuffles the examples, by one permutation that is drawn at the call. Without it, they keep their order.
    order : (M,) integers, optional
        Indices of the examples, instead of ``rng``: a permutation, or the rest of one when an epoch is resumed.
    drop_last : bool
        Leave out the last batch if it is smaller than ``size``. By default it is yielded.

    Returns
    -------
    iterator of (size, C, H, W), (size,)
        Batches are copies: a change of a batch does not change the split.

    Raises
    ------
    ValueError
        The split is empty; ``size`` < 1; both ``rng`` and ``order`` are given; ``order`` has an index twice or out of range;
        ``drop_last`` with fewer than ``size`` examples, which would leave no batch. The error is raised at the call.

    Examples
    --------
    >>> import numpy as np
    >>> split = Split(np.zeros((5, 1, 2, 2), np.float32), np.arange(5))
    >>> [labels.tolist() for _, labels in batches(split, 2)]
    [[0, 1], [2, 3], [4]]
    >>> permutation = np.random.default_rng(0).permutation(5)
    >>> [labels.tolist() for _, labels in batches(split, 2, rng=np.random.default_rng(0))]
    [[2, 4], [3, 0], [1]]
    >>> [labels.tolist() for _, labels in batches(split, 2, order=permutation[2:])]  # resumed after one batch
    [[3, 0], [1]]
    """
    if not len(split):
        raise ValueError("split must hold at least one example, got an empty one")
    if not isinstance(size, Integral) or size < 1:
        raise ValueError(f"size must be a positive integer, got {size!r}")
    if rng is not None and order is not None:
        raise ValueError("rng and order were both given; expected one of them, as each decides the order")
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng must be a numpy.random.Generator such as np.random.default_rng(0), got {rng!r}")
    if drop_last and order is None and len(split) < size:
        raise ValueError(f"size must be at most the split's {len(split)} examples when drop_last is set, got {size}")

    if order is None:
        indices = np.arange(len(split)) if rng is None else rng.permutation(len(split))
    else:
        indices = _check_order(order, len(split))
    stop = len(indices) - len(indices) % size if drop_last else len(indices)
    chunks = (indices[i : min(i + size, stop)] for i in range(0, stop, size))
    return ((split.images[chunk], split.labels[chunk]) for chunk in chunks)


def _check_order(given: npt.ArrayLike, length: int) -> np.ndarray:
    order = np.asarray(given)
    if order.ndim != 1 or (order.size and order.dtype.kind not in "iu"):
        raise ValueError(f"order must be a 1-D array of indices, got shape {order.shape} of {order.dtype}")
    if order.size and not (order.min() >= 0 and order.max() < length):
        raise ValueError(f"order must hold indices in 0..{length - 1}, got {order.min()}..{order.max()}")
    if len(np.unique(order)) != len(order):
        raise ValueError(f"order must hold each index at most once, got {len(order) - len(np.unique(order))} repeats")
    indices: np.ndarray = order.astype(np.intp)
    return indices  # a copy: the caller may reuse the array while the epoch runs
