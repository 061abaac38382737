"""Rubbish: errors counted as in [GSS], climbs that end at the maximum, and evolution that never loses a champion."""

import signal
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from attack_cases import linear, network
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from strategies import seeds

from npadv import Tensor, ops
from npadv.attacks import (
    EvolutionInterrupted,
    RubbishResult,
    confident_errors,
    evolved_rubbish,
    fgsm,
    gaussian_rubbish,
    gradient_rubbish,
)
from npadv.attacks.rubbish_evolution import cross, mutate
from npadv.autodiff import value_of
from npadv.functional import softmax


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def seeded(seed=0):
    return np.random.default_rng(seed)


# Errors ---------------------------------------------------------------------------------------------------------------


@given(seed=seeds, classes=st.integers(2, 5), threshold=st.floats(0, 1), independent=st.booleans())
def test_an_error_is_a_class_above_the_threshold(seed, classes, threshold, independent):
    w, b, model = linear(seed, 4, classes)
    x = np.random.default_rng(seed).normal(size=(20, 4))
    p = sigmoid(x @ w + b) if independent else softmax(x @ w + b)
    result = confident_errors(model, x, threshold=threshold, sigmoid=independent, batch_size=7)
    np.testing.assert_array_equal(result.prediction, p.argmax(axis=1))
    np.testing.assert_allclose(result.confidence, p.max(axis=1), rtol=1e-12)
    clear = np.abs(p.max(axis=1) - threshold) > 1e-9
    np.testing.assert_array_equal(result.confident[clear], (p.max(axis=1) > threshold)[clear])
    assert result.rate == np.mean(result.confident)
    if result.confident.any():
        assert result.error_confidence == pytest.approx(p.max(axis=1)[result.confident].mean())
    assert result.queries == 20


def test_the_threshold_itself_is_no_error():
    result = confident_errors(lambda x: x * 0 + 1, np.ones((3, 2)))
    np.testing.assert_array_equal(result.confidence, 0.5)
    assert result.rate == 0
    assert np.isnan(result.error_confidence)
    assert confident_errors(lambda x: x * 0 + 1, np.ones((3, 2)), threshold=0.49).rate == 1


def test_only_the_first_outputs_are_checked_for_probabilities():
    """Both searches end at points whose logits are (1, 0), which are no error there."""
    climbed = gradient_rubbish(lambda x: x, np.full((1, 2), 0.1), np.zeros(1, int), steps=10, bounds=(0.0, 1.0))
    np.testing.assert_array_equal(climbed.x, [[1.0, 0.0]])
    evolved = evolved_rubbish(lambda x: np.round(x), (2,), generations=20, population=20, rng=seeded())
    assert (np.round(evolved.x).sum(axis=1) == 1).all()


def test_results_cannot_be_changed_and_inputs_are_not(rng):
    model, x = network(rng), rng.random((5, 1, 2, 2), np.float32)
    kept, state = x.copy(), model.state()
    result = confident_errors(model, x)
    assert isinstance(result, RubbishResult)
    with pytest.raises(FrozenInstanceError):
        result.confidence = None
    climbed = gradient_rubbish(model, x, np.zeros(5, int), steps=3)
    np.testing.assert_array_equal(x, kept)
    assert not np.shares_memory(climbed.x, x)
    np.testing.assert_equal(model.state(), state)
    assert all(p.grad is None for p in model.parameters())


# Gaussian noise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_has_the_mean_deviation_shape_and_dtype_asked_for(dtype):
    model = lambda x: x.reshape(len(x), -1)[:, :3]  # noqa: E731
    result = gaussian_rubbish(
        model, (2, 5, 5), n=1001, mean=0.3, deviation=2.0, dtype=dtype, rng=seeded(), batch_size=10
    )
    assert result.x.shape == (1001, 2, 5, 5)
    assert result.x.dtype == dtype
    assert result.queries == len(result.confident) == 1001
    assert result.x.mean() == pytest.approx(0.3, abs=5 * 2 / np.sqrt(result.x.size))
    assert result.x.std() == pytest.approx(2.0, rel=0.02)
    again, other = (
        gaussian_rubbish(model, (2, 5, 5), n=1001, mean=0.3, deviation=2.0, dtype=dtype, rng=seeded(s)) for s in (0, 1)
    )
    np.testing.assert_array_equal(again.x, result.x)
    np.testing.assert_array_equal(again.confident, result.confident)
    assert (other.x != result.x).any()


