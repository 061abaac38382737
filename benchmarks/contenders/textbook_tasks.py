"""The tasks in plain NumPy, as a course on neural networks would write them: layers with a forward and a backward pass.

Convolutions use im2col, maxima use argmax, and every result is a new array. The code is neither tuned nor slowed down; it
shows the cost of npadv without npadv's care for memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import problems

Step = Callable[[], Any]
Array = Any
F32 = np.float32


def start(*, threads: int) -> dict[str, str]:
    """Return the versions; the number of threads is in the environment."""
    return {"numpy": np.__version__}


# Layers: forward stores the arrays that backward needs; backward takes dL/dy, stores the weights' gradients, returns dL/dx ----


class Layer:
    """A layer without weights."""

    weights: tuple[Array, ...] = ()
    gradients: tuple[Array, ...] = ()

    def forward(self, x: Array) -> Array:
        """Return the layer's output."""
        raise NotImplementedError

    def backward(self, g: Array) -> Array:
        """Return the loss's gradient in the layer's input."""
        raise NotImplementedError


class Dense(Layer):
    """x W + b."""

    def __init__(self, w: Array, b: Array) -> None:
        self.weights = w, b

    def forward(self, x: Array) -> Array:
        """Return x W + b."""
        self.x = x
        return x @ self.weights[0] + self.weights[1]

    def backward(self, g: Array) -> Array:
        """Return g W^T."""
        self.gradients = self.x.T @ g, g.sum(axis=0)
        return g @ self.weights[0].T


class ReLU(Layer):
    """max(0, x)."""

    def forward(self, x: Array) -> Array:
        """Return max(0, x)."""
        self.positive = x > 0
        return np.where(self.positive, x, F32(0))

    def backward(self, g: Array) -> Array:
        """Return g where x was positive."""
        return np.where(self.positive, g, F32(0))


class Maxout(Layer):
    """The maximum over the pieces of each unit."""

    def forward(self, x: Array) -> Array:
        """Return the maxima, and store their positions."""
        pieces = x.reshape(len(x), problems.MAXOUT_PIECES, problems.MAXOUT_UNITS)
        self.winner = pieces.argmax(axis=1)[:, None]
        return np.take_along_axis(pieces, self.winner, axis=1)[:, 0]

    def backward(self, g: Array) -> Array:
        """Return g at the winners and zero elsewhere."""
        out = np.zeros((len(g), problems.MAXOUT_PIECES, problems.MAXOUT_UNITS), F32)
        np.put_along_axis(out, self.winner, g[:, None], axis=1)
        return out.reshape(len(g), -1)


class Dropout(Layer):
    """Zero each element with a given probability, and multiply the others by a factor."""

    def __init__(self, rate: float, factor: float, rng: np.random.Generator) -> None:
        self.rate, self.factor, self.rng = rate, factor, rng

    def forward(self, x: Array) -> Array:
        """Return x, masked."""
        self.mask = ((self.rng.random(x.shape) >= self.rate) * self.factor).astype(F32)
        return x * self.mask

    def backward(self, g: Array) -> Array:
        """Return g, masked."""
        return g * self.mask


class Conv(Layer):
    """Cross-correlation with padding, as one matrix product of columns and filters."""

    def __init__(self, w: Array, b: Array, padding: int) -> None:
        self.weights, self.padding = (w, b), padding

    def forward(self, x: Array) -> Array:
        """Return x * W + b."""
        (w, b), p = self.weights, self.padding
        x = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
        self.shape = x.shape
        windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))  # (N, C, OH, OW, KH, KW)
        n, c, oh, ow, kh, kw = windows.shape
        self.columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * oh * ow, c * kh * kw)
        y = self.columns @ w.reshape(len(w), -1).T + b
        return y.reshape(n, oh, ow, len(w)).transpose(0, 3, 1, 2)

    def backward(self, g: Array) -> Array:
        """Return the gradient in x: g W, each column added back to its window."""
        (w, _), p = self.weights, self.padding
        n, k, oh, ow = g.shape
        rows = g.transpose(0, 2, 3, 1).reshape(-1, k)
        self.gradients = (rows.T @ self.columns).reshape(w.shape), rows.sum(axis=0)
        columns = (rows @ w.reshape(k, -1)).reshape(n, oh, ow, *w.shape[1:])
        out = np.zeros(self.shape, F32)
        for i in range(w.shape[2]):
            for j in range(w.shape[3]):
                out[:, :, i : i + oh, j : j + ow] += columns[..., i, j].transpose(0, 3, 1, 2)
        return out[:, :, p : out.shape[2] - p, p : out.shape[3] - p]


