"""FGSM and L-BFGS where the optimum is known; for all attacks: labels, targets, flags, query counts and refused input."""

import itertools
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from attack_cases import CASES, linear, network
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from npadv import Tensor, nn, ops
from npadv.attacks import AttackResult, LBFGSResult, fgsm, lbfgs
from npadv.functional import cross_entropy, softmax

QUICK = {"searches": 2, "max_iterations": 6}
ATTACKS = {
    "fgsm": lambda model, x, y=None, **options: fgsm(model, x, y, **{"eps": 0.1, **options}),
    "lbfgs": lambda model, x, y=None, **options: lbfgs(model, x, y, **{**QUICK, **options}),
    "lbfgs batched": lambda model, x, y=None, **options: lbfgs(
        model, x, y, **{**QUICK, "solver": "batched", **options}
    ),
    **CASES,
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=ATTACKS)
def attack(request):
    return ATTACKS[request.param]


class Counted:
    """A model that counts how many examples it was shown, and in how many calls."""

    def __init__(self, model):
        self.model, self.calls, self.examples = model, 0, 0

    def __call__(self, x):
        self.calls += 1
        self.examples += len(x)
        return self.model(x)


def losses(model, x, y):
    return cross_entropy(model(x), y, reduction="none")


# The fast gradient sign method is optimal on linear models --------------------------------------------------------------


def gradient(w, b, x, y):
    """Return the gradient in x of the cross-entropy of x W + b: (p - one-hot) W^T."""
    return (softmax(x @ w + b) - np.eye(w.shape[1])[y]) @ w.T


@given(seed=seeds, classes=st.integers(2, 4), eps=st.floats(0.01, 3))
def test_fgsm_gains_eps_times_the_l1_norm_of_the_gradient(seed, classes, eps):
    w, b, model = linear(seed, 5, classes)
    rng = np.random.default_rng(seed)
    x, y = rng.random((3, 5)), rng.integers(classes, size=3)
    g = gradient(w, b, x, y)
    result = fgsm(model, x, y, eps=eps, bounds=(-9, 9))
    gain = (g * (result.x_adv - x)).sum(axis=1)
    np.testing.assert_allclose(gain, eps * np.abs(g).sum(axis=1), rtol=1e-12)
    against = (g * (fgsm(model, x, y, eps=eps, bounds=(-9, 9), targeted=True).x_adv - x)).sum(axis=1)
    np.testing.assert_allclose(against, -gain, rtol=1e-12)


@given(seed=seeds, eps=st.floats(0.01, 1.5), low=st.floats(-1, 0), high=st.floats(1, 2))
def test_fgsm_in_a_box_is_the_best_corner_of_ball_and_box(seed, eps, low, high):
    w, b, model = linear(seed, 4, 2)
    rng = np.random.default_rng(seed)
    x, y = rng.random((1, 4)), rng.integers(2, size=1)
    ends = zip(np.maximum(x[0] - eps, low), np.minimum(x[0] + eps, high), strict=True)
    corners = np.array(list(itertools.product(*ends)))  # a linear programme has its maximum at one of these
    result = fgsm(model, x, y, eps=eps, bounds=(low, high))
    g = gradient(w, b, x, y)
    np.testing.assert_allclose(((result.x_adv - x) * g).sum(), ((corners - x) * g).sum(axis=1).max(), rtol=1e-12)
    # With two classes the loss itself grows with the linear function: no allowed point has a larger one.
    worst = losses(model, corners, np.repeat(y, 16)).max()
    np.testing.assert_allclose(losses(model, result.x_adv, y)[0], worst, rtol=1e-12)


def test_fgsm_does_not_move_a_pixel_without_influence():
    w = np.array([[1.0, -1.0], [0.0, 0.0]])
    result = fgsm(lambda x: x @ w, np.array([[0.5, 0.5]]), np.array([0]), eps=0.1)
    np.testing.assert_array_equal(result.x_adv, [[0.4, 0.5]])
    assert not result.flags["zero_gradient"][0]


# L-BFGS finds the nearest point of another class ------------------------------------------------------------------------


@settings(max_examples=6)
@given(seed=seeds, features=st.integers(1, 4))
def test_lbfgs_distance_is_the_distance_to_the_boundary(seed, features):
    w, b, model = linear(seed, features, 2)
    x = np.random.default_rng(seed).random((1, features))
    normal, offset = w[:, 1] - w[:, 0], b[1] - b[0]
    exact = abs(x[0] @ normal + offset) / np.linalg.norm(normal)
    result = lbfgs(model, x, bounds=(-1e3, 1e3), searches=30)
    assert result.success.all()
    assert result.distance[0] >= exact * (1 - 1e-9)
    assert result.distance[0] <= exact * (1 + 1e-5) + 1e-9


