"""The layers with weights: dense, convolutional and transposed convolutional, and the maxout version of the first two.

Each computes a linear map plus a bias. They share these options:

- ``init`` is a function from ``initializers.py``;
- ``max_norm`` is an upper bound on the l2 norm of each unit's incoming weights (not for ``ConvTranspose2D``);
- ``step_scale`` multiplies the step size of the layer's parameters.

Weights are float32; ``Module.astype`` converts them. There are no activations here: ``functions.py`` has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv import ops
from npadv.functional import maxout
from npadv.nn.initializers import Initializer, he_normal
from npadv.nn.module import Module
from npadv.nn.parameter import MaxNorm, Parameter
from npadv.shapes import Pair, pair


class Dense(Module):
    """y = x W + b: (N, inputs) to (N, outputs).

    >>> layer = Dense(3, 2, rng=np.random.default_rng(0))
    >>> layer(np.ones((5, 3), np.float32)).shape
    (5, 2)
    """

    weight: Parameter  # (inputs, outputs)
    bias: Parameter | None  # (outputs,)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rng: np.random.Generator,
        init: Initializer = he_normal,
        bias: bool = True,
        max_norm: float | None = None,
        step_scale: float = 1.0,
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        constraint = None if max_norm is None else MaxNorm(max_norm, axes=(0,))
        weight = init(rng, (inputs, outputs), inputs).astype(np.float32)
        self.weight = Parameter(weight, step_scale=step_scale, constraint=constraint)
        self.bias = Parameter(np.zeros(outputs, np.float32), step_scale=step_scale) if bias else None

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return x W + b."""
        self._check(x)
        return ops.matmul(x, self.weight) if self.bias is None else ops.affine(x, self.weight, self.bias)

    def _check(self, x: Any) -> None:
        if x.ndim != 2 or x.shape[1] != self.inputs:
            raise ValueError(
                f"Dense(x): expected shape (N, {self.inputs}), got {x.shape}; Flatten() comes before Dense"
            )


class Maxout(Module):
    """h_u = max over pieces p of (x W_p + b_p)_u: (N, inputs) to (N, units) (Goodfellow et al. 2013, eq. 1).

    Further options are those of ``Dense``.

    >>> layer = Maxout(3, 2, pieces=4, rng=np.random.default_rng(0))
    >>> layer(np.ones((5, 3), np.float32)).shape
    (5, 2)
    """

    linear: Dense  # (N, inputs) to (N, pieces * units)

    def __init__(self, inputs: int, units: int, pieces: int, *, rng: np.random.Generator, **dense: Any) -> None:
        self.units, self.pieces = units, pieces
        self.linear = Dense(inputs, pieces * units, rng=rng, **dense)

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the largest of each unit's linear pieces."""
        return maxout(self.linear(x), self.pieces)


class Conv2D(Module):
    """y = x * W + b, the cross-correlation of ``ops.conv2d``: (N, inputs, H, W) to (N, outputs, OH, OW).

    >>> layer = Conv2D(3, 8, 5, padding=2, rng=np.random.default_rng(0))
    >>> layer(np.ones((2, 3, 9, 9), np.float32)).shape
    (2, 8, 9, 9)
    """

    weight: Parameter  # (outputs, inputs / groups, height, width)
    bias: Parameter | None  # (outputs, 1, 1)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | Pair,
        *,
        rng: np.random.Generator,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        init: Initializer = he_normal,
        bias: bool = True,
        max_norm: float | None = None,
        step_scale: float = 1.0,
    ) -> None:
        _check_groups("Conv2D", groups, inputs, outputs)
        self.inputs, self.outputs, self.size = inputs, outputs, pair(size, "size", least=1)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        shape = (outputs, inputs // groups, *self.size)
        constraint = None if max_norm is None else MaxNorm(max_norm, axes=(1, 2, 3))
        weight = init(rng, shape, int(np.prod(shape[1:]))).astype(np.float32)
        self.weight = Parameter(weight, step_scale=step_scale, constraint=constraint)
        self.bias = Parameter(np.zeros((outputs, 1, 1), np.float32), step_scale=step_scale) if bias else None

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return x * W + b."""
        y = ops.conv2d(
            x, self.weight, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )
        return y if self.bias is None else y + self.bias


class MaxoutConv2D(Module):
    """Maxout over convolutional pieces: (N, inputs, H, W) to (N, channels, OH, OW). Further options are those of ``Conv2D``."""

    linear: Conv2D  # to (N, pieces * channels, OH, OW)

    def __init__(
        self, inputs: int, channels: int, pieces: int, size: int | Pair, *, rng: np.random.Generator, **conv: Any
    ) -> None:
        self.channels, self.pieces = channels, pieces
        self.linear = Conv2D(inputs, pieces * channels, size, rng=rng, **conv)

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the largest of each channel's convolutions."""
        return maxout(self.linear(x), self.pieces)


class ConvTranspose2D(Module):
    """The adjoint of a Conv2D, plus a bias: (N, inputs, H, W) to (N, outputs, OH, OW), OH as in ``ops.conv_transpose2d``.

    >>> layer = ConvTranspose2D(8, 3, 4, stride=2, padding=1, rng=np.random.default_rng(0))
    >>> layer(np.ones((2, 8, 7, 7), np.float32)).shape
    (2, 3, 14, 14)
    """

    weight: Parameter  # (inputs, outputs / groups, height, width)
    bias: Parameter | None  # (outputs, 1, 1)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | Pair,
        *,
        rng: np.random.Generator,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        output_padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        init: Initializer = he_normal,
        bias: bool = True,
        step_scale: float = 1.0,
    ) -> None:
        _check_groups("ConvTranspose2D", groups, inputs, outputs)
        self.inputs, self.outputs, self.size = inputs, outputs, pair(size, "size", least=1)
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.dilation, self.groups = dilation, groups
        shape = (inputs, outputs // groups, *self.size)
        steps = pair(stride, "stride", least=1)
        # Each pixel of the result is a sum over the filters that overlap there and over the inputs of a group.
        fan_in = max(1, inputs // groups * self.size[0] * self.size[1] // (steps[0] * steps[1]))
        self.weight = Parameter(init(rng, shape, fan_in).astype(np.float32), step_scale=step_scale)
        self.bias = Parameter(np.zeros((outputs, 1, 1), np.float32), step_scale=step_scale) if bias else None

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the transposed convolution of x plus b."""
        y = ops.conv_transpose2d(
            x,
            self.weight,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y if self.bias is None else y + self.bias


def _check_groups(layer: str, groups: int, inputs: int, outputs: int) -> None:
    if groups < 1 or inputs % groups or outputs % groups:
        raise ValueError(f"{layer}(groups): expected a divisor of {inputs} inputs and {outputs} outputs, got {groups}")
