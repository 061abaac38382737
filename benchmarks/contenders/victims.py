"""The networks that all libraries attack. npadv trains them once and passes them on as a file of weights and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import problems

Attack = Callable[[], Any]  # runs an attack and returns the adversarial examples


class Victim(NamedTuple):
    """A network's name, its trained weights, test images (N, 1, 28, 28) in [0, 1], and their classes."""

    network: str
    weights: list[np.ndarray]
    x: np.ndarray
    y: np.ndarray

    def save(self, path: Path) -> None:
        """Write the victim to a .npz file."""
        np.savez(path, *self.weights, network=np.array(self.network), x=self.x, y=self.y)

    @classmethod
    def load(cls, path: str | Path) -> Victim:
        """Read a file that ``save`` wrote."""
        with np.load(path) as arrays:
            weights = [arrays[f"arr_{i}"] for i in range(len(arrays.files) - 3)]
            return cls(str(arrays["network"]), weights, arrays["x"], arrays["y"])


def train(network: str, count: int, *, data: str, epochs: int) -> Victim:
    """Train a network on a data set; return it with the first ``count`` test images that it classifies correctly."""
    from benchmarks.contenders.npadv_tasks import build
    from npadv import no_record
    from npadv.data import load
    from npadv.optim import Adam
    from npadv.train import classification_loss, fit

    dataset = load(data, **({"test_size": 697} if data == "digits" else {}))
    model = with_flatten(network, build(network))
    fit(
        model,
        classification_loss,
        dataset.train,
        optimizer=Adam(model.parameters(), 1e-3),
        epochs=epochs,
        rng=np.random.default_rng(0),
        progress=False,
    )
    x, y = dataset.test.images[: 2 * count], dataset.test.labels[: 2 * count]
    with no_record():
        correct = np.flatnonzero(model(x).data.argmax(axis=1) == y)[:count]
    # Biases of convolutions are (K, 1, 1) in npadv and (K,) in the other libraries.
    weights = [p.data.reshape(-1) if p.data.ndim == 3 else p.data for p in model.parameters()]
    return Victim(network, weights, x[correct], y[correct].astype(np.int64))


def targets(y: np.ndarray) -> np.ndarray:
    """Return a target class for each image: the one after its own."""
    return (y + 1) % problems.CLASSES


def with_flatten(network: str, model: Any) -> Any:
    """Return an npadv network that takes images: a dense network with a Flatten layer in front."""
    from npadv import nn

    return nn.Sequential(nn.Flatten(), *model) if problems.widths(network) else model


def npadv_victim(victim: Victim) -> Any:
    """Return the network in npadv."""
    from benchmarks.contenders.npadv_tasks import build

    return with_flatten(victim.network, build(victim.network, victim.weights))


def torch_victim(victim: Victim) -> Any:
    """Return the network in PyTorch; its weights need no gradients."""
    import torch

    from benchmarks.contenders.torch_tasks import build

    model = build(victim.network, victim.weights).eval().requires_grad_(False)
    return torch.nn.Sequential(torch.nn.Flatten(), model).eval() if problems.widths(victim.network) else model


def task(attacks: Mapping[str, Callable[..., Attack]], network: Callable[[Victim], Any]) -> Callable[..., Attack]:
    """Return a worker's task: run an attack, by name, on the victim in a file, and save its examples at ``to``."""

    def attack(name: str, victim: str, options: Mapping[str, Any], to: str) -> Attack:
        if name not in attacks:
            raise NotImplementedError(f"this library has no {name}")
        loaded = Victim.load(victim)
        y = targets(loaded.y) if options.get("targeted") else loaded.y
        step = attacks[name](network(loaded), loaded.x, y, **options)
        np.save(to, np.asarray(step()))
        return step

    return attack
