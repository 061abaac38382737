"""Modules one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from npadv.nn.functions import LeakyReLU, MaxPool2D, ReLU
from npadv.nn.layers import Conv2D
from npadv.nn.module import Module


class Sequential(Module):
    """Apply modules in order. Iterates over them, and takes an index or a slice.

    >>> from npadv import nn
    >>> rng = np.random.default_rng(0)
    >>> net = Sequential(nn.Flatten(), nn.Dense(4, 3, rng=rng), nn.ReLU(), nn.Dense(3, 2, rng=rng))
    >>> net(np.ones((5, 1, 2, 2), np.float32)).shape, net[:2](np.ones((5, 1, 2, 2), np.float32)).shape
    ((5, 2), (5, 3))
    """

    def __init__(self, *layers: Module) -> None:
        self.layers = list(layers)

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the last layer's output."""
        for step in _pooled_first(self.layers):
            x = step(x, train=train, rng=rng)
        return x

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int | slice) -> Module:
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]

    def __repr__(self) -> str:
        size = sum(p.size for p in self.parameters())
        return "\n".join(["Sequential(", *(f"    {layer!r}," for layer in self.layers), f")  # {size:,} parameters"])


def _pooled_first(layers: Sequence[Module]) -> list[Callable[..., Any]]:
    """Return the layers as steps, each max pooling moved before the biases and ReLUs that it follows.

    The maximum of a window is the same, to the last bit, whether a constant is added and an increasing function applied
    before or after; and after it, a window of 3 x 3 has a ninth of the numbers left. A convolution that is pooled need
    not compute the edge that no window covers, either.
    """
    steps: list[Callable[..., Any]] = []
    for layer in layers:
        at = len(steps)
        if type(layer) is MaxPool2D:
            while at and _increases(steps[at - 1]):
                at -= 1
            before = steps[at - 1] if at else None
            if type(before) is Conv2D:
                steps[at - 1 : at] = [_pooled(before, layer), _step(before.shift)]
                continue
        steps.insert(at, layer)
    return steps


def _increases(layer: Any) -> bool:
    return type(layer) is ReLU or (type(layer) is LeakyReLU and layer.slope >= 0)


def _pooled(conv: Conv2D, pool: MaxPool2D) -> Callable[..., Any]:
    return _step(lambda x: pool(conv.correlate(x, crop=pool.unread(*conv.reach(x)))))


def _step(function: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda x, train, rng: function(x)
