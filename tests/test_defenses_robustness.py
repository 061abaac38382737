"""A short training with each defense on small digits: it ends more robust or, for the defenses that do not work, as before.

The measure is the error under an attack that knows the network, as a share of the error of a network trained plainly. At the
end, planted faults show that the margins are narrow enough: a flipped sign, an inner step left out, an ignored temperature.
"""

from functools import cache, partial
from importlib import import_module

import numpy as np
import pytest

from npadv.attacks import fgsm, pgd
from npadv.data import Split, digits
from npadv.defenses import (
    adversarial_training,
    defensive_distillation,
    input_noise,
    label_smoothing,
    robust_optimization,
    virtual_adversarial_training,
    weight_decay,
)
from npadv.nn import Dense, Flatten, ReLU, Sequential
from npadv.optim import SGD, Adam
from npadv.train import classification_loss, evaluate, fit

EPS = 0.1
ATTACKS = {"fgsm": partial(fgsm, eps=EPS), "pgd": partial(pgd, eps=EPS, steps=10)}
WORKS, FAILS = {"fgsm": 0.75, "pgd": 0.8}, 0.8  # over seeds: at most .69 and .75; at least .83, for input noise


@cache
def small_digits():
    """Return the training and the test images, each pixel the mean of 4 x 4."""
    data = digits()
    shrunk = [split.images.reshape(-1, 1, 7, 4, 7, 4).mean(axis=(3, 5)) for split in (data.train, data.test)]
    return Split(shrunk[0], data.train.labels), Split(shrunk[1], data.test.labels)


def network(seed):
    rng = np.random.default_rng(seed)
    return Sequential(Flatten(), Dense(49, 60, rng=rng), ReLU(), Dense(60, 10, rng=rng))


def train(model, loss, optimizer=None, data=None):
    optimizer = optimizer or SGD(model.parameters(), 0.3, momentum=0.5)
    rng = np.random.default_rng(0)
    fit(model, loss, data or small_digits()[0], optimizer=optimizer, epochs=12, rng=rng, batch_size=50)
    return model


def trained(loss):
    return train(network(0), loss)


def distilled(temperature):
    """Return a student. Adam's steps do not depend on the size of the gradients, which the temperature divides."""
    seeds = iter((0, 1))
    student, _ = defensive_distillation(
        lambda: network(next(seeds)),
        lambda model, loss: train(model, loss, Adam(model.parameters(), 0.01)),
        temperature=temperature,
    )
    return student


def attacked(model, attack):
    """Return the error on the test images under an attack."""
    test = small_digits()[1]
    return float(ATTACKS[attack](model, test.images, test.labels).success.mean())


def clean(model):
    return evaluate(model, small_digits()[1]).error


@cache
def plain():
    """Return a network trained without a defense, and its errors under each attack."""
    model = trained(classification_loss)
    return model, {name: attacked(model, name) for name in ATTACKS}


def share(model, attack):
    """Return the error under an attack as a share of that of the network without a defense."""
    return attacked(model, attack) / plain()[1][attack]


def test_without_a_defense_the_attacks_succeed():
    model, errors = plain()
    assert clean(model) < 0.1
    assert min(errors.values()) > 0.6


# The defenses that work -----------------------------------------------------------------------------------------------------

WORKING = {
    "adversarial_training": lambda: adversarial_training(EPS),
    "adversarial_training, pgd": lambda: adversarial_training(attack=partial(pgd, eps=EPS, steps=3)),
    "robust_optimization": lambda: robust_optimization(EPS / 2),
    "robust_optimization, l2": lambda: robust_optimization(0.3, norm="l2"),
    "virtual_adversarial_training": lambda: virtual_adversarial_training(0.5),
}


@pytest.mark.parametrize("name", WORKING)
def test_it_defends(name):
    model = trained(WORKING[name]())
    assert clean(model) < 0.15
    for attack, margin in WORKS.items():
        assert share(model, attack) < margin, attack


