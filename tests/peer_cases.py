"""What the tests against other libraries share: the network they attack, the same in PyTorch, and how they are judged."""

import functools
import importlib
import warnings

import numpy as np
import pytest

from benchmarks.contenders import victims
from npadv import Tensor, grad, no_record
from npadv.functional import cross_entropy

PACKAGES = {"foolbox": "foolbox", "torchattacks": "torchattacks", "art": "art"}
EPOCHS = {"784-100-100-10": 20, "convnet": 5}


def side(name):
    """Return the module that speaks for a library; skip where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what these import
        for package in ("torch", PACKAGES[name]):
            pytest.importorskip(package, reason=f'{package} is not installed: pip install -e ".[peers]"')
        return importlib.import_module(f"benchmarks.contenders.{name}_attacks")


@functools.cache
def trained(network):
    """Return a network that was trained on scikit-learn's digits, and images that it classifies correctly."""
    pytest.importorskip("sklearn", reason='scikit-learn is not installed: pip install -e ".[test]"')
    return victims.train(network, 100, data="digits", epochs=EPOCHS[network])


class Target:
    """A trained network in npadv, the same in PyTorch, images (N, 1, 28, 28) and classes."""

    def __init__(self, network="784-100-100-10", count=100, dtype="float32"):
        victim = trained(network)
        self.x, self.y = victim.x[:count].astype(dtype), victim.y[:count]
        self.targets = victims.targets(self.y)
        self.model = victims.npadv_victim(victim).astype(np.dtype(dtype))
        twin = victims.torch_victim(victim)
        self.twin = twin.double() if dtype == "float64" else twin

    def ask(self, library, attack, y=None, x=None, **settings):
        """Return what a library's attack of npadv's name and settings finds; what it draws is the same every time."""
        import torch

        np.random.seed(0)  # noqa: NPY002  art draws from the global state
        torch.manual_seed(0)
        y = (self.targets if settings.get("targeted") else self.y) if y is None else y
        found = side(library).ATTACKS[attack](self.twin, self.x if x is None else x, y, **settings)()
        return np.asarray(found)

    def logits(self, x):
        with no_record():
            return self.model(x).data

    def hits(self, x, targeted=False):
        """Return which examples have another class, or the target."""
        prediction = self.logits(x).argmax(axis=1)
        return prediction == self.targets[: len(x)] if targeted else prediction != self.y[: len(x)]

    def losses(self, x):
        with no_record():
            return np.asarray(cross_entropy(self.logits(x), self.y[: len(x)], reduction="none"))

    def gradient(self, x):
        """Return the gradient of the loss in x."""
        inputs = Tensor(x, requires_grad=True)
        return grad(cross_entropy(self.model(inputs), self.y[: len(x)], reduction="sum"), inputs)

    def size(self, x, norm):
        """Return how far each example was moved: linf, l2, l1, or l0 for the number of pixels."""
        d = (x.astype(np.float64) - self.x[: len(x)]).reshape(len(x), -1)
        order = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
        return np.linalg.norm(d, ord=order, axis=1)


def differing(a, b, tolerance):
    """Return which examples differ anywhere by more than a tolerance."""
    return np.abs(a.astype(np.float64) - b).reshape(len(a), -1).max(axis=1) > tolerance