def test_lbfgs_takes_the_nearest_of_the_other_classes():
    centres = np.array([[0.5, 0.5], [0.8, 0.5], [0.5, 0.9]])  # the nearest centre's class: boundaries at 0.15 and 0.2
    result = lbfgs(lambda x: 400 * (x @ centres.T - (centres**2).sum(axis=1) / 2), np.array([[0.5, 0.5]]), searches=20)
    assert result.prediction[0] == 1
    np.testing.assert_allclose(result.x_adv, [[0.65, 0.5]], atol=1e-5)
    assert {trial.target for trial in result.trials[0]} == {1, 2}


@pytest.mark.parametrize("seed", range(8))
def test_lbfgs_solutions_meet_the_conditions_of_optimality(seed):
    """At a minimum within a box, a step against the gradient, projected back, goes nowhere."""
    w, b, model = linear(seed, 4, 3)
    x = np.random.default_rng(seed).random((1, 4))
    result = lbfgs(model, x, searches=8)
    assert result.success.all()
    trial = min((t for t in result.trials[0] if t.success), key=lambda t: t.distance)
    point, target = result.x_adv, result.prediction
    assert trial.target == target[0]
    g = 2 * trial.weight * (point - x) + gradient(w, b, point, target)
    assert np.abs(np.clip(point - g, 0, 1) - point).max() <= 1e-5  # SciPy's pgtol
    assert trial.objective == pytest.approx(
        trial.weight * trial.distance**2 + losses(model, point, target)[0], rel=1e-12
    )


def test_lbfgs_keeps_each_trial_of_its_search():
    _, _, model = linear(3, 2, 2)
    x = np.random.default_rng(3).random((2, 2))
    result = lbfgs(model, x, searches=9, weight=0.5)
    for i, trials in enumerate(result.trials):
        assert len(trials) == 9
        assert trials[0].weight == 0.5
        assert result.distance[i] == pytest.approx(min(t.distance for t in trials if t.success), rel=1e-14)
        for k in range(
            1, 9
        ):  # by tens until success and failure bracket lambda, then by halves of the gap in log lambda
            most, least = (
                max((t.weight for t in trials[:k] if t.success), default=None),
                min((t.weight for t in trials[:k] if not t.success), default=None),
            )
            bracketed = most and least and np.sqrt(most * least)
            assert trials[k].weight == pytest.approx(bracketed or (most and 10 * most) or (least and least / 10))


def test_lbfgs_flags_examples_without_a_solution():
    model = lambda x: x @ np.zeros((2, 2)) + np.array([2.0, 0.0])  # noqa: E731
    x = np.array([[0.2, 0.7], [0.5, 0.5]])
    result = lbfgs(model, x, np.array([1, 0]), targeted=True, **QUICK)
    np.testing.assert_array_equal(result.flags["not_converged"], [True, False])
    np.testing.assert_array_equal(result.success, [False, True])
    np.testing.assert_array_equal(result.x_adv, x)
    np.testing.assert_array_equal(result.distance, [0, 0])


# Budget, box and other properties of every result ----------------------------------------------------------------------


@given(
    seed=seeds,
    eps=st.floats(0, 2),
    dtype=st.sampled_from([np.float32, np.float64]),
    bounds=st.sampled_from([(0.0, 1.0), (0, 1), (-1.0, 3.0), (0.1, 0.3), (-0.7, 0.7)]),
)
def test_fgsm_keeps_budget_and_box_and_x_adv_can_be_attacked_again(seed, eps, dtype, bounds):
    _, _, model = linear(seed, 5, 3)
    low, high = map(dtype, bounds)
    rng = np.random.default_rng(seed)
    x = np.clip(rng.uniform(*bounds, (3, 5)).astype(dtype) + rng.integers(-1, 2, (3, 5)).astype(dtype), low, high)
    result = fgsm(model, x, eps=eps, bounds=bounds)
    assert result.x_adv.dtype == dtype
    assert result.x_adv.min() >= low
    assert result.x_adv.max() <= high
    ulp = np.spacing(np.abs(result.x_adv).max())
    moved = np.abs(result.x_adv.astype(np.float64) - x.astype(np.float64)).max(axis=1)
    assert (moved <= float(dtype(eps)) + float(ulp)).all()
    np.testing.assert_allclose(result.distance, moved, rtol=np.finfo(dtype).eps)
    fgsm(model, result.x_adv, eps=eps, bounds=bounds)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.1, 0.7)])
