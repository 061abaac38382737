"""The three norms: their duals, their steepest directions, and projections that are the nearest points there are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from strategies import nonzero, seeds

from npadv import Tensor, grad, hvp
from npadv.norms import (
    DUAL,
    NORMS,
    maximise_linear,
    norm,
    project,
    sign_step,
    smallest_step,
    steepest_ascent_direction,
)
from npadv.testing import check_grads

every_norm = pytest.mark.parametrize("kind", NORMS)
ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}
reals = pytest.mark.parametrize("dtype", [np.float32, np.float64])

# Norms ----------------------------------------------------------------------------------------------------------------


@st.composite
def vectors(draw):
    """Return (N, ...) numbers, some of them 0."""
    rng = np.random.default_rng(draw(seeds))
    shape = draw(st.sampled_from([(1, 1), (3, 5), (2, 2, 3), (1, 2, 2, 2)]))
    return rng.standard_normal(shape) * rng.integers(0, 2, shape) * draw(st.sampled_from([1e-3, 1, 1e3]))


@every_norm
@given(x=vectors())
def test_a_norm_is_numpys(kind, x):
    expected = np.linalg.norm(x.reshape(len(x), -1), ORDERS[kind], axis=1)
    np.testing.assert_allclose(norm(x, kind), expected, rtol=1e-14)


@every_norm
@given(seed=seeds)
def test_a_norm_is_differentiable(kind, seed):
    x = nonzero(np.random.default_rng(seed), (2, 5)) + np.arange(5)
    check_grads(lambda x: norm(x, kind), [x])


@every_norm
def test_the_gradient_of_a_norm_is_the_steepest_direction_of_its_dual(kind):
    x = Tensor(np.array([[3.0, -4.0, 1.0]]), requires_grad=True)
    np.testing.assert_allclose(grad(norm(x, kind), x), steepest_ascent_direction(x.data, DUAL[kind]), rtol=1e-14)


@reals
def test_the_l2_norm_has_derivative_0_at_0(dtype):
    x = Tensor(np.zeros((2, 3), dtype), requires_grad=True)
    y = norm(x, "l2")
    assert y.data.tolist() == [0, 0]
    assert not grad(y.sum(), x).any()
    assert not hvp(y.sum(), x, np.ones((2, 3))).any()


@every_norm
@reals
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norms_and_directions_neither_under_nor_overflow(kind, dtype, scale):
    x = np.array([[3, -4], [0, 0]], dtype) * dtype(scale)
    expected = {"l1": 7, "l2": 5, "linf": 4}[kind]
    y = norm(Tensor(x, requires_grad=True), kind)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.data, [expected * scale, 0], rtol=1e-6)
    leaf = Tensor(x, requires_grad=True)
    np.testing.assert_allclose(
        grad(norm(leaf, kind).sum(), leaf)[0], steepest_ascent_direction(x, DUAL[kind])[0], rtol=1e-6
    )
    direction = {"l1": [0, -1], "l2": [0.6, -0.8], "linf": [1, -1]}[kind]
    assert steepest_ascent_direction(x, kind).dtype == dtype
    np.testing.assert_allclose(steepest_ascent_direction(x, kind), [direction, [0, 0]], rtol=1e-6)


@every_norm
def test_the_norm_of_integers_is_that_of_the_same_numbers(kind):
    x = np.array([[-128, 127, 3], [100, 100, 100]], np.int8)
    assert norm(x, kind).tolist() == norm(x.astype(np.float64), kind).tolist()
    assert norm(np.array([[-128, 1]], np.int8), kind).tolist() == [
        {"l1": 129, "l2": np.hypot(128, 1), "linf": 128}[kind]
    ]


@every_norm
def test_radii_and_bounds_of_numpy_do_not_change_the_precision(kind):
    x, center = np.array([[2.0, -3.0]], np.float32), np.array([[0.5, 0.25]], np.float32)
    eps, bounds = np.float64(0.125), (np.float64(0), np.float64(1))
    for result, plain in (
        (project(x, center, eps, kind, bounds), project(x, center, 0.125, kind, (0.0, 1.0))),
        (maximise_linear(x, center, eps, kind, bounds), maximise_linear(x, center, 0.125, kind, (0.0, 1.0))),
        (
            smallest_step(x, center, np.ones(1), kind, bounds)[0],
            smallest_step(x, center, np.ones(1), kind, (0.0, 1.0))[0],
        ),
        (sign_step(center, x, eps, bounds), sign_step(center, x, 0.125, (0.0, 1.0))),
    ):
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, plain)


@every_norm
def test_directions_and_projections_of_integers_are_in_floating_point(kind):
    x, center = np.array([[10, 200]], np.uint8), np.array([[30, 190]], np.uint8)
    wide, middle = x.astype(np.float64), center.astype(np.float64)
    np.testing.assert_array_equal(project(x, center, 2.5, kind), project(wide, middle, 2.5, kind))
    g = np.array([[-128, 100]], np.int8)
    np.testing.assert_array_equal(steepest_ascent_direction(g, kind), steepest_ascent_direction(g * 1.0, kind))
    np.testing.assert_array_equal(maximise_linear(g, center, 2.5, kind), maximise_linear(g * 1.0, middle, 2.5, kind))
    step, _ = smallest_step(g, center, np.array([30.0]), kind)
    np.testing.assert_array_equal(step, smallest_step(g * 1.0, middle, np.array([30.0]), kind)[0])


def test_a_sign_step_from_integers_keeps_the_fraction_and_the_sign():
    np.testing.assert_allclose(sign_step(np.array([[1, 2]]), np.array([[0.3, -0.3]]), 0.25), [[1.25, 1.75]])


# Directions -----------------------------------------------------------------------------------------------------------


@every_norm
@given(g=vectors(), seed=seeds)
def test_the_steepest_direction_gains_the_dual_norm_and_nothing_gains_more(kind, g, seed):
    d = steepest_ascent_direction(g, kind)
    assert d.shape == g.shape
    gain = (g * d).reshape(len(g), -1).sum(1)
    np.testing.assert_allclose(gain, norm(g, DUAL[kind]), rtol=1e-12)
    lengths = norm(d, kind)
    np.testing.assert_allclose(lengths, norm(g, kind) > 0, rtol=1e-12)  # 1, but 0 where g is 0
    other = np.random.default_rng(seed).standard_normal(g.shape)
    its_gain = (g * other).reshape(len(g), -1).sum(1) / norm(other, kind)
    assert (its_gain <= gain + 1e-12 * np.abs(g).max()).all()


def test_of_equal_slopes_the_l1_direction_takes_the_first():
    assert steepest_ascent_direction(np.array([[-2.0, 2.0, 2.0]]), "l1").tolist() == [[-1, 0, 0]]


# Projections ----------------------------------------------------------------------------------------------------------


@st.composite
def projections(draw):
    """Return x, center, eps and bounds: x inside and outside, eps for all or for each, ties, and a box or none."""
    rng = np.random.default_rng(draw(seeds))
    shape = draw(st.sampled_from([(1, 1), (4, 3), (3, 6), (2, 2, 3)]))
    bounds = draw(st.sampled_from([None, (0.0, 1.0), (-0.5, 2.0)]))
    center = rng.uniform(*(bounds or (-1, 1)), shape)
    if draw(st.booleans()):
        center = center.clip(0.2, 0.8).round()  # in a corner of the box
    step = rng.standard_normal(shape) * draw(st.sampled_from([0.1, 1, 10]))
    if draw(st.booleans()):
        step = step.round()  # equal entries, and zeros
    eps = draw(st.sampled_from([0.0, 0.05, 0.5, 2.0])) * (
        rng.uniform(0.5, 1, len(center)) if draw(st.booleans()) else 1
    )
    return center + step, center, eps, bounds


def feasible(rng, center, eps, kind, bounds):
    """Return a random point of the ball and the box, some of them on their boundaries."""
    step = rng.standard_normal(center.shape) * rng.integers(0, 2, center.shape)
    length = np.maximum(norm(step, kind), 1e-9)
    z = center + step * (eps * rng.choice([0.5, 1], len(center)) / length).reshape(-1, *[1] * (center.ndim - 1))
    return z if bounds is None else z.clip(*bounds)  # towards the centre, so still in the ball


def rows(x):
    return x.reshape(len(x), -1)


@every_norm
@given(drawn=projections(), seed=seeds)
def test_a_projection_lies_in_the_ball_and_the_box_and_no_feasible_point_is_nearer(kind, drawn, seed):
    x, center, eps, bounds = drawn
    p = project(x, center, eps, kind, bounds)
    assert (p.shape, p.dtype) == (x.shape, x.dtype)
    assert (norm(p - center, kind) <= eps * (1 + 1e-12) + 1e-14).all()
    if bounds is not None:
        assert p.min() >= bounds[0]
        assert p.max() <= bounds[1]
    rng = np.random.default_rng(seed)
    for _ in range(5):
        z = feasible(rng, center, eps, kind, bounds)
        # p is nearest to x in a convex set if and only if no point z of it lies on x's side of p
        assert (rows((x - p) * (z - p)).sum(1) <= 1e-12 * (1 + rows(x * x).sum(1))).all()


@every_norm
@given(drawn=projections())
def test_projecting_again_changes_nothing(kind, drawn):
    x, center, eps, bounds = drawn
    p = project(x, center, eps, kind, bounds)
    np.testing.assert_allclose(project(p, center, eps, kind, bounds), p, rtol=1e-13, atol=1e-15)


@every_norm
@given(drawn=projections())
def test_what_is_inside_already_stays(kind, drawn):
    x, center, _, bounds = drawn
    inside = x if bounds is None else x.clip(*bounds)
    enough = norm(inside - center, kind) * (1 + 1e-9) + 1e-9
    np.testing.assert_allclose(project(inside, center, enough, kind, bounds), inside, rtol=1e-14, atol=1e-15)


def nearest(x, center, eps, kind, bounds):
    """Return the projection of one vector, found by sequential quadratic programming over the step v from the centre.

    The l1 norm becomes linear over two vectors: v = u[:n] - u[n:] with u >= 0.
    """
    n = len(x)
    low, high = (np.array([b - center for b in bounds]) if bounds else np.array([[-9.0] * n, [9.0] * n])).tolist()
    matrix = np.hstack([np.eye(n), -np.eye(n)]) if kind == "l1" else np.eye(n)
    sides = [(0, b) for b in high] + [(0, -b) for b in low] if kind == "l1" else list(zip(low, high, strict=True))
    room, slope = {
        "l1": (lambda u: eps - u.sum(), lambda u: -np.ones(2 * n)),
        "l2": (lambda u: eps - u @ u / eps, lambda u: -2 * u / eps),
        "linf": (lambda u: np.concatenate([eps - u, eps + u]), lambda u: np.vstack([-np.eye(n), np.eye(n)])),
    }[kind]
    solution = minimize(
        lambda u: ((center + matrix @ u - x) ** 2).sum(),
        matrix.T @ (x - center) * eps / 10,
        jac=lambda u: 2 * matrix.T @ (center + matrix @ u - x),
        bounds=sides,
        constraints={"type": "ineq", "fun": room, "jac": slope},
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert solution.success, solution.message
    return center + matrix @ solution.x


@every_norm
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
@pytest.mark.parametrize("eps", [0.1, 0.5, 1.5])
def test_a_projection_is_the_one_that_a_general_optimizer_finds(kind, bounds, eps):
    rng = np.random.default_rng(0)
    center = rng.uniform(0, 1, (4, 5))
    x = center + rng.standard_normal((4, 5))
    expected = [nearest(*pair, eps, kind, bounds) for pair in zip(x, center, strict=True)]
    np.testing.assert_allclose(project(x, center, eps, kind, bounds), expected, atol=1e-6)


@every_norm
@reals
def test_a_ball_of_radius_0_is_its_centre(kind, dtype):
    rng = np.random.default_rng(0)
    center = rng.uniform(0, 1, (3, 4)).astype(dtype)
    x = center + rng.standard_normal((3, 4)).astype(dtype)
    assert project(x, center, 0, kind).tolist() == center.tolist()
    assert project(x, center, 0.0, kind, (0.0, 1.0)).tolist() == center.tolist()


@every_norm
@pytest.mark.parametrize("eps", [float(np.float32(eps)) for eps in (1e-30, 1e-3, 2, 2e30)])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_projections_neither_under_nor_overflow(kind, scale, eps):
    step = np.array([[3, -4], [1, 1], [0, 0]], np.float32) * np.float32(scale)
    p = project(step, np.zeros_like(step), eps, kind)
    expected = project(step.astype(np.float64), np.zeros((3, 2)), eps, kind)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p, expected, rtol=2e-6)
    inside = norm(step.astype(np.float64), kind)[:2] <= eps
    np.testing.assert_allclose(norm(expected, kind)[:2][~inside], eps, rtol=1e-6)
    np.testing.assert_allclose(expected[:2][inside], step[:2][inside], rtol=1e-6)
    boxed = project(step, np.zeros_like(step), eps, kind, (0.0, 1.0))
    assert np.isfinite(boxed).all()
    assert (boxed >= 0).all()
    assert (boxed <= 1).all()


@every_norm
@pytest.mark.parametrize("eps", [np.inf, 1e300])
def test_a_radius_larger_than_anything_is_no_limit(kind, eps):
    x = np.array([[3e-300, -4e-300], [0.0, 0.0], [1.0, 2.0]])
    assert project(x, np.zeros((3, 2)), eps, kind).tolist() == x.tolist()


@every_norm
@reals
def test_rounding_takes_nothing_out_of_the_box_nor_far_out_of_the_ball(kind, dtype):
    rng = np.random.default_rng(0)
    low, high = dtype(-0.3), dtype(0.7)
    center = rng.uniform(low, high, (50, 784)).astype(dtype).clip(low, high)
    p = project(center + rng.standard_normal(center.shape).astype(dtype), center, 3, kind, (-0.3, 0.7))
    assert p.dtype == dtype
    assert low <= p.min()
    assert p.max() <= high
    digit = max(np.finfo(dtype).eps, 1e-14)
    assert (norm(p.astype(float) - center, kind) <= 3 + 784 * digit).all()
    radius = {"l1": 300, "l2": 10, "linf": 1}[kind]  # around 0 nothing is lost but the last digit of each step
    centered = project(rng.standard_normal(center.shape).astype(dtype), np.zeros_like(center), radius, kind)
    assert (norm(centered.astype(float), kind) <= radius * (1 + digit)).all()


def test_the_l1_projection_shares_among_equal_entries():
    x = np.array([[2.0, -2.0, 2.0, 2.0], [5.0, 5.0, 1.0, 0.0]])
    np.testing.assert_allclose(
        project(x, np.zeros((2, 4)), 2.0, "l1"), [[0.5, -0.5, 0.5, 0.5], [1, 1, 0, 0]], rtol=1e-14
    )


def test_each_example_may_have_its_own_radius():
    x = np.array([[3.0, 4.0], [3.0, 4.0]])
    p = project(x, np.zeros((2, 2)), np.array([1.0, 10.0]), "l2")
    np.testing.assert_allclose(p, [[0.6, 0.8], [3, 4]], rtol=1e-14)


@every_norm
def test_an_example_is_projected_alike_in_any_company(kind):
    rng = np.random.default_rng(0)
    center = rng.uniform(0, 1, (6, 5))
    x = center + rng.standard_normal((6, 5))
    together = project(x, center, 0.4, kind, (0.0, 1.0))
    assert together.tolist() == [
        project(x[n : n + 1], center[n : n + 1], 0.4, kind, (0.0, 1.0))[0].tolist() for n in range(6)
    ]


@every_norm
@pytest.mark.parametrize("shape", [(0, 3), (0,), (2, 0)])
def test_an_empty_batch_is_no_trouble(kind, shape):
    x = np.zeros(shape)
    assert norm(x, kind).tolist() == [0] * shape[0]
    assert steepest_ascent_direction(x, kind).shape == shape
    assert project(x, x, 1.0, kind, (0.0, 1.0)).shape == shape


@every_norm
def test_arguments_are_not_changed(kind):
    x, center = np.array([[3.0, -4.0]]), np.array([[0.5, 0.5]])
    steepest_ascent_direction(x, kind)
    project(x, center, 0.1, kind, (0.0, 1.0))
    project(x[:0], center[:0], 0.1, kind)
    assert (x.tolist(), center.tolist()) == ([[3, -4]], [[0.5, 0.5]])


# What they refuse -----------------------------------------------------------------------------------------------------

v = np.ones((2, 3))
REFUSED = {
    "an unknown norm": (lambda: norm(v, "l3"), "norm: expected one of l1, l2, linf, got 'l3'"),
    "a direction of an unknown norm": (lambda: steepest_ascent_direction(v, "L2"), "norm: expected one of .* got 'L2'"),
    "a projection of an unknown norm": (lambda: project(v, v, 1, 2), "norm: expected one of l1, l2, linf, got 2"),
    "a scalar": (lambda: norm(np.array(1.0), "l2"), r"expected a batch of vectors \(N, \.\.\.\), got a scalar"),
    "a centre that would broadcast": (
        lambda: project(v, v[:1], 1, "l2"),
        r"project\(center\): expected x's shape \(2, 3\), got \(1, 3\)",
    ),
    "a negative radius": (
        lambda: project(v, v, -0.5, "l2"),
        r"project\(eps\): expected a radius of at least 0, got -0.5",
    ),
    "a radius that is not a number": (lambda: project(v, v, np.nan, "l2"), r"project\(eps\): expected .* got nan"),
    "radii that do not fit": (
        lambda: project(v, v, np.ones(3), "l2"),
        r"project\(eps\): expected a number or shape \(2,\), got shape \(3,\)",
    ),
    "bounds upside down": (lambda: project(v, v, 1, "l2", (1.0, 0.0)), r"project\(bounds\): expected low <= high, got"),
    "a centre outside the box": (
        lambda: project(v, 2 * v, 1, "l2", (0.0, 1.0)),
        r"project\(center\): expected values in the box \[0.0, 1.0\], got from 2.0 to 2.0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_words(case):
    ask, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        ask()
