"""Steepest ascent: the exact optimum of the linear problem, by the dual norm, by SciPy's solvers and by brute force."""

import itertools

import numpy as np
import pytest
from attack_cases import linear, network
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from strategies import seeds

from npadv import ops
from npadv.attacks import fgsm, steepest_ascent
from npadv.functional import softmax
from npadv.norms import DUAL, NORMS, maximise_linear, norm, smallest_step


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def gradient(w, b, x, y):
    """Return the gradient in x of the cross-entropy of x W + b: (p - one-hot) W^T."""
    return (softmax(x @ w + b) - np.eye(w.shape[1])[y]) @ w.T


@given(seed=seeds, eps=st.floats(0.01, 3), kind=st.sampled_from(NORMS), targeted=st.booleans())
def test_without_a_box_the_gain_is_eps_times_the_dual_norm(seed, eps, kind, targeted):
    w, b, model = linear(seed, 5, 3)
    rng = np.random.default_rng(seed)
    x, y = rng.random((3, 5)), rng.integers(3, size=3)
    g = gradient(w, b, x, y)
    result = steepest_ascent(model, x, y, eps=eps, norm=kind, targeted=targeted, bounds=(-np.inf, np.inf))
    gain = (g * (result.x_adv - x)).sum(axis=1)
    np.testing.assert_allclose(gain, (-1 if targeted else 1) * eps * norm(g, DUAL[kind]), rtol=1e-9)
    np.testing.assert_allclose(result.distance, eps, rtol=1e-9)


def best_by_scipy(g, x, eps, kind):
    """Return max <g, d> over the ball and the box [0, 1], by a linear or a quadratic programme."""
    n = len(g)
    if kind == "linf":
        return -linprog(-g, bounds=list(zip(np.maximum(-x, -eps), np.minimum(1 - x, eps), strict=True))).fun
    if kind == "l1":  # d = up - down
        box = [*zip(0 * x, 1 - x, strict=True), *zip(0 * x, x, strict=True)]
        return -linprog(np.r_[-g, g], A_ub=np.ones((1, 2 * n)), b_ub=[eps], bounds=box).fun
    ball = {"type": "ineq", "fun": lambda d: eps**2 - d @ d, "jac": lambda d: -2 * d}
    solution = minimize(
        lambda d: -g @ d,
        0 * x,
        jac=lambda d: -g,
        bounds=list(zip(-x, 1 - x, strict=True)),
        constraints=[ball],
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 300},
    )
    return -solution.fun


@settings(max_examples=60)
@given(seed=seeds, eps=st.floats(0.01, 3), kind=st.sampled_from(NORMS))
def test_in_the_box_the_gain_is_that_of_a_linear_or_quadratic_programme(seed, eps, kind):
    w, b, model = linear(seed, 5, 3)
    rng = np.random.default_rng(seed)
    x, y = np.clip(rng.uniform(-0.3, 1.3, (1, 5)), 0, 1), rng.integers(3, size=1)
    g = gradient(w, b, x, y)[0]
    scale = np.abs(g).max() or 1  # the solvers' tolerances are absolute
    result = steepest_ascent(model, x, y, eps=eps, norm=kind)
    gain = (g / scale) @ (result.x_adv - x)[0]
    np.testing.assert_allclose(gain, best_by_scipy(g / scale, x[0], eps, kind), rtol=1e-6, atol=1e-7)


@given(seed=seeds, eps=st.floats(0.01, 3), pixels=st.integers(1, 5))
def test_the_chosen_pixels_gain_most(seed, eps, pixels):
    w, b, model = linear(seed, 4, 3)
    rng = np.random.default_rng(seed)
    x, y = np.clip(rng.uniform(-0.3, 1.3, (1, 4)), 0, 1), rng.integers(3, size=1)
    g = gradient(w, b, x, y)[0]
    alone = np.abs(g) * np.minimum(eps / pixels, np.where(g > 0, 1 - x[0], x[0]))
    best = max(sum(some) for some in itertools.combinations(alone, min(pixels, 4)))
    d = (steepest_ascent(model, x, y, eps=eps, norm="l1", pixels=pixels).x_adv - x)[0]
    np.testing.assert_allclose(g @ d, best, rtol=1e-9, atol=1e-15)
    assert (d != 0).sum() <= pixels