def test_lbfgs_stays_within_the_box_and_keeps_the_dtype(rng, dtype, bounds):
    _, _, model = linear(0, 6, 3)
    x = np.clip(rng.random((2, 6)), *bounds).astype(dtype)
    result = lbfgs(model, x, bounds=bounds, **QUICK)
    assert result.x_adv.dtype == dtype
    assert result.x_adv.min() >= dtype(bounds[0])
    assert result.x_adv.max() <= dtype(bounds[1])
    assert result.success.all()
    np.testing.assert_allclose(result.distance, np.sqrt(((result.x_adv - x) ** 2).sum(axis=1)), rtol=1e-6)
    lbfgs(model, result.x_adv, bounds=bounds, **QUICK)


def test_eps_0_is_the_identity(rng):
    x = rng.random((4, 1, 2, 2), np.float32)
    result = fgsm(network(rng), x, eps=0)
    np.testing.assert_array_equal(result.x_adv, x)
    np.testing.assert_array_equal(result.distance, 0)
    assert not result.success.any()


def test_the_input_and_the_model_stay_unchanged(rng, attack):
    model, x = network(rng), rng.random((3, 1, 2, 2), np.float32)
    y = np.array([0, 1, 2])
    kept_x, kept_y, state = x.copy(), y.copy(), model.state()
    result = attack(model, x, y)
    assert not np.shares_memory(result.x_adv, x)
    np.testing.assert_array_equal(x, kept_x)
    np.testing.assert_array_equal(y, kept_y)
    np.testing.assert_equal(model.state(), state)  # running averages included
    assert all(p.grad is None for p in model.parameters())


def test_a_model_is_attacked_as_it_is_deployed(rng, attack):
    """Dropout and batch normalisation are in inference: the same attack twice, and each example for itself."""
    model, x = network(rng), rng.random((3, 1, 2, 2), np.float32)
    together = attack(model, x)
    np.testing.assert_array_equal(attack(model, x).x_adv, together.x_adv)
    for i in range(3):
        alone = attack(model, x[i : i + 1])
        for field in ("success", "queries", "prediction"):
            np.testing.assert_array_equal(getattr(alone, field)[0], getattr(together, field)[i], err_msg=field)
        for field in ("x_adv", "distance"):  # a product of matrices rounds by the size of the batch
            np.testing.assert_allclose(getattr(alone, field)[0], getattr(together, field)[i], 1e-5, 1e-6, err_msg=field)
        assert all(alone.flags[name][0] == together.flags[name][i] for name in together.flags)


def test_results_have_one_entry_for_each_example_and_cannot_be_changed(rng, attack):
    x = rng.random((3, 1, 2, 2), np.float32)
    result = attack(network(rng), x)
    assert isinstance(result, AttackResult)
    assert result.x_adv.shape == x.shape
    per_example = (result.success, result.distance, result.queries, result.prediction, *result.flags.values())
    assert {array.shape for array in per_example} == {(3,)}
    assert result.success.dtype == bool
    assert all(flag.dtype == bool for flag in result.flags.values())
    with pytest.raises(FrozenInstanceError):
        result.success = None


def test_success_is_the_prediction_for_x_adv(rng, attack):
    model, x = network(rng), rng.random((6, 1, 2, 2), np.float32)
    y = np.arange(6) % 3
    for targeted in (False, True):
        result = attack(model, x, y, targeted=targeted)
        prediction = model(result.x_adv).data.argmax(axis=1)
        np.testing.assert_array_equal(result.prediction, prediction)
        np.testing.assert_array_equal(result.success, (prediction == y) if targeted else (prediction != y))
        assert result.success.sum() > 0


def test_without_labels_the_predictions_are_attacked(rng, attack):
    model, x = network(rng), rng.random((5, 1, 2, 2), np.float32)
    own = model(x).data.argmax(axis=1)
    without, given_labels = attack(model, x), attack(model, x, own)
    np.testing.assert_array_equal(without.x_adv, given_labels.x_adv)
    assert not without.flags["already_wrong"].any()


