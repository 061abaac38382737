"""The tasks in npadv: public functions only, except for single convolutions, which call its three primitives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import npadv
from benchmarks import problems
from npadv import attacks, nn, ops
from npadv.defenses import adversarial_training
from npadv.functional import cross_entropy
from npadv.nn import networks
from npadv.ops import conv
from npadv.optim import SGD
from npadv.shapes import conv_shapes
from npadv.train import classification_loss, gradient_update

Step = Callable[[], Any]


def start(*, threads: int) -> dict[str, str]:
    """Return the versions; the number of threads is in the environment."""
    return {"npadv": npadv.__version__, "numpy": np.__version__}


def build(network: str, weights: Sequence[np.ndarray] | None = None) -> nn.Sequential:
    """Return a network with the given weights, or with those from which all contenders start."""
    rng = np.random.default_rng(0)
    widths = problems.widths(network)
    if widths is not None:
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Dense(inputs, outputs, rng=rng), nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
    elif network == "maxout":
        model = networks.maxout_mlp(rng=rng)
    elif network == "syn_convnet":
        model = networks.syn_convnet(rng=rng)
    else:
        model = nn.Sequential(
            nn.Conv2D(1, 32, 5, padding=2, rng=rng),
            nn.ReLU(),
            nn.MaxPool2D(3),
            nn.Conv2D(32, 64, 5, padding=2, rng=rng),
            nn.ReLU(),
            nn.MaxPool2D(2),
            nn.Flatten(),
            nn.Dense(64 * 4 * 4, 200, rng=rng),
            nn.ReLU(),
            nn.Dense(200, 10, rng=rng),
        )
    for parameter, values in zip(model.parameters(), weights or problems.weights(network), strict=True):
        parameter.assign(values.reshape(parameter.shape))
    return model


def gradients(network: str, batch: int) -> tuple[float, list[np.ndarray]]:
    """Return the mean loss and its gradients in the weights, without dropout."""
    model, (x, y) = build(network), problems.batch(network, batch)
    loss = cross_entropy(model(x), y)
    # Biases of convolutions are (K, 1, 1).
    return loss.item(), [g.reshape(-1) if g.ndim == 3 else g for g in npadv.grad(loss, model.parameters())]


def train_step(network: str, batch: int, dropout: bool = True) -> Step:
    """Return a step of gradient descent with momentum, as ``fit`` makes it."""
    return _update(network, batch, classification_loss if dropout else _inference_loss)


def _inference_loss(model: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
    return cross_entropy(model(x), y)


def robust_step(network: str, batch: int) -> Step:
    """Return a step of [SYN]'s Algorithm 1: descend on the worst of nearby inputs, eps = .1 in the maximum norm."""
    return _update(network, batch, adversarial_training(0.1, alpha=0.0, norm="linf", bounds=None))


def _update(network: str, batch: int, loss: Callable[..., Any]) -> Step:
    model, (x, y), rng = build(network), problems.batch(network, batch), np.random.default_rng(0)
    optimizer = SGD(model.parameters(), problems.STEP_SIZE, momentum=problems.MOMENTUM)
    return lambda: gradient_update(model, loss, optimizer, x, y, rng=rng)


def fgsm(network: str, batch: int) -> Step:
    """Return the whole attack: checks of the input, two forward passes, success, distance and flags."""
    model, (x, y) = build(network), problems.batch(network, batch)
    return lambda: attacks.fgsm(model, x, y, eps=0.25).success.mean()


def pgd(network: str, batch: int, steps: int) -> Step:
    """Return projected gradient descent, eps .3 and step .01 in the maximum norm, with its report."""
    model, (x, y) = build(network), problems.batch(network, batch)
    return lambda: attacks.pgd(model, x, y, eps=0.3, step=0.01, steps=steps).success.mean()


def input_gradient(network: str, batch: int) -> Step:
    """Return a function that computes the gradient of the summed cross-entropy in the input alone."""
    model, (x, y) = build(network), problems.batch(network, batch)

    def step() -> Any:
        inputs = npadv.Tensor(x, requires_grad=True)
        return npadv.grad(cross_entropy(model(inputs), y, reduction="sum"), inputs)

    return step


def replayed_gradient(network: str, batch: int) -> Step:
    """Return a function that computes the same gradient from a tape recorded beforehand."""
    model, (x, y) = build(network), problems.batch(network, batch)
    gradient = npadv.Replay(lambda inputs: cross_entropy(model(inputs), y, reduction="sum"))
    gradient(x / 2), gradient(x)  # recordings that agree: the next call replays
    return lambda: gradient(x)[1]


def convolution(part: str, batch: int, images: list[int], filters: list[int], padding: int) -> Step:
    """Return one of the three primitives of a convolution, on arrays in the memory order that npadv gives them.

    Images of one or three channels come from a data set, in C order. Other images are activations; here a 1 x 1
    convolution produces them. The gradient at the output has the memory order of the output.
    """
    rng = np.random.default_rng(0)
    channels, height, width = images
    if channels > 3:
        pixels = rng.random((batch, 1, height, width), dtype=np.float32)
        x = ops.relu(ops.conv2d(pixels, rng.normal(size=(channels, 1, 1, 1)).astype(np.float32)))
    else:
        x = rng.random((batch, channels, height, width), dtype=np.float32)
    w = rng.normal(0, 0.05, filters).astype(np.float32)
    g = ops.conv2d(x, w, padding=padding) * np.float32(0.5)
    work = primitive(part, x, w, g, padding)

    def step() -> None:
        work()  # the result is freed at once, as in a network

    return step


def primitive(part: str, x: Any, w: Any, g: Any, padding: int) -> Step:
    """Return the function that computes one part of a convolution: its output, or a gradient for the cotangent g."""
    shapes = conv_shapes(x.shape, w.shape, padding=padding)
    return {
        "forward": lambda: conv.conv2d_forward(x, w, shapes=shapes),
        "input gradient": lambda: conv.conv2d_input_grad(g, w, shapes=shapes),
        "weight gradient": lambda: conv.conv2d_weight_grad(x, g, shapes=shapes),
    }[part]


TASKS: dict[str, Callable[..., Step]] = {
    task.__name__: task for task in (train_step, robust_step, fgsm, pgd, input_gradient, replayed_gradient, convolution)
}
