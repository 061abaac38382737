"""Rubbish class examples: inputs that are of no class at all, and of which a model is certain all the same.

A softmax has no word for "none of these". What it should say of noise is that all classes are equally likely; [GSS] count
it as an error if some class has a probability above 0.5, and so does ``confident_errors``. Three ways to make rubbish:

- ``gaussian_rubbish``: noise from N(0, I), as [GSS] draw it;
- ``gradient_rubbish``, in ``rubbish_gradient.py``: from any start uphill to a class;
- ``evolved_rubbish``, in ``rubbish_evolution.py``: by a genetic algorithm that sees no gradient.

These are not small changes of anything, so there is no distance here ([WG] 1.2.6).

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
    check_count,
    check_first_logits,
    check_in_box,
    check_logits,
    check_positive,
)
from npadv.attacks.result import Bounds, Model
from npadv.autodiff import no_record, value_of
from npadv.backend import Array, to_device, xp_of


@dataclass(frozen=True)
class RubbishResult:
    """N inputs of no class, and what the model says of them; arrays live where the inputs do.

    Attributes
    ----------
    x : (N, ...)
        The inputs.
    prediction : (N,) int
        The class of the largest probability.
    confidence : (N,) float64
        That probability.
    confident : (N,) bool
        It is above the threshold: an error, whatever the class.
    queries : int
        How many inputs the model was shown to find these, gradients included.
    target : (N,) int, optional
        The class that each was made for.
    history : (T, N) float64, optional
        log p(target), in nats: at the start and after each step or generation.
    flags : mapping of str to (N,) bool
        ``zero_gradient`` (at the start) and ``non_finite_gradient`` (anywhere; 0 was taken for it), of those made by
        gradients.
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
        """The share of inputs of which the model is certain: [GSS]'s error rate on rubbish."""
        return float(self.confident.mean())

    @property
    def error_confidence(self) -> float:
        """The mean confidence of those errors; NaN if there are none."""
        confident = self.confident
        return float(self.confidence[confident].mean()) if bool(confident.any()) else math.nan


def confident_errors(
    model: Model, x: Array, *, threshold: float = 0.5, sigmoid: bool = False, batch_size: int = 500
) -> RubbishResult:
    """Tell of which inputs, none of which is of any class, a model is certain.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K).
    x : (N, ...) array
        Inputs, in a box or not.
    threshold : float
        A probability above it is an error. [GSS] take 0.5, which of two classes one nearly always exceeds.
    sigmoid : bool
        Let each logit be that of an independent probability, sigmoid(z_k), which need not sum to 1: for a model that was
        trained so. [GSS] found one to be fooled less.
    batch_size : int
        How many inputs the model sees at a time.

    Returns
    -------
    RubbishResult
        One query an input.

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
    check_share("threshold", threshold)
    check_count("batch_size", batch_size)
    batches = (x[i : i + batch_size] for i in range(0, len(x), batch_size))
    logp = [log_probabilities(model, batch, sigmoid=sigmoid, first=i == 0) for i, batch in enumerate(batches)]
    return told(x, xp_of(x).concatenate(logp), threshold=threshold, queries=len(x))


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
    """Show a model Gaussian noise, and tell how often it is certain of it.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K).
    shape : sequence of int
        Of one input: (C, H, W) or (D,).
    n : int
        How many to draw.
    mean, deviation : float
        Of each pixel, in units of x; by default those of [GSS], N(0, I).
    threshold, sigmoid, batch_size
        As for ``confident_errors``.
    bounds : (low, high), optional
        The box that values beyond are clipped to; by default there is none, as in [GSS].
    dtype : dtype
        Of the inputs.
    device : {"cpu", "cuda"}
        Where the model is.
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
    Logits that grow with the input are certain of nearly all noise that is large enough:

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
    check_positive("deviation", deviation, zero=True)
    if not math.isfinite(mean):
        raise ValueError(f"mean: expected a finite number, got {mean!r}")
    noise = rng.normal(mean, deviation, (n, *shape))
    if bounds is not None:
        check_box(bounds)
        noise = noise.clip(*bounds)
    x = to_device(noise.astype(checked_dtype(dtype)), device)
    return confident_errors(model, x, threshold=threshold, sigmoid=sigmoid, batch_size=batch_size)


def told(x: Array, logp: Array, *, threshold: float, queries: int, **more: Any) -> RubbishResult:
    """Return what log p (N, K) tells of inputs."""
    confidence = xp_of(x).exp(logp.max(axis=1))
    return RubbishResult(x, logp.argmax(axis=1), confidence, confidence > threshold, queries, **more)


def log_probabilities(model: Model, x: Array, *, sigmoid: bool, first: bool = False) -> Array:
    """Return log p of each class, (N, K); of the first inputs, what the model says must not look like probabilities."""
    with no_record():
        output = model(x)
    return logs(check_first_logits(output, len(x)) if first else check_logits(output, len(x)), sigmoid)


def logs(logits: Array, sigmoid: bool) -> Array:
    """Return log p of each class from the logits, in float64: a probability of 1 - 1e-30 is still told from 1."""
    xp, logits = xp_of(logits), logits.astype(np.float64)
    if sigmoid:
        return -value_of(ops.softplus(-logits))
    top = logits.argmax(axis=1)[:, None]
    z = logits - logits.max(axis=1, keepdims=True)
    others = xp.where(xp.arange(logits.shape[1]) == top, 0.0, xp.exp(z)).sum(axis=1, keepdims=True)
    return z - xp.log1p(others)  # log(1 + others) would forget others below 1e-16


# Checks ---------------------------------------------------------------------------------------------------------------


def check_input(name: str, x: Any, bounds: Bounds | None) -> None:
    """Raise a ValueError unless an argument is a batch of finite numbers, within the box if there is one."""
    check_batch(name, x)
    if x.dtype.kind != "f":
        raise ValueError(f"{name}: expected floating-point values, got dtype {x.dtype}")
    if bounds is not None:
        check_box(bounds)
    check_in_box(name, x, (-math.inf, math.inf) if bounds is None else bounds)


def check_box(bounds: Bounds) -> None:
    """Raise a ValueError unless the box has an inside that can be drawn from."""
    low, high = bounds
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"bounds: expected finite (low, high) with low < high, got {bounds!r}")


def check_share(name: str, value: float) -> None:
    """Raise a ValueError unless an argument is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {value!r}")


def check_shape(shape: Any) -> None:
    """Raise a ValueError unless an argument is the shape of one input."""
    if (
        not isinstance(shape, tuple | list)
        or not shape
        or not all(isinstance(k, int | np.integer) and k > 0 for k in shape)
    ):
        raise ValueError(f"shape: expected that of one input, such as (1, 28, 28), got {shape!r}")


def checked_dtype(dtype: Any) -> np.dtype:
    """Return a dtype of inputs, or raise a ValueError."""
    checked: np.dtype = np.dtype(dtype)
    if checked.kind != "f":
        raise ValueError(f"dtype: expected a floating-point one, got {checked}")
    return checked


def check_rng(rng: Any) -> None:
    """Raise a ValueError unless an argument is a generator."""
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")
