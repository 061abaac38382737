"""Robust optimization: equation 11 by hand on a linear model, FGSM training as its special case, and sets of one's own."""

from functools import partial

import numpy as np
import pytest
from error_lines import one_line
from scipy.optimize import linprog

from npadv import grad
from npadv.attacks import fgsm, pgd, steepest_ascent, tangent, virtual_adversarial
from npadv.defenses import adversarial_training, robust_optimization
from npadv.functional import cross_entropy
from npadv.nn import BatchNorm, Dense, Flatten, Module, ReLU, Sequential
from npadv.optim import SGD
from npadv.train import gradient_update

X, Y = np.random.default_rng(0).random((6, 4)), np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


class Recorded(Module):
    """A linear model that keeps the batches on which it is trained."""

    def __init__(self, rng):
        self.linear, self.trained_on = Dense(4, 3, rng=rng).astype(np.float64), []

    def forward(self, x, *, train, rng):
        if train:
            self.trained_on.append(np.array(x))
        return self.linear(x)

    def gradient(self, x, y):
        """Return grad_x J of the linear model by its formula, W (p - one_hot(y))."""
        z = x @ self.linear.weight.data + self.linear.bias.data
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        return (p - np.eye(3)[y]) @ self.linear.weight.data.T


@pytest.mark.parametrize("norm", ["l1", "linf"])
def test_the_step_solves_the_linear_program_of_equation_11(rng, norm):
    model = Recorded(rng)
    robust_optimization(0.4, norm=norm)(model, X, Y, rng=rng)
    (worst,) = model.trained_on
    for x, g, moved in zip(X, model.gradient(X, Y), worst, strict=True):
        # Delta = up - down, both at least 0: then the l1 norm is their sum.
        within = {"l1": (np.ones((1, 8)), [0.4]), "linf": (np.vstack([np.eye(8)]), [0.4] * 8)}[norm]
        room = [(0, 1 - pixel) for pixel in x] + [(0, pixel) for pixel in x]
        best = -linprog(-np.concatenate([g, -g]), *within, bounds=room).fun
        assert g @ (moved - x) == pytest.approx(best, rel=1e-9)


def test_the_l2_step_follows_the_gradient_where_the_box_allows_it(rng):
    model, x = Recorded(rng), 0.4 + 0.2 * X
    robust_optimization(0.3, norm="l2")(model, x, Y, rng=rng)
    g = model.gradient(x, Y)
    expected = 0.3 * g / np.linalg.norm(g, axis=1, keepdims=True)
    np.testing.assert_allclose(model.trained_on[0] - x, expected, rtol=1e-12)


def test_l1_without_a_box_moves_one_pixel(rng):
    model = Recorded(rng)
    robust_optimization(0.7, norm="l1", bounds=None)(model, X, Y, rng=rng)
    step, g = model.trained_on[0] - X, model.gradient(X, Y)
    assert (np.abs(step) > 1e-12).sum(axis=1).tolist() == [1] * 6
    assert (np.abs(step).argmax(axis=1) == np.abs(g).argmax(axis=1)).all()
    np.testing.assert_allclose(np.abs(step).sum(axis=1), 0.7)


def test_the_model_is_never_trained_on_the_clean_inputs(rng):
    model = Recorded(rng)
    robust_optimization(0.2)(model, X, Y, rng=rng)
    assert len(model.trained_on) == 1
    assert (np.abs(model.trained_on[0] - X).max(axis=1) > 0.1).all()


# Special cases --------------------------------------------------------------------------------------------------------


def trained(loss):
    """Return the parameters of a network after some steps, each on new examples."""
    rng = np.random.default_rng(0)
    model = Sequential(Dense(4, 6, rng=rng), BatchNorm(6), ReLU(), Dense(6, 3, rng=rng)).astype(np.float64)
    optimizer = SGD(model.parameters(), 0.3, momentum=0.5)
    for _ in range(20):
        gradient_update(model, loss, optimizer, rng.random((8, 4)), rng.integers(3, size=8), rng=rng)
    return np.concatenate([p.data.ravel() for p in model.parameters()])


def fgsm_training(model, x, y, *, rng):
    """Train on the examples of the attack: another path to the same gradients."""
    return cross_entropy(model(fgsm(model, x, y, eps=0.2).x_adv, train=True, rng=rng), y)


