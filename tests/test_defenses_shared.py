"""What every defense and every game has in common: its loss is a number that depends on its seed alone and changes nothing.

A defense or a loss of a game that is added to the package must be added to ``LOSSES``, or to ``EXEMPT`` with a reason.
"""

import pkgutil
from functools import partial

import numpy as np
import pytest

import npadv.defenses
import npadv.gan
from npadv import Tensor, grad
from npadv.attacks import pgd
from npadv.autodiff import value_of
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
from npadv.gan import GAN, discriminator_loss, generator_loss
from npadv.nn import BatchNorm, Dense, Dropout, Flatten, Module, ReLU, Reshape, Sequential, Sigmoid
from npadv.norms import norm

EPS = 0.1


class Recording(Module):
    """A first layer that records the batches that it is given."""

    def __init__(self):
        self.batches = []

    def forward(self, x, *, train, rng):
        self.batches.append((x.data if isinstance(x, Tensor) else x).copy())
        return x


def classifier(rng):
    return Sequential(
        Recording(), Flatten(), Dense(4, 6, rng=rng), BatchNorm(6), ReLU(), Dropout(0.3), Dense(6, 3, rng=rng)
    )


def game(rng):
    generator = Sequential(Dense(2, 4, rng=rng), BatchNorm(4), Sigmoid(), Reshape(1, 2, 2))
    discriminator = Sequential(Flatten(), Dense(4, 5, rng=rng), ReLU(), Dropout(0.3), Dense(5, 1, rng=rng))
    return GAN(generator, discriminator, latent=2)


def defense(loss, **facts):
    """Return a network to defend, the loss, and the parameters that it trains."""
    return classifier, loss, lambda model: model.parameters(), facts


def player(loss, network):
    """Return the two networks of a game, the loss of one, and the parameters that it trains."""
    return game, loss, lambda gan: getattr(gan, network).parameters(), {}


def teacher(x):
    """Return logits that depend on x."""
    return 3 * value_of(x).reshape(len(x), -1)[:, :3]


LOSSES = {
    "adversarial_training, NumPy's numbers": defense(
        adversarial_training(np.float64(EPS), alpha=np.float64(0.5), bounds=(np.float64(0), np.float64(1))),
        norm="linf",
        bounds=(0, 1),
    ),
    "adversarial_training": defense(adversarial_training(EPS), norm="linf", bounds=(0, 1)),
    "adversarial_training, l2": defense(adversarial_training(EPS, norm="l2"), norm="l2", bounds=(0, 1)),
    "adversarial_training, l1": defense(adversarial_training(EPS, norm="l1", alpha=0), norm="l1", bounds=(0, 1)),
    "adversarial_training, no box": defense(adversarial_training(EPS, bounds=None), norm="linf", bounds=(-EPS, 1 + EPS)),
    "adversarial_training, pgd": defense(
        adversarial_training(attack=partial(pgd, eps=EPS, steps=3)), norm="linf", bounds=(0, 1)
    ),
    "robust_optimization": defense(robust_optimization(EPS), norm="linf", bounds=(0, 1)),
    "robust_optimization, l2": defense(robust_optimization(EPS, norm="l2"), norm="l2", bounds=(0, 1)),
    "robust_optimization, l1": defense(robust_optimization(EPS, norm="l1"), norm="l1", bounds=(0, 1)),
    "robust_optimization, no box": defense(robust_optimization(EPS, bounds=None), norm="linf", bounds=(-EPS, 1 + EPS)),
    "robust_optimization, NumPy's numbers": defense(
        robust_optimization(np.float64(EPS), bounds=(np.float64(0), np.float64(1))), norm="linf", bounds=(0, 1)
    ),
    "label_smoothing": defense(label_smoothing()),
    "label_smoothing, NumPy's numbers": defense(label_smoothing(targets="eps/(k-1)", eps=np.float64(0.2))),
    "at_temperature": defense(at_temperature(np.float64(5))),
    "distillation": defense(distillation(teacher, temperature=np.float64(5))),
    "virtual_adversarial_training": defense(
        virtual_adversarial_training(EPS, alpha=np.float64(1), bounds=(np.float64(0), np.float64(1))),
        norm="l2", bounds=(0, 1),
    ),
    "virtual_adversarial_training, no box": defense(
        virtual_adversarial_training(np.float64(EPS)), norm="l2", bounds=(-EPS, 1 + EPS)
    ),
    "input_noise": defense(input_noise(sigma=np.float64(0.1))),
    "weight_decay": defense(weight_decay(coefficient=np.float64(0.1))),
    "weight_decay, l1": defense(weight_decay(coefficient=0.1, norm="l1")),
    "discriminator_loss": player(lambda gan, x, y, *, rng: discriminator_loss(gan, x, rng=rng), "discriminator"),
    "generator_loss": player(lambda gan, x, y, *, rng: generator_loss(gan, len(x), rng=rng), "generator"),
    "generator_loss, minimax": player(
        lambda gan, x, y, *, rng: generator_loss(gan, len(x), rng=rng, kind="minimax"), "generator"
    ),
}  # fmt: skip
EXEMPT = {
    "defensive_distillation": "a recipe of two losses, which are in the table: tested in test_defenses_targets.py",
    "GAN": "the two networks, a module: tested in test_gan.py",
    "Players": "the two optimizers: tested in test_gan.py",
    "play": "the loop, which is fit: tested in test_gan.py",
}

