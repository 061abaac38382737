"""How each of the papers' networks is trained, by ``npadv train NETWORK``.

A recipe is data: batch size, epochs, optimizer. The step sizes and constraints that belong to single layers are in the
networks themselves (``nn/networks.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from npadv.nn.module import Module
from npadv.optim import SGD, ExponentialDecay, InverseDecay, Linear, Optimizer, StepDecay


@dataclass(frozen=True)
class Recipe:
    """The data set, the sizes and the optimizer with which a network is trained.

    Attributes
    ----------
    data : str
        The data set that the recipe was published for.
    epochs, batch_size : int
        Passes over the training data; examples in a step.
    hold_out : int
        Training examples kept for validation; [WG] trains on the first 50,000 of MNIST.
    optimizer : callable
        Function from a model to its optimizer.
    """

    data: str
    epochs: int
    batch_size: int
    hold_out: int
    optimizer: Callable[[Module], Optimizer]


def _maxout_mnist(step_size: float, factor: float) -> Callable[[Module], Optimizer]:
    """Return the optimizer of the published maxout networks: decay at every batch, momentum from .5 to .7."""
    return lambda model: SGD(
        model.parameters(), ExponentialDecay(step_size, factor, floor=1e-6), momentum=Linear(0.5, 0.7, end=250)
    )


def _maxout_cifar10(model: Module) -> Optimizer:
    return SGD(model.parameters(), Linear(0.17, 0.0017, end=500), momentum=Linear(0.5, 0.65, end=250))


def _syn_mnist(model: Module) -> Optimizer:
    """Return [SYN]'s optimizer: dampening makes the velocity an average of gradients, so a step is .01 times a gradient."""
    return SGD(model.parameters(), InverseDecay(0.01, 5e-6), momentum=0.9, dampening=0.9, weight_decay=1e-3)


def _syn_cifar10(model: Module) -> Optimizer:
    return SGD(model.parameters(), StepDecay(1.0, every=25), momentum=0.9, dampening=0.9, weight_decay=5e-4)


def _plain(model: Module) -> Optimizer:
    """Return a usual optimizer, for the networks whose training the papers do not describe."""
    return SGD(model.parameters(), 0.1, momentum=0.5)


def _small(step_size: float, momentum: float) -> Callable[[Module], Optimizer]:
    """Return the optimizer of the demo's networks."""
    return lambda model: SGD(model.parameters(), step_size, momentum=momentum)


# Data set, epochs, batch size, examples held out, optimizer.
RECIPES: dict[str, Recipe] = {
    "maxout_mlp": Recipe("mnist", 60, 100, 10_000, _maxout_mnist(0.1, 1.000004)),
    "maxout_convnet_mnist": Recipe("mnist", 60, 128, 10_000, _maxout_mnist(0.05, 1.00004)),
    "maxout_convnet_cifar10": Recipe("cifar10", 474, 128, 10_000, _maxout_cifar10),
    "relu_mlp": Recipe("mnist", 30, 100, 10_000, _plain),
    "tanh_mlp": Recipe("mnist", 30, 100, 10_000, _plain),
    "softmax_regression": Recipe("mnist", 30, 100, 10_000, _plain),
    "syn_convnet": Recipe("mnist", 120, 100, 0, _syn_mnist),
    "syn_convnet_bn": Recipe("mnist", 120, 100, 0, _syn_mnist),
    "syn_vgg": Recipe("cifar10", 300, 128, 0, _syn_cifar10),
    "small_maxout": Recipe("digits", 40, 50, 200, _small(0.05, 0.7)),
    "small_convnet": Recipe("digits", 12, 50, 200, _small(0.02, 0.9)),
}
