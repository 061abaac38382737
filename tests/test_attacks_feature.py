"""Feature adversaries: optimal where the layer is linear, within ball and box, with flags for the examples that fail."""

import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, lsq_linear, minimize
from strategies import seeds

from npadv import Tensor, ops
from npadv.attacks import FeatureResult, feature
from npadv.attacks.lbfgs import SOLVERS
from npadv.autodiff import value_of
from npadv.functional import softmax
from npadv.nn import Conv2D, Dense, Flatten, ReLU, Sequential, Tanh


@pytest.fixture(params=SOLVERS)
def solver(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "npadv-lbfgs"]


def linear_problem(seed, features, width):
    """Return a linear layer's weights, a classifier on it, examples with many pixels at the box's ends, and guides."""
    rng = np.random.default_rng(seed)
    a, top = rng.normal(size=(features, width)), rng.normal(size=(width, 3))
    x, guide = (np.clip(rng.uniform(-0.3, 1.3, (3, features)), 0, 1) for _ in range(2))
    return a, lambda x: x @ a @ top, x, guide


def images_network(rng, dtype=np.float32):
    """Return a convnet for images (N, 2, 4, 4)."""
    return Sequential(
        Conv2D(2, 5, 3, rng=rng), Tanh(), Flatten(), Dense(20, 8, rng=rng), ReLU(), Dense(8, 3, rng=rng)
    ).astype(dtype)


def row_by_row(seed):
    """Return a layer and a model on it that compute each row alone, to the bit."""
    w = np.random.default_rng(seed).normal(0, 2, (5, 6))

    def layer(x):
        return ops.concatenate([ops.tanh(ops.sum(x * row, axis=1, keepdims=True)) for row in w], axis=1)

    return layer, lambda x: layer(x)[:, :3]


# The minimum ----------------------------------------------------------------------------------------------------------


STUCK = 1e-4
"""The residual of a solution that is none: either solver now and then stops short on a flat valley's edge, and says so."""


@settings(max_examples=40)
@example(seed=1664, features=5, width=4, eps=1.0, solver="batched")  # slow, not stuck
@example(seed=24, features=3, width=2, eps=0.8663593507975161, solver="scipy")  # SciPy's own end, residual 0.3
@given(
    seed=seeds,
    features=st.integers(1, 6),
    width=st.integers(1, 6),
    eps=st.floats(0.01, 1.5),
    solver=st.sampled_from([*SOLVERS]),
)
def test_with_a_linear_layer_it_is_a_least_squares_problem_in_a_box(seed, features, width, eps, solver):
    a, model, x, guide = linear_problem(seed, features, width)
    options = {"solver": solver, "tolerance": 1e-9, "max_iterations": 1000}
    result = feature(model, x, guide, layer=lambda x: x @ a, eps=eps, **options)
    for i in range(3):
        near, far = np.maximum(x[i] - eps, 0), np.minimum(x[i] + eps, 1)
        assert (result.x_adv[i] >= near).all()
        assert (result.x_adv[i] <= far).all()
        if (x[i] == guide[i]).all():
            assert result.ratio[i] == 0
            continue
        exact = lsq_linear(a.T, guide[i] @ a, bounds=(near, far), method="bvls", tol=1e-12)
        before, after = np.linalg.norm((x - guide)[i] @ a), np.linalg.norm((result.x_adv - guide)[i] @ a)
        assert result.feature_distance_before[i] == pytest.approx(before, rel=1e-9)
        assert result.feature_distance[i] == pytest.approx(after, rel=1e-7, abs=1e-9 * before)
        assert result.ratio[i] == pytest.approx(after / before, rel=1e-7, abs=1e-9)
        if result.residual[i] < STUCK:
            assert (after / before) ** 2 == pytest.approx(2 * exact.cost / before**2, rel=1e-7, abs=1e-9)
        # The residual, of the objective divided by its value at x, computed here.
        g = 2 * a @ ((result.x_adv - guide)[i] @ a) / before**2
        residual = np.abs(np.clip(result.x_adv[i] - g, near, far) - result.x_adv[i]).max()
        assert result.residual[i] == pytest.approx(residual, abs=1e-10)


