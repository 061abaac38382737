"""Modules one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from npadv.fast import faster
from npadv.nn import fusion
from npadv.nn.module import Module


class Sequential(Module):
    """Apply layers in order. A Sequential can be iterated over, indexed and sliced.

    Unless ``NPADV_FAST=off``, max pooling is moved before ReLUs where that changes no result: see ``fusion.py``.

    >>> from npadv import nn
    >>> rng = np.random.default_rng(0)
    >>> net = Sequential(nn.Flatten(), nn.Dense(4, 3, rng=rng), nn.ReLU(), nn.Dense(3, 2, rng=rng))
    >>> net(np.ones((5, 1, 2, 2), np.float32)).shape, net[:2](np.ones((5, 1, 2, 2), np.float32)).shape
    ((5, 2), (5, 3))
    """

    layers: list[Module]

    def __init__(self, *layers: Module) -> None:
        self.layers = list(layers)

    @faster(fusion.forward)
    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the last layer's output."""
        for layer in self.layers:
            x = layer(x, train=train, rng=rng)
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