def test_unlabelled_images_help_where_labels_are_few():
    """With 30 labels, the other images make the network more accurate and more robust."""
    images = small_digits()[0]
    few = images[np.resize(np.lexsort((images.labels, rank_in_class(images.labels)))[:30], len(images))]
    models = []
    for loss in (classification_loss, virtual_adversarial_training(0.2, unlabelled=images.images)):
        model = network(0)
        models.append(train(model, loss, Adam(model.parameters(), 0.005), data=few))
    assert clean(models[1]) < 0.85 * clean(models[0])
    assert attacked(models[1], "fgsm") < 0.85 * attacked(models[0], "fgsm")


def rank_in_class(labels):
    """Return the number of earlier examples of the same class, for each example."""
    return np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])


# The defenses that do not -------------------------------------------------------------------------------------------------

FAILING = {
    "input_noise": lambda: input_noise(sigma=EPS),
    "weight_decay": lambda: weight_decay(coefficient=1e-3),
    "weight_decay, l1": lambda: weight_decay(coefficient=1e-4, norm="l1"),
}


@pytest.mark.parametrize("name", FAILING)
def test_it_hardly_defends(name):
    model = trained(FAILING[name]())
    assert clean(model) < 0.1
    assert share(model, "fgsm") > FAILS


def test_enough_weight_decay_to_defend_spoils_the_classification():
    model = trained(weight_decay(coefficient=0.03))
    assert share(model, "fgsm") < 0.85
    assert clean(model) > 2 * clean(plain()[0])


# Smooth targets ------------------------------------------------------------------------------------------------------------


def largest_gap(model, x):
    """Return the mean distance of the largest logit from the mean of the others."""
    logits = np.sort(model(x).data, axis=1)
    return float((logits[:, -1] - logits[:, :-1].mean(axis=1)).mean())


def test_label_smoothing_makes_the_extrapolation_less_extreme():
    """[WG] 1.2.7's explanation. The lower error under attack, too, needs more epochs, and maxout units with dropout."""
    model, test = trained(label_smoothing()), small_digits()[1]
    assert clean(model) < 0.1
    assert largest_gap(model, test.images) == pytest.approx(np.log(0.9 / 0.01), rel=0.05)  # where the loss is least
    for scale in (1, 3):  # the images, and beyond the data
        assert largest_gap(model, scale * test.images) < 0.6 * largest_gap(plain()[0], scale * test.images)


def test_defensive_distillation_resists_attacks_until_they_divide_by_its_temperature():
    student = distilled(20.0)
    assert clean(student) < 0.15
    assert share(student, "fgsm") < WORKS["fgsm"]
    assert share(lambda x: student(x) / 20.0, "fgsm") > FAILS


def test_distillation_without_a_temperature_does_not_defend():
    student = distilled(1.0)
    assert clean(student) < 0.1
    assert share(student, "fgsm") > FAILS


# Planted faults -----------------------------------------------------------------------------------------------------------


def replaced(monkeypatch, name, change):
    """Replace a function that a defense uses by ``change`` of its result."""
    file, _, function = name.partition(".")
    module = import_module(f"npadv.defenses.{file}")
    original = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *args, **options: change(original(*args, **options)))


FAULTS = {
    "adversarial_training": "adversarial_training.steepest_ascent_direction",
    "robust_optimization": "robust_optimization.maximise_linear",
    "virtual_adversarial_training": "virtual_adversarial_training.direction",
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_inner_step_left_out_is_caught(monkeypatch, name):
    replaced(monkeypatch, FAULTS[name], np.zeros_like)
    assert share(trained(WORKING[name]()), "fgsm") > WORKS["fgsm"]


@pytest.mark.parametrize("name", ["adversarial_training", "robust_optimization"])
def test_a_flipped_sign_is_caught(monkeypatch, name):
    replaced(monkeypatch, FAULTS[name], np.negative)
    assert share(trained(WORKING[name]()), "fgsm") > WORKS["fgsm"]


def test_a_flipped_sign_of_the_virtual_divergence_is_caught(monkeypatch):
    """Here -r is as good as r to second order, so the sign that matters is that of the divergence."""
    replaced(monkeypatch, "virtual_adversarial_training.kl_divergence", lambda divergence: -divergence)
    assert clean(trained(WORKING["virtual_adversarial_training"]())) > 0.15


def test_an_ignored_temperature_is_caught(monkeypatch):
    replaced(monkeypatch, "distillation._check_temperature", lambda temperature: 1.0)
    assert share(distilled(20.0), "fgsm") > WORKS["fgsm"]