def test_by_default_it_is_standard_noise_without_a_box():
    x = gaussian_rubbish(lambda x: x, (10,), n=10000, rng=seeded()).x
    assert abs(x.mean()) < 0.02
    assert x.std() == pytest.approx(1, rel=0.02)
    assert x.min() < -3.5
    boxed = gaussian_rubbish(lambda x: x, (10,), n=100, bounds=(-0.1, 0.7), rng=seeded()).x
    assert boxed.min() == np.float32(-0.1)
    assert boxed.max() == np.float32(0.7)


# Uphill by gradients --------------------------------------------------------------------------------------------------


@given(seed=seeds, decay=st.floats(0.1, 3), independent=st.booleans())
def test_a_climb_on_a_concave_objective_ends_at_its_maximum(seed, decay, independent):
    """To the length of a step: log p - decay ||x||^2 of a linear model has one maximum in the box."""
    w, b, model = linear(seed, 3, 3)

    def height(x, target):
        z = x @ w + b
        return np.log(sigmoid(z[target]) if independent else softmax(z)[target]) - decay * x @ x

    start = np.random.default_rng(seed).random((3, 3))
    result = gradient_rubbish(
        model, start, np.arange(3), decay=decay, steps=300, step=0.01, sigmoid=independent, threshold=0.3
    )
    for t in range(3):
        best = minimize(lambda x, t=t: -height(x, t), np.full(3, 0.5), bounds=[(0, 1)] * 3)
        assert height(result.x[t], t) <= -best.fun + 1e-6
        assert height(result.x[t], t) >= -best.fun - 0.01
    p = sigmoid(result.x @ w + b) if independent else softmax(result.x @ w + b)
    np.testing.assert_allclose(result.confidence, p.max(axis=1))


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
@pytest.mark.parametrize("independent", [False, True])
def test_without_decay_a_linear_model_is_climbed_to_the_corner(norm, independent):
    w = np.array([[3.0, -3.0], [-1.0, 1.0], [2.0, -2.0]])
    start = np.full((2, 3), 0.4)
    result = gradient_rubbish(lambda x: x @ w, start, np.array([0, 1]), norm=norm, sigmoid=independent)
    np.testing.assert_allclose(result.x, [[1, 0, 1], [0, 1, 0]], atol=1e-12)
    assert (result.history[-1] > result.history[0]).all()


def test_one_step_by_the_sign_is_that_of_gss(rng):
    _, _, model = linear(1, 6, 10)
    noise, target = rng.normal(size=(50, 6)), np.full(50, 3)
    result = gradient_rubbish(model, noise, target, steps=1, norm="linf", step=0.25, bounds=None)
    expected = fgsm(model, noise, target, eps=0.25, targeted=True, bounds=(-99.0, 99.0))
    np.testing.assert_allclose(result.x, expected.x_adv, rtol=1e-14)
    np.testing.assert_array_equal(result.prediction, expected.prediction)


def test_the_best_point_of_a_climb_and_its_history_are_returned(rng):
    model = network(rng).astype(np.float64)
    start, target = rng.random((6, 1, 2, 2)), np.arange(6) % 3
    for decay in (0, 0.5):
        passed = []
        result = gradient_rubbish(
            lambda x, passed=passed: (passed.append(value_of(x)), model(x))[1],
            start,
            target,
            steps=20,
            step=0.3,
            decay=decay,
        )

        def logp(x):
            return np.log(softmax(model(x).data))[np.arange(6), target]

        def height(x, decay=decay):
            return logp(x) - decay * (x**2).sum(axis=(1, 2, 3))

        assert result.history.shape == (21, 6)
        np.testing.assert_allclose(result.history[0], logp(start))
        np.testing.assert_allclose(height(result.x), np.max([height(x) for x in passed], axis=0))
        np.testing.assert_allclose(result.history, [logp(x) for x in passed[1:-1]])
        np.testing.assert_array_equal(result.target, target)
        assert result.x.min() >= 0
        assert result.x.max() <= 1


