"""The networks that all libraries attack: trained once, by npadv, and handed over as a file of weights and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import problems

Attack = Callable[[], Any]  # runs it and returns the adversarial examples


class Victim(NamedTuple):
    """A network by name, its trained weights, images (N, 1, 28, 28) in [0, 1] that it has not seen, and their classes."""

    network: str
    weights: list[np.ndarray]
    x: np.ndarray
    y: np.ndarray

    def save(self, path: Path) -> None:
        """Write it down as arrays."""
        np.savez(path, *self.weights, network=np.array(self.network), x=self.x, y=self.y)

    @classmethod
    def load(cls, path: str | Path) -> Victim:
        """Read what ``save`` wrote."""
        with np.load(path) as arrays:
            weights = [arrays[f"arr_{i}"] for i in range(len(arrays.files) - 3)]
            return cls(str(arrays["network"]), weights, arrays["x"], arrays["y"])


def train(network: str, count: int, *, data: str, epochs: int) -> Victim:
    """Train a network on a data set; return it with the first ``count`` test images that it classifies correctly."""
    from benchmarks.sides.npadv_side import build
    from npadv import no_record
    from npadv.data import load
    from npadv.optim import Adam
    from npadv.train import classification_loss, fit

    found = load(data, **({"test_size": 697} if data == "digits" else {}))
    model = with_flatten(network, build(network))
    fit(
        model,
        classification_loss,
        found.train,
        optimizer=Adam(model.parameters(), 1e-3),
        epochs=epochs,
        rng=np.random.default_rng(0),
        progress=False,
    )
    x, y = found.test.images[: 2 * count], found.test.labels[: 2 * count]
    with no_record():
        right = np.flatnonzero(model(x).data.argmax(axis=1) == y)[:count]
    # Biases of convolutions are (K, 1, 1) here, (K,) elsewhere.
    weights = [p.data.reshape(-1) if p.data.ndim == 3 else p.data for p in model.parameters()]
    return Victim(network, weights, x[right], y[right].astype(np.int64))


def targets(y: np.ndarray) -> np.ndarray:
    """Return a class for each image to be taken for: the next one."""
    return (y + 1) % problems.CLASSES


def with_flatten(network: str, model: Any) -> Any:
    """Return a network that takes images, in npadv."""
    from npadv import nn

    return nn.Sequential(nn.Flatten(), *model) if problems.widths(network) else model


def npadv_victim(victim: Victim) -> Any:
    """Return the network in npadv."""
    from benchmarks.sides.npadv_side import build

    return with_flatten(victim.network, build(victim.network, victim.weights))


def torch_victim(victim: Victim) -> Any:
    """Return the network in PyTorch; its weights need no gradients."""
    import torch

    from benchmarks.sides.torch_side import build

    model = build(victim.network, victim.weights).eval().requires_grad_(False)
    return torch.nn.Sequential(torch.nn.Flatten(), model).eval() if problems.widths(victim.network) else model


def task(attacks: Mapping[str, Callable[..., Attack]], network: Callable[[Victim], Any]) -> Callable[..., Attack]:
    """Return a worker's task: an attack by its name and settings on a file's victim; what it finds is saved at ``to``."""

    def attack(name: str, victim: str, options: Mapping[str, Any], to: str) -> Attack:
        if name not in attacks:
            raise NotImplementedError(f"this library has no {name}")
        known = Victim.load(victim)
        y = targets(known.y) if options.get("targeted") else known.y
        step = attacks[name](network(known), known.x, y, **options)
        np.save(to, np.asarray(step()))
        return step

    return attack
