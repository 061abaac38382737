"""The networks of the two papers, by name, and two small ones for the demo.

Every network takes images (N, C, H, W) with pixels in [0, 1] and returns logits (N, 10). The paper's preprocessing of the
pixels (standardising, padding) is part of the network. Sources: the published configurations of the maxout networks
(Goodfellow et al. 2013), on which [WG] builds, and the published code of [SYN].
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.files import array_headers
from npadv.nn.functions import Flatten, MaxPool2D, Pad2D, ReLU, Tanh
from npadv.nn.initializers import Initializer, glorot_uniform, he_normal, lecun_uniform, uniform
from npadv.nn.layers import Conv2D, Dense, Maxout, MaxoutConv2D
from npadv.nn.module import Module, read_about, read_state
from npadv.nn.sequential import Sequential
from npadv.nn.stochastic import BatchNorm, Dropout, Standardize

CLASSES = 10
SMALL = uniform(0.005)  # the initial weights of the published maxout networks
MNIST_MEAN, MNIST_DEVIATION = 0.1307, 0.3081


def maxout_mlp(*, rng: np.random.Generator, inputs: int = 784, units: int = 240, pieces: int = 5) -> Sequential:
    """Return the permutation-invariant maxout network of MNIST: two maxout layers and a softmax, with dropout.

    Its published initial weights are so small that its error hardly changes in the first few hundred updates, which are one
    epoch of MNIST, or thirty epochs of the digits.
    """
    norm: dict[str, Any] = {"init": SMALL, "max_norm": 1.9365}
    return Sequential(
        Flatten(),
        Dropout(0.2, rescale=False),
        Maxout(inputs, units, pieces, rng=rng, **norm),
        Dropout(0.5),
        Maxout(units, units, pieces, rng=rng, **norm),
        Dropout(0.5),
        Dense(units, CLASSES, rng=rng, **norm),
    )


def maxout_convnet_mnist(*, rng: np.random.Generator) -> Sequential:
    """Return the convolutional maxout network of MNIST (28 x 28)."""
    conv: dict[str, Any] = {"rng": rng, "init": SMALL}
    return Sequential(
        Dropout(0.2, rescale=False),
        MaxoutConv2D(1, 48, 2, 8, max_norm=0.9, **conv),  # 28 -> 21
        MaxPool2D(4, stride=2, ceil_mode=True),  # -> 10
        Dropout(0.5),
        MaxoutConv2D(48, 48, 2, 8, padding=3, max_norm=1.9365, **conv),  # -> 9
        MaxPool2D(4, stride=2, ceil_mode=True),  # -> 4
        Dropout(0.5),
        MaxoutConv2D(48, 24, 4, 5, padding=3, max_norm=1.9365, **conv),  # -> 6
        MaxPool2D(2),  # -> 3
        Flatten(),
        Dropout(0.5),
        Dense(24 * 3 * 3, CLASSES, rng=rng, init=SMALL, max_norm=1.9365),
    )


def maxout_convnet_cifar10(*, rng: np.random.Generator) -> Sequential:
    """Return the convolutional maxout network of CIFAR-10 (3 x 32 x 32); its recipe normalises contrast and whitens first."""
    conv: dict[str, Any] = {"rng": rng, "init": SMALL, "step_scale": 0.05}
    return Sequential(
        Dropout(0.2, rescale=False),
        MaxoutConv2D(3, 96, 2, 8, padding=4, max_norm=0.9, **conv),  # 32 -> 33
        MaxPool2D(4, stride=2, ceil_mode=True),  # -> 16
        Dropout(0.5),
        MaxoutConv2D(96, 192, 2, 8, padding=3, max_norm=1.9365, **conv),  # -> 15
        MaxPool2D(4, stride=2, ceil_mode=True),  # -> 7
        Dropout(0.5),
        MaxoutConv2D(192, 192, 2, 5, padding=3, max_norm=1.9365, **conv),  # -> 9
        MaxPool2D(2, ceil_mode=True),  # -> 5
        Flatten(),
        Dropout(0.5),
        Maxout(192 * 5 * 5, 500, 5, rng=rng, init=SMALL, max_norm=1.9),
        Dropout(0.5),
        Dense(500, CLASSES, rng=rng, init=SMALL, max_norm=1.9365),
    )


def relu_mlp(*, rng: np.random.Generator, inputs: int = 784, units: int = 1200) -> Sequential:
    """Return the ReLU network of [WG] table 1.1: two hidden layers of 1200 and dropout."""
    return _mlp(ReLU, he_normal, inputs, units, rng)


def tanh_mlp(*, rng: np.random.Generator, inputs: int = 784, units: int = 1200) -> Sequential:
    """Return the tanh network of [WG] table 1.1: as ``relu_mlp``, with tanh."""
    return _mlp(Tanh, glorot_uniform, inputs, units, rng)


def _mlp(activation: type[Module], init: Initializer, inputs: int, units: int, rng: np.random.Generator) -> Sequential:
    return Sequential(
        Flatten(),
        Dropout(0.2),
        Dense(inputs, units, rng=rng, init=init),
        activation(),
        Dropout(0.5),
        Dense(units, units, rng=rng, init=init),
        activation(),
        Dropout(0.5),
        Dense(units, CLASSES, rng=rng, init=glorot_uniform),
    )


def softmax_regression(*, rng: np.random.Generator, inputs: int = 784) -> Sequential:
    """Return multinomial logistic regression: one dense layer, starting from small weights."""
    return Sequential(Flatten(), Dense(inputs, CLASSES, rng=rng, init=SMALL))


def syn_convnet(*, rng: np.random.Generator, input_norm: bool = False) -> Sequential:
    """Return the MNIST convnet of [SYN] 5.1: two ReLU convolutions of 5 x 5, max pooling, 200 hidden units.

    Images (28 x 28) are standardised, then padded with zeros to 32 x 32. The paper's robust networks also have batch
    normalisation of the input, without affine parameters; its baseline has none. ``input_norm`` adds it.
    """
    layers = [BatchNorm(1, affine=False)] if input_norm else []
    return Sequential(
        Standardize(MNIST_MEAN, MNIST_DEVIATION),
        Pad2D(2),
        *layers,
        Conv2D(1, 32, 5, rng=rng, init=lecun_uniform),  # 32 -> 28
        ReLU(),
        MaxPool2D(3),  # -> 9
        Conv2D(32, 64, 5, rng=rng, init=lecun_uniform),  # -> 5
        ReLU(),
        MaxPool2D(2),  # -> 2
        Flatten(),
        Dense(64 * 2 * 2, 200, rng=rng, init=lecun_uniform),
        ReLU(),
        Dense(200, CLASSES, rng=rng, init=lecun_uniform),
    )


def syn_convnet_bn(*, rng: np.random.Generator) -> Sequential:
    """Return ``syn_convnet`` with the input normalisation of the robust networks."""
    return syn_convnet(rng=rng, input_norm=True)


def syn_vgg(*, rng: np.random.Generator) -> Sequential:
    """Return the CIFAR-10 network of [SYN] 5.2: thirteen 3 x 3 convolutions with batch normalisation and dropout."""
    layers: list[Any] = []
    channels = 3
    for widths in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        for i, width in enumerate(widths):
            layers += [Conv2D(channels, width, 3, padding=1, rng=rng, init=he_normal), BatchNorm(width), ReLU()]
            if i < len(widths) - 1:  # between the convolutions of a block
                layers.append(Dropout(0.3 if width == 64 else 0.4))
            channels = width
        layers.append(MaxPool2D(2))
    return Sequential(
        *layers,
        Flatten(),
        Dropout(0.5),
        Dense(512, 512, rng=rng),
        BatchNorm(512),
        ReLU(),
        Dropout(0.5),
        Dense(512, CLASSES, rng=rng, init=glorot_uniform),
    )


def small_maxout(*, rng: np.random.Generator) -> Sequential:
    """Return the demo's maxout network: ``maxout_mlp``, half as wide, with initial weights that learn sooner."""
    options: dict[str, Any] = {"rng": rng, "init": glorot_uniform, "max_norm": 1.9365}
    return Sequential(
        Flatten(),
        Dropout(0.2, rescale=False),
        Maxout(784, 128, 4, **options),
        Dropout(0.5),
        Maxout(128, 128, 4, **options),
        Dropout(0.5),
        Dense(128, CLASSES, **options),
    )


