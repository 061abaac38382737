"""Shared by the tests against other libraries: the attacked network in npadv and PyTorch, and measures of the examples."""

import copy
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


def attacks_of(name):
    """Return the module with a library's attacks; skip where the library is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries' imports
        for package in ("torch", PACKAGES[name]):
            pytest.importorskip(package, reason=f'{package} is not installed: pip install -e ".[peers]"')
        return importlib.import_module(f"benchmarks.contenders.{name}_attacks")


@functools.cache
def trained(network):
    """Return a network trained on scikit-learn's digits, with images that it classifies correctly."""
    pytest.importorskip("sklearn", reason='scikit-learn is not installed: pip install -e ".[test]"')
    return victims.train(network, 100, data="digits", epochs=EPOCHS[network])


class AttackedModel:
    """A trained network in npadv (``model``) and in PyTorch (``torch_model``), images (N, 1, 28, 28) and classes."""

    def __init__(self, network="784-100-100-10", count=100, dtype="float32"):
        victim = trained(network)
        self.x, self.y = victim.x[:count].astype(dtype), victim.y[:count]
        self.targets = victims.targets(self.y)
        self.model = victims.npadv_victim(victim).astype(np.dtype(dtype))
        twin = victims.torch_victim(victim)
        self.torch_model = twin.double() if dtype == "float64" else twin

    def run(self, library, attack, y=None, x=None, **settings):
        """Return the examples of a library's attack, by npadv's name and settings, with fixed random seeds."""
        import torch

        np.random.seed(0)  # noqa: NPY002  art uses NumPy's global state
        torch.manual_seed(0)
        y = (self.targets if settings.get("targeted") else self.y) if y is None else y
        attack = attacks_of(library).ATTACKS[attack](self.torch_model, self.x if x is None else x, y, **settings)
        return np.asarray(attack())

    def logits(self, x):
        with no_record():
            return self.model(x).data

    def success(self, x, targeted=False):
        """Return a mask of the examples that the network gives another class, or the target."""
        prediction = self.logits(x).argmax(axis=1)
        return prediction == self.targets[: len(x)] if targeted else prediction != self.y[: len(x)]

    def losses(self, x):
        with no_record():
            return np.asarray(cross_entropy(self.logits(x), self.y[: len(x)], reduction="none"))

    def gradient(self, x, y=None, dtype=None):
        """Return the gradient of the loss in x, computed in the dtype of x or in another."""
        model = self.model if dtype is None else copy.deepcopy(self.model).astype(dtype)
        inputs = Tensor(x if dtype is None else x.astype(dtype), requires_grad=True)
        labels = self.y[: len(x)] if y is None else y
        return grad(cross_entropy(model(inputs), labels, reduction="sum"), inputs)

    def distance(self, x, norm):
        """Return each example's distance from its image: linf, l2, l1, or l0 for the number of changed pixels."""
        d = (x.astype(np.float64) - self.x[: len(x)]).reshape(len(x), -1)
        order = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
        return np.linalg.norm(d, ord=order, axis=1)


def differing(a, b, tolerance):
    """Return a mask of the examples that differ in some pixel by more than a tolerance."""
    return np.abs(a.astype(np.float64) - b).reshape(len(a), -1).max(axis=1) > tolerance