def test_a_solver_that_stops_short_is_rare(solver):
    """And SciPy's does where it would on its own."""
    short = 0
    for seed in range(40):
        a, model, x, guide = linear_problem(seed, 4, 3)
        result = feature(model, x, guide, layer=lambda x, a=a: x @ a, eps=0.8, solver=solver, tolerance=1e-9)
        short += int((result.residual > STUCK).sum())
    assert short <= 1  # of 120

    a, model, x, guide = linear_problem(24, 3, 2)
    result = feature(model, x, guide, layer=lambda x: x @ a, eps=0.8663593507975161, tolerance=1e-9)
    unit = ((x - guide)[1] @ a) @ ((x - guide)[1] @ a)

    def objective(z):
        difference = (z - guide[1]) @ a
        return difference @ difference / unit, 2 * a @ difference / unit

    box = Bounds(np.maximum(x[1] - 0.8663593507975161, 0), np.minimum(x[1] + 0.8663593507975161, 1))
    alone = minimize(objective, x[1], jac=True, method="L-BFGS-B", bounds=box, options={"gtol": 1e-9, "ftol": 2e-16})
    np.testing.assert_allclose(result.x_adv[1], alone.x, atol=1e-6)


def test_a_guide_within_reach_is_reached(solver, rng):
    a = rng.normal(size=(4, 4)) + 3 * np.eye(4)
    x = rng.uniform(0.3, 0.7, (5, 4))
    guide = x + rng.uniform(-0.2, 0.2, (5, 4))
    result = feature(lambda x: x @ a, x, guide, layer=lambda x: x @ a, eps=0.2, solver=solver, tolerance=1e-10)
    np.testing.assert_allclose(result.x_adv, guide, atol=1e-6)
    assert result.ratio.max() < 1e-6
    assert result.success.all()
    assert not result.flags["not_converged"].any()


def test_the_solvers_agree_on_a_smooth_network(rng):
    model = images_network(rng, np.float64)
    x, guide = rng.random((2, 12, 2, 4, 4))
    ours, scipys = (
        feature(model, x, guide, layer=model[:2], eps=0.3, solver=s, tolerance=1e-7, max_iterations=2000)
        for s in ("batched", "scipy")
    )
    np.testing.assert_allclose(ours.ratio, scipys.ratio, rtol=2e-3)
    assert scipys.residual.max() <= 1e-7
    assert ours.ratio.max() < 0.9


def test_a_larger_ball_never_does_worse(solver):
    a, model, x, guide = linear_problem(3, 5, 4)
    ratios = [
        feature(model, x, guide, layer=lambda x: x @ a, eps=eps, solver=solver).ratio for eps in (0, 0.05, 0.2, 0.6, 1)
    ]
    assert (np.diff(ratios, axis=0) <= 1e-5).all()
    np.testing.assert_allclose(ratios[0], 1, rtol=1e-15)
    assert ratios[-1].max() < 1e-3  # of the whole box, the guide


@settings(max_examples=30)
@given(
    seed=seeds, eps=st.floats(0, 1), dtype=st.sampled_from([np.float32, np.float64]), solver=st.sampled_from([*SOLVERS])
)
def test_no_result_is_farther_from_its_guide_than_the_example(seed, eps, dtype, solver):
    rng = np.random.default_rng(seed)
    model = images_network(rng, dtype)
    x, guide = rng.random((2, 3, 2, 4, 4)).astype(dtype)
    result = feature(model, x, guide, layer=model[:5], eps=eps, solver=solver, max_iterations=10)
    after, before = (np.linalg.norm(model[:5](i).data - model[:5](guide).data, axis=1) for i in (result.x_adv, x))
    assert (result.ratio <= 1).all()
    assert (after <= before * (1 + 1e-5)).all()
    np.testing.assert_allclose(result.feature_distance, after, rtol=1e-4, atol=1e-6)


