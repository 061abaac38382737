"""The linearised attack: the exact distance on linear models, in the box too; DeepFool on models that bend."""

import numpy as np
import pytest
from attack_cases import linear, network
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from strategies import seeds

from npadv import ops
from npadv.attacks import linearized
from npadv.attacks.linearized import steps_to_all, steps_to_nearest
from npadv.norms import DUAL, NORMS, norm


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@given(seed=seeds, classes=st.integers(2, 4), kind=st.sampled_from(NORMS))
def test_without_a_box_the_radius_is_the_distance_to_the_nearest_boundary(seed, classes, kind):
    w, _, model = linear(seed, 5, classes)
    x = np.random.default_rng(seed).random((3, 5))
    z = model(x)
    y = z.argmax(axis=1)
    result = linearized(model, x, norm=kind, bounds=(-np.inf, np.inf))
    for i in range(3):
        others = [k for k in range(classes) if k != y[i]]
        slopes = norm(np.stack([w[:, k] - w[:, y[i]] for k in others]), DUAL[kind])
        np.testing.assert_allclose(result.radius[i], min((z[i, y[i]] - z[i, others]) / slopes), rtol=1e-9)
    assert result.success.all()
    np.testing.assert_allclose(result.distance, 1.02 * result.radius, rtol=1e-9)


def distance_by_scipy(slope, gap, x, kind):
    """Return the smallest norm of d with <slope, d> >= gap and x + d in [0, 1], infinity if there is none."""
    n, box = len(x), list(zip(-x, 1 - x, strict=True))
    if kind == "l2":
        if slope @ np.where(slope > 0, 1 - x, -x) < gap:
            return np.inf
        across = {"type": "ineq", "fun": lambda d: slope @ d - gap, "jac": lambda d: slope}
        start = np.where(slope > 0, 1 - x, -x)
        options = {"ftol": 1e-13, "maxiter": 300}
        found = minimize(lambda d: d @ d, start, jac=lambda d: 2 * d, bounds=box, constraints=[across], options=options)
        return np.sqrt(found.fun)
    # Variables d and their sizes s >= |d|, or one size for all.
    sizes = n if kind == "l1" else 1
    share = np.eye(n) if kind == "l1" else np.ones((n, 1))
    a = np.block([[np.eye(n), -share], [-np.eye(n), -share], [-slope[None], np.zeros((1, sizes))]])
    c = np.r_[np.zeros(n), np.ones(sizes)]
    found = linprog(c, A_ub=a, b_ub=np.r_[np.zeros(2 * n), -gap], bounds=box + [(0, None)] * sizes)
    return found.fun if found.status == 0 else np.inf


@settings(max_examples=40)
@given(seed=seeds, kind=st.sampled_from(NORMS))
def test_in_the_box_the_radius_is_that_of_a_linear_or_quadratic_program(seed, kind):
    w, _, model = linear(seed, 5, 3)
    x = np.clip(np.random.default_rng(seed).uniform(-0.3, 1.3, (2, 5)), 0, 1)
    result = linearized(model, x, norm=kind)
    for i, z in enumerate(model(x)):
        y = z.argmax()
        exact = min(distance_by_scipy(w[:, k] - w[:, y], z[y] - z[k], x[i], kind) for k in range(3) if k != y)
        np.testing.assert_allclose(result.radius[i], exact, rtol=1e-5, atol=1e-7)


@given(seed=seeds, kind=st.sampled_from(NORMS), boxed=st.booleans())
def test_of_all_planes_the_nearest_is_found_without_solving_for_each(seed, kind, boxed):
    rng = np.random.default_rng(seed)
    w, gap, x = rng.normal(size=(4, 6, 5)), rng.exponential(2, size=(4, 6)), rng.random((4, 5))
    w[0, :3] = 0
    bounds = (0.0, 1.0) if boxed else (-np.inf, np.inf)
    (plain, lengths), (fast, fewer) = (solve(w, gap, x, kind, bounds) for solve in (steps_to_all, steps_to_nearest))
    np.testing.assert_allclose(fewer.min(axis=1), lengths.min(axis=1), rtol=1e-9)
    solved = np.isfinite(fewer)
    np.testing.assert_allclose(fast[solved], plain[solved], rtol=1e-9, atol=1e-12)


def test_a_boundary_outside_the_box_is_infinitely_far():
    result = linearized(lambda x: x @ np.array([[1.0, -1.0]]) + np.array([1.0, 0.0]), np.array([[0.5]]), steps=5)
    assert result.radius[0] == np.inf
    assert not result.success[0]
    assert result.flags["not_converged"][0]
    assert not result.flags["zero_gradient"][0]


