"""The layers with weights: dense, convolutional and transposed convolutional, and the maxout version of the first two.

All compute a linear map plus a bias. Weights are (in, out) for dense layers and (K, C/groups, KH, KW) for convolutions;
``max_norm`` keeps each unit's incoming weights no longer than that (l2), ``step_scale`` multiplies the step size of the
layer's parameters. Weights are float32 until ``module.astype`` says otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv import ops
from npadv.fast.conv import with_winograd
from npadv.functional import maxout
from npadv.nn.initializers import Initializer, he_normal
from npadv.nn.module import Module
from npadv.nn.parameter import MaxNorm, Parameter
from npadv.ops.conv import conv2d_forward
from npadv.shapes import Pair, conv_shapes, pair


class Dense(Module):
    """y = x W + b: (N, inputs) to (N, outputs).

    >>> layer = Dense(3, 2, rng=np.random.default_rng(0))
    >>> layer(np.ones((5, 3), np.float32)).shape
    (5, 2)
    """

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
        if x.ndim != 2 or x.shape[1] != self.inputs:
            raise ValueError(
                f"Dense(x): expected shape (N, {self.inputs}), got {x.shape}; Flatten() comes before Dense"
            )
        return ops.matmul(x, self.weight) if self.bias is None else ops.affine(x, self.weight, self.bias)


class Maxout(Module):
    """h_u = max over pieces p of (x W_p + b_p)_u: (N, inputs) to (N, units) (Goodfellow et al. 2013, eq. 1)."""

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
        if groups < 1 or inputs % groups or outputs % groups:
            raise ValueError(
                f"Conv2D(groups): expected a divisor of {inputs} inputs and {outputs} outputs, got {groups}"
            )
        self.inputs, self.outputs, self.size = inputs, outputs, pair(size, "size", least=1)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        shape = (outputs, inputs // groups, *self.size)
        constraint = None if max_norm is None else MaxNorm(max_norm, axes=(1, 2, 3))
        weight = init(rng, shape, int(np.prod(shape[1:]))).astype(np.float32)
        self.weight = Parameter(weight, step_scale=step_scale, constraint=constraint)
        self.bias = Parameter(np.zeros((outputs, 1, 1), np.float32), step_scale=step_scale) if bias else None

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return x * W + b."""
        return self.shift(self.correlate(x))

    def correlate(self, x: Any, crop: int | Pair = 0) -> Any:
        """Return x * W, without the rows and columns at its lower and right edge that nobody will look at."""
        return conv2d_forward(
            x, self.weight, shapes=with_winograd(self._shapes(x).cropped(*pair(crop, "crop", least=0)))
        )

    def _shapes(self, x: Any) -> Any:
        return conv_shapes(x.shape, self.weight.shape, self.stride, self.padding, self.dilation, self.groups)

    def reach(self, x: Any) -> Pair:
        """Return the height and width of x * W."""
        _, _, height, width = self._shapes(x).y
        return height, width

    def shift(self, y: Any) -> Any:
        """Return y + b."""
        return y if self.bias is None else y + self.bias


class MaxoutConv2D(Module):
    """Maxout over convolutional pieces: (N, inputs, H, W) to (N, channels, OH, OW)."""

    def __init__(
        self, inputs: int, channels: int, pieces: int, size: int | Pair, *, rng: np.random.Generator, **conv: Any
    ) -> None:
        self.channels, self.pieces = channels, pieces
        self.linear = Conv2D(inputs, pieces * channels, size, rng=rng, **conv)

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the largest of each channel's convolutions."""
        return maxout(self.linear(x), self.pieces)


class ConvTranspose2D(Module):
    """The adjoint of a Conv2D, plus a bias: (N, inputs, H, W) to (N, outputs, OH, OW), OH as in ``ops.conv_transpose2d``."""

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
        if groups < 1 or inputs % groups or outputs % groups:
            raise ValueError(
                f"ConvTranspose2D(groups): expected a divisor of {inputs} inputs and {outputs} outputs, got {groups}"
            )
        self.inputs, self.outputs, self.size = inputs, outputs, pair(size, "size", least=1)
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.dilation, self.groups = dilation, groups
        shape = (inputs, outputs // groups, *self.size)
        steps = pair(stride, "stride", least=1)
        fan_in = max(
            1, inputs // groups * self.size[0] * self.size[1] // (steps[0] * steps[1])
        )  # filters that meet in a pixel
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
