"""The layers without weights: activations, pooling, reshaping. Each applies a function of ``npadv.ops``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npadv import ops
from npadv.functional import leaky_relu
from npadv.nn.module import Module
from npadv.shapes import Pair


class ReLU(Module):
    """max(0, x)."""

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return max(0, x)."""
        return ops.relu(x)


class LeakyReLU(Module):
    """x where x > 0, else slope * x."""

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = float(slope)

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return x or slope * x."""
        return leaky_relu(x, self.slope)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return tanh(x)."""
        return ops.tanh(x)


class Sigmoid(Module):
    """The logistic function 1 / (1 + exp(-x))."""

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return 1 / (1 + exp(-x))."""
        return ops.sigmoid(x)


class Flatten(Module):
    """(N, ...) to (N, D).

    >>> Flatten()(np.ones((2, 3, 4, 4))).shape
    (2, 48)
    """

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return each example as one row."""
        return x if x.ndim == 2 else ops.reshape(x, shape=(x.shape[0], math.prod(x.shape[1:])))


class Reshape(Module):
    """(N, ...) to (N, *shape)."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return each example in the new shape."""
        return ops.reshape(x, shape=(x.shape[0], *self.shape))


class Pad2D(Module):
    """A border of constant pixels around images: (N, C, H, W) to (N, C, H + 2 width, W + 2 width)."""

    def __init__(self, width: int, value: float = 0.0) -> None:
        self.width, self.value = width, value

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return x with its border."""
        border = (self.width, self.width)
        return ops.pad(x, widths=((0, 0), (0, 0), border, border), value=self.value)


class MaxPool2D(Module):
    """The maximum of each window: see ``ops.max_pool2d``.

    >>> MaxPool2D(2)(np.arange(16.0).reshape(1, 1, 4, 4)).tolist()
    [[[[5.0, 7.0], [13.0, 15.0]]]]
    """

    def __init__(
        self, size: int | Pair, *, stride: int | Pair | None = None, padding: int | Pair = 0, ceil_mode: bool = False
    ) -> None:
        self.size, self.stride, self.padding, self.ceil_mode = size, stride, padding, ceil_mode

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the maxima."""
        return ops.max_pool2d(x, self.size, stride=self.stride, padding=self.padding, ceil_mode=self.ceil_mode)


class AvgPool2D(Module):
    """The mean of each window: see ``ops.avg_pool2d``."""

    def __init__(self, size: int | Pair, *, stride: int | Pair | None = None, padding: int | Pair = 0) -> None:
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the means."""
        return ops.avg_pool2d(x, self.size, stride=self.stride, padding=self.padding)