def test_one_pixel_is_the_one_that_can_gain_most():
    w = np.array([[3.0, -3.0], [-2.0, 2.0], [1.0, -1.0]])
    result = steepest_ascent(lambda x: x @ w, np.array([[0.1, 0.5, 0.5]]), np.array([0]), eps=0.4, norm="l1", pixels=1)
    np.testing.assert_allclose(result.x_adv, [[0.1, 0.9, 0.5]])


def test_in_the_maximum_norm_it_is_the_fast_gradient_sign_method(rng):
    model, x, y = network(rng), rng.random((5, 1, 2, 2), np.float32), np.arange(5) % 3
    for targeted in (False, True):
        a = steepest_ascent(model, x, y, eps=0.3, targeted=targeted)
        np.testing.assert_allclose(a.x_adv, fgsm(model, x, y, eps=0.3, targeted=targeted).x_adv, rtol=1e-6)


@pytest.mark.parametrize("kind", NORMS)
def test_pixels_without_influence_and_zero_gradients_move_nothing(kind):
    w = np.array([[1.0, -1.0], [0.0, 0.0]])
    result = steepest_ascent(lambda x: x @ w, np.array([[0.5, 0.5]]), np.array([0]), eps=0.1, norm=kind)
    np.testing.assert_allclose(result.x_adv, [[0.4, 0.5]])
    saturated = lambda x: x @ np.array([[1e4, -1e4]])  # noqa: E731  the loss of class 0 underflows, but for x near 0
    result = steepest_ascent(saturated, np.array([[0.9], [1e-5]]), eps=0.5, norm=kind)
    np.testing.assert_array_equal(result.flags["zero_gradient"], [True, False])
    assert result.x_adv[0, 0] == 0.9


def test_a_partly_non_finite_gradient_is_flagged_and_its_finite_part_used():
    w = np.array([[1.0, -1.0], [1.0, -1.0]])
    with np.errstate(divide="ignore", invalid="ignore"):  # the root's slope at 0
        result = steepest_ascent(lambda x: ops.sqrt(x) @ w, np.array([[0.0, 0.5]]), np.array([0]), eps=0.1, norm="l1")
    assert result.flags["non_finite_gradient"][0]
    np.testing.assert_allclose(result.x_adv, [[0.0, 0.4]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1", "pixels": 0}, "pixels: expected an integer of at least 1, got 0"),
        ({"norm": "l1", "pixels": 1.5}, "pixels: expected an integer of at least 1, got 1.5"),
        ({"norm": "l2", "pixels": 1}, "pixels: expected norm='l1' with a number of pixels, got norm='l2'"),
        ({"norm": "max"}, "norm: expected one of l1, l2, linf, got 'max'"),
    ],
)
def test_bad_settings_are_refused(rng, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        steepest_ascent(network(rng), rng.random((2, 1, 2, 2)), **{"eps": 0.1, **options})


# Smallest step for a gain, largest gain of a step ---------------------------------------------------------------------


@given(seed=seeds, eps=st.floats(0.001, 3), kind=st.sampled_from(NORMS), boxed=st.booleans())
def test_the_smallest_step_for_the_largest_gain_has_length_eps(seed, eps, kind, boxed):
    rng = np.random.default_rng(seed)
    g, x = rng.normal(size=(4, 6)) * 10.0 ** rng.integers(-3, 4), np.clip(rng.uniform(-0.2, 1.2, (4, 6)), 0, 1)
    bounds = (0.0, 1.0) if boxed else None
    far = maximise_linear(g, x, eps, kind, bounds)
    gain = (g * far).sum(axis=1)
    near, reached = smallest_step(g, x, gain, kind, bounds)
    assert reached.all()
    np.testing.assert_allclose((g * near).sum(axis=1), gain, rtol=1e-9)
    assert (norm(near, kind) <= norm(far, kind) * (1 + 1e-9)).all()
    assert (norm(near, kind) >= eps * (1 - 1e-9))[
        norm(far, kind) < norm(maximise_linear(g, x, 9.0, kind, bounds), kind) - 1e-9
    ].all()
    if boxed:
        assert ((x + near >= -1e-12) & (x + near <= 1 + 1e-12)).all()


def test_a_gain_beyond_the_box_is_reported_as_not_reached():
    g, x = np.array([[1.0, -2.0], [0.0, 0.0], [1.0, -2.0]]), np.full((3, 2), 0.5)
    for kind in NORMS:
        d, reached = smallest_step(g, x, np.array([1.6, 0.1, -1.0]), kind, (0.0, 1.0))
        np.testing.assert_array_equal(reached, [False, False, True])
        np.testing.assert_allclose(d, [[0.5, -0.5], [0, 0], [0, 0]])
