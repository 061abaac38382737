"""Nearest neighbour, and its smoothed, differentiable version, as models with logits.

Nearest neighbour gives an example the class of the closest training point. [WG] 1.2.1 attacks it through a smoothed
version, whose probability of class i is

    y_i(x) = 1/N sum_n w_n y_i^(n),    w_n = exp(-|x - x^(n)|^2) / sum_m exp(-|x - x^(m)|^2)    ([WG], above table 1.1)

where y_i^(n) is 1 if training point n has class i and else 0. The factor 1/N, under which the probabilities would sum to
1/N, is left out. The formula has no bandwidth to choose: ``gamma`` is 1 in it.

Both models read the training points block by block. So their memory depends on the batch, not on the number of points: about
30 MiB for 256 digits of MNIST with their gradient. Batches of some hundred examples are a good size.

Squared distances are computed as |x|^2 - 2 <x, p> + |p|^2, because that is a matrix product. The terms may be much larger than
the distance, and so may be their rounding errors. So nearest neighbour uses the product only to exclude points, by a bound on
the error. For the few remaining points it computes the distances from the differences. The smoothed version uses float64.

There is nothing to train. The points are state: saved, loaded and moved with the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np

from npadv import ops
from npadv.autodiff import Tensor, value_of
from npadv.backend import Array, is_array, like, to_numpy, xp_of
from npadv.functional import check_labels, log_softmax
from npadv.nn.module import Module
from npadv.ops.chunked import Block

CELLS = 1 << 20
"""Elements of the largest array of a block: its points, or their distances from the batch."""

ABSENT = -1e30
"""The logit of a class that has no point: lower than any other, but finite, because attacks need finite logits."""


class _Neighbours(Module):
    """The base of both models: the training points, sorted by class, and the blocks in which they are read."""

    points: Tensor  # (M, D)
    counts: Tensor  # (K,): points of each class

    def __init__(self, images: Array, labels: Any, *, classes: int | None = None) -> None:
        name = type(self).__name__
        if not is_array(images) or images.ndim < 2 or images.dtype.kind != "f" or images.size == 0:
            got = f"shape {images.shape} of {images.dtype}" if is_array(images) else type(images).__name__
            raise ValueError(f"{name}(images): expected floating-point examples (M, ...), at least one, got {got}")
        if not bool(xp_of(images).isfinite(images).all()):
            raise ValueError(f"{name}(images): expected finite values, got NaN or infinity")
        if classes is not None and (not isinstance(classes, int | np.integer) or classes < 2):
            raise ValueError(f"{name}(classes): expected an integer of at least 2, got {classes!r}")
        many = np.iinfo(np.int64).max if classes is None else int(classes)
        known = to_numpy(check_labels(labels, many, len(images), name=f"{name}(labels)"))
        counts = np.bincount(known, minlength=2 if classes is None else many)
        order = np.argsort(known, kind="stable")
        self.points = Tensor(images.reshape(len(images), -1)[like(order, images)])
        self.counts = Tensor(like(counts.astype(np.int64), images))

    def _rows(self, x: Any) -> Any:
        """Return a batch (N, ...) as rows (N, D), or raise a ValueError if D is not that of the points."""
        features = self.points.shape[1]
        if x.ndim < 2 or int(np.prod(x.shape[1:])) != features:
            raise ValueError(
                f"{type(self).__name__}(x): expected a batch (N, ...) of {features} features, got shape {x.shape}"
            )
        return x if x.ndim == 2 else ops.reshape(x, shape=(x.shape[0], features))

    def _present(self) -> np.ndarray:
        """Return the classes that have points."""
        counts = to_numpy(self.counts.data)
        if (counts < 0).any() or counts.sum() != len(self.points):
            raise ValueError(
                f"{type(self).__name__}(counts): expected {len(self.points)} points in all, got {counts.tolist()}"
            )
        return np.flatnonzero(counts)

    def _blocks(self, n: int) -> list[Block]:
        """Return (column, start, stop) for blocks of points of one class each, the columns being the classes present."""
        size = max(1, CELLS // max(n, self.points.shape[1]))
        ends = np.cumsum(to_numpy(self.counts.data))[self._present()].tolist()
        spans = enumerate(zip([0, *ends[:-1]], ends, strict=True))
        return [(k, i, min(i + size, end)) for k, (start, end) in spans for i in range(start, end, size)]

    def _logits(self, present: Any, x: Any) -> Any:
        """Add columns for the classes without points to the logits (N, K') of those with points, in the precision of x."""
        dtype = np.result_type(x.dtype, self.points.dtype)
        classes = self._present()
        if len(classes) < len(self.counts):
            where = np.full(len(self.counts), len(classes))
            where[classes] = np.arange(len(classes))
            values = value_of(present)
            absent = xp_of(values).full((len(values), 1), ABSENT, dtype=values.dtype)
            joined = ops.concatenate([present, absent], axis=1)
            present = ops.getitem(joined, index=(slice(None), like(where, values)))
        return ops.astype(present, dtype=dtype)


class NearestNeighbour(_Neighbours):
    """logit_k = -|x - p|^2 for the point p of class k that is closest to x: the largest is the nearest point's class.

    The nearest point is found exactly: rounding never confuses distances that differ in float32, not even those of
    near-duplicates. Among points of one class at the same distance the first is taken; among classes, the lowest. A class
    without points has the logit ``ABSENT``, far below any distance.

    The gradients are those of the distances to the nearest points. The predicted class is constant near x; the logits are not.

    Parameters
    ----------
    images : (M, ...) array
        Training points, floating point; copied.
    labels : (M,) integers
        Their classes.
    classes : int, optional
        How many there are; by default as many as the labels show, two at least.

    Raises
    ------
    ValueError
        An argument is not as described, or a batch has another number of features.

    Examples
    --------
    >>> model = NearestNeighbour(np.array([[0.0, 0.0], [1.0, 1.0]]), [0, 1])
    >>> model(np.array([[0.2, 0.0]])).round(2)
    array([[-0.04, -1.64]])
    """

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return minus the squared distance to the nearest point of each class, (N, K)."""
        rows = self._rows(x)
        wide = ops.astype(rows, dtype=np.float64)
        squares = [_square(wide - self.points.data[i]) for i in self._nearest(value_of(rows))]
        return self._logits(-ops.concatenate(squares, axis=1), x)

    def _nearest(self, x: Array) -> Iterator[Array]:
        """Yield, for each class that has points, the index of the nearest to each example, (N,)."""
        xp, points = xp_of(x), self.points.data
        for _, blocks in groupby(self._blocks(len(x)), key=lambda block: block[0]):
            best, place = xp.full(len(x), float("inf")), xp.zeros(len(x), dtype=int)
            for _, start, stop in blocks:
                distance, i = _nearest_in_block(x, points[start:stop], best)
                closer = distance < best
                best, place = xp.where(closer, distance, best), xp.where(closer, start + i, place)
            yield place


def _nearest_in_block(x: Array, points: Array, best: Array) -> tuple[Array, Array]:
    """Return the squared distance to the nearest of some points, and its index; infinity where none is within ``best``.

    Each term of |x|^2 - 2 <x, p> + |p|^2 is a sum of D products, whose rounding error is at most D u times the sum of their
    magnitudes, where u is half of ``finfo``'s eps. Three more roundings add the terms up. All this is less than ``slack``. So
    the nearest point is among those whose rough distance exceeds an exact one by at most ``slack``, and these are few.
    """
    xp, d = xp_of(x), x.shape[1]
    x, points = (a.astype(np.result_type(x.dtype, points.dtype), copy=False) for a in (x, points))
    x_norm, p_norm = (x * x).sum(axis=1), (points * points).sum(axis=1)
    rough = x_norm[:, None] - 2 * ops.matmul(x, points.T) + p_norm
    slack = (d + 4) * float(np.finfo(rough.dtype).eps) * (xp.sqrt(x_norm) + xp.sqrt(p_norm.max())) ** 2
    bound = xp.minimum(best, _squared_distance(x, points[rough.argmin(axis=1)])) + slack
    rows, columns = xp.nonzero(rough <= bound[:, None])
    exact = xp.full(rough.shape, float("inf"))
    step = max(1, CELLS // d)
    for i in range(0, len(rows), step):  # in parts, since all points may be within the bound, if all are equal
        r, c = rows[i : i + step], columns[i : i + step]
        exact[r, c] = _squared_distance(x[r], points[c])
    return exact.min(axis=1), exact.argmin(axis=1)


def _square(d: Any) -> Any:
    """Return |d|^2 for each row, (N, 1), without an array of squares, which the tape would keep."""
    n, features = d.shape
    return ops.reshape(
        ops.matmul(ops.reshape(d, shape=(n, 1, features)), ops.reshape(d, shape=(n, features, 1))), shape=(n, 1)
    )


def _squared_distance(x: Array, p: Array) -> Array:
    """Return |x - p|^2 for each row, in float64."""
    difference = x.astype(np.float64) - p
    return (difference * difference).sum(axis=1)


class SmoothedNearestNeighbour(_Neighbours):
    """log y_k(x) of the formula above: the logarithm of the share of the Gaussian kernels that class k's points have.

    softmax(logits) are the paper's probabilities. They are differentiable to any order, also where all kernels underflow: far
    from all points, and for large ``gamma``, where they approach nearest neighbour's. There the gradient is right, but the
    loss is flat: where the shares of all other classes are below 1e-38 (1e-308 if x is float64), the cross-entropy of the
    predicted class is 0, and so is its gradient.

    Parameters
    ----------
    images : (M, ...) array
        Training points, floating point; copied.
    labels : (M,) integers
        Their classes.
    gamma : float
        The kernel is exp(-gamma |x - p|^2): 1 in the paper; 1 / (2 h^2) for a Gaussian of bandwidth h.
    classes : int, optional
        How many there are; by default as many as the labels show, two at least.

    Raises
    ------
    ValueError
        An argument is not as described, or a batch has another number of features.

    Examples
    --------
    >>> model = SmoothedNearestNeighbour(np.array([[0.0, 0.0], [1.0, 1.0]]), [0, 1])
    >>> np.exp(model(np.array([[0.2, 0.0]]))).round(3)  # exp(-0.04) to exp(-1.64)
    array([[0.832, 0.168]])
    """

    def __init__(self, images: Array, labels: Any, *, gamma: float = 1.0, classes: int | None = None) -> None:
        if not 0 < gamma < float("inf"):
            raise ValueError(f"SmoothedNearestNeighbour(gamma): expected a positive number, got {gamma!r}")
        super().__init__(images, labels, classes=classes)
        self.gamma = float(gamma)
        points = self.points.data
        self.centre = Tensor(points.mean(axis=0, dtype=np.float64).astype(points.dtype))  # (D,)

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the logarithms of the classes' probabilities, (N, K)."""
        wide = ops.astype(self._rows(x), dtype=np.float64)
        blocks = self._blocks(len(wide))
        points, centre = self.points.data, self.centre.data
        sums = ops.log_kernel_sum(wide, points=points, centre=centre, blocks=blocks, gamma=self.gamma)
        return self._logits(log_softmax(sums, axis=1), x)