def test_examples_that_were_wrong_before_the_attack_are_flagged(rng, attack):
    model, x = network(rng), rng.random((6, 1, 2, 2), np.float32)
    own = model(x).data.argmax(axis=1)
    y = np.where(np.arange(6) < 3, own, (own + 1) % 3)
    np.testing.assert_array_equal(attack(model, x, y).flags["already_wrong"], [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(attack(model, x, y, targeted=True).flags["already_wrong"], [1, 1, 1, 0, 0, 0])


def test_lbfgs_returns_an_example_unchanged_that_needs_no_perturbation(rng):
    model, x = network(rng), rng.random((3, 1, 2, 2), np.float32)
    own = model(x).data.argmax(axis=1)
    result = lbfgs(model, x, own, targeted=True, **QUICK)
    np.testing.assert_array_equal(result.x_adv, x)
    assert result.success.all()
    assert (result.distance == 0).all()
    assert result.trials == ((), (), ())


def test_queries_are_counted_as_they_are_made(rng):
    x = rng.random((4, 1, 2, 2), np.float32)
    model = Counted(network(rng))
    result = fgsm(model, x, eps=0.1)
    np.testing.assert_array_equal(result.queries, model.calls)
    for targeted in (False, True):
        for i in range(4):
            model = Counted(model.model)
            alone = lbfgs(model, x[i : i + 1], np.array([0]), targeted=targeted, **QUICK)
            assert alone.queries[0] == model.examples
        model = Counted(model.model)
        assert lbfgs(model, x, np.zeros(4, int), targeted=targeted, **QUICK).queries.sum() == model.examples


def test_a_zero_gradient_is_flagged_and_moves_nothing():
    saturated = lambda x: x @ np.array([[1e4, -1e4]])  # noqa: E731  the loss of class 0 underflows, but for x near 0
    x = np.array([[0.9], [1e-5]])
    result = fgsm(saturated, x, eps=0.5)
    np.testing.assert_array_equal(result.flags["zero_gradient"], [True, False])
    assert result.x_adv[0, 0] == 0.9
    constant = fgsm(lambda x: 0 * x @ np.ones((1, 2)) + np.array([2.0, 0.0]), x, eps=0.5)
    assert constant.flags["zero_gradient"].all()
    np.testing.assert_array_equal(constant.x_adv, x)


def test_a_tiny_gradient_does_not_vanish_in_a_large_batch():
    """The loss is summed: a mean over 64 would divide a gradient near 1e-44, in float32, down to 0."""
    model, x = lambda x: x @ np.array([[51.5, -51.5]], np.float32), np.ones((64, 1), np.float32)
    for n in (1, 64):
        result = fgsm(model, x[:n], np.zeros(n, int), eps=0.25)
        assert not result.flags["zero_gradient"].any()
        np.testing.assert_array_equal(result.x_adv, 0.75)


def test_a_partly_non_finite_gradient_is_flagged_and_its_finite_part_used():
    x = np.array([[0.0, 0.5], [0.5, 0.5]])
    with np.errstate(divide="ignore", invalid="ignore"):  # the root's slope at 0
        result = fgsm(lambda x: ops.sqrt(x) @ np.array([[1.0, -1.0], [1.0, -1.0]]), x, np.array([0, 0]), eps=0.1)
    np.testing.assert_array_equal(result.flags["non_finite_gradient"], [True, False])
    np.testing.assert_allclose(result.x_adv, [[0.0, 0.4], [0.4, 0.4]], rtol=1e-15)
    assert np.isfinite(result.x_adv).all()


def test_any_callable_on_tensors_is_a_model(attack):
    x = np.array([[0.6, 0.3]])
    recorded = []

    def model(x):
        recorded.append(isinstance(x, Tensor))
        return ops.concatenate([8 * x, 4 * ops.sum(x, axis=1, keepdims=True)], axis=1)

    assert attack(model, x).x_adv.shape == (1, 2)
    assert any(recorded)


def test_lbfgs_returns_its_own_kind_of_result(rng):
    assert isinstance(lbfgs(network(rng), rng.random((1, 1, 2, 2), np.float32), **QUICK), LBFGSResult)


# Bad input ------------------------------------------------------------------------------------------------------------

X, Y = np.full((3, 2), 0.5), np.array([0, 1, 2])
MODEL = linear(0, 2, 3)[2]

BAD = {
    "labels too large": ({"y": np.array([0, 1, 3])}, r"y: expected classes 0\.\.2, got values from 0 to 3"),
    "labels negative": ({"y": np.array([0, -1, 2])}, r"y: expected classes 0\.\.2, got values from -1 to 2"),
    "labels float": ({"y": Y.astype(float)}, r"y: expected integer classes 0\.\.2, got dtype float64"),
    "labels one-hot": ({"y": np.eye(3, dtype=int)}, r"y: expected shape \(3,\), one class per example, got \(3, 3\)"),
    "labels too few": ({"y": Y[:2]}, r"y: expected shape \(3,\), one class per example, got \(2,\)"),
    "no targets": ({"y": None, "targeted": True}, "y: a targeted attack needs the target classes, got None"),
    "x outside the box": ({"x": X * [1, 2.2]}, r"x: expected values in the box \[0\.0, 1\.0\], got 0\.5 to 1\.1"),
    "x below the box": ({"bounds": (0.6, 1)}, r"x: expected values in the box \[0\.6, 1\], got 0\.5 to 0\.5"),
    "x nan": ({"x": X * np.nan}, "x: expected finite values, got NaN or infinity"),
    "x infinite": ({"x": X * np.inf}, "x: expected finite values, got NaN or infinity"),
    "x integers": ({"x": np.ones((3, 2), int)}, r"x: expected floating-point values in \(0\.0, 1\.0\), got dtype int64"),
    "x a Tensor": ({"x": Tensor(X)}, "x: expected a NumPy or CuPy array, got Tensor"),
    "x a list": ({"x": X.tolist()}, "x: expected a NumPy or CuPy array, got list"),
    "x one example": ({"x": X[0]}, r"x: expected a batch \(N, \.\.\.\) of examples, got shape \(2,\)"),
    "x empty": ({"x": X[:0]}, r"x: expected at least one example, got an empty batch of shape \(0, 2\)"),
    "bounds reversed": ({"bounds": (1, 0)}, r"bounds: expected \(low, high\) with low < high, got \(1, 0\)"),
    "bounds nan": ({"bounds": (0, np.nan)}, r"bounds: expected \(low, high\) with low < high, got \(0, nan\)"),
    "probabilities": ({"model": lambda x: softmax(MODEL(x))}, "model: expected logits, got probabilities"),
    "probabilities, float32": (
        {"model": lambda x: softmax(ops.astype(MODEL(x), dtype=np.float32) if isinstance(x, Tensor) else MODEL(x))},
        "model: expected logits, got probabilities",
    ),
    "a number an example": ({"model": lambda x: x.sum(axis=1)}, r"model: expected logits .*, got shape \(3,\)"),
    "one class": ({"model": lambda x: x[:, :1]}, r"model: expected logits \(N, K\) = \(3, 2 or more\), got shape \(3, 1\)"),
    "a batch of one": ({"model": lambda x: MODEL(x)[:1]}, r"model: expected logits .*, got shape \(1, 3\)"),
    "a loss": ({"model": lambda x: 0.5}, r"model: expected logits .*, got shape None"),
    "logits nan": ({"model": lambda x: MODEL(x) * np.nan}, "model: expected finite logits, got NaN or infinity"),
    "off the tape": (
        {"model": lambda x: MODEL(x.data if isinstance(x, Tensor) else x)},
        r"model: expected logits computed from the Tensor x by npadv's operations, not from its data",
    ),
    "off the tape and on again": (
        {"model": lambda x: (x.data if isinstance(x, Tensor) else x) @ nn.Parameter(np.ones((2, 3)) * Y)},
        r"model: expected logits computed from the Tensor x by npadv's operations, not from its data",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_the_error_names_argument_value_and_expectation(attack, name):
    options, message = BAD[name]
    arguments = {"model": MODEL, "x": X, "y": Y, **options}
    with pytest.raises(ValueError, match=f"^{message}"):
        attack(arguments.pop("model"), arguments.pop("x"), arguments.pop("y"), **arguments)


@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf")])
def test_fgsm_refuses_a_bad_eps(eps):
    with pytest.raises(ValueError, match=f"^eps: expected a finite number of at least 0, got {eps}"):
        fgsm(MODEL, X, Y, eps=eps)


def test_logits_of_later_points_may_sum_to_1():
    """Only the outputs for x are tested for probabilities. This attack ends at the boundary, where the logits are (.5, .5)."""
    result = lbfgs(lambda x: x @ np.array([[-20.0, 20.0]]) + np.array([10.5, -9.5]), np.array([[0.3]]), searches=12)
    np.testing.assert_allclose(result.x_adv, [[0.5]], atol=1e-3)