class MaxPool(Layer):
    """The maximum of adjacent windows; rows and columns that fill no window are left out."""

    def __init__(self, size: int) -> None:
        self.size = size

    def forward(self, x: Array) -> Array:
        """Return the maxima, and store their positions."""
        self.shape, s = x.shape, self.size
        n, c, h, w = x.shape
        oh, ow = h // s, w // s
        windows = x[:, :, : oh * s, : ow * s].reshape(n, c, oh, s, ow, s).transpose(0, 1, 2, 4, 3, 5)
        windows = windows.reshape(n, c, oh, ow, s * s)
        self.winner = windows.argmax(axis=4)[..., None]
        return np.take_along_axis(windows, self.winner, axis=4)[..., 0]

    def backward(self, g: Array) -> Array:
        """Return g at the winners and zero elsewhere."""
        s, (n, c, oh, ow) = self.size, g.shape
        windows = np.zeros((n, c, oh, ow, s * s), F32)
        np.put_along_axis(windows, self.winner, g[..., None], axis=4)
        out = np.zeros(self.shape, F32)
        out[:, :, : oh * s, : ow * s] = (
            windows.reshape(n, c, oh, ow, s, s).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, oh * s, ow * s)
        )
        return out


class Flatten(Layer):
    """(N, ...) to (N, D)."""

    def forward(self, x: Array) -> Array:
        """Return each example as a row."""
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, g: Array) -> Array:
        """Return g in the input's shape."""
        return g.reshape(self.shape)


# Networks ----------------------------------------------------------------------------------------------------------------


def build(network: str, *, dropout: bool = False) -> list[Layer]:
    """Return a network's layers with the weights from which all contenders start."""
    if network == "syn_convnet":
        raise NotImplementedError("syn_convnet is not implemented here; it has the same layers as convnet")
    w, rng = problems.weights(network), np.random.default_rng(0)
    if network == "maxout":
        layers = [
            Dropout(0.2, 1.0, rng),
            *(Dense(*w[0:2]), Maxout(), Dropout(0.5, 2.0, rng)),
            *(Dense(*w[2:4]), Maxout(), Dropout(0.5, 2.0, rng)),
            Dense(*w[4:6]),
        ]
        return [layer for layer in layers if dropout or not isinstance(layer, Dropout)]
    if network == "convnet":
        return [
            *(Conv(w[0], w[1], 2), ReLU(), MaxPool(3)),
            *(Conv(w[2], w[3], 2), ReLU(), MaxPool(2)),
            *(Flatten(), Dense(*w[4:6]), ReLU(), Dense(*w[6:8])),
        ]
    layers = [layer for i in range(0, len(w), 2) for layer in (Dense(*w[i : i + 2]), ReLU())]
    return layers[:-1]


def loss_and_input_gradient(layers: list[Layer], x: Array, y: Array) -> tuple[float, Array]:
    """Return the summed cross-entropy and its gradient in x; the layers store their weights' gradients."""
    for layer in layers:
        x = layer.forward(x)
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = -np.log(p[rows, y]).sum()
    p[rows, y] -= 1
    for layer in reversed(layers):
        p = layer.backward(p)
    return loss, p


# Tasks -------------------------------------------------------------------------------------------------------------------


def gradients(network: str, batch: int) -> tuple[float, list[Array]]:
    """Return the mean loss and its gradients in the weights, without dropout."""
    layers = build(network)
    loss, _ = loss_and_input_gradient(layers, *problems.batch(network, batch))
    return loss / batch, [g / F32(batch) for layer in layers for g in layer.gradients]


def train_step(network: str, batch: int, dropout: bool = True) -> Step:
    """Return a step of gradient descent with momentum; the norms of the maxout network's weights are then constrained."""
    layers, (x, y) = build(network, dropout=dropout), problems.batch(network, batch)
    velocity = [np.zeros_like(w) for layer in layers for w in layer.weights]

    def step() -> float:
        loss, _ = loss_and_input_gradient(layers, x, y)
        pairs = [pair for layer in layers for pair in zip(layer.weights, layer.gradients, strict=True)]
        for i, (w, g) in enumerate(pairs):
            velocity[i] = F32(problems.MOMENTUM) * velocity[i] + g / F32(batch)
            w -= F32(problems.STEP_SIZE) * velocity[i]
            if network == "maxout" and w.ndim == 2:
                w *= np.minimum(1, F32(problems.MAX_NORM) / np.linalg.norm(w, axis=0))
        return loss / batch

    return step


def input_gradient(network: str, batch: int) -> Step:
    """Return a function that computes the gradient in the input (and, unavoidably here, in the weights)."""
    layers, (x, y) = build(network), problems.batch(network, batch)
    return lambda: loss_and_input_gradient(layers, x, y)[1]


TASKS: dict[str, Callable[..., Step]] = {task.__name__: task for task in (train_step, input_gradient)}
