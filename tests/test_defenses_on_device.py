"""Every defense on device arrays, through a stand-in for CuPy: losses and gradients are those of the CPU.

A step with one of ``CAPTURED`` can be recorded as a CUDA graph. The others draw random numbers that a graph cannot hold, or
make decisions that depend on values on the device.
"""

import shutil
from functools import partial

import fake_cupy
import numpy as np
import pytest

from npadv import capture, grad, nn
from npadv.attacks import pgd
from npadv.backend import like, to_numpy
from npadv.data import Split
from npadv.defenses import (
    adversarial_training,
    at_temperature,
    distillation,
    input_noise,
    label_smoothing,
    robust_optimization,
    virtual_adversarial_training,
    weight_decay,
)
from npadv.fast import ENABLED
from npadv.optim import SGD
from npadv.train import fit

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="g++, which runs the kernels here, is not installed"
)

X, Y = np.random.default_rng(0).random((12, 1, 2, 2)), np.arange(12) % 3
UNLABELLED = np.random.default_rng(1).random((20, 1, 2, 2))


def teacher(x):
    """Return logits that depend on x."""
    return 3 * x.reshape(len(x), -1)[:, :3]


LOSSES = {
    "adversarial_training": adversarial_training(0.1),
    "adversarial_training, pgd": adversarial_training(attack=partial(pgd, eps=0.1, steps=3)),
    "robust_optimization": robust_optimization(0.1),
    "robust_optimization, l2": robust_optimization(0.3, norm="l2"),
    "robust_optimization, l1": robust_optimization(0.3, norm="l1"),
    "label_smoothing": label_smoothing(),
    "at_temperature": at_temperature(5.0),
    "distillation": distillation(teacher, temperature=5.0),
    "virtual_adversarial_training": virtual_adversarial_training(0.3),
    "virtual_adversarial_training, unlabelled": virtual_adversarial_training(
        0.3, unlabelled=UNLABELLED, unlabelled_batch=5
    ),
    "input_noise": input_noise(sigma=0.1),
    "weight_decay": weight_decay(coefficient=0.01, norm="l1"),
}
CAPTURED = [name for name in LOSSES if not name.startswith(("virtual", "input_noise")) and "pgd" not in name]


@pytest.fixture(autouse=True)
def cupy():
    with fake_cupy.installed():
        yield


def network():
    rng = np.random.default_rng(1)
    return nn.Sequential(
        nn.Flatten(), nn.Dense(4, 6, rng=rng), nn.BatchNorm(6), nn.ReLU(), nn.Dense(6, 3, rng=rng)
    ).astype(np.float64)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_on_the_device_is_the_loss(name):
    def run(device):
        model = network().to(device)
        reference = model.parameters()[0].data
        value = LOSSES[name](model, like(X, reference), like(Y, reference), rng=np.random.default_rng(2))
        return [to_numpy(value.data), *map(to_numpy, grad(value, model.parameters()))]

    for host, device in zip(run("cpu"), run("cuda"), strict=True):
        np.testing.assert_allclose(device, host, rtol=1e-6, atol=1e-9)


@pytest.mark.skipif(not ENABLED, reason="NPADV_FAST=off: a graph cannot hold the matrix products of cuBLAS")
@pytest.mark.parametrize("name", CAPTURED)
def test_a_step_replayed_from_a_graph_is_the_step(monkeypatch, name):
    def run():
        model = network().to("cuda")
        options = {"epochs": 3, "batch_size": 4, "rng": np.random.default_rng(2), "capture": True}
        fit(model, LOSSES[name], Split(X, Y), optimizer=SGD(model.parameters(), 0.1), **options)
        return model.state()

    replayed = run()
    monkeypatch.setattr(capture, "WARM_UP", 10**9)  # then no step is recorded
    for key, value in run().items():
        np.testing.assert_array_equal(replayed[key], value)
