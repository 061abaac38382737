"""Projected gradient descent: the best point where it is known, random starts, restarts and momentum."""

import numpy as np
import pytest
from attack_cases import excess, linear, network
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from npadv import Tensor, ops
from npadv.attacks import fgsm, pgd, steepest_ascent
from npadv.attacks.pgd import _random_offsets
from npadv.functional import cross_entropy


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def losses(model, x, y):
    return cross_entropy(model(x), y, reduction="none")


@settings(max_examples=30)
@given(seed=seeds, eps=st.floats(0.05, 1.5), norm=st.sampled_from(["l1", "l2", "linf"]))
def test_on_a_linear_model_it_ends_at_the_best_point(seed, eps, norm):
    """There the loss grows with one linear function, whose maximum is known. In l1 the end may be one step from it."""
    _, _, model = linear(seed, 5, 2)
    x, y = np.random.default_rng(seed).random((3, 5)), np.random.default_rng(seed).integers(2, size=3)
    margin = lambda x: (model(x) * np.array([1, -1])).sum(axis=1) * (1 - 2 * y)  # noqa: E731
    best, found = (
        margin(x) - margin(a.x_adv)
        for a in (
            steepest_ascent(model, x, y, eps=eps, norm=norm),
            pgd(model, x, y, eps=eps, norm=norm, steps=200, step=eps * {"linf": 0.05, "l2": 1, "l1": 0.05}[norm]),
        )
    )
    assert (found <= best * (1 + 1e-9) + 1e-9).all()
    assert (found >= best * (1 - {"linf": 1e-9, "l2": 0.01, "l1": 0.1}[norm])).all()


def test_many_steps_find_a_maximum_that_one_step_oversteps():
    peak = lambda x: ops.concatenate([(x - 0.6) * (x - 0.6) * 40, 0 * x + 0.3], axis=1)  # noqa: E731  class 1 within 0.087
    x, y = np.array([[0.4]]), np.array([0])
    assert not fgsm(peak, x, y, eps=0.4).success[0]
    result = pgd(peak, x, y, eps=0.4, step=0.02, steps=30)
    assert result.success[0]
    np.testing.assert_allclose(result.x_adv, 0.6, atol=0.021)


def test_in_l1_another_pixel_moves_where_the_box_stops_the_best():
    w = np.array([[-3.0, 3.0], [-2.0, 2.0]])  # the first matters most, and is white already
    x = np.array([[1.0, 0.1]])
    result = pgd(lambda x: x @ w + np.array([6.8, 0.0]), x, np.array([0]), eps=0.5, norm="l1", steps=5)
    np.testing.assert_allclose(result.x_adv, [[1.0, 0.6]], rtol=1e-12)
    assert result.success[0]


def test_targeted_it_lowers_the_loss(rng):
    _, _, model = linear(1, 5, 3)
    x, y = rng.random((6, 5)), rng.integers(3, size=6)
    for norm in ("l1", "l2", "linf"):
        up, down = (pgd(model, x, y, eps=0.3, norm=norm, targeted=targeted) for targeted in (False, True))
        assert (losses(model, up.x_adv, y) > losses(model, x, y)).all()
        assert (losses(model, down.x_adv, y) < losses(model, x, y)).all()


