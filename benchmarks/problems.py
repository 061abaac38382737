"""The weights and batches from which all contenders start, as NumPy arrays, by the network's name.

The names are ``maxout``, ``convnet`` and ``syn_convnet``. A ReLU network is named by its widths: ``784-1200-1200-10``.
"""

from __future__ import annotations

import itertools

import numpy as np

CLASSES = 10
MNIST = (1, 28, 28)

# The shapes of the weights in order: (in, out) of dense layers, (K, C, KH, KW) of filters. A maxout layer is a dense layer
# with pieces * units outputs; unit u takes the maximum over the columns u, u + units, u + 2 units, ...
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "maxout": [(784, 1200), (240, 1200), (240, 10)],
    "convnet": [(32, 1, 5, 5), (64, 32, 5, 5), (64 * 4 * 4, 200), (200, 10)],
    "syn_convnet": [(32, 1, 5, 5), (64, 32, 5, 5), (64 * 2 * 2, 200), (200, 10)],
}
MAXOUT_UNITS, MAXOUT_PIECES, MAX_NORM = 240, 5, 1.9365
MOMENTUM, STEP_SIZE = 0.9, 0.001  # small: thousands of steps on one batch must neither diverge nor reach denormals


def widths(network: str) -> list[int] | None:
    """Return the widths in a ReLU network's name, None for a network with a name of its own.

    >>> widths("784-1200-1200-10"), widths("maxout")
    ([784, 1200, 1200, 10], None)
    """
    return None if network in SHAPES else [int(width) for width in network.split("-")]


def weights(network: str, *, seed: int = 0) -> list[np.ndarray]:
    """Return a network's initial parameters, float32: weight, bias, weight, bias, ... from the input to the output."""
    rng = np.random.default_rng(seed)
    dense = widths(network)
    shapes = SHAPES[network] if dense is None else list(itertools.pairwise(dense))
    arrays = []
    for shape in shapes:
        fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        outputs = shape[1] if len(shape) == 2 else shape[0]
        arrays += [rng.normal(0, np.sqrt(2 / fan_in), shape), rng.normal(0, 0.01, outputs)]
    return [a.astype(np.float32) for a in arrays]


def batch(network: str, size: int, *, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return images with pixels in [0, 1], (N, 1, 28, 28) for convnets and (N, D) otherwise, and classes (N,)."""
    rng = np.random.default_rng(seed)
    dense = widths(network)
    shape = (dense[0],) if dense else (784,) if network == "maxout" else MNIST
    return rng.random((size, *shape), dtype=np.float32), rng.integers(0, CLASSES, size)
