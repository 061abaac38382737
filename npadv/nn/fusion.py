"""Max pooling moved before the biases and ReLUs that it follows: the same numbers with less work.

Adding a constant b and applying an increasing function f do not change the order of the numbers in a window, in floating point
either. So

    max over a window of f(y + b) = f((max over the window of y) + b)        to the last bit.

On the right, b and f are applied to one number of each window: a ninth of all numbers after pooling over 3 x 3 pixels. The
convolution that computes y can also leave out the rows and columns that no window covers. The gradient of a window goes to
its largest y. Only if y + b rounds two elements of a window to the same number may the plain order choose another one.

``Sequential`` runs through this module unless ``NPADV_FAST=off``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from npadv.fast.conv import with_winograd
from npadv.nn.functions import LeakyReLU, MaxPool2D, ReLU
from npadv.nn.layers import Conv2D
from npadv.ops.conv import conv2d_forward
from npadv.shapes import Pair, conv_shapes, pool_shapes

Step = Callable[..., Any]


def forward(self: Any, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
    """Return the output of a ``Sequential``."""
    for step in pooled_first(self.layers):
        x = step(x, train=train, rng=rng)
    return x


def pooled_first(layers: Sequence[Any]) -> list[Step]:
    """Return layers as a list of steps ``step(x, train=, rng=)``, with each max pooling moved forward as far as possible."""
    steps: list[Step] = []
    for layer in layers:
        at = len(steps)
        if type(layer) is MaxPool2D:
            while at and is_increasing(steps[at - 1]):
                at -= 1
            before = steps[at - 1] if at else None
            if type(before) is Conv2D:
                steps[at - 1 : at] = [partial(pooled_convolution, before, layer), partial(add_bias, before)]
                continue
        steps.insert(at, layer)
    return steps


def is_increasing(step: Any) -> bool:
    """Return whether a layer applies one increasing function to every element."""
    return type(step) is ReLU or (type(step) is LeakyReLU and step.slope >= 0)


def pooled_convolution(conv: Conv2D, pool: MaxPool2D, x: Any, **_: Any) -> Any:
    """Return the maxima of x * W, without the rows and columns of x * W that no window covers."""
    shapes = conv_shapes(x.shape, conv.weight.shape, conv.stride, conv.padding, conv.dilation, conv.groups)
    shapes = shapes.cropped(*uncovered(pool, shapes.y))
    return pool(conv2d_forward(x, conv.weight, shapes=with_winograd(shapes)))


def add_bias(conv: Conv2D, y: Any, **_: Any) -> Any:
    """Return y + b."""
    return y if conv.bias is None else y + conv.bias


def uncovered(pool: MaxPool2D, shape: tuple[int, ...]) -> Pair:
    """Return the numbers of rows and columns, at the lower and the right edge of images, that no window covers."""
    windows = pool_shapes(shape, pool.size, pool.stride, pool.padding, pool.ceil_mode)
    ends = [
        (n - 1) * s + k - p
        for n, s, k, p in zip(windows.y[2:], windows.stride, windows.size, windows.padding, strict=True)
    ]
    return max(0, shape[2] - ends[0]), max(0, shape[3] - ends[1])
