"""Losses, activations and targets: compositions of operations, without gradient rules of their own.

Every function takes Tensors or arrays and returns the same kind. A loss takes a batch and returns one number for each example
(``reduction="none"``), their sum or their mean. Attacks use the sum, so that an example's gradient does not depend on the
rest of its batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv import capture, ops
from npadv.autodiff import Tensor, value_of
from npadv.backend import Array, as_floating, like, shape_of, xp_of

REDUCTIONS = ("none", "sum", "mean")

# Losses ---------------------------------------------------------------------------------------------------------------


def cross_entropy(logits: Any, targets: Any, reduction: str = "mean") -> Any:
    """Return the cross-entropy -log p(target) of a softmax classifier.

    Parameters
    ----------
    logits : (N, K)
        Unnormalised log-probabilities.
    targets : (N,) integers, or (N, K) weights
        Classes in 0..K-1; or a weight for each class ("soft targets"), non-negative and not necessarily summing to one.
    reduction : {"none", "sum", "mean"}

    Raises
    ------
    ValueError
        A class outside 0..K-1, float classes, a shape that does not fit, an empty batch under ``"mean"``.

    Examples
    --------
    >>> round(float(cross_entropy(np.zeros((2, 4)), np.array([0, 3]))), 4)  # log 4
    1.3863
    """
    _check_rank(logits, 2, "cross_entropy(logits)", "(N, K)")
    logits = as_floating(logits)
    targets = targets if isinstance(targets, Tensor) else like(targets, value_of(logits))
    if targets.ndim == 2:
        check_soft_targets(targets, logits.shape)
        weights = targets if isinstance(targets, Tensor) else targets.astype(logits.dtype, copy=False)
        (log_p,) = _zero_log_zero(weights, log_softmax(logits))
        return reduce(-ops.sum(weights * log_p, axis=1), reduction)
    labels = check_labels(targets, logits.shape[1], logits.shape[0])
    check_reduction(reduction, logits.shape[0])
    return ops.softmax_cross_entropy(logits, labels=labels, reduction=reduction)


def kl_divergence(p_logits: Any, q_logits: Any, reduction: str = "mean") -> Any:
    """Return KL(p || q) = sum p (log p - log q) of two softmax distributions given by their logits, both (N, K).

    >>> float(kl_divergence(np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]])))
    0.0
    """
    _check_rank(p_logits, 2, "kl_divergence(p_logits)", "(N, K)")
    _check_shape(q_logits, p_logits.shape, "kl_divergence(q_logits)")
    log_p, log_q = log_softmax(p_logits), log_softmax(q_logits)
    p = ops.exp(log_p)
    log_p, log_q = _zero_log_zero(p, log_p, log_q)
    return reduce(ops.sum(p * (log_p - log_q), axis=1), reduction)


def mean_squared_error(prediction: Any, target: Any, reduction: str = "mean") -> Any:
    """Return the squared error of each example, averaged over its elements: (N, ...) twice gives (N,) before reduction.

    >>> float(mean_squared_error(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]])))
    2.0
    """
    if prediction.ndim < 1:
        raise ValueError("mean_squared_error(prediction): expected a batch (N, ...), got a scalar")
    _check_shape(target, prediction.shape, "mean_squared_error(target)")
    errors = ops.square(as_floating(prediction) - as_floating(target))
    return reduce(ops.mean(errors, axis=tuple(range(1, errors.ndim))) if errors.ndim > 1 else errors, reduction)


def binary_cross_entropy(logits: Any, targets: Any, reduction: str = "mean") -> Any:
    """Return the cross-entropy of a sigmoid classifier from its logits: softplus(z) - t z, finite for any finite z.

    ``targets`` are probabilities in [0, 1]: a number for all, or an array of the logits' shape.

    >>> round(float(binary_cross_entropy(np.zeros(3), 1.0)), 4)  # log 2
    0.6931
    """
    if isinstance(targets, np.generic):
        targets = targets.item()  # a Python number takes the precision of the logits
    if not isinstance(targets, int | float):
        _check_shape(targets, logits.shape, "binary_cross_entropy(targets)")
    _check_probabilities(value_of(targets))
    logits = as_floating(logits)
    return reduce(ops.softplus(logits) - targets * logits, reduction)


def _zero_log_zero(weights: Any, *logarithms: Any) -> list[Any]:
    """Return logarithms with 0 in place of -inf where the weight is 0: then 0 log 0 = 0, and its gradient is 0.

    A class of weight 0 may have the logit -inf.
    """
    unweighted = value_of(weights) == 0
    return [ops.where(unweighted & (value_of(log) == -float("inf")), 0.0, log) for log in logarithms]


def reduce(losses: Any, reduction: str) -> Any:
    """Return losses as they are (``"none"``), summed or averaged."""
    check_reduction(reduction, losses.size)
    if reduction == "none":
        return losses
    return ops.sum(losses) if reduction == "sum" else ops.mean(losses)


# Activations ----------------------------------------------------------------------------------------------------------


def softmax(x: Any, axis: int = -1) -> Any:
    """Return exp(x) / sum(exp(x)) along an axis, without overflow.

    >>> softmax(np.array([1000.0, 1000.0]))
    array([0.5, 0.5])
    """
    return ops.softmax(as_floating(x), axis=axis)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """Return x - log(sum(exp(x))) along an axis: the logarithm of ``softmax``, finite where ``softmax`` underflows.

    >>> log_softmax(np.array([0.0, 1000.0])).tolist()
    [-1000.0, 0.0]
    """
    x = as_floating(x)
    x = x - value_of(x).max(axis=axis, keepdims=True)  # without it, large x would lose digits
    return x - ops.logsumexp(x, axis=axis, keepdims=True)


def leaky_relu(x: Any, slope: float = 0.01) -> Any:
    """Return x where x > 0, else slope * x; its derivative at 0 is the slope.

    >>> leaky_relu(np.array([-2.0, 3.0]), slope=0.5)
    array([-1.,  3.])
    """
    return ops.where(value_of(x) > 0, x, float(slope) * x)


def maxout(x: Any, pieces: int, axis: int = 1) -> Any:
    """Return the maximum over the ``pieces`` of each unit along an axis (Goodfellow et al. 2013).

    x (N, pieces * units, ...) gives (N, units, ...). Unit u is the maximum of the elements u, u + units, u + 2 units, ...: the
    first pieces of all units lie side by side, then the second ones. So the maximum is taken of a few contiguous slices.

    >>> maxout(np.array([[1.0, 5.0, 3.0, 2.0]]), pieces=2)
    array([[3., 5.]])
    """
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"maxout(axis): expected an axis of an array of {x.ndim} dimensions, got {axis}")
    axis %= x.ndim
    if pieces < 1 or x.shape[axis] % pieces:
        raise ValueError(
            f"maxout(pieces): expected a divisor of the {x.shape[axis]} features on axis {axis}, got {pieces}"
        )
    return ops.maxout(x, pieces=pieces, axis=axis)


# Targets --------------------------------------------------------------------------------------------------------------


def one_hot(labels: Any, classes: int, dtype: Any = np.float32) -> Array:
    """Return (N, classes) rows that are one at the label and zero elsewhere.

    >>> one_hot(np.array([1, 0]), 3)
    array([[0., 1., 0.],
           [1., 0., 0.]], dtype=float32)
    """
    labels = check_labels(labels, classes)
    xp = xp_of(labels)
    return (labels[:, None] == xp.arange(classes)).astype(dtype)


# Checks ---------------------------------------------------------------------------------------------------------------
#
# While a CUDA graph is recorded, the values of an array on the device cannot be read. ``capture.defer_check`` then returns
# true, and checks the host's batch instead, now and before each replay.


def check_labels(labels: Any, classes: int, n: int | None = None, name: str = "labels") -> Array:
    """Return labels as an array (N,) of integers in 0..classes-1, or raise a ValueError."""
    labels = value_of(labels)
    labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
    if labels.ndim != 1 or (n is not None and len(labels) != n):
        raise ValueError(
            f"{name}: expected shape ({'N' if n is None else n},), one class per example, got {labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integer classes 0..{classes - 1}, got dtype {labels.dtype}")
    if not labels.dtype.isnative:  # from a file of another machine
        labels = labels.astype(labels.dtype.newbyteorder("="))
    if capture.defer_check(labels, lambda batch: check_labels(batch, classes, n, name)):
        return labels
    unsigned = labels.view(f"u{labels.itemsize}")  # in which a negative number is too large as well
    if labels.size and unsigned[unsigned.argmax()] >= classes:
        raise ValueError(
            f"{name}: expected classes 0..{classes - 1}, got values from {int(labels.min())} to {int(labels.max())}"
        )
    return labels


def check_soft_targets(targets: Any, shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless soft targets have the logits' shape (N, K) and are finite and non-negative."""
    _check_shape(targets, shape, "targets")
    values = value_of(targets)
    if values.dtype.kind != "f":
        raise ValueError(f"targets: expected floating-point weights for each class, got dtype {values.dtype}")
    if capture.defer_check(values, lambda batch: check_soft_targets(batch, shape)):
        return
    low, high = _range(values)
    if not 0 <= low <= high < float("inf"):
        raise ValueError(f"targets: expected finite, non-negative weights for each class, got from {low} to {high}")


def check_reduction(reduction: str, size: int) -> None:
    """Raise a ValueError unless a reduction is known and has something to average."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    if reduction == "mean" and size == 0:
        raise ValueError("reduction='mean': expected at least one example, got an empty batch")


def _check_probabilities(targets: Any) -> None:
    if capture.defer_check(targets, _check_probabilities):
        return
    low, high = _range(targets)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"binary_cross_entropy(targets): expected probabilities in [0, 1], got from {low} to {high}")


def _range(values: Any) -> tuple[float, float]:
    """Return the smallest and the largest of some numbers, NaN if one of them is NaN; two zeros for none."""
    if isinstance(values, int | float):
        return values, values
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def _check_rank(x: Any, rank: int, name: str, form: str) -> None:
    if x.ndim != rank:
        raise ValueError(f"{name}: expected shape {form}, got {x.shape}")


def _check_shape(x: Any, shape: tuple[int, ...], name: str) -> None:
    if shape_of(value_of(x)) != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {shape_of(value_of(x))}")