each = pytest.mark.parametrize("name", LOSSES)


def made(name, dtype=np.float32, n=8):
    """Return a model, its loss, the trained parameters, and a batch."""
    build, loss, trained, _ = LOSSES[name]
    model = build(np.random.default_rng(0)).astype(dtype)
    x = np.random.default_rng(1).random((n, 1, 2, 2)).astype(dtype)
    return model, loss, trained(model), x, np.arange(n) % 3


def test_every_defense_and_every_game_is_in_the_table():
    exported = {*npadv.defenses.__all__, *npadv.gan.__all__}
    assert {name.partition(",")[0] for name in LOSSES} | EXEMPT.keys() == exported


@pytest.mark.parametrize("package", [npadv.defenses, npadv.gan])
def test_every_module_is_exported(package):
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    exporting = {getattr(package, name).__module__.rpartition(".")[2] for name in package.__all__}
    assert modules == exporting


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loss_is_a_finite_scalar_in_the_models_precision(name, dtype):
    model, loss, parameters, x, y = made(name, dtype)
    value = loss(model, x, y, rng=np.random.default_rng(2))
    assert isinstance(value, Tensor)
    assert (value.shape, value.dtype) == ((), dtype)
    assert np.isfinite(value.data)
    for g in grad(value, parameters):
        assert g.dtype == dtype
        assert np.isfinite(g).all()


@each
def test_a_loss_sends_a_gradient_to_every_parameter_that_it_trains(name):
    model, loss, parameters, x, y = made(name)
    gradients = grad(loss(model, x, y, rng=np.random.default_rng(2)), parameters)
    assert all(np.abs(g).max() > 0 for g in gradients)


@each
def test_a_loss_depends_on_its_seed_alone(name):
    def run(seed):
        model, loss, parameters, x, y = made(name)
        value = loss(model, x, y, rng=np.random.default_rng(seed))
        return [value.data, *grad(value, parameters)]

    first, same, other = run(0), run(0), run(1)
    np.testing.assert_equal(same, first)
    assert first[0] != other[0]  # every network here has dropout


@each
def test_a_loss_changes_neither_parameters_nor_the_batch(name):
    model, loss, _, x, y = made(name)
    before = [p.data.copy() for p in model.parameters()]
    images, labels = x.copy(), y.copy()
    x.setflags(write=False)
    y.setflags(write=False)
    loss(model, x, y, rng=np.random.default_rng(2))
    for p, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.data, old)
        assert p.grad is None
    np.testing.assert_array_equal(x, images)
    np.testing.assert_array_equal(y, labels)


@each
def test_a_step_down_the_gradient_lowers_the_loss(name):
    model, loss, parameters, x, y = made(name, np.float64, n=32)
    value = loss(model, x, y, rng=np.random.default_rng(2))
    model, loss, moved, x, y = made(name, np.float64, n=32)  # with the running averages of before
    for p, old, g in zip(moved, parameters, grad(value, parameters), strict=True):
        p.assign(old.data - 1e-4 * g)
    assert loss(model, x, y, rng=np.random.default_rng(2)).item() < value.item()


@pytest.mark.parametrize("name", [name for name, (*_, facts) in LOSSES.items() if facts])
def test_a_defense_perturbs_within_its_radius_and_its_box(name):
    model, loss, _, x, y = made(name)
    facts = LOSSES[name][3]
    loss(model, x, y, rng=np.random.default_rng(2))
    distances = [norm(batch - x, facts["norm"]) for batch in model[0].batches]
    assert all((d <= EPS * (1 + 1e-5)).all() for d in distances)
    assert max(d.max() for d in distances) > 0.99 * EPS
    low, high = facts["bounds"]
    assert all(low - 1e-6 <= batch.min() and batch.max() <= high + 1e-6 for batch in model[0].batches)