def small_convnet(*, rng: np.random.Generator) -> Sequential:
    """Return the demo's convnet: two ReLU convolutions of 5 x 5, each with max pooling."""
    return Sequential(
        Standardize(0.13, 0.31),
        Conv2D(1, 16, 5, rng=rng),  # 28 -> 24
        ReLU(),
        MaxPool2D(2),  # -> 12
        Conv2D(16, 32, 5, rng=rng),  # -> 8
        ReLU(),
        MaxPool2D(2),  # -> 4
        Flatten(),
        Dense(32 * 4 * 4, CLASSES, rng=rng, init=glorot_uniform),
    )


NETWORKS: dict[str, Callable[..., Sequential]] = {
    network.__name__: network
    for network in (
        maxout_mlp,
        maxout_convnet_mnist,
        maxout_convnet_cifar10,
        relu_mlp,
        tanh_mlp,
        softmax_regression,
        syn_convnet,
        syn_convnet_bn,
        syn_vgg,
        small_maxout,
        small_convnet,
    )
}


def network(name: str, *, rng: np.random.Generator, **options: Any) -> Sequential:
    """Return a network by its name, a key of ``NETWORKS``; an unknown name raises a ValueError that lists them.

    Name and options are kept in the network's ``about``, which is saved with its weights.
    """
    if name not in NETWORKS:
        close = difflib.get_close_matches(name, NETWORKS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"network: expected one of {', '.join(NETWORKS)}, got {name!r}{hint}")
    model = NETWORKS[name](rng=rng, **options)
    model.about = {"network": name, "options": options}
    return model


