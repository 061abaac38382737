"""The fast gradient sign method on losses of other kinds: regression and reconstruction."""

import numpy as np
import pytest

from npadv import ops
from npadv.attacks import LossResult, fgsm
from npadv.autodiff import value_of
from npadv.functional import mean_squared_error
from npadv.nn import Dense, Sequential, Tanh


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def error(output, y):
    return mean_squared_error(output, y, reduction="none")


def test_a_regression_is_pushed_away_from_its_target(rng):
    w, x = rng.normal(size=(4, 1)), rng.uniform(0.3, 0.7, (5, 4))
    y = x @ w + np.array([[0.1], [-0.1], [0.2], [-0.2], [0.3]])
    result = fgsm(lambda x: x @ w, x, y, eps=0.2, loss=error)
    miss = np.abs(y - x @ w) + 0.2 * np.abs(w).sum()  # the linear model's output moves by eps ||w||_1, away from y
    np.testing.assert_allclose(result.loss, miss[:, 0] ** 2)
    np.testing.assert_allclose(result.loss_before, (y - x @ w)[:, 0] ** 2)
    assert result.success.all()
    assert not result.flags["already_wrong"].any()
    np.testing.assert_allclose(result.prediction, result.x_adv @ w)
    towards = fgsm(lambda x: x @ w, x, y, eps=0.01, loss=error, targeted=True)
    assert (towards.loss < towards.loss_before).all()
    assert towards.success.all()


def test_an_autoencoder_reconstructs_worse(rng):
    model = Sequential(Dense(6, 3, rng=rng), Tanh(), Dense(3, 6, rng=rng)).astype(np.float64)
    x = rng.random((4, 6))
    result = fgsm(model, x, x, eps=0.1, loss=error)
    noise = x + 0.1 * np.sign(rng.normal(size=(4, 6)))
    assert isinstance(result, LossResult)
    assert (result.loss > result.loss_before).all()
    assert (result.loss > error(model(np.clip(noise, 0, 1)).data, x)).all()
    assert (result.queries == 2).all()
    for i in range(4):
        alone = fgsm(model, x[i : i + 1], x[i : i + 1], eps=0.1, loss=error)
        np.testing.assert_array_equal(alone.x_adv[0], result.x_adv[i])
    np.testing.assert_array_equal(fgsm(model, x, x, eps=0, loss=error).success, False)


def test_a_flat_loss_is_flagged(rng):
    x = rng.random((2, 3))
    result = fgsm(lambda x: 0 * x, x, x, eps=0.1, loss=error)
    assert result.flags["zero_gradient"].all()
    assert not result.success.any()


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        (lambda x: x, lambda o, y: ops.sum(o), r"loss: expected one number an example, shape \(3,\), got shape \(\)"),
        (lambda x: x, lambda o, y: o, r"loss: expected one number an example, shape \(3,\), got shape \(3, 2\)"),
        (lambda x: x, lambda o, y: 1.0, r"loss: expected one number an example, shape \(3,\), got shape None"),
        (lambda x: x * np.nan, error, "loss: expected finite losses, got NaN or infinity"),
        (lambda x: value_of(x), error, r"model: expected .* computed from the Tensor x"),
    ],
)
def test_a_bad_loss_is_refused(rng, model, loss, message):
    x = rng.random((3, 2))
    with pytest.raises(ValueError, match=f"^{message}"):
        fgsm(model, x, x, eps=0.1, loss=loss)