# Random starts and restarts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_starts_are_uniform_in_the_ball(rng, norm):
    """Of a uniform point of a d-ball of radius r, (size / r)^d is uniform, and every orthant is as likely as the others."""
    points = _random_offsets(rng, np.zeros((40_000, 3)), 0.5, norm)
    size = {
        "l1": np.abs(points).sum(axis=1),
        "l2": np.sqrt((points**2).sum(axis=1)),
        "linf": np.abs(points).max(axis=1),
    }
    np.testing.assert_allclose(np.quantile((size[norm] / 0.5) ** 3, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.01)
    np.testing.assert_allclose(np.bincount((points > 0) @ [1, 2, 4]) / 40_000, 1 / 8, atol=0.01)
    # The first coordinate's share is that of the ball's surface (its mean in l1 would be 1/3 for any fair direction).
    share = np.abs(points[:, 0]) / size[norm]
    moment, exact = {"l1": ((share**2).mean(), 1 / 6), "l2": (share.mean(), 1 / 2), "linf": (share.mean(), 2 / 3)}[norm]
    assert moment == pytest.approx(exact, abs=0.005)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_random_starts_keep_budget_and_box_and_follow_the_seed(rng, norm, dtype):
    model, x = network(rng), rng.random((5, 1, 2, 2)).round().astype(dtype)  # all of them at the edge of the box
    options = {"eps": 0.4, "norm": norm, "steps": 2, "step": 0.01, "random_start": True, "restarts": 3}
    a, b, other = (pgd(model, x, rng=np.random.default_rng(seed), **options).x_adv for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != other).any()
    assert a.min() >= 0
    assert a.max() <= 1
    assert (excess(a, x, 0.4, norm) <= 0).all()
    assert (np.abs(a - x) > 0.05).any()  # further than the two steps alone go


def two_peaks(x):
    """Class 1 around 0.2 and, far more certain, around 0.8; from the middle, the gradient leads to the first."""
    bump = 3 * ops.exp(-square(x - 0.2) * 50) + 6 * ops.exp(-square(x - 0.8) * 50)
    return ops.concatenate([0 * x + 1.0, bump], axis=1)


def square(x):
    return x * x


def test_of_several_successes_the_one_with_the_largest_loss_is_kept():
    """The first climb succeeds at the lower peak; a later one that succeeds at the higher must replace it."""
    x, y = np.full((40, 1), 0.45), np.zeros(40, int)
    options = {"eps": 0.45, "steps": 40, "step": 0.02, "random_start": True}
    once = pgd(two_peaks, x, y, rng=np.random.default_rng(0), **options)
    often = pgd(two_peaks, x, y, rng=np.random.default_rng(0), restarts=12, **options)
    low = np.abs(once.x_adv - 0.2) < 0.05
    assert once.success.all()
    assert low.sum() > 5
    assert (np.abs(often.x_adv - 0.8) < 0.05).all()
    assert (losses(two_peaks, often.x_adv, y) >= losses(two_peaks, once.x_adv, y)).all()
    np.testing.assert_array_equal(often.queries, 2 + 12 * 41)
    towards = pgd(two_peaks, x, y + 1, targeted=True, rng=np.random.default_rng(0), restarts=12, **options)
    assert (np.abs(towards.x_adv - 0.8) < 0.05).all()


def test_a_success_is_kept_before_a_larger_loss():
    """Below 0.5 class 0 just wins of three that are nearly equal, at a large loss; above, class 1 wins at a smaller one."""

    def model(x):
        above = np.array(x.data if isinstance(x, Tensor) else x) > 0.5
        return 0 * x + np.where(above, [[0.0, 0.2, -9.0]], [[0.0, -0.01, -0.01]])

    x, y = np.full((30, 1), 0.5), np.zeros(30, int)
    assert losses(model, x, y)[0] > losses(model, x + 0.1, y)[0]
    options = {"eps": 0.5, "steps": 1, "random_start": True, "rng": np.random.default_rng(0)}
    assert not pgd(model, x, y, **options).success.all()
    assert pgd(model, x, y, restarts=20, **options).success.all()


# Momentum, plain gradients, flags -----------------------------------------------------------------------------------------


def test_momentum_sums_past_gradients_scaled_to_l1_norm_1():
    model = lambda x: ops.concatenate([-square(x[:, :1]) - 3 * square(x[:, 1:]), 0 * x[:, :1]], axis=1)  # noqa: E731
    x, y, step, past = np.array([[0.3, 0.2]]), np.array([0]), 0.03, 0.0
    point = x
    for _ in range(4):  # Dong et al., eqs. 6 and 7, with the derivative of this loss by hand
        z = -(point[0, 0] ** 2) - 3 * point[0, 1] ** 2
        g = np.array([[2 * point[0, 0], 6 * point[0, 1]]]) / (1 + np.exp(z))
        past = 0.7 * past + g / np.abs(g).sum()
        point = point + step * past / np.sqrt((past**2).sum())
    result = pgd(model, x, y, eps=1.0, norm="l2", steps=4, step=step, momentum=0.7)
    np.testing.assert_allclose(result.x_adv, point, rtol=1e-12)


def test_plain_gradient_ascent_adds_a_multiple_of_the_gradient(rng):
    w, _, model = linear(2, 4, 2)
    x, y = rng.random((3, 4)), np.zeros(3, int)
    point = x
    for _ in range(3):
        z = model(point)
        p = 1 / (1 + np.exp(z[:, :1] - z[:, 1:]))
        point = np.clip(np.clip(point + 0.05 * p * (w[:, 1] - w[:, 0]), x - 0.2, x + 0.2), 0, 1)
    result = pgd(model, x, y, eps=0.2, steps=3, step=0.05, direction="gradient")
    np.testing.assert_allclose(result.x_adv, point, rtol=1e-12)


def test_zero_gradient_means_zero_at_the_start_of_every_climb():
    step = lambda x: ops.concatenate([2 * ops.relu(x - 0.5), 0 * x + 0.1], axis=1)  # noqa: E731  flat below 0.5
    x, y = np.full((6, 1), 0.45), np.zeros(6, int)
    assert pgd(step, x, y, eps=0.3, steps=3).flags["zero_gradient"].all()
    options = {"eps": 0.3, "steps": 3, "random_start": True, "restarts": 20}
    assert not pgd(step, x, y, rng=np.random.default_rng(0), **options).flags["zero_gradient"].any()


def test_queries_are_counted_as_they_are_made(rng):
    model, x, calls = network(rng), rng.random((2, 1, 2, 2)), []

    def counted(x):
        calls.append(len(x))
        return model(x)

    assert (pgd(counted, x, eps=0.1, steps=7).queries == len(calls)).all()
    calls.clear()
    result = pgd(counted, x, eps=0.1, steps=7, random_start=True, restarts=3, rng=rng)
    assert (result.queries == len(calls)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0}, "step: expected a positive number, got 0"),
        ({"step": np.nan}, "step: expected a positive number, got nan"),
        ({"steps": 0}, "steps: expected an integer of at least 1, got 0"),
        ({"steps": 2.5}, "steps: expected an integer of at least 1, got 2.5"),
        ({"restarts": 0}, "restarts: expected an integer of at least 1, got 0"),
        ({"restarts": 2}, "restarts: expected random_start=True for more than one, got False"),
        ({"momentum": -1}, "momentum: expected a finite number of at least 0, got -1"),
        ({"momentum": np.inf}, "momentum: expected a finite number of at least 0, got inf"),
        ({"random_start": True}, r"rng: expected a numpy\.random\.Generator for a random start, got NoneType"),
        ({"norm": "l3"}, "norm: expected one of l1, l2, linf, got 'l3'"),
        ({"direction": "down"}, "direction: expected one of steepest, gradient, got 'down'"),
        ({"direction": "gradient"}, "step: expected a factor of the gradient for direction='gradient', got None"),
    ],
)
def test_bad_settings_are_refused(rng, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        pgd(network(rng), rng.random((2, 1, 2, 2)), **{"eps": 0.1, **options})