def test_what_is_measured_at_a_layer_does_not_depend_on_its_units(solver, rng):
    """Of the scaled objective, not one bit changes if all representations are multiplied by a power of two."""
    model = images_network(rng)
    x, guide = rng.random((2, 4, 2, 4, 4)).astype(np.float32)
    plain, large = (
        feature(model, x, guide, layer=lambda x, k=k: k * model[:2](x), eps=0.2, solver=solver) for k in (1.0, 2.0**20)
    )
    np.testing.assert_array_equal(plain.x_adv, large.x_adv)
    np.testing.assert_array_equal(plain.residual, large.residual)
    np.testing.assert_array_equal(2.0**20 * plain.feature_distance, large.feature_distance)


# Results --------------------------------------------------------------------------------------------------------------


def test_success_is_the_guides_class(solver, rng):
    model = images_network(rng)
    x, guide = rng.random((2, 10, 2, 4, 4)).astype(np.float32)
    result = feature(model, x, guide, layer=model[:4], eps=0.5, solver=solver)
    assert isinstance(result, FeatureResult)
    of_guide, of_x, of_result = (model(images).data.argmax(axis=1) for images in (guide, x, result.x_adv))
    np.testing.assert_array_equal(result.success, of_result == of_guide)
    np.testing.assert_array_equal(result.prediction, of_result)
    np.testing.assert_array_equal(result.flags["already_wrong"], of_x == of_guide)
    assert (result.success & ~result.flags["already_wrong"]).any()
    assert result.messages[0]
    assert (result.iterations >= 1).all()


def test_one_guide_for_all_is_that_guide_for_each(solver, rng):
    model = images_network(rng, np.float64)
    x, guide = rng.random((3, 2, 4, 4)), rng.random((2, 4, 4))
    forms = (guide, guide[None], np.repeat(guide[None], 3, axis=0))
    results = [feature(model, x, form, layer=model[:2], eps=0.1, solver=solver) for form in forms]
    np.testing.assert_array_equal(results[0].x_adv, results[1].x_adv)
    np.testing.assert_allclose(results[0].x_adv, results[2].x_adv, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 6])
def test_a_representation_may_have_any_shape(solver, rng, depth):
    model = images_network(rng)
    x, guide = rng.random((2, 2, 2, 4, 4)).astype(np.float32)
    result = feature(model, x, guide, layer=model[:depth], eps=0.2, solver=solver)
    assert (result.ratio < 1).all()
    assert result.x_adv.shape == x.shape
    number = feature(model, x, guide, layer=lambda x: ops.sum(x, axis=(1, 2, 3)), eps=0.2, solver=solver)
    assert number.ratio.max() < 1e-4


def test_an_examples_result_does_not_depend_on_its_batch(solver):
    layer, model = row_by_row(1)
    x, guide = np.random.default_rng(1).random((2, 5, 6))
    for at_once in (1, 2, 256):
        together = feature(model, x, guide, layer=layer, eps=0.2, solver=solver, at_once=at_once)
        for i in range(5):
            alone = feature(model, x[i : i + 1], guide[i : i + 1], layer=layer, eps=0.2, solver=solver)
            np.testing.assert_array_equal(alone.x_adv[0], together.x_adv[i])
            for name in ("queries", "iterations", "ratio", "residual", "messages"):
                assert getattr(alone, name)[0] == getattr(together, name)[i], name


def test_queries_are_counted_as_they_are_made(solver, rng):
    layer, model = row_by_row(2)
    x, guide, shown = rng.random((4, 6)), rng.random((1, 6)), []

    def counted(function):
        return lambda x: (shown.append(len(x)), function(x))[1]

    result = feature(counted(model), x, guide, layer=counted(layer), eps=0.2, solver=solver, at_once=3)
    assert result.queries.sum() == sum(shown) - 2  # the guide's class and its representation
    assert max(shown) == 4
    assert sorted(set(shown[4:-1]))[-1] == 3  # the solver's own, at most so many at once


def test_the_model_sees_the_examples_own_dtype_and_nothing_is_changed(solver, rng):
    model = images_network(rng)
    x, guide = rng.random((2, 3, 2, 4, 4)).astype(np.float32)
    kept, dtypes = (x.copy(), guide.copy(), model.state()), set()

    def layer(x):
        dtypes.add(value_of(x).dtype)
        return model[:2](x)

    result = feature(model, x, guide.astype(np.float64), layer=layer, eps=0.2, solver=solver)
    assert dtypes == {np.dtype(np.float32)}
    assert result.x_adv.dtype == np.float32
    assert not np.shares_memory(result.x_adv, x)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(guide, kept[1])
    np.testing.assert_equal(model.state(), kept[2])
    assert all(p.grad is None for p in model.parameters())


