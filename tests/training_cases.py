"""A toy to train on: is the first of two pixels brighter than the second? And networks and optimizers for it."""

import numpy as np

from npadv.data import Split
from npadv.nn import BatchNorm, Dense, Dropout, Flatten, ReLU, Sequential
from npadv.optim import SGD, Adam, InverseDecay, Linear
from npadv.train import fit


def toy(n, seed=0):
    images = np.random.default_rng(seed).random((n, 1, 1, 2), np.float32)
    return Split(images, (images[:, 0, 0, 0] > images[:, 0, 0, 1]).astype(np.int64))


def small_network(seed=0):
    """Return a network with everything that has a memory or draws numbers."""
    rng = np.random.default_rng(seed)
    return Sequential(
        Flatten(), Dense(2, 8, rng=rng, max_norm=2.0), BatchNorm(8), ReLU(), Dropout(0.25), Dense(8, 2, rng=rng)
    )


def linear_network(seed=0):
    return Sequential(Flatten(), Dense(2, 2, rng=np.random.default_rng(seed)))


TRAIN, VALIDATION = toy(22), toy(30, seed=1)  # in batches of 5, the last has 2


def momentum(model):
    return SGD(model.parameters(), InverseDecay(0.3, 0.1), momentum=Linear(0.5, 0.9, end=3), weight_decay=1e-3)


def adam(model):
    return Adam(model.parameters(), 0.05)


def descent(model):
    return SGD(model.parameters(), 0.5)


def fit_linear(loss, **options):
    model = linear_network()
    return fit(
        model, loss, TRAIN, optimizer=descent(model), epochs=2, rng=np.random.default_rng(0), batch_size=5, **options
    )