def test_in_the_maximum_norm_it_is_fgsm_training():
    own = trained(robust_optimization(0.2))
    for other in (
        fgsm_training,
        adversarial_training(0.2, alpha=0),
        robust_optimization(attack=partial(fgsm, eps=0.2)),
    ):
        np.testing.assert_allclose(trained(other), own, rtol=1e-9)
    assert np.abs(trained(robust_optimization(0.0)) - own).max() > 0.01


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_one_step_is_the_attack_of_the_same_name(norm):
    attack = partial(steepest_ascent, eps=0.3, norm=norm)
    by_step, by_attack = (
        trained(robust_optimization(**set_)) for set_ in ({"eps": 0.3, "norm": norm}, {"attack": attack})
    )
    np.testing.assert_allclose(by_attack, by_step, rtol=1e-9)


def test_a_tangent_plane_allows_no_step_across_it(rng):
    model, basis = Recorded(rng), np.array([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])
    x = 0.4 + 0.2 * X
    robust_optimization(attack=partial(tangent, basis=basis, eps=0.2))(model, x, Y, rng=rng)
    step = model.trained_on[0] - x
    plane = basis / np.linalg.norm(basis, axis=1, keepdims=True)  # the two are orthogonal
    projected = model.gradient(x, Y) @ plane.T @ plane  # Pi g of eq. 13
    np.testing.assert_allclose(step, 0.2 * projected / np.linalg.norm(projected, axis=1, keepdims=True), rtol=1e-9)


def test_a_set_of_ones_own_is_given_by_its_step(rng):
    u = np.array([0.1, -0.2, 0.0, 0.1])

    def segment(g, x):
        """Return the better one of +u and -u: the set is the segment from x - u to x + u."""
        return np.sign(g @ u)[:, None] * u

    model = Recorded(rng)
    loss = robust_optimization(ascent=segment)(model, X, Y, rng=rng)
    ends = [cross_entropy(model(X + sign * u), Y, reduction="none").data for sign in (1, -1)]
    assert loss.item() == pytest.approx(np.maximum(*ends).mean(), rel=0.01)  # the loss bends a little on the segment
    np.testing.assert_allclose(np.abs(model.trained_on[0] - X), np.abs(u) + 0 * X, atol=1e-12)


def test_many_steps_find_a_worse_input_than_one():
    rng = np.random.default_rng(1)
    model = Sequential(Flatten(), Dense(4, 30, rng=rng), ReLU(), Dense(30, 3, rng=rng)).astype(np.float64)
    for p in model.parameters():
        p.assign(4 * p.data)  # so that the loss bends within the ball
    one, many = (
        robust_optimization(**how)(model, X, Y, rng=rng).item()
        for how in ({"eps": 0.3}, {"attack": partial(pgd, eps=0.3)})
    )
    assert many > one


def test_an_attack_that_draws_gets_the_trainings_generator():
    attack = partial(pgd, eps=0.2, steps=2, random_start=True)
    first, again = (trained(adversarial_training(attack=attack)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(
        trained(robust_optimization(attack=partial(virtual_adversarial, eps=0.2)))
    ).all()  # takes no labels


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_delta_is_a_constant_to_the_gradient(rng, norm):
    model = Sequential(Dense(4, 6, rng=rng), ReLU(), Dense(6, 3, rng=rng)).astype(np.float64)
    worst = steepest_ascent(model, X, Y, eps=0.3, norm=norm).x_adv
    by_hand = grad(cross_entropy(model(worst), Y), model.parameters())
    own = grad(robust_optimization(0.3, norm=norm)(model, X, Y, rng=rng), model.parameters())
    for g, expected in zip(own, by_hand, strict=True):
        np.testing.assert_allclose(g, expected, rtol=1e-9, atol=1e-14)


# What goes wrong ------------------------------------------------------------------------------------------------------

ONE_SET = "eps: expected a radius, or else ascent= or attack=, and only one of them; got"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, f"{ONE_SET} None"),
        ({"eps": 0.1, "ascent": lambda g, x: g}, f"{ONE_SET} 0.1"),
        ({"ascent": lambda g, x: g, "attack": fgsm}, f"{ONE_SET} None"),
        ({"eps": -1}, "eps: expected a finite number of at least 0, got -1"),
        ({"eps": 0.1, "norm": "l3"}, "norm: expected one of l1, l2, linf, got 'l3'"),
        ({"attack": "fgsm"}, "attack: expected a function (model, x, y), got str"),
    ],
)
def test_bad_settings_are_named(options, message):
    one_line(lambda: robust_optimization(**options), message)


def test_a_step_of_another_shape_is_refused(rng):
    loss = robust_optimization(ascent=lambda g, x: g[:, :2])
    one_line(lambda: loss(Recorded(rng), X, Y, rng=rng), "ascent: expected a step of x's shape (6, 4), got (6, 2)")
