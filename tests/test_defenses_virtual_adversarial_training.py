"""Virtual adversarial training: the direction against an eigenvector, the loss by hand, and unlabelled images."""

import numpy as np
import pytest
from error_lines import one_line
from scipy.special import log_softmax, rel_entr, softmax

from npadv import grad
from npadv.defenses import virtual_adversarial_training
from npadv.functional import kl_divergence
from npadv.nn import Dense, Module, Sequential, Tanh
from npadv.train import classification_loss

X, Y = 0.3 + 0.4 * np.random.default_rng(0).random((5, 4)), np.array([0, 1, 2, 0, 1])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


class Recorded(Module):
    """A small network that keeps the batches on which it is trained."""

    def __init__(self, rng):
        self.network = Sequential(Dense(4, 8, rng=rng), Tanh(), Dense(8, 3, rng=rng)).astype(np.float64)
        self.trained_on = []
        for p in self.network.parameters():
            p.assign(2 * p.data + 0.1)

    def forward(self, x, *, train, rng):
        if train:
            self.trained_on.append(np.array(x))
        return self.network(x)


def divergence(model, x, moved):
    p, q = (softmax(model(point).data, axis=1) for point in (x, moved))
    return rel_entr(p, q).sum(axis=1)


def leading_eigenvectors(model, x):
    """Return the eigenvector of KL's Hessian with the largest eigenvalue, for each x, by differences and by ``eigh``."""
    d, h, vectors = x.shape[1], 1e-3, []
    steps = h * np.eye(d)
    for point in x:
        point = point[None]
        hessian = np.empty((d, d))
        for i in range(d):
            for j in range(d):
                ends = [
                    sign * other * divergence(model, point, point + sign * steps[i] + other * steps[j])[0]
                    for sign in (1, -1)
                    for other in (1, -1)
                ]
                hessian[i, j] = sum(ends) / (4 * h * h)
        vectors.append(np.linalg.eigh(hessian)[1][:, -1])
    return np.array(vectors)


def perturbations(model, eps, **options):
    virtual_adversarial_training(eps, **options)(model, X, Y, rng=np.random.default_rng(1))
    clean, perturbed = model.trained_on
    np.testing.assert_array_equal(clean, X)
    return perturbed - clean


def test_the_direction_converges_to_the_leading_eigenvector_of_the_hessian(rng):
    model = Recorded(rng)
    leading = leading_eigenvectors(model, X)
    cosines = {}
    for iterations in (1, 4, 100):
        model.trained_on.clear()
        r = perturbations(model, 0.2, iterations=iterations)
        np.testing.assert_allclose(np.linalg.norm(r, axis=1), 0.2, rtol=1e-9)
        cosines[iterations] = np.abs((r / 0.2 * leading).sum(axis=1))
    assert cosines[1].mean() < cosines[4].mean() < cosines[100].mean()
    assert cosines[100].min() > 1 - 1e-4


def test_it_changes_the_prediction_more_than_random_directions_do(rng):
    model = Recorded(rng)
    own = divergence(model, X, X + perturbations(model, 0.01, iterations=5))
    noise = rng.standard_normal((200, *X.shape))
    noise *= 0.01 / np.linalg.norm(noise, axis=2, keepdims=True)
    random = np.array([divergence(model, X, X + r) for r in noise])
    assert (own > random.mean(axis=0) * 2).all()
    assert (own > 0.95 * random.max(axis=0)).all()


def test_the_loss_is_the_formula(rng):
    model = Recorded(rng)
    loss = virtual_adversarial_training(0.3, alpha=0.7, iterations=3)(model, X, Y, rng=rng)
    clean, moved = model.trained_on
    supervised = -log_softmax(model(X).data, axis=1)[np.arange(5), Y].mean()
    assert loss.item() == pytest.approx(supervised + 0.7 * divergence(model, clean, moved).mean(), rel=1e-9)


