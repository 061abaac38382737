"""Rubbish class examples: inputs that belong to no class, and that a model classifies with high confidence all the same.

A softmax has no output for "none of these"; on noise it should give all classes the same probability. [GSS] count an input
as an error if the largest probability is above 0.5,

    max_k p(k | x) > 0.5,

and ``confident_errors`` does so too. Three functions make such inputs:

- ``gaussian_rubbish``: noise from N(0, I), as in [GSS];
- ``gradient_rubbish`` in ``rubbish_gradient.py``: gradient ascent on a class's log-probability, from any start;
- ``evolved_rubbish`` in ``rubbish_evolution.py``: a genetic algorithm, which uses no gradient.

Rubbish is not a perturbation of an example, so its results have no distance ([WG] 1.2.6).

References: Goodfellow, Shlens and Szegedy 2014 [GSS], "Explaining and harnessing adversarial examples", the appendix on
rubbish class examples; Nguyen, Yosinski and Clune 2015, "Deep neural networks are easily fooled".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npadv import ops
from npadv.attacks.checks import (
    check_batch,
    check_bounds,
    check_count,
    check_first_logits,
    check_flag,
    check_in_box,
    check_logits,
    check_number,
    check_positive,
    check_rng,
    check_share,
)
from npadv.attacks.result import Bounds, Model
from npadv.autodiff import no_record, value_of
from npadv.backend import Array, to_device, xp_of


def confident_errors(
    model: Model, x: Array, *, threshold: float = 0.5, sigmoid: bool = False, batch_size: int = 500
) -> RubbishResult:
    """Find the rubbish inputs that a model classifies with confidence above a threshold.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K).
    x : (N, ...) array
        Inputs that belong to no class. They need no box.
    threshold : float
        A larger probability is an error. [GSS] take 0.5; with only two classes, one of them is nearly always above it.
    sigmoid : bool
        Take each class's probability to be sigmoid(z_k), independent of the others, for a model that was trained so. [GSS]
        found that such a model is fooled less often.
    batch_size : int
        The number of inputs that the model evaluates at a time.

    Returns
    -------
    RubbishResult
        With one query for each input.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    >>> result = confident_errors(lambda x: 9 * x, np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.8]]))
    >>> result.confident, round(result.rate, 3), round(result.error_confidence, 4)
    (array([ True, False,  True]), 0.667, 0.9987)
    """
    check_input("x", x, None)
    threshold = check_share("threshold", threshold)
    check_flag("sigmoid", sigmoid)
    check_count("batch_size", batch_size)
    batches = (x[i : i + batch_size] for i in range(0, len(x), batch_size))
    log_p = [model_log_probs(model, batch, sigmoid=sigmoid, first=i == 0) for i, batch in enumerate(batches)]
    return make_rubbish_result(x, xp_of(x).concatenate(log_p), threshold=threshold, queries=len(x))


def gaussian_rubbish(
    model: Model,
    shape: Sequence[int],
    *,
    n: int,
    mean: float = 0.0,
    deviation: float = 1.0,
    threshold: float = 0.5,
    sigmoid: bool = False,
    bounds: Bounds | None = None,
    dtype: Any = np.float32,
    device: str = "cpu",
    batch_size: int = 500,
    rng: np.random.Generator,
) -> RubbishResult:
    """Draw Gaussian noise, and classify it with a model.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K).
    shape : sequence of int
        The shape of one input: (C, H, W) or (D,).
    n : int
        The number of inputs to draw.
    mean, deviation : float
        Mean and standard deviation of each pixel; by default those of [GSS], N(0, I).
    threshold, sigmoid, batch_size
        As for ``confident_errors``.
    bounds : (low, high), optional
        The box that the noise is clipped to; by default there is none, as in [GSS].
    dtype : dtype
        The dtype of the inputs.
    device : {"cpu", "cuda"}
        The model's device.
    rng : numpy.random.Generator
        Draws the noise, on the host.

    Returns
    -------
    RubbishResult

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    The logits of a linear model grow with its input, so large noise nearly always gets a high confidence:

    >>> model = lambda x: x @ np.eye(10)
    >>> for deviation in (1, 10, 100):
    ...     result = gaussian_rubbish(model, (10,), n=1000, deviation=deviation, rng=np.random.default_rng(0))
    ...     print(round(result.rate, 2), round(result.error_confidence, 2))
    0.06 0.57
    0.97 0.91
    1.0 0.99
    """
    check_rng(rng)
    check_shape(shape)
    check_count("n", n)
    mean, deviation = check_number("mean", mean), check_positive("deviation", deviation, zero=True)
    noise = rng.normal(mean, deviation, (n, *shape))
    if bounds is not None:
        noise = noise.clip(*check_finite_box(bounds))
    x = to_device(noise.astype(checked_dtype(dtype)), device)
    return confident_errors(model, x, threshold=threshold, sigmoid=sigmoid, batch_size=batch_size)


def make_rubbish_result(x: Array, log_p: Array, *, threshold: float, queries: int, **more: Any) -> RubbishResult:
    """Return the result for inputs with log-probabilities (N, K)."""
    confidence = xp_of(x).exp(log_p.max(axis=1))
    return RubbishResult(x, log_p.argmax(axis=1), confidence, confidence > threshold, queries, **more)


def log_probs(logits: Array, *, sigmoid: bool) -> Array:
    """Return the log-probability of each class in float64, accurate also where a probability rounds to 1."""
    xp, logits = xp_of(logits), logits.astype(np.float64)
    if sigmoid:
        return -value_of(ops.softplus(-logits))
    top = logits.argmax(axis=1)[:, None]
    z = logits - logits.max(axis=1, keepdims=True)
    others = xp.where(xp.arange(logits.shape[1]) == top, 0.0, xp.exp(z)).sum(axis=1, keepdims=True)
    return z - xp.log1p(others)  # log(1 + others) would round off others below 1e-16


def model_log_probs(model: Model, x: Array, *, sigmoid: bool, first: bool = False) -> Array:
    """Return a model's log-probabilities (N, K); with ``first``, refuse outputs that look like probabilities."""
    with no_record():
        output = model(x)
    check = check_first_logits if first else check_logits
    return log_probs(check(output, len(x)), sigmoid=sigmoid)


