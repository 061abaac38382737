"""Initial weights: functions ``(rng, shape, fan_in) -> array`` of float64, which the layers round to float32.

A layer takes one as ``init``. The random generator is an argument, so that a seed determines a network. ``uniform`` and
``normal`` have a parameter, and return such a function; the others are such functions.

>>> he_normal(np.random.default_rng(0), (3, 2), fan_in=3).shape
(3, 2)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Initializer = Callable[[np.random.Generator, tuple[int, ...], int], np.ndarray]


def uniform(half_width: float) -> Initializer:
    """Return an initializer from U(-half_width, half_width); the published maxout networks use 0.005."""
    return lambda rng, shape, fan_in: rng.uniform(-half_width, half_width, shape)


def normal(deviation: float) -> Initializer:
    """Return an initializer from N(0, deviation^2)."""
    return lambda rng, shape, fan_in: rng.normal(0.0, deviation, shape)


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """Draw from N(0, 2 / fan_in), which keeps the variance of ReLU activations (He et al. 2015)."""
    return rng.normal(0.0, np.sqrt(2.0 / fan_in), shape)


def lecun_uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """Draw from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the default of Torch, which [SYN] used."""
    half_width = 1.0 / np.sqrt(fan_in)
    return rng.uniform(-half_width, half_width, shape)


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """Draw from U(-w, w) with w = sqrt(6 / (fan_in + fan_out)), for tanh (Glorot and Bengio 2010).

    The fan-out follows from the shape: the number of weights divided by the fan-in, times the pixels of a filter.
    """
    taps = int(np.prod(shape[2:])) if len(shape) == 4 else 1
    fan_out = int(np.prod(shape)) // fan_in * taps
    half_width = np.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-half_width, half_width, shape)


def zeros(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """Return zeros."""
    return np.zeros(shape)