def bent(x):
    """Class 1 outside a circle of radius 1/3 around (0.4, 0.5), by a margin that grows ever more slowly."""
    a, b = x[:, :1] - 0.4, x[:, 1:] - 0.5
    return ops.concatenate([0 * a, 2 * ops.tanh(9 * (a * a + b * b) - 1)], axis=1)


def test_several_steps_end_close_to_a_boundary_that_bends():
    x = np.array([[0.5, 0.55], [0.35, 0.6], [0.2, 0.4]])
    distance = 1 / 3 - np.hypot(x[:, 0] - 0.4, x[:, 1] - 0.5)
    once, often = linearized(bent, x, norm="l2"), linearized(bent, x, norm="l2", steps=30)
    assert not (np.abs(once.distance - distance) < 0.05 * distance).any()
    assert often.success.all()
    assert not often.flags["not_converged"].any()
    assert (often.distance >= distance).all()
    assert (often.distance <= 1.02 * distance).all()  # the gradient of a circle points along its radius
    np.testing.assert_array_equal(once.radius, often.radius)


def test_targets_are_reached_and_for_two_classes_at_the_boundary(rng):
    _, _, model = linear(3, 4, 2)
    x = rng.random((6, 4))
    other = 1 - model(x).argmax(axis=1)
    a = linearized(model, x, other, targeted=True)
    np.testing.assert_allclose(a.radius, linearized(model, x).radius)
    assert a.success.all()
    _, _, model = linear(5, 4, 4)
    for target in range(4):
        b = linearized(model, x, np.full(6, target), targeted=True, steps=30, bounds=(-9, 9))
        assert b.success.all()
        np.testing.assert_array_equal(b.prediction, target)


def parabola(x):
    """Return logits of two classes that meet where x_1 = 0.4 + 2 (x_0 - 0.2)^2."""
    u = x @ np.array([[1.0], [0.0]]) - 0.2
    return (2 * u * u + 0.4 - x @ np.array([[0.0], [1.0]])) @ np.array([[1.0, 0.0]])


def test_the_last_step_goes_along_a_boundary_that_bends():
    x, t = np.array([[0.5, 0.2], [0.35, 0.05]]), np.linspace(0, 1, 100_001)
    nearest = [np.sqrt((t - a) ** 2 + (2 * (t - 0.2) ** 2 + 0.4 - b) ** 2).min() for a, b in x]
    result = linearized(parabola, x, steps=30)
    assert result.success.all()
    assert (result.distance / nearest < [1.025, 1.01]).all()  # 1.034 and 1.020 without it
    assert (result.distance / nearest >= 1 - 1e-9).all()


def test_an_example_that_needs_no_perturbation_is_returned_unchanged(rng):
    model, x = network(rng), rng.random((4, 1, 2, 2), np.float32)
    own = model(x).data.argmax(axis=1)
    result = linearized(model, x, (own + 1) % 3, steps=5)
    np.testing.assert_array_equal(result.x_adv, x)
    np.testing.assert_array_equal(result.radius, 0)
    assert result.success.all()


def test_queries_are_counted_as_they_are_made(rng):
    model, x, seen = network(rng), rng.random((6, 1, 2, 2)), []

    def counted(x):
        seen.append(len(x))
        return model(x)

    for steps in (1, 20):
        seen.clear()
        assert linearized(counted, x, steps=steps).queries.sum() == sum(seen)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", NORMS)
def test_the_box_and_the_dtype_are_kept(rng, dtype, kind):
    _, _, model = linear(0, 6, 3)
    x = np.clip(rng.uniform(-0.5, 1.5, (5, 6)), 0.1, 0.7).astype(dtype)
    for steps in (1, 10):
        result = linearized(model, x, norm=kind, bounds=(0.1, 0.7), steps=steps)
        assert result.x_adv.dtype == result.radius.dtype == dtype
        assert result.x_adv.min() >= dtype(0.1)
        assert result.x_adv.max() <= dtype(0.7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected an integer of at least 1, got 0"),
        ({"overshoot": -0.1}, "overshoot: expected a finite number of at least 0, got -0.1"),
        ({"norm": "l0"}, "norm: expected one of l1, l2, linf, got 'l0'"),
    ],
)
def test_bad_settings_are_refused(rng, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        linearized(network(rng), rng.random((2, 1, 2, 2)), **options)