@dataclass(frozen=True)
class RubbishResult:
    """N inputs that belong to no class, and how a model classifies them; arrays are on the inputs' device.

    Attributes
    ----------
    x : (N, ...)
        The inputs.
    prediction : (N,) int
        The class with the largest probability.
    confidence : (N,) float64
        That probability.
    confident : (N,) bool
        Whether the confidence is above the threshold: an error, whatever the class.
    queries : int
        The number of inputs that the model has evaluated for this result, gradients included.
    target : (N,) int, optional
        The class that each input was made for.
    history : (T, N) float64, optional
        log p(target), in nats: at the start and after each step or generation.
    flags : mapping of str to (N,) bool
        For inputs made by gradients: ``zero_gradient`` (at the start), ``non_finite_gradient`` (a gradient at any point had
        a non-finite element, and 0 was used for it).
    """

    x: Array
    prediction: Array
    confidence: Array
    confident: Array
    queries: int
    target: Array | None = None
    history: Array | None = None
    flags: Mapping[str, Array] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The share of inputs with confidence above the threshold: [GSS]'s error rate on rubbish."""
        return float(self.confident.mean())

    @property
    def error_confidence(self) -> float:
        """The mean confidence of these errors; NaN if there are none."""
        confident = self.confident
        return float(self.confidence[confident].mean()) if bool(confident.any()) else math.nan


# Checks ---------------------------------------------------------------------------------------------------------------


def check_input(name: str, x: Any, bounds: Any) -> Bounds | None:
    """Check that an argument is a batch of finite numbers, within the box if there is one; return the box."""
    check_batch(name, x)
    if x.dtype.kind != "f":
        raise ValueError(f"{name}: expected floating-point values, got dtype {x.dtype}")
    box = None if bounds is None else check_finite_box(bounds)
    check_in_box(name, x, box or (-math.inf, math.inf))
    return box


def check_finite_box(bounds: Any) -> Bounds:
    """Check that the box is finite; return its ends as Python's numbers."""
    low, high = check_bounds(bounds)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"bounds: expected finite (low, high) with low < high, got {(low, high)!r}")
    return low, high


def check_shape(shape: Any) -> None:
    """Raise a ValueError unless an argument is the shape of one input."""
    if (
        not isinstance(shape, tuple | list)
        or not shape
        or not all(isinstance(k, int | np.integer) and k > 0 for k in shape)
    ):
        raise ValueError(f"shape: expected the shape of one input, such as (1, 28, 28), got {shape!r}")


def checked_dtype(dtype: Any) -> np.dtype:
    """Return the dtype of the inputs; raise a ValueError unless it is floating-point."""
    try:
        checked: np.dtype = np.dtype(dtype)
    except TypeError:
        raise ValueError(f"dtype: expected a floating-point dtype, got {dtype!r}") from None
    if checked.kind != "f":
        raise ValueError(f"dtype: expected a floating-point dtype, got {checked}")
    return checked