# Errors ---------------------------------------------------------------------------------------------------------------


def test_an_example_that_represents_its_guide_is_left_alone(solver, rng):
    a = np.array([[1.0, 2.0], [0.0, 1.0], [0.0, 0.0]])  # blind to the third pixel
    x = np.array([[0.2, 0.4, 0.1], [0.5, 0.5, 0.5]])
    result = feature(lambda x: x @ a, x, np.array([0.2, 0.4, 0.9]), layer=lambda x: x @ a, eps=0.3, solver=solver)
    np.testing.assert_array_equal(result.x_adv[0], x[0])
    assert result.ratio[0] == result.feature_distance[0] == result.iterations[0] == 0
    assert result.messages[0] == "nothing to do: x represents the guide"
    np.testing.assert_allclose(result.x_adv[1], [0.2, 0.4, 0.5], atol=1e-4)
    assert not any(flag[0] for name, flag in result.flags.items() if name != "already_wrong")


def test_dead_units_are_flagged_and_nothing_is_moved(solver):
    layer = lambda x: ops.relu(x @ np.array([[1.0], [1.0]]) - 1.0)  # noqa: E731
    x = np.array([[0.1, 0.2], [0.9, 0.6]])
    result = feature(
        lambda x: ops.concatenate([layer(x), 0.3 - layer(x)], axis=1),
        x,
        np.ones(2),
        layer=layer,
        eps=0.5,
        solver=solver,
    )
    np.testing.assert_array_equal(result.flags["zero_gradient"], [True, False])
    np.testing.assert_array_equal(result.x_adv[0], x[0])
    assert result.ratio[0] == 1
    assert result.messages[0] == "stopped: zero gradient"
    assert result.ratio[1] < 1e-3


def test_a_gradient_that_is_not_finite_is_flagged(solver):
    x, guide = np.array([[0.0, 0.5], [0.5, 0.5]]), np.array([0.3, 0.2])
    with np.errstate(divide="ignore", invalid="ignore"):  # the root's slope at 0
        result = feature(lambda x: ops.sqrt(x), x, guide, layer=lambda x: ops.sqrt(x), eps=0.4, solver=solver)
    np.testing.assert_array_equal(result.flags["non_finite_gradient"], [True, False])
    np.testing.assert_allclose(result.x_adv, [[0.0, 0.2], [0.3, 0.2]], atol=1e-3)


@pytest.mark.parametrize("at_once", [1, 256])
def test_a_gradient_that_is_not_finite_on_the_way_is_flagged_where_it_was(solver, at_once):
    x, guide = (
        np.array([[0.6, 0.5], [0.3, 0.5], [0.7, 0.5]]),
        np.array([0.0, 0.5]),
    )  # only the second comes to the root of 0
    with np.errstate(divide="ignore", invalid="ignore"):
        result = feature(
            lambda x: ops.sqrt(x), x, guide, layer=lambda x: ops.sqrt(x), eps=0.4, solver=solver, at_once=at_once
        )
    np.testing.assert_array_equal(result.flags["non_finite_gradient"], [False, True, False])


def test_too_few_iterations_are_flagged(solver):
    a, model, x, guide = linear_problem(0, 6, 6)
    result = feature(model, x, guide, layer=lambda x: x @ a, eps=0.5, solver=solver, max_iterations=1)
    assert result.flags["not_converged"].all()
    assert (result.iterations == 1).all()
    enough = feature(model, x, guide, layer=lambda x: x @ a, eps=0.5, solver=solver, max_iterations=500)
    assert not enough.flags["not_converged"].any()
    assert (enough.ratio <= result.ratio).all()


