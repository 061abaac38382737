"""Adversarial training: its loss by hand on a linear model, and that it defends."""

from functools import partial

import numpy as np
import pytest

from npadv import Tensor, grad
from npadv.attacks import fgsm, pgd
from npadv.data import Split, digits
from npadv.defenses import adversarial_training
from npadv.functional import cross_entropy
from npadv.nn import BatchNorm, Dense, Dropout, Module, ReLU, Sequential
from npadv.nn.networks import relu_mlp
from npadv.optim import SGD
from npadv.train import classification_loss, evaluate, fit

RNG = np.random.default_rng(0)
X, Y = RNG.random((5, 4)), np.array([0, 1, 2, 0, 1])

DIRECTIONS = {  # the steepest ascent in each norm
    "linf": np.sign,
    "l2": lambda g: g / np.sqrt((g**2).sum(axis=1, keepdims=True)),
    "l1": lambda g: np.sign(g) * (np.abs(g) == np.abs(g).max(axis=1, keepdims=True)),  # one pixel
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def log_probabilities(z):
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
@pytest.mark.parametrize("norm", DIRECTIONS)
@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_the_loss_is_the_formula(rng, alpha, norm, bounds):
    model = Dense(4, 3, rng=rng).astype(np.float64)
    w, b = model.weight.data, model.bias.data

    def mean_cross_entropy(x):
        return -log_probabilities(x @ w + b)[np.arange(5), Y].mean()

    g = (np.exp(log_probabilities(X @ w + b)) - np.eye(3)[Y]) @ w.T
    worst = X + 0.4 * DIRECTIONS[norm](g)
    assert (worst > 1).any()  # so that the box makes a difference
    worst = worst if bounds is None else np.clip(worst, 0, 1)
    expected = alpha * mean_cross_entropy(X) + (1 - alpha) * mean_cross_entropy(worst)
    loss = adversarial_training(0.4, alpha=alpha, norm=norm, bounds=bounds)(model, X, Y, rng=rng)
    assert loss.item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("norm", DIRECTIONS)
def test_the_perturbation_is_a_constant_to_the_gradient(rng, norm):
    model = Sequential(Dense(4, 6, rng=rng), ReLU(), Dense(6, 3, rng=rng)).astype(np.float64)
    x = Tensor(X, requires_grad=True)
    worst = X + 0.1 * DIRECTIONS[norm](grad(cross_entropy(model(x), Y, reduction="sum"), x))
    by_hand = 0.3 * cross_entropy(model(X), Y) + 0.7 * cross_entropy(model(worst), Y)
    loss = adversarial_training(0.1, alpha=0.3, norm=norm, bounds=None)(model, X, Y, rng=rng)
    for g, expected in zip(grad(loss, model.parameters()), grad(by_hand, model.parameters()), strict=True):
        np.testing.assert_allclose(g, expected, rtol=1e-10, atol=1e-14)


class Recorded(Module):
    """A module that notes how it is called."""

    def __init__(self, model):
        self.model, self.modes, self.averages = model, [], []

    def forward(self, x, *, train, rng):
        self.modes.append("training" if train else "inference")
        y = self.model(x, train=train, rng=rng)
        self.averages.append(self.model[1].running_mean.data.copy())
        return y


@pytest.mark.parametrize(("alpha", "passes"), [(0, 1), (0.5, 2)])
def test_the_perturbation_is_found_in_inference_and_learned_from_in_training(rng, alpha, passes):
    model = Recorded(Sequential(Dense(4, 6, rng=rng), BatchNorm(6), Dropout(0.5), Dense(6, 3, rng=rng)))
    adversarial_training(0.1, alpha=alpha)(model, X.astype(np.float32), Y, rng=rng)
    assert model.modes == ["inference"] + ["training"] * passes
    np.testing.assert_array_equal(model.averages[0], 0)  # the search has left no trace in them
    assert (model.averages[1] != 0).all()


@pytest.mark.parametrize(
    "loss", [adversarial_training(0.1, alpha=0), adversarial_training(alpha=0, attack=partial(pgd, eps=0.1, steps=3))]
)
def test_the_perturbation_is_that_of_the_current_parameters(rng, loss):
    """After each change of the weights, the loss is again that of the worst input of the linear model in front of it."""
    for _ in range(3):
        model = Dense(4, 3, rng=rng).astype(np.float64)
        for _ in range(2):
            worst = fgsm(model, X, Y, eps=0.1).x_adv  # pgd ends there too: the loss is nearly linear within 0.1
            expected = cross_entropy(model(worst), Y).item()
            assert loss(model, X, Y, rng=rng).item() == pytest.approx(expected, rel=1e-3)
            model.weight.assign(-2 * model.weight.data)


def test_an_attack_is_the_inner_step(rng):
    model, x = Sequential(Dense(4, 6, rng=rng), ReLU(), Dense(6, 3, rng=rng)).astype(np.float64), X
    worst = pgd(model, x, Y, eps=0.3, steps=4, norm="l2").x_adv
    expected = 0.3 * cross_entropy(model(x), Y).item() + 0.7 * cross_entropy(model(worst), Y).item()
    loss = adversarial_training(alpha=0.3, attack=partial(pgd, eps=0.3, steps=4, norm="l2"))(model, x, Y, rng=rng)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_with_eps_0_it_is_plain_training(rng):
    model = Dense(4, 3, rng=rng)
    x = X.astype(np.float32)
    plain, defended = (
        loss(model, x, Y, rng=rng).item() for loss in (classification_loss, adversarial_training(0, alpha=0))
    )
    assert plain == defended


def test_float32_stays_float32(rng):
    model = Dense(4, 3, rng=rng)
    for norm in DIRECTIONS:
        loss = adversarial_training(0.1, norm=norm)(model, X.astype(np.float32), Y, rng=rng)
        assert loss.dtype == np.float32


def fgsm_error(model, split, eps):
    adversarial = fgsm(model, split.images, split.labels, eps=eps).x_adv
    return evaluate(model, Split(adversarial, split.labels)).error


def test_training_with_it_lowers_the_fgsm_error_on_digits():
    data, errors = digits(), {}
    for name, loss in (("plain", classification_loss), ("defended", adversarial_training(0.1))):
        rng = np.random.default_rng(0)
        model = relu_mlp(rng=rng, units=60)
        optimizer = SGD(model.parameters(), 0.1, momentum=0.5)
        fit(model, loss, data.train, optimizer=optimizer, epochs=10, rng=rng, batch_size=50)
        errors[name] = fgsm_error(model, data.test, 0.1), evaluate(model, data.test).error
    assert errors["defended"][0] < 0.75 * errors["plain"][0]
    assert errors["defended"][1] < 0.15  # and it still classifies


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -0.1}, "eps: expected a finite number of at least 0, got -0.1"),
        ({"eps": float("nan")}, "eps: expected a finite number of at least 0, got nan"),
        ({"alpha": 1.5}, r"alpha: expected a weight in \[0, 1\], got 1.5"),
        ({"alpha": -0.5}, r"alpha: expected a weight in \[0, 1\], got -0.5"),
        ({"eps": None}, "eps: expected a finite number of at least 0, got None"),
        ({"attack": fgsm}, "eps: expected none beside attack=, which has its own radius, got 0.1"),
        ({"eps": None, "attack": "fgsm"}, r"attack: expected a function \(model, x, y\), got str"),
        ({"norm": "l3"}, "norm: expected one of l1, l2, linf, got 'l3'"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        adversarial_training(**{"eps": 0.1, **options})
