"""How often each part of the library launches an own kernel, waits for the GPU, and moves data, on the stand-in for CuPy.

A launch costs microseconds, a wait empties the GPU's queue, and a transfer does both. The numbers are those of one step: for
an attack of several steps, of each step after the first. A change that lowers one of them may change the table.
"""

import shutil
import sys
from typing import NamedTuple

import fake_cupy
import numpy as np
import pytest

from npadv import nn
from npadv.attacks import carlini_wagner, fgsm, jsma, linearized, pgd, steepest_ascent
from npadv.attacks.result import predict
from npadv.capture import CapturedStep
from npadv.data import Split
from npadv.defenses import adversarial_training
from npadv.fast import ENABLED
from npadv.gan import GAN, Players, play
from npadv.optim import SGD, Adam
from npadv.train import classification_loss, gradient_update

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++, which runs the kernels here, is not installed"),
    pytest.mark.skipif(not ENABLED, reason="NPADV_FAST=off: kernels are fast versions"),
]


@pytest.fixture
def counts():
    with fake_cupy.installed() as counts:
        yield counts


def mlp():
    rng = np.random.default_rng(1)
    return nn.Sequential(nn.Flatten(), nn.Dense(16, 8, rng=rng), nn.ReLU(), nn.Dense(8, 3, rng=rng)).to("cuda")


def batch(model):
    """Images and the classes that the model gives them."""
    x = sys.modules["cupy"].asarray(np.random.default_rng(0).random((5, 1, 4, 4), np.float32))
    return x, predict(model, x)


class Counts(NamedTuple):
    launches: int  # of npadv's own kernels
    waits: int
    uploads: int
    downloads: int


def done(counts, run):
    """Return what a call does."""
    before = dict(counts)
    run()
    return Counts(*(counts[name] - before[name] for name in Counts._fields))


def added(counts, run):
    """Return what ``run(3)`` does more than ``run(2)``; the first call compiles the kernels."""
    run(1)
    two, three = (done(counts, lambda n=n: run(n)) for n in (2, 3))
    return Counts(*(b - a for a, b in zip(two, three, strict=True)))


STEPS = {  # of one more step: launches, waits, uploads, downloads
    "pgd linf": (lambda m, x, y, n: pgd(m, x, y, eps=0.3, steps=n), (2, 1, 0, 1)),
    "pgd momentum": (lambda m, x, y, n: pgd(m, x, y, eps=0.3, steps=n, momentum=0.5), (2, 1, 0, 1)),
    "pgd l2": (lambda m, x, y, n: pgd(m, x, y, eps=0.3, steps=n, norm="l2"), (3, 4, 1, 4)),
    "pgd l1": (lambda m, x, y, n: pgd(m, x, y, eps=0.3, steps=n, norm="l1"), (3, 4, 1, 4)),
    "carlini_wagner": (lambda m, x, y, n: carlini_wagner(m, x, y, searches=1, steps=n), (0, 2, 0, 2)),
    "jsma": (lambda m, x, y, n: jsma(m, x, y, pixels=2 * n), (0, 2, 1, 2)),
    "linearized": (lambda m, x, y, n: linearized(m, x, y, norm="l2", steps=n, overshoot=0.0), (0, 10, 1, 10)),
}
CALLS = {  # of a whole call
    "fgsm": (lambda m, x, y: fgsm(m, x, y, eps=0.1), (3, 8, 0, 8)),
    "steepest ascent linf": (lambda m, x, y: steepest_ascent(m, x, y, eps=0.3), (2, 8, 0, 8)),
    "steepest ascent l2": (lambda m, x, y: steepest_ascent(m, x, y, eps=0.3, norm="l2"), (2, 8, 0, 8)),
    "steepest ascent l1": (lambda m, x, y: steepest_ascent(m, x, y, eps=0.3, norm="l1"), (2, 8, 0, 8)),
    "pgd linf, one step": (lambda m, x, y: pgd(m, x, y, eps=0.3, steps=1), (2, 8, 0, 8)),
    "pgd l2, one step": (lambda m, x, y: pgd(m, x, y, eps=0.3, steps=1, norm="l2"), (3, 11, 1, 11)),
}
UPDATES = {
    "plain": (classification_loss, (2, 1, 0, 1)),
    "adversarial linf": (adversarial_training(0.1), (6, 3, 0, 3)),
    "adversarial l2": (adversarial_training(0.1, norm="l2"), (7, 3, 0, 3)),
    "adversarial l1": (adversarial_training(0.1, norm="l1"), (7, 3, 0, 3)),
}
RULES = {"sgd": lambda p: SGD(p, 0.1, momentum=0.9), "adam": Adam}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_an_attack(counts, name):
    model, (attack, expected) = mlp(), STEPS[name]
    x, y = batch(model)
    assert added(counts, lambda n: attack(model, x, y, n)) == expected


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_an_attack(counts, name):
    model, (attack, expected) = mlp(), CALLS[name]
    x, y = batch(model)
    attack(model, x, y)
    assert done(counts, lambda: attack(model, x, y)) == expected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", UPDATES)
def test_a_step_of_training(counts, name, rule):
    model, (loss, expected) = mlp(), UPDATES[name]
    (x, y), rng, optimizer = batch(model), np.random.default_rng(0), RULES[rule](model.parameters())
    for _ in range(2):
        gradient_update(model, loss, optimizer, x, y, rng=rng)
    assert done(counts, lambda: gradient_update(model, loss, optimizer, x, y, rng=rng)) == expected


@pytest.mark.parametrize("name", UPDATES)
def test_a_captured_step_of_training_is_one_graph(counts, name):
    """Its batch is on the GPU, so a replay moves nothing."""
    model = mlp()
    (x, y), rng, optimizer = batch(model), np.random.default_rng(0), SGD(model.parameters(), 0.1)
    loss, _ = UPDATES[name]
    captured = CapturedStep(lambda x, y: gradient_update(model, loss, optimizer, x, y, rng=rng), x)
    for _ in range(3):
        captured(x, y)
    graphs = counts["graphs"]
    assert done(counts, lambda: captured(x, y)) == (0, 0, 0, 0)
    assert counts["graphs"] == graphs + 1


def test_a_step_of_a_game(counts):
    """The uploads are the real images, their labels, and the noise of both players."""
    rng = np.random.default_rng(3)
    generator = nn.Sequential(nn.Dense(3, 16, rng=rng), nn.Sigmoid(), nn.Reshape(1, 4, 4))
    discriminator = nn.Sequential(nn.Flatten(), nn.Dense(16, 8, rng=rng), nn.ReLU(), nn.Dense(8, 1, rng=rng))
    gan = GAN(generator, discriminator, 3).to("cuda")
    players = Players(generator=Adam(generator.parameters()), discriminator=Adam(discriminator.parameters()))
    data = Split(np.random.default_rng(0).random((15, 1, 4, 4), np.float32), np.zeros(15, np.int64))

    def game(batches):
        play(gan, data[: 5 * batches], players=players, epochs=1, batch_size=5, rng=rng)

    assert added(counts, game) == (0, 0, 4, 0)