def test_a_ball_too_small_for_the_dtype_is_a_point(solver, rng):
    model = images_network(rng)
    x, guide = np.full((1, 2, 4, 4), 0.5, np.float32), rng.random((2, 4, 4)).astype(np.float32)
    result = feature(model, x, guide, layer=model[:2], eps=1e-12, solver=solver)
    np.testing.assert_array_equal(result.x_adv, x)
    assert result.ratio[0] == 1
    assert result.residual[0] == 0
    assert not result.flags["not_converged"].any()


def test_an_exception_of_the_layer_comes_out(solver):
    layer, model = row_by_row(3)
    x, guide = np.random.default_rng(3).random((2, 3, 6))
    calls = iter(range(100))

    def broken(x):
        if next(calls) == 4:
            raise KeyError("as planned")
        return layer(x)

    with pytest.raises(KeyError, match="as planned"):
        feature(model, x, guide, layer=broken, eps=0.3, solver=solver)


X, A = np.full((3, 2), 0.5), np.array([[2.0, 1.0, -1.0], [0.5, 3.0, 1.0]])

NO_ROWS = r"layer: expected floating-point representations \(N, \.\.\.\) = \(3, \.\.\.\), got "
BAD = {
    "x outside": ({"x": X + 0.6}, r"x: expected values in the box \[0\.0, 1\.0\], got 1\.1 to 1\.1"),
    "guide outside": ({"guide": X - 0.6}, r"guide: expected values in the box \[0\.0, 1\.0\], got -0\.1 to -0\.1"),
    "guide nan": ({"guide": X * np.nan}, "guide: expected finite values, got NaN or infinity"),
    "guide a list": ({"guide": [[0.5, 0.5]]}, "guide: expected a NumPy or CuPy array, got list"),
    "guide a Tensor": ({"guide": Tensor(X)}, "guide: expected a NumPy or CuPy array, got Tensor"),
    "guides too few": ({"guide": X[:2]}, r"guide: expected shape \(2,\), \(1, 2\) or \(3, 2\): .*, got \(2, 2\)"),
    "guide too wide": ({"guide": np.ones((3, 4))}, r"guide: expected shape \(2,\), .*, got \(3, 4\)"),
    "eps": ({"eps": -1}, "eps: expected a finite number of at least 0, got -1"),
    "eps nan": ({"eps": np.nan}, "eps: expected a finite number of at least 0, got nan"),
    "bounds": ({"bounds": (1, 0)}, r"bounds: expected \(low, high\) with low < high, got \(1, 0\)"),
    "solver": ({"solver": "adam"}, "solver: expected one of scipy, batched, got 'adam'"),
    "iterations": ({"max_iterations": 0}, "max_iterations: expected an integer of at least 1, got 0"),
    "at once": ({"at_once": 1.5}, "at_once: expected an integer of at least 1, got 1.5"),
    "tolerance": ({"tolerance": -1}, "tolerance: expected a finite number of at least 0, got -1"),
    "probabilities": ({"model": lambda x: softmax(x @ A)}, "model: expected logits, got probabilities"),
    "layer off the tape": ({"layer": lambda x: value_of(x) @ A}, "layer: expected a representation computed from the Tensor"),
    "layer a number": ({"layer": lambda x: 1.0}, NO_ROWS + "float"),
    "layer of the batch": ({"layer": lambda x: ops.sum(x, axis=0)}, NO_ROWS + r"shape \(2,\), float64"),
    "layer of integers": ({"layer": lambda x: value_of(x).argmax(axis=1)}, NO_ROWS + r"shape \(3,\), int64"),
    "layer nan": ({"layer": lambda x: x * np.nan}, "layer: expected finite representations, got NaN or infinity"),
    "layer's shape": (
        {"guide": X[0], "layer": lambda x: x @ A if len(x) > 1 else x},
        r"layer: expected the same shape for all, got \(3,\) for x and \(2,\) for guide",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_with_what_came_and_what_was_expected(name):
    options, message = BAD[name]
    arguments = {"model": lambda x: x @ A, "x": X, "guide": X + 0.1, "layer": lambda x: x @ A, "eps": 0.1, **options}
    with pytest.raises(ValueError, match=f"^{message}"):
        feature(arguments.pop("model"), arguments.pop("x"), arguments.pop("guide"), **arguments)
