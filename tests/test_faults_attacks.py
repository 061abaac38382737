"""Faults of attacks that were found from outside, each with the right value: ties, options, labels, flags and defaults."""

import inspect

import numpy as np
import pytest
from attack_cases import network
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from npadv import attacks, ops
from npadv.attacks import (
    carlini_wagner,
    fgsm,
    jsma,
    linearized,
    pgd,
    steepest_ascent,
    tangent,
    virtual_adversarial,
)
from npadv.norms import NORMS
from npadv.train import classification_loss


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Ties: DeepFool starts on a boundary ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_an_example_on_the_boundary_crosses_it_by_a_few_roundings(dtype, norm, steps):
    w = np.array([[1.0, -1.0], [0.5, -0.5]], dtype)
    x = np.array([[0.25, 0.5], [0.5, 0.0], [0.25, 0.25]], dtype)  # two ties, and an example with a margin
    offset = np.array([0.5, -0.5], dtype)
    result = linearized(lambda v: v @ w - offset, x, norm=norm, steps=steps, bounds=(-1, 1))
    assert result.success.all()
    assert not result.flags["not_converged"].any()
    np.testing.assert_array_equal(result.radius[:2], 0)
    assert (result.distance[:2] > 0).all()
    assert (result.distance[:2] < 200 * np.finfo(dtype).eps).all()


def test_of_two_ties_the_one_within_the_box_is_crossed():
    w = np.array([[0.0, -0.6, 0.8], [0.0, -1.0, -1.0]])  # from black, only the first pixel leads anywhere: to class 2
    for norm in NORMS:
        result = linearized(lambda v: v @ w, np.zeros((1, 2)), norm=norm)
        assert result.prediction[0] == 2
        assert result.radius[0] == 0
    darker = linearized(lambda v: v @ -np.abs(w), np.zeros((1, 2)))
    assert darker.radius[0] == np.inf
    assert darker.flags["not_converged"][0]


@given(
    seed=seeds,
    kind=st.sampled_from(NORMS),
    dtype=st.sampled_from([np.float32, np.float64]),
    bounds=st.sampled_from([(0.0, 1.0), (0.0, 255.0), (-np.inf, np.inf)]),
    zero=st.booleans(),
)
def test_ties_of_any_linear_model_are_left_in_one_step(seed, kind, dtype, bounds, zero):
    rng = np.random.default_rng(seed)
    features, classes = int(rng.integers(1, 200)), int(rng.integers(2, 6))
    w = rng.normal(size=(features, classes)).astype(dtype)
    x = np.zeros((1, features), dtype) if zero else rng.random((1, features)).astype(dtype)
    if zero and bounds[0] == 0 and ((w - w[:, :1])[:, 1:] <= 0).all():
        return  # no other class gains from brighter pixels: the boundary is out of reach
    tied = x @ w
    result = linearized(lambda v: v @ w - tied, x, norm=kind, bounds=bounds)
    assert result.success[0]
    assert result.radius[0] == 0


def test_far_from_a_tie_a_linear_model_is_left_at_exactly_the_overshoot():
    for gap in (1e-3, 1e-9):
        result = linearized(
            lambda v, gap=gap: v @ np.array([[1.0, -1.0]]) + [2 * gap, 0], np.zeros((1, 1)), bounds=(-1, 1)
        )
        np.testing.assert_allclose(result.radius, gap, rtol=1e-6)
        np.testing.assert_allclose(result.distance, 1.02 * gap, rtol=1e-6)


def test_a_flat_model_stays_a_tie_and_is_flagged():
    result = linearized(lambda v: 0 * v @ np.ones((2, 2)), np.zeros((1, 2)), steps=5)
    assert result.flags["zero_gradient"][0]
    assert result.flags["not_converged"][0]


# Carlini and Wagner: the confidence is part of the goal ---------------------------------------------------------------


@pytest.mark.parametrize("targeted", [True, False])
def test_an_example_at_its_goal_by_less_than_the_confidence_is_perturbed(targeted):
    model = lambda x: 5 * x  # noqa: E731  class 0 leads by 5 (x_0 - x_1)
    x, y = np.array([[0.55, 0.45], [0.8, 0.2]]), np.full(2, 0 if targeted else 1)
    result = carlini_wagner(model, x, y, targeted=targeted, confidence=2.0, searches=8)
    z = model(result.x_adv)
    assert (z[:, 0] - z[:, 1] >= 2).all()
    assert result.success.all()
    assert result.flags["already_wrong"].all()  # by the class
    np.testing.assert_array_equal(result.x_adv[1], x[1])  # leads by 3 already
    assert result.distance[0] == pytest.approx(0.3 / np.sqrt(2), rel=0.02)