def load_network(path: str | os.PathLike[str], name: str | None = None) -> Sequential:
    """Return the network that a file of weights holds: the one that the file names, or else ``name``.

    Its ``about`` comes from the file: the network's name and options, and the facts that its training added.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, or does not name its network (and no ``name`` is given), or names another.

    Examples
    --------
    >>> import tempfile
    >>> model = network("softmax_regression", rng=np.random.default_rng(0), inputs=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/weights.npz")
    ...     load_network(f"{folder}/weights.npz").about
    {'network': 'softmax_regression', 'options': {'inputs': 4}}
    """
    where = os.fspath(path)
    if os.path.isdir(where):
        raise IsADirectoryError(f"{where}: expected a file of weights, got a folder")
    about = read_about(path)
    written, options = about.get("network"), about.get("options", {})
    if written is None and name is None:
        raise ValueError(f"{where}: does not say which network it holds; name it (on the command line, with --network)")
    if None not in (written, name) and written != name:
        raise ValueError(f"{where}: expected weights of {name!r}, got those of {written!r}")
    most = sum(math.prod(header.shape) for header in array_headers(path).values())
    try:
        model = network(str(written or name), rng=_BoundedGenerator(max(most, LARGEST_NETWORK)), **options)
    except Exception as error:  # a name or options that this version does not know, or that no network can have
        raise ValueError(f"{where}: {error or type(error).__name__}") from error
    model.load_state(read_state(path, model), source=where)
    model.about = {**about, **model.about}
    return model


LARGEST_NETWORK = 2**24
"""Initial weights that a network from a file may draw, if the file does not hold as many: more than any network above."""


class _BoundedGenerator(np.random.Generator):
    """A random generator that draws at most ``most`` numbers: a small file must not be able to allocate gigabytes."""

    def __init__(self, most: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.left = most

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        """Draw from a normal distribution."""
        return super().normal(loc, scale, self._spend(size))

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """Draw from a uniform distribution."""
        return super().uniform(low, high, self._spend(size))

    def _spend(self, size: Any) -> Any:
        self.left -= math.prod(size)
        if self.left < 0:
            raise ValueError(f"options: expected those of the network in the file, got weights of shape {size}")
        return size