def test_the_gradient_flows_through_the_perturbed_prediction_alone(rng):
    model = Recorded(rng)
    loss = virtual_adversarial_training(0.3, alpha=0.7)(model, X, Y, rng=rng)
    clean, moved = model.trained_on
    by_hand = classification_loss(model, X, Y, rng=rng) + 0.7 * kl_divergence(model(clean).data, model(moved))
    for g, expected in zip(grad(loss, model.parameters()), grad(by_hand, model.parameters()), strict=True):
        np.testing.assert_allclose(g, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("options", [{"eps": 0.0}, {"eps": 0.3, "alpha": 0.0}])
def test_without_a_perturbation_it_is_plain_training(rng, options):
    model = Recorded(rng)
    loss = virtual_adversarial_training(**options)(model, X, Y, rng=rng)
    assert loss.item() == pytest.approx(classification_loss(model, X, Y, rng=rng).item(), rel=1e-12)


def test_the_product_with_the_hessian_is_exact_in_float32(rng):
    """Differences with xi = 1e-6 fail in float32; the direction here agrees with that in float64."""
    model, halves = Recorded(rng), []
    for dtype in (np.float64, np.float32):
        model.astype(dtype).trained_on.clear()
        virtual_adversarial_training(0.2)(model, X.astype(dtype), Y, rng=np.random.default_rng(1))
        halves.append(model.trained_on[1] - model.trained_on[0])
    np.testing.assert_allclose(halves[1], halves[0], atol=1e-4)


# Unlabelled images ----------------------------------------------------------------------------------------------------


def test_unlabelled_images_join_the_divergence_and_not_the_cross_entropy(rng):
    model, unlabelled = Recorded(rng), 0.3 + 0.4 * rng.random((50, 4))
    loss = virtual_adversarial_training(0.3, unlabelled=unlabelled, unlabelled_batch=7)(model, X, Y, rng=rng)
    clean, moved = model.trained_on
    assert clean.shape == (12, 4)
    np.testing.assert_array_equal(clean[:5], X)
    assert all((unlabelled == image).all(axis=1).any() for image in clean[5:])
    supervised = -log_softmax(model(X).data, axis=1)[np.arange(5), Y].mean()
    assert loss.item() == pytest.approx(supervised + divergence(model, clean, moved).mean(), rel=1e-9)


def test_each_minibatch_draws_other_unlabelled_images(rng):
    model, unlabelled = Recorded(rng), rng.random((1000, 4))
    loss = virtual_adversarial_training(0.3, unlabelled=unlabelled, unlabelled_batch=3)
    for _ in range(2):
        loss(model, X, Y, rng=rng)
    first, second = model.trained_on[0], model.trained_on[2]
    assert (first[5:] != second[5:]).all()


# What goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -0.1}, "eps: expected a finite number of at least 0, got -0.1"),
        ({"alpha": -1}, "alpha: expected a finite number of at least 0, got -1"),
        ({"iterations": 0}, "iterations: expected an integer of at least 1, got 0"),
        ({"unlabelled_batch": 1.5}, "unlabelled_batch: expected an integer of at least 1, got 1.5"),
        ({"unlabelled": [[0.1]]}, "unlabelled: expected an array (M, ...) of at least one image, got list"),
        ({"unlabelled": np.zeros((0, 4))}, "unlabelled: expected an array (M, ...) of at least one image, got (0, 4)"),
    ],
)
def test_bad_settings_are_named(options, message):
    one_line(lambda: virtual_adversarial_training(**{"eps": 0.1, **options}), message)


def test_unlabelled_images_of_another_shape_are_refused(rng):
    loss = virtual_adversarial_training(0.1, unlabelled=np.zeros((10, 3)))
    message = "unlabelled: expected images of shape (4,), as the labelled ones, got (3,)"
    one_line(lambda: loss(Recorded(rng), X, Y, rng=rng), message)