def test_without_the_confidence_there_is_no_success():
    result = carlini_wagner(lambda x: 5 * x, np.array([[0.55, 0.45]]), np.array([0]), targeted=True, confidence=9.0)
    assert not result.success[0]
    assert result.flags["not_converged"][0]
    np.testing.assert_array_equal(result.x_adv, [[0.55, 0.45]])


# Options of the wrong kind --------------------------------------------------------------------------------------------

BASIS = np.eye(4).reshape(4, 1, 2, 2)
WITH_RADIUS = {
    "fgsm": lambda model, x, **options: fgsm(model, x, **options),
    "steepest_ascent": lambda model, x, **options: steepest_ascent(model, x, **options),
    "steepest_ascent l2": lambda model, x, **options: steepest_ascent(model, x, norm="l2", **options),
    "steepest_ascent l1": lambda model, x, **options: steepest_ascent(model, x, norm="l1", **options),
    "one pixel": lambda model, x, **options: steepest_ascent(model, x, norm="l1", pixels=1, **options),
    "pgd": lambda model, x, **options: pgd(model, x, steps=3, **options),
    "pgd l2": lambda model, x, **options: pgd(model, x, steps=3, norm="l2", **options),
    "pgd l1": lambda model, x, **options: pgd(model, x, steps=3, norm="l1", **options),
    "pgd random": lambda model, x, **options: pgd(
        model, x, steps=3, random_start=True, restarts=2, rng=np.random.default_rng(0), **options
    ),
    "pgd random l2": lambda model, x, **options: pgd(
        model, x, steps=3, norm="l2", random_start=True, rng=np.random.default_rng(0), **options
    ),
    "tangent": lambda model, x, **options: tangent(model, x, basis=BASIS, **options),
    "virtual_adversarial": lambda model, x, **options: virtual_adversarial(
        model, x, rng=np.random.default_rng(0), **options
    ),
}
MINIMAL = {"linearized": linearized, "jsma": jsma, "carlini_wagner": carlini_wagner}


@pytest.mark.parametrize("name", WITH_RADIUS)
@pytest.mark.parametrize(
    ("eps", "message"),
    [
        ("0.1", "finite number of at least 0, got '0.1'"),
        (None, "finite number of at least 0, got None"),
        (True, "finite number of at least 0, got True"),
        (1e308, r"number whose square float32 can hold, at most 1\.84e\+19, got 1e\+308"),
        (np.full(3, 0.1), r"number or an array of numbers of shape \(4,\), got an array of shape \(3,\)"),
        (np.full((4, 1), 0.1), r"number or an array of numbers of shape \(4,\), got an array of shape \(4, 1\)"),
        (np.array(["0.1"] * 4), r"number or an array of numbers of shape \(4,\), got an array of shape \(4,\)"),
        (np.array([0.1, 0.2, 0.3, -0.1]), r"numbers from 0 to 1\.84e\+19, got -0\.1 to 0\.3"),
        (np.array([0.1, 0.2, 0.3, np.nan]), r"numbers from 0 to 1\.84e\+19, got nan to nan"),
    ],
)
def test_a_bad_eps_is_named(rng, name, eps, message):
    with pytest.raises(ValueError, match=f"^eps: expected (a )?{message}$"):
        WITH_RADIUS[name](network(rng), rng.random((4, 1, 2, 2), np.float32), eps=eps)


@pytest.mark.parametrize("name", ["feature", "lbfgs", *WITH_RADIUS, *MINIMAL])
@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((0,), r"got \(0,\)"),
        ((0, 1, 2), r"got \(0, 1, 2\)"),
        ("01", "got '01'"),
        (None, "got None"),
        (1.0, "got 1.0"),
        (("0", "1"), "got '0' and '1'"),
        ((np.zeros((1, 2, 2)), 1.0), r"got an array of shape \(1, 2, 2\) and 1.0"),
        ((True, 2), "got True and 2"),
    ],
)
def test_bad_bounds_are_named(rng, name, bounds, message):
    def feature(model, x, **options):
        return attacks.feature(model, x, 1 - x, layer=model, eps=0.1, **options)

    attack = {"feature": feature, "lbfgs": attacks.lbfgs, **WITH_RADIUS, **MINIMAL}[name]
    options = {"eps": 0.1} if name in WITH_RADIUS else {}
    with pytest.raises(ValueError, match=rf"^bounds: expected \(low, high\) with low < high, .*{message}$"):
        attack(network(rng), rng.random((4, 1, 2, 2), np.float32), bounds=bounds, **options)


