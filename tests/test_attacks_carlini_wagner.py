"""Carlini and Wagner's attack: near the exact distance where that is known, and nearer than cheaper attacks elsewhere."""

import numpy as np
import pytest
from attack_cases import linear, network

from npadv.attacks import carlini_wagner, linearized


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("seed", range(4))
def test_on_linear_models_the_distance_is_that_to_the_boundary(seed):
    _, _, model = linear(seed, 5, 3)
    x = np.random.default_rng(seed).random((6, 5))
    x[0, :2] = 0, 1  # at the edge of the box
    exact = linearized(model, x).radius
    result = carlini_wagner(model, x, searches=9, steps=300, step=0.02)
    reachable = np.isfinite(exact)
    np.testing.assert_array_equal(result.success, reachable)
    assert reachable.any()
    assert (result.distance >= exact * (1 - 1e-6))[reachable].all()
    assert (result.distance <= 1.02 * exact + 1e-4)[reachable].all()


def test_it_finds_nearer_points_than_the_linearised_attack(rng):
    model, x = network(rng).astype(np.float64), rng.random((20, 1, 2, 2))
    cheap, strong = linearized(model, x, steps=50), carlini_wagner(model, x, searches=7, steps=150)
    both = cheap.success & strong.success
    assert strong.success.sum() >= cheap.success.sum()
    assert both.sum() > 5
    # The two attacks end in different local minima: the medians are compared.
    assert np.median(strong.distance[both] / cheap.distance[both]) < 1
    assert (strong.distance[both] < 0.95 * cheap.distance[both]).sum() >= 5


def test_confidence_is_the_lead_of_the_new_class(rng):
    _, _, model = linear(1, 5, 3)
    x = rng.random((6, 5))
    sure, plain = (carlini_wagner(model, x, confidence=c, searches=8, bounds=(-4, 4)) for c in (2.0, 0.0))
    assert sure.success.all()
    z = np.sort(model(sure.x_adv), axis=1)
    lead = z[:, -1] - z[:, -2]
    own = model(x).argmax(axis=1)
    against = model(sure.x_adv)
    lead = against.max(axis=1) - against[np.arange(6), own]
    assert (lead >= 2).all()
    assert (lead < 2.6).all()
    assert (sure.distance > plain.distance).all()


def test_targets_are_reached(rng):
    _, _, model = linear(5, 4, 4)
    x = rng.random((6, 4))
    for target in range(4):
        result = carlini_wagner(model, x, np.full(6, target), targeted=True, bounds=(-9, 9))
        assert (result.prediction == target).all()
        already = result.flags["already_wrong"]
        np.testing.assert_array_equal(result.x_adv[already], x[already])


def test_without_success_x_is_returned_and_flagged():
    model = lambda x: x @ np.array([[1.0, -1.0]]) + np.array([1.0, 0.0])  # noqa: E731  class 0 all over the box
    result = carlini_wagner(model, np.array([[0.5]]), searches=3, steps=20)
    assert result.flags["not_converged"][0]
    assert not result.success[0]
    np.testing.assert_array_equal(result.x_adv, [[0.5]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_box_the_dtype_and_the_count_of_queries(rng, dtype):
    _, _, model = linear(0, 6, 3)
    x, calls = np.clip(rng.uniform(-0.5, 1.5, (5, 6)), 0.1, 0.7).astype(dtype), []

    def counted(x):
        calls.append(len(x))
        return model(x)

    result = carlini_wagner(counted, x, bounds=(0.1, 0.7), searches=3, steps=30)
    assert result.x_adv.dtype == dtype
    assert result.x_adv.min() >= dtype(0.1)
    assert result.x_adv.max() <= dtype(0.7)
    assert (result.queries == len(calls)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": -1}, "confidence: expected a finite number of at least 0, got -1"),
        ({"weight": 0}, "weight: expected a positive number, got 0"),
        ({"step": 0}, "step: expected a positive number, got 0"),
        ({"steps": 0}, "steps: expected an integer of at least 1, got 0"),
        ({"searches": 0}, "searches: expected an integer of at least 1, got 0"),
        ({"bounds": (0, np.inf)}, r"bounds: expected a finite box, got \(0, inf\)"),
    ],
)
def test_bad_settings_are_refused(rng, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        carlini_wagner(network(rng), rng.random((2, 1, 2, 2)), **options)
