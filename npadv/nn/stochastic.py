"""The layers that behave differently in training, dropout and batch normalisation; and Standardize, which does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npadv import ops
from npadv.autodiff import Tensor, value_of
from npadv.backend import like
from npadv.nn.module import Module
from npadv.nn.parameter import Parameter
from npadv.ops import DeviceRandom


class Dropout(Module):
    """Set each element to zero with probability ``rate`` in training (Srivastava et al. 2014); return x in inference.

        y = m x / (1 - rate)        with a mask m of zeros and ones

    Parameters
    ----------
    rate : float
        Probability of dropping, in [0, 1).
    rescale : bool
        Divide by 1 - rate, so that the mean does not change. The published maxout networks rescale hidden units but not the
        input, which is therefore larger in inference than in training.

    The mask is drawn from the generator that the model is called with. A :class:`~npadv.ops.DeviceRandom` in its place, as
    in captured steps, computes the mask on the device of x.
    """

    rate: float
    rescale: bool

    def __init__(self, rate: float, *, rescale: bool = True) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"Dropout(rate): expected a probability in [0, 1), got {rate!r}")
        self.rate, self.rescale = rate, rescale

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | DeviceRandom | None) -> Any:
        """Return x with elements dropped, or x."""
        if not train or self.rate == 0:
            return x
        if rng is None:
            raise ValueError("Dropout: training needs a random generator: model(x, train=True, rng=rng)")
        if isinstance(rng, DeviceRandom):
            return ops.dropout(x, rate=self.rate, draw=rng.draw(), rescale=self.rescale)
        values, factor = value_of(x), 1 / (1 - self.rate) if self.rescale else 1
        mask = np.multiply(self._kept(x.shape, rng), factor, dtype=values.dtype)
        return x * like(mask, values)

    def _kept(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Draw the elements to keep, each with probability 1 - rate.

        16 random bits for each element are enough, unless the rounding of the rate to 16 bits changes 1 - rate by more than
        1e-4 of its value, as for rates close to 1.
        """
        bits = 16 if abs(round(self.rate * 2**16) / 2**16 - self.rate) <= 1e-4 * (1 - self.rate) else 64
        draws = np.frombuffer(rng.bytes(bits // 8 * math.prod(shape)), f"u{bits // 8}").reshape(shape)
        kept: np.ndarray = draws >= np.array(round(self.rate * 2**bits), draws.dtype)
        return kept


class BatchNorm(Module):
    """Normalise each feature to mean 0 and variance 1, then scale and shift it (Ioffe and Szegedy 2015).

        y = scale (x - mean) / sqrt(variance + epsilon) + shift

    Features are axis 1 of (N, D) or (N, C, H, W); the statistics run over all other axes. Training uses the statistics of
    the batch and updates their running averages; inference uses the averages. ``affine=False`` leaves out scale and shift,
    as [SYN] does on its input.

    Parameters
    ----------
    features : int
        Length of axis 1.
    momentum : float
        Weight of a new batch in the running averages.
    epsilon : float
        Added to the variance.

    Examples
    --------
    >>> layer, x = BatchNorm(1), np.array([[1.0], [3.0]], np.float32)
    >>> layer(x, train=True).numpy().round(2).tolist()  # the mean of the batch is 2, its variance 1
    [[-1.0], [1.0]]
    >>> layer.running_mean.numpy()  # 0.9 * 0 + 0.1 * 2
    array([0.2], dtype=float32)
    """

    scale: Parameter | None  # (features,)
    shift: Parameter | None  # (features,)
    running_mean: Tensor  # (features,)
    running_variance: Tensor  # (features,)

    def __init__(self, features: int, *, affine: bool = True, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        self.features, self.momentum, self.epsilon = features, float(momentum), float(epsilon)
        self.scale = Parameter(np.ones(features, np.float32)) if affine else None
        self.shift = Parameter(np.zeros(features, np.float32)) if affine else None
        self.running_mean = Tensor(np.zeros(features, np.float32))
        self.running_variance = Tensor(np.ones(features, np.float32))

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the normalised batch."""
        if x.ndim < 2 or x.shape[1] != self.features:
            raise ValueError(f"BatchNorm(x): expected {self.features} features on axis 1, got shape {x.shape}")
        column = (1, self.features) + (1,) * (x.ndim - 2)
        if train:
            axes = (0, *range(2, x.ndim))
            mean = ops.mean(x, axis=axes, keepdims=True)
            centred = x - mean
            variance = ops.mean(ops.square(centred), axis=axes, keepdims=True)
            self._update_averages(value_of(mean), value_of(variance), x.size // self.features)
        else:
            centred = x - self.running_mean.data.reshape(column)
            variance = self.running_variance.data.reshape(column)
        y = centred / ops.sqrt(variance + self.epsilon)
        if self.scale is None or self.shift is None:
            return y
        return y * ops.reshape(self.scale, shape=column) + ops.reshape(self.shift, shape=column)

    def _update_averages(self, mean: Any, variance: Any, count: int) -> None:
        if count < 2:
            raise ValueError(f"BatchNorm: training needs at least two values for each feature, got {count}")
        unbiased = variance * (count / (count - 1))
        for running, batch in ((self.running_mean, mean), (self.running_variance, unbiased)):
            running.assign((1 - self.momentum) * running.data + self.momentum * batch.reshape(-1))


class Standardize(Module):
    """(x - mean) / deviation with constants: the model takes pixels in [0, 1], and attacks work in the units of pixels.

    ``mean`` and ``deviation`` are numbers, or one per channel of (N, C, H, W).

    >>> Standardize(0.5, 0.25)(np.array([[0.5, 1.0]], np.float32))
    array([[0., 2.]], dtype=float32)
    """

    def __init__(self, mean: Any, deviation: Any) -> None:
        self.mean, self.deviation = (Tensor(np.atleast_1d(np.asarray(v, np.float32))) for v in (mean, deviation))
        if not (self.deviation.data > 0).all():
            raise ValueError(f"Standardize(deviation): expected positive numbers, got {deviation!r}")

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the standardised batch."""
        column = (1, -1) + (1,) * (x.ndim - 2) if x.ndim > 1 else (-1,)
        return (x - self.mean.data.reshape(column)) * (1 / self.deviation.data.reshape(column))
