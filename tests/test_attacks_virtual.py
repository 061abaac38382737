"""Virtual adversarial examples: the leading eigenvector of the divergence's Hessian, and where differences fail."""

import numpy as np
import pytest
from attack_cases import linear, network

from npadv.attacks import VirtualResult, virtual_adversarial
from npadv.autodiff import value_of
from npadv.functional import kl_divergence, softmax


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def hessian(w, p):
    """Return the Hessian of KL(p || softmax of x W + b) where the two agree: W (diag p - p p^T) W^T, Fisher's matrix."""
    return w @ (np.diag(p) - np.outer(p, p)) @ w.T


@pytest.mark.parametrize("xi", [None, 1e-3])
def test_power_iteration_finds_the_leading_eigenvector(rng, xi):
    w, _, model = linear(0, 6, 4)
    x = rng.uniform(0.4, 0.6, (5, 6))
    result = virtual_adversarial(model, x, eps=0.01, iterations=300, xi=xi, rng=rng)
    for i in range(5):
        leading = np.linalg.eigh(hessian(w, softmax(model(x))[i]))[1][:, -1]
        assert abs(leading @ (result.x_adv - x)[i]) == pytest.approx(0.01, rel=1e-5 if xi is None else 1e-3)


def test_one_iteration_is_one_product_with_the_hessian(rng):
    w, _, model = linear(1, 5, 3)
    x = rng.uniform(0.4, 0.6, (2, 5))
    d = np.random.default_rng(7).standard_normal((2, 5))
    result = virtual_adversarial(model, x, eps=0.01, iterations=1, rng=np.random.default_rng(7))
    for i in range(2):
        product = hessian(w, softmax(model(x))[i]) @ d[i]
        np.testing.assert_allclose(
            np.abs(result.x_adv - x)[i], 0.01 * np.abs(product) / np.linalg.norm(product), rtol=1e-6
        )


def test_it_beats_noise_and_takes_the_better_of_two_signs(rng):
    model, x = network(rng).astype(np.float64), rng.uniform(0.4, 0.6, (20, 1, 2, 2))
    result = virtual_adversarial(model, x, eps=0.3, rng=rng)
    before = model(x).data

    def divergence(point):
        return kl_divergence(before, model(np.clip(point, 0, 1)).data, reduction="none")

    np.testing.assert_allclose(result.divergence, divergence(result.x_adv), rtol=1e-10)
    noise = rng.standard_normal((50, *x.shape))
    noise *= 0.3 / np.sqrt((noise**2).sum(axis=(2, 3, 4), keepdims=True))
    assert result.divergence.mean() > np.mean([divergence(x + eta).max() for eta in noise])
    assert (result.divergence >= divergence(2 * x - result.x_adv) * (1 - 1e-10)).all()


def test_seeds_reproduce(rng):
    _, _, model = linear(0, 6, 4)
    x = rng.random((3, 6))
    a, b, c = (
        virtual_adversarial(model, x, eps=0.3, iterations=1, rng=np.random.default_rng(seed)).x_adv
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_a_difference_lost_in_rounding_gives_a_warning(rng):
    _, _, model = linear(0, 6, 4)
    single = lambda x: (model(x)).astype(np.float32)  # noqa: E731
    x = rng.uniform(0.3, 0.7, (8, 6)).astype(np.float32)
    with pytest.warns(
        RuntimeWarning, match=r"xi=1e-06\): the difference of gradients failed for \d of 8 examples in float32"
    ):
        failing = virtual_adversarial(single, x, eps=0.1, xi=1e-6, rng=np.random.default_rng(0))
    assert failing.flags["difference_failed"].sum() > 4
    exact, good = (virtual_adversarial(single, x, eps=0.1, xi=xi, rng=np.random.default_rng(0)) for xi in (None, 1e-2))
    assert not good.flags["difference_failed"].any()
    np.testing.assert_allclose(good.x_adv, exact.x_adv, atol=5e-3)


def test_a_saturated_model_is_flagged():
    saturated = lambda x: x @ np.array([[1e4, -1e4]])  # noqa: E731
    result = virtual_adversarial(saturated, np.array([[0.9], [1e-5]]), eps=0.1, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(result.flags["zero_gradient"], [True, False])
    assert result.x_adv[0, 0] == 0.9


def test_queries_are_counted_as_they_are_made(rng):
    (_, _, model), x, calls = linear(0, 4, 3), rng.random((3, 4)), []

    def counted(x):
        calls.append(len(x))
        return model(x)

    for xi in (None, 1e-2):
        calls.clear()
        result = virtual_adversarial(counted, x, eps=0.1, xi=xi, rng=rng)
        assert (result.queries == len(calls)).all()
        assert isinstance(result, VirtualResult)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations: expected an integer of at least 1, got 0"),
        ({"xi": 0}, "xi: expected a positive number, got 0"),
        ({"rng": 3}, r"rng: expected a numpy\.random\.Generator, got int"),
        ({"model": lambda x: softmax(x)}, "model: expected logits, got probabilities"),
        ({"model": lambda x: 9 * value_of(x)}, "model: expected logits computed from the Tensor x"),
        ({"x": np.full((2, 2), 1.5)}, r"x: expected values in the box \[0\.0, 1\.0\], got 1\.5 to 1\.5"),
    ],
)
def test_bad_settings_are_refused(rng, options, message):
    settings = {"model": linear(0, 2, 3)[2], "x": np.full((2, 2), 0.5), "eps": 0.1, "rng": rng, **options}
    with pytest.raises(ValueError, match=f"^{message}"):
        virtual_adversarial(settings.pop("model"), settings.pop("x"), **settings)