@pytest.mark.parametrize("value", ["False", 1, None])
@pytest.mark.parametrize(
    ("attack", "flag", "options"),
    [
        (fgsm, "targeted", {"eps": 0.1}),
        (fgsm, "targeted", {"eps": 0.1, "loss": lambda output, y: ops.sum(output, axis=1)}),
        (pgd, "targeted", {"eps": 0.1}),
        (pgd, "random_start", {"eps": 0.1}),
        (steepest_ascent, "targeted", {"eps": 0.1}),
        (tangent, "targeted", {"eps": 0.1, "basis": BASIS}),
        (linearized, "targeted", {}),
        (carlini_wagner, "targeted", {}),
        (jsma, "targeted", {}),
        (jsma, "pairs", {}),
        (jsma, "increase", {}),
        (attacks.lbfgs, "targeted", {}),
    ],
)
def test_a_flag_that_is_no_bool_is_named(rng, attack, flag, options, value):
    x, y = rng.random((2, 1, 2, 2), np.float32), np.array([0, 1])
    shown = repr(value)
    with pytest.raises(ValueError, match=f"^{flag}: expected True or False, got {shown}$"):
        attack(network(rng), x, y, **options, **{flag: value})


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (pgd, {"eps": 0.1, "step": "0.1"}, "step: expected a positive number, got '0.1'"),
        (pgd, {"eps": 0.1, "step": np.ones(2)}, r"step: expected a positive number, got an array of shape \(2,\)"),
        (pgd, {"eps": 0.1, "momentum": None}, "momentum: expected a finite number of at least 0, got None"),
        (linearized, {"overshoot": "a"}, "overshoot: expected a finite number of at least 0, got 'a'"),
        (jsma, {"theta": None}, "theta: expected a positive number, got None"),
        (carlini_wagner, {"weight": "1"}, "weight: expected a positive number, got '1'"),
    ],
)
def test_a_number_of_the_wrong_kind_is_named(rng, attack, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        attack(network(rng), rng.random((2, 1, 2, 2), np.float32), **options)


# One radius for each example ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", WITH_RADIUS)
def test_one_eps_for_each_example(rng, name, dtype):
    model, x, eps = network(rng).astype(dtype), rng.random((4, 1, 2, 2)).astype(dtype), np.array([0.0, 0.1, 0.3, 1.0])
    result = WITH_RADIUS[name](model, x, eps=eps)
    assert result.x_adv.dtype == dtype
    for i, radius in enumerate(eps.tolist()):
        alone = WITH_RADIUS[name](model, x, eps=radius)
        np.testing.assert_allclose(result.x_adv[i], alone.x_adv[i], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(result.distance[i], alone.distance[i], rtol=1e-5, atol=1e-7)


# Labels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [">i8", ">i4", ">u2", "uint64", "uint8", "int16"])
@pytest.mark.parametrize("name", ["fgsm", "steepest_ascent", "pgd", "tangent", "linearized", "jsma", "carlini_wagner"])
def test_labels_of_every_integer_type_are_the_same_labels(rng, name, kind):
    options = {
        "fgsm": {"eps": 0.1},
        "steepest_ascent": {"eps": 0.1},
        "pgd": {"eps": 0.1, "steps": 3},
        "tangent": {"eps": 0.1, "basis": BASIS},
        "linearized": {"steps": 3},
        "carlini_wagner": {"searches": 2, "steps": 5},
    }.get(name, {})
    attack, model, x, y = getattr(attacks, name), network(rng), rng.random((6, 1, 2, 2), np.float32), np.arange(6) % 3
    for targeted in (False, True):
        expected = attack(model, x, y, targeted=targeted, **options)
        result = attack(model, x, y.astype(kind), targeted=targeted, **options)
        np.testing.assert_array_equal(result.x_adv, expected.x_adv)
        np.testing.assert_array_equal(result.success, expected.success)
    with pytest.raises(ValueError, match=r"^y: expected classes 0\.\.2, got values from 0 to 3"):
        attack(model, x, (np.arange(6) % 4).astype(kind), **options)


# Gradients that are partly not finite ---------------------------------------------------------------------------------


def kinked(x):
    """Return logits of |x - 1/2|, whose derivative at 1/2 is computed as 0 / 0."""
    return ops.sqrt(ops.square(x - 0.5)) @ np.array([[1.0, -1.0], [2.0, -2.0], [1.0, -1.0]])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("attack", "options"),
    [
        (fgsm, {"eps": 0.1}),
        (steepest_ascent, {"eps": 0.1}),
        (steepest_ascent, {"eps": 0.1, "norm": "l1", "pixels": 1}),
        (pgd, {"eps": 0.1, "steps": 3}),
        (pgd, {"eps": 0.1, "steps": 3, "norm": "l2"}),
        (pgd, {"eps": 0.1, "steps": 3, "norm": "l1", "momentum": 0.5}),
        (tangent, {"eps": 0.1, "basis": np.eye(3)}),
        (linearized, {}),
        (linearized, {"steps": 4}),
        (jsma, {"theta": 0.1, "pairs": False, "increase": False}),
        (jsma, {"theta": 0.1, "increase": False}),
        (carlini_wagner, {"searches": 2, "steps": 5}),
    ],
)
def test_the_finite_part_of_a_gradient_is_used_and_its_example_flagged(attack, options):
    x = np.array([[0.5, 0.83, 0.72], [0.63, 0.83, 0.72]])
    result = attack(kinked, x, np.array([0, 0]), **options)
    np.testing.assert_array_equal(result.flags["non_finite_gradient"], [True, False])
    assert not result.flags["zero_gradient"].any()
    assert np.isfinite(result.x_adv).all()
    if attack is not carlini_wagner:  # which found nothing in so few steps
        assert result.x_adv[0, 0] == 0.5
        assert (result.x_adv[0, 1:] != x[0, 1:]).any()
    alone = attack(kinked, x[1:], np.array([0]), **options)
    np.testing.assert_allclose(result.x_adv[1], alone.x_adv[0], rtol=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_gradient_that_is_not_finite_beyond_the_boundary_is_flagged():
    """DeepFool meets it only in its last step, along the boundary."""

    def broken_above_a_half(x):
        return (x - 0.5 + 0 * ops.sqrt(ops.relu(0.5 - x))) @ np.array([[-1.0, 1.0]])

    x = np.array([[0.2]])
    assert not linearized(broken_above_a_half, x).flags["non_finite_gradient"][0]
    assert linearized(broken_above_a_half, x, steps=5).flags["non_finite_gradient"][0]


def test_jsma_flags_a_gradient_that_is_zero_at_the_start_not_later():
    flat_above_a_half = lambda x: ops.minimum(0.5, x) @ np.array([[-1.0, 1.0]]) + np.array([9.0, 0.0])  # noqa: E731
    x = np.array([[0.2], [0.7]])
    result = jsma(flat_above_a_half, x, np.array([1, 1]), theta=0.4, pairs=False, targeted=True)
    np.testing.assert_array_equal(result.flags["zero_gradient"], [False, True])
    np.testing.assert_allclose(result.x_adv, [[0.6], [0.7]])


# The budget of the saliency-map attack --------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "budget"), [((5, 1, 6, 10), 6), ((5, 12), 2), ((2, 3, 7), 2), ((9, 40), 4)])
def test_by_default_a_tenth_of_the_pixels_may_change(shape, budget):
    features = int(np.prod(shape[1:]))
    w = np.tile([[-1.0, 1.0]], (features, 1))

    def model(x):
        return x.reshape(len(x), features) @ w + np.array([1e6, 0.0])  # every pixel helps, and class 1 is out of reach

    result = jsma(model, np.zeros(shape), np.ones(shape[0], int), targeted=True)
    np.testing.assert_array_equal(result.distance, budget)
    assert result.flags["not_converged"].all()


# Defaults -------------------------------------------------------------------------------------------------------------

REQUIRED = inspect.Parameter.empty
DEFAULTS = {
    "carlini_wagner": {
        "y": None, "confidence": 0.0, "weight": 1.0, "searches": 6, "steps": 200, "step": 0.05, "targeted": False,
        "bounds": (0.0, 1.0),
    },
    "deepfool": {
        "y": None, "norm": "l2", "steps": 50, "overshoot": 0.02, "targeted": False, "bounds": (0.0, 1.0),
    },
    "fgsm": {"y": None, "eps": REQUIRED, "targeted": False, "bounds": (0.0, 1.0), "loss": None},
    "jsma": {
        "y": None, "theta": 1.0, "pixels": None, "pairs": True, "increase": True, "targeted": False, "bounds": (0.0, 1.0),
    },
    "linearized": {
        "y": None, "norm": "l2", "steps": 1, "overshoot": 0.02, "targeted": False, "bounds": (0.0, 1.0),
    },
    "one_pixel": {"y": None, "eps": 1.0, "targeted": False, "bounds": (0.0, 1.0)},
    "pgd": {
        "y": None, "eps": REQUIRED, "step": None, "steps": 40, "norm": "linf", "direction": "steepest",
        "random_start": False, "restarts": 1, "momentum": 0.0, "targeted": False, "bounds": (0.0, 1.0), "rng": None,
    },
    "steepest_ascent": {
        "y": None, "eps": REQUIRED, "norm": "linf", "pixels": None, "targeted": False, "bounds": (0.0, 1.0),
    },
    "tangent": {"y": None, "basis": REQUIRED, "eps": REQUIRED, "targeted": False, "bounds": (0.0, 1.0)},
    "virtual_adversarial": {
        "eps": REQUIRED, "iterations": 5, "xi": None, "bounds": (0.0, 1.0), "rng": REQUIRED,
    },
    "confident_errors": {"threshold": 0.5, "sigmoid": False, "batch_size": 500},
    "evolved_rubbish": {
        "shape": REQUIRED, "generations": 200, "population": 200, "mutation_rate": 0.1, "halved_every": 1000, "eta": 15.0,
        "crossover": 0.0, "threshold": 0.5, "sigmoid": False, "bounds": (0.0, 1.0), "dtype": np.float32, "device": "cpu",
        "rng": REQUIRED, "resume": None, "progress": None,
    },
    "feature": {
        "guide": REQUIRED, "layer": REQUIRED, "eps": REQUIRED, "bounds": (0.0, 1.0), "solver": "scipy",
        "max_iterations": 200, "tolerance": 1e-05, "at_once": 256,
    },
    "gaussian_rubbish": {
        "shape": REQUIRED, "n": REQUIRED, "mean": 0.0, "deviation": 1.0, "threshold": 0.5, "sigmoid": False, "bounds": None,
        "dtype": np.float32, "device": "cpu", "batch_size": 500, "rng": REQUIRED,
    },
    "gradient_rubbish": {
        "start": REQUIRED, "target": REQUIRED, "steps": 100, "step": None, "norm": "l2", "decay": 0.0, "threshold": 0.5,
        "sigmoid": False, "bounds": (0.0, 1.0), "progress": None,
    },
    "lbfgs": {
        "y": None, "targeted": False, "bounds": (0.0, 1.0), "squared": True, "solver": "scipy", "weight": 1.0,
        "searches": 12, "max_iterations": 100, "tolerance": 1e-05, "at_once": 256,
    },
    "substitute": {
        "oracle": REQUIRED, "student": REQUIRED, "seeds": REQUIRED, "optimizer": REQUIRED, "rng": REQUIRED,
        "budget": REQUIRED, "rounds": 6, "step": 0.1, "period": None, "reservoir": None, "reservoir_after": 3, "epochs": 10,
        "batch_size": 100, "loss": classification_loss, "bounds": (0.0, 1.0), "held_out": None, "at_once": 256,
        "checkpoint": None, "resume": False, "progress": None,
    },
    "transfer_attack": {
        "student": REQUIRED, "oracle": REQUIRED, "attack": REQUIRED, "y": None, "targeted": False, "options": REQUIRED,
    },
}  # fmt: skip


def defaults(name):
    parameters = inspect.signature(getattr(attacks, name)).parameters
    return {key: value.default for key, value in parameters.items() if key not in ("model", "x")}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_these(name):
    assert defaults(name) == DEFAULTS[name]


def test_the_default_step_of_pgd_is_two_and_a_half_times_the_radius_over_the_steps():
    points = []

    def model(x):
        points.append(np.array(getattr(x, "data", x)))
        return x @ np.array([[1.0, -1.0]])

    pgd(model, np.array([[0.5]]), np.array([0]), eps=0.4, steps=10)
    np.testing.assert_allclose(np.diff([p[0, 0] for p in points[1:4]]), -0.1)


def test_the_table_of_defaults_has_every_attack():
    assert DEFAULTS.keys() == {name for name in attacks.__all__ if inspect.isfunction(getattr(attacks, name))}
