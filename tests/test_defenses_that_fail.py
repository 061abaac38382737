"""Weight decay and input noise: their losses by hand. That they do not defend is tested in test_defenses_robustness.py."""

import numpy as np
import pytest
from error_lines import one_line
from scipy.special import log_softmax

from npadv.defenses import input_noise, weight_decay
from npadv.nn import Dense
from npadv.optim import SGD
from npadv.train import classification_loss, gradient_update

X, Y = np.random.default_rng(0).random((5, 4)), np.array([0, 1, 2, 0, 1])


@pytest.fixture
def model():
    return Dense(4, 3, rng=np.random.default_rng(0)).astype(np.float64)


def mean_cross_entropy(model, x):
    return -log_softmax(x @ model.weight.data + model.bias.data, axis=1)[np.arange(5), Y].mean()


def test_noise_of_the_given_size_is_added_to_the_inputs(model):
    noise = np.random.default_rng(3).standard_normal((5, 4))
    loss = input_noise(sigma=0.3)(model, X, Y, rng=np.random.default_rng(3))
    assert loss.item() == pytest.approx(mean_cross_entropy(model, X + 0.3 * noise))


@pytest.mark.parametrize(("norm", "size"), [("l1", lambda p: np.abs(p).sum()), ("l2", lambda p: (p**2).sum() / 2)])
def test_the_size_of_all_parameters_is_added_to_the_loss(model, norm, size):
    model.bias.assign(np.array([0.5, -1.0, 0.0]))
    expected = mean_cross_entropy(model, X) + 0.2 * (size(model.weight.data) + size(model.bias.data))
    assert weight_decay(coefficient=0.2, norm=norm)(model, X, Y, rng=None).item() == pytest.approx(expected)


def test_it_takes_the_steps_of_an_optimizer_with_weight_decay():
    moved = []
    for loss, decay in ((weight_decay(coefficient=0.05), 0.0), (classification_loss, 0.05)):
        rng = np.random.default_rng(0)
        model = Dense(4, 3, rng=rng).astype(np.float64)
        optimizer = SGD(model.parameters(), 0.3, momentum=0.5, weight_decay=decay)
        for _ in range(10):
            gradient_update(model, loss, optimizer, X, Y, rng=rng)
        moved.append(model.weight.data)
    np.testing.assert_allclose(*moved, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: input_noise(sigma=-0.1), "sigma: expected a finite number of at least 0, got -0.1"),
        (
            lambda: weight_decay(coefficient=float("inf")),
            "coefficient: expected a finite number of at least 0, got inf",
        ),
        (lambda: weight_decay(coefficient=0.1, norm="linf"), "norm: expected one of l1, l2, got 'linf'"),
    ],
)
def test_bad_settings_are_named(call, message):
    one_line(call, message)