def test_each_climb_is_its_own(rng):
    model = network(rng)
    start, target = rng.random((4, 1, 2, 2), np.float32), np.array([0, 1, 2, 0])
    together = gradient_rubbish(model, start, target, steps=10, decay=0.1)
    assert together.x.dtype == np.float32
    for i in range(4):
        alone = gradient_rubbish(model, start[i : i + 1], target[i : i + 1], steps=10, decay=0.1)
        np.testing.assert_allclose(alone.x[0], together.x[i], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(alone.history[:, 0], together.history[:, i], rtol=1e-5, atol=1e-6)


def test_queries_are_counted_as_they_are_made(rng):
    _, _, model = linear(0, 4, 3)
    shown = []

    def counted(x):
        shown.append(len(x))
        return model(x)

    results = (
        lambda: gradient_rubbish(counted, rng.random((3, 4)), np.arange(3), steps=5),
        lambda: gaussian_rubbish(counted, (4,), n=12, rng=rng, batch_size=5),
        lambda: evolved_rubbish(counted, (4,), generations=4, population=7, rng=rng),
    )
    for result in results:
        shown.clear()
        assert result().queries == sum(shown)


def test_useless_gradients_are_flagged(rng):
    x = np.array([[0.0, 0.5], [0.5, 0.5]])
    flat = gradient_rubbish(lambda x: 0 * x + np.array([1.0, 2.0]), x, np.zeros(2, int), steps=3)
    assert flat.flags["zero_gradient"].all()
    np.testing.assert_array_equal(flat.x, x)
    with np.errstate(divide="ignore", invalid="ignore"):  # the root's slope at 0
        rough = gradient_rubbish(lambda x: ops.sqrt(x), x, np.ones(2, int), steps=3, step=0.01)
    np.testing.assert_array_equal(rough.flags["non_finite_gradient"], [True, False])
    assert np.isfinite(rough.x).all()


def test_zero_is_flagged_at_the_start_and_non_finite_anywhere():
    settled = gradient_rubbish(
        lambda x: ops.relu(x - 0.45), np.array([[0.5, 0.1]]), np.ones(1, int), steps=9, step=0.02
    )  # dead from the third step on
    assert not settled.flags["zero_gradient"].any()
    with np.errstate(divide="ignore", invalid="ignore"):  # a slope that is not finite where it starts, and there alone
        left = gradient_rubbish(
            lambda x: ops.sqrt(ops.abs(x - 0.5)),
            np.array([[0.5, 0.3], [0.61, 0.3]]),
            np.ones(2, int),
            steps=3,
            step=0.02,
            decay=0.5,
        )
    np.testing.assert_array_equal(left.flags["non_finite_gradient"], [True, False])


# Evolution ------------------------------------------------------------------------------------------------------------


def test_there_is_a_champion_for_each_class_and_none_is_ever_lost(rng):
    _, _, model = linear(2, 6, 4)
    result = evolved_rubbish(model, (6,), generations=30, population=25, rng=rng, dtype=np.float64)
    assert result.x.shape == (4, 6)
    assert result.x.min() >= 0
    assert result.x.max() <= 1
    np.testing.assert_array_equal(result.target, np.arange(4))
    assert result.history.shape == (31, 4)
    assert (np.diff(result.history, axis=0) >= 0).all()
    assert (result.history[-1] > result.history[0]).all()
    np.testing.assert_allclose(np.diag(np.log(softmax(model(result.x)))), result.history[-1], rtol=1e-12)


def test_the_first_generation_is_uniform_noise_and_its_best_are_champions(rng):
    shown = []
    result = evolved_rubbish(
        lambda x: (shown.append(x), 3 * x)[1], (5,), generations=0, population=4000, bounds=(-1, 3), rng=rng
    )
    x = shown[0]
    assert x.mean() == pytest.approx(1, abs=0.05)
    assert x.std() == pytest.approx(4 / np.sqrt(12), rel=0.02)
    assert -1 <= x.min() < -0.99
    assert 2.99 < x.max() <= 3
    p = softmax(3 * x.astype(np.float64))
    np.testing.assert_array_equal(result.x, x[p.argmax(axis=0)])
    np.testing.assert_allclose(np.exp(result.history), p.max(axis=0)[None], rtol=1e-6)


def test_a_population_is_one_batch_and_only_outputs_are_used(rng):
    sizes = []

    def opaque(x):
        assert isinstance(x, np.ndarray)
        sizes.append(len(x))
        return np.round(9 * x)  # of no use to a gradient

    result = evolved_rubbish(opaque, (3,), generations=40, population=30, rng=rng)
    assert sizes == [30] * 41 + [3]
    np.testing.assert_array_equal(result.prediction, np.arange(3))
    assert result.rate == 1


def test_a_champion_may_come_from_another_class():
    """Parents are drawn from the champions of all classes, each with the same probability."""
    parents = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    children = cross(parents, 30000, 0.0, seeded())
    counts = np.unique(children[:, 0], return_counts=True)[1]
    np.testing.assert_allclose(counts / 30000, 1 / 3, atol=0.015)
    assert (children[:, 0] == children[:, 1]).all()


def test_crossover_takes_each_pixel_from_either_parent():
    parents = np.stack([np.full((2, 50), float(k)) for k in range(2)])
    children = cross(parents, 4000, 0.6, seeded())
    share = children.mean(axis=(1, 2))
    mixed = (share > 0) & (share < 1)
    assert mixed.mean() == pytest.approx(0.6 / 2, abs=0.03)  # half of the pairs are of one champion twice
    assert share[mixed].mean() == pytest.approx(0.5, abs=0.01)
    assert share[mixed].std() == pytest.approx(0.5 / np.sqrt(100), rel=0.1)  # of 100 pixels, each by itself
    np.testing.assert_array_equal(parents[0], 0)


@pytest.mark.parametrize("eta", [0.0, 2.0, 15.0])
def test_mutation_is_polynomial(eta):
    images = np.full((200, 1000), 0.5)
    mutate(images, 0.1, eta, 0.0, 1.0, seeded())
    moved = images != 0.5
    assert moved.mean() == pytest.approx(0.1, rel=0.03)
    delta = images[moved] - 0.5
    # |delta| = 1 - v^(1 / (eta + 1)) with v uniform, cut off here at half the box: P(|delta| > d) = (1 - d)^(eta + 1).
    for d in (0.02, 0.1, 0.3, 0.49):
        assert np.mean(np.abs(delta) > d) == pytest.approx((1 - d) ** (eta + 1), abs=0.015)
    assert np.abs(np.mean(delta > 0) - 0.5) < 0.015
    assert images.min() >= 0
    assert images.max() <= 1


def test_mutation_is_in_units_of_the_box():
    images, wide = np.full((100, 100), 0.5, np.float32), np.full((100, 100), 0.0, np.float32)
    mutate(images, 1.0, 15.0, np.float32(0), np.float32(1), seeded())
    mutate(wide, 1.0, 15.0, np.float32(-5), np.float32(5), seeded())
    np.testing.assert_allclose(wide, 10 * (images - 0.5), atol=1e-5)


def test_the_mutation_rate_is_halved_on_time(monkeypatch, rng):
    rates = []
    monkeypatch.setattr("npadv.attacks.rubbish_evolution.mutate", lambda images, rate, *rest: rates.append(rate))
    evolved_rubbish(lambda x: x, (3,), generations=7, population=2, mutation_rate=0.4, halved_every=3, rng=rng)
    assert rates == [0.4] * 3 + [0.2] * 3 + [0.1]


def test_without_mutation_and_crossover_nothing_new_comes(rng):
    result = evolved_rubbish(lambda x: 5 * x, (4,), generations=5, mutation_rate=0.0, rng=rng)
    assert (result.history == result.history[0]).all()


def test_probabilities_that_round_to_1_are_still_distinguished(rng):
    """Here p = 1, in float64 too, from the start; the champions go on to get better."""
    result = evolved_rubbish(lambda x: 60 * x, (2,), generations=20, population=30, rng=rng)
    assert (np.exp(result.history[0]) == 1).all()
    assert (result.history[-1] > result.history[0]).all()


@pytest.mark.parametrize("crossover", [0.0, 0.5])
def test_seeds_reproduce_and_a_resumed_run_is_the_whole_run(crossover):
    _, _, model = linear(5, 8, 3)
    options = {"population": 10, "crossover": crossover, "halved_every": 4}
    model2 = lambda x: model(x.reshape(len(x), 8))  # noqa: E731
    whole, again, other = (evolved_rubbish(model2, (2, 4), generations=12, rng=seeded(s), **options) for s in (7, 7, 8))
    np.testing.assert_array_equal(whole.x, again.x)
    assert (whole.x != other.x).any()
    rng = seeded(7)
    part = evolved_rubbish(model2, (2, 4), generations=5, rng=rng, **options)
    kept = part.x.copy()
    rest = evolved_rubbish(model2, (2, 4), generations=12, rng=rng, resume=part, **options)
    np.testing.assert_array_equal(rest.x, whole.x)
    np.testing.assert_array_equal(rest.history, whole.history)
    assert rest.queries == whole.queries
    np.testing.assert_array_equal(part.x, kept)


@pytest.fixture
def interruptible():
    """Let an interrupt raise KeyboardInterrupt, also where the tests run in the background and would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def interrupting(at, times=1):
    """Return a model during whose calls a Ctrl-C arrives."""
    calls = iter(range(10**6))

    def model(x):
        if next(calls) == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return 3 * x

    return model


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_loses_nothing():
    options = {"generations": 10, "population": 8}
    whole = evolved_rubbish(lambda x: 3 * x, (5,), rng=seeded(), **options)
    rng = seeded()
    with pytest.raises(KeyboardInterrupt) as caught:
        evolved_rubbish(interrupting(4), (5,), rng=rng, **options)
    assert isinstance(caught.value, EvolutionInterrupted)
    part = caught.value.result
    assert len(part.history) == 5  # the generation was finished
    np.testing.assert_array_equal(part.history, whole.history[:5])
    rest = evolved_rubbish(lambda x: 3 * x, (5,), rng=rng, resume=part, **options)
    np.testing.assert_array_equal(rest.x, whole.x)
    np.testing.assert_array_equal(rest.history, whole.history)


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_is_immediate():
    with pytest.raises(KeyboardInterrupt) as caught:
        evolved_rubbish(interrupting(4, times=2), (5,), generations=10, population=8, rng=seeded())
    assert not isinstance(caught.value, EvolutionInterrupted)


def test_progress_is_drawn_where_it_is_asked_for(capsys, rng):
    part = evolved_rubbish(lambda x: x, (3,), generations=3, rng=rng, progress=True)
    gradient_rubbish(lambda x: x, rng.random((1, 3)), np.zeros(1, int), steps=2, progress=True)
    said = capsys.readouterr().err
    assert "evolving" in said
    assert "climbing" in said
    assert "0/3" in said
    evolved_rubbish(lambda x: x, (3,), generations=5, rng=rng, resume=part, progress=True)
    assert "3/5" in capsys.readouterr().err
    evolved_rubbish(lambda x: x, (3,), generations=3, rng=rng)
    assert capsys.readouterr().err == ""


# Bad input ------------------------------------------------------------------------------------------------------------

X = np.full((3, 2), 0.5)


def call(function, **options):
    defaults = {
        confident_errors: {"x": X},
        gaussian_rubbish: {"shape": (2,), "n": 3, "rng": seeded()},
        gradient_rubbish: {"start": X, "target": np.zeros(3, int)},
        evolved_rubbish: {"shape": (2,), "generations": 1, "population": 3, "rng": seeded()},
    }[function]
    options = {"model": lambda x: 9 * x, **defaults, **options}
    return function(options.pop("model"), **options)


BAD = [
    (confident_errors, {"x": [[0.5]]}, "x: expected a NumPy or CuPy array, got list"),
    (confident_errors, {"x": np.ones(3)}, r"x: expected a batch \(N, \.\.\.\) of examples, got shape \(3,\)"),
    (confident_errors, {"x": X[:0]}, r"x: expected at least one example, got an empty batch of shape \(0, 2\)"),
    (confident_errors, {"x": X * np.nan}, "x: expected finite values, got NaN or infinity"),
    (confident_errors, {"x": np.ones((2, 2), int)}, "x: expected floating-point values, got dtype int64"),
    (confident_errors, {"threshold": 1.1}, r"threshold: expected a number in \[0, 1\], got 1\.1"),
    (confident_errors, {"threshold": np.nan}, r"threshold: expected a number in \[0, 1\], got nan"),
    (confident_errors, {"batch_size": 0}, "batch_size: expected an integer of at least 1, got 0"),
    (confident_errors, {"model": softmax}, "model: expected logits, got probabilities"),
    (confident_errors, {"model": lambda x: x[:, 0]}, r"model: expected logits \(N, K\) = \(3, 2 or more\)"),
    (gaussian_rubbish, {"n": 0}, "n: expected an integer of at least 1, got 0"),
    (gaussian_rubbish, {"n": 2.5}, "n: expected an integer of at least 1, got 2.5"),
    (gaussian_rubbish, {"shape": 2}, r"shape: expected the shape of one input, such as \(1, 28, 28\), got 2"),
    (
        gaussian_rubbish,
        {"shape": (2, 0)},
        r"shape: expected the shape of one input, such as \(1, 28, 28\), got \(2, 0\)",
    ),
    (gaussian_rubbish, {"deviation": -1}, "deviation: expected a finite number of at least 0, got -1"),
    (gaussian_rubbish, {"mean": np.inf}, "mean: expected a finite number, got inf"),
    (gaussian_rubbish, {"bounds": (1, 1)}, r"bounds: expected \(low, high\) with low < high, got \(1, 1\)"),
    (gaussian_rubbish, {"dtype": int}, "dtype: expected a floating-point dtype, got int64"),
    (gaussian_rubbish, {"device": "gpu"}, "device: expected one of 'cpu', 'cuda', got 'gpu'"),
    (gaussian_rubbish, {"rng": 3}, r"rng: expected a numpy\.random\.Generator, got int"),
    (gradient_rubbish, {"start": X + 1}, r"start: expected values in the box \[0\.0, 1\.0\], got 1\.5 to 1\.5"),
    (gradient_rubbish, {"start": Tensor(X)}, "start: expected a NumPy or CuPy array, got Tensor"),
    (gradient_rubbish, {"start": X * np.inf, "bounds": None, "step": 1}, "start: expected finite values, got NaN"),
    (gradient_rubbish, {"target": np.array([0, 1, 2])}, r"target: expected classes 0\.\.1, got values from 0 to 2"),
    (gradient_rubbish, {"target": None}, r"target: expected shape \(3,\), one class per example, got \(\)"),
    (gradient_rubbish, {"steps": 0}, "steps: expected an integer of at least 1, got 0"),
    (gradient_rubbish, {"step": 0}, "step: expected a positive number, got 0"),
    (gradient_rubbish, {"bounds": None}, "step: expected a number where there are no bounds, got None"),
    (gradient_rubbish, {"bounds": (0, np.inf)}, r"bounds: expected finite \(low, high\) with low < high"),
    (gradient_rubbish, {"norm": "l3"}, "norm: expected one of l1, l2, linf, got 'l3'"),
    (gradient_rubbish, {"decay": -1}, "decay: expected a finite number of at least 0, got -1"),
    (gradient_rubbish, {"model": softmax}, "model: expected logits, got probabilities"),
    (gradient_rubbish, {"model": lambda x: 9 * value_of(x)}, "model: expected logits computed from the Tensor x"),
    (evolved_rubbish, {"generations": -1}, "generations: expected an integer of at least 0, got -1"),
    (evolved_rubbish, {"population": 0}, "population: expected an integer of at least 1, got 0"),
    (evolved_rubbish, {"mutation_rate": 1.5}, r"mutation_rate: expected a number in \[0, 1\], got 1\.5"),
    (evolved_rubbish, {"crossover": -0.1}, r"crossover: expected a number in \[0, 1\], got -0\.1"),
    (evolved_rubbish, {"halved_every": 0}, "halved_every: expected an integer of at least 1, got 0"),
    (evolved_rubbish, {"eta": -1}, "eta: expected a finite number of at least 0, got -1"),
    (evolved_rubbish, {"bounds": (-np.inf, 1)}, r"bounds: expected finite \(low, high\) with low < high"),
    (evolved_rubbish, {"rng": None}, r"rng: expected a numpy\.random\.Generator, got NoneType"),
    (evolved_rubbish, {"model": softmax}, "model: expected logits, got probabilities"),
    (evolved_rubbish, {"model": lambda x: x * np.nan}, "model: expected finite logits, got NaN or infinity"),
    (evolved_rubbish, {"resume": 3}, "resume: expected a result of evolved_rubbish, got int"),
]


@pytest.mark.parametrize(("function", "options", "message"), BAD)
def test_bad_input_is_named_with_what_came_and_what_was_expected(function, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(function, **options)


def test_what_cannot_be_resumed_is_refused():
    part = call(evolved_rubbish, generations=3)
    with pytest.raises(ValueError, match=r"^generations: expected at least the 3 of the run to resume, got 2"):
        call(evolved_rubbish, generations=2, resume=part)
    with pytest.raises(ValueError, match=r"^resume: expected images of shape \(3,\) in float32, got \(2,\) in float32"):
        call(evolved_rubbish, shape=(3,), resume=part)
    with pytest.raises(ValueError, match=r"^resume: expected images of shape \(2,\) in float64, got \(2,\) in float32"):
        call(evolved_rubbish, dtype=np.float64, resume=part)
    with pytest.raises(ValueError, match=r"^resume: expected a result of evolved_rubbish, got RubbishResult"):
        call(evolved_rubbish, resume=replace(part, history=None))
    with pytest.raises(ValueError, match=r"^resume: expected a result of evolved_rubbish, got RubbishResult"):
        call(evolved_rubbish, resume=call(gradient_rubbish))
