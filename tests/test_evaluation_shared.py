"""Properties of every measurement: inputs unchanged, deterministic, independent of batches, one dtype, any labels."""

import inspect
from dataclasses import fields, is_dataclass
from functools import partial

import numpy as np
import pytest

from npadv import Tensor, evaluation, no_record, ops
from npadv.attacks import fgsm, linearized, pgd
from npadv.evaluation import (
    church_windows,
    larger_budget_does_not_help,
    masking_checks,
    minimal_distances,
    minimal_eps,
    more_steps_do_not_help,
    noise_as_good,
    norm_demonstration,
    one_step_beats_many,
    robustness_curve,
    transfer_beats_white_box,
    transfer_matrix,
    unbounded_falls_short,
    zero_gradients,
)

# Settings given as NumPy's own numbers, which must not change the dtype of what the model evaluates.
EPS, BOX = np.float64(0.1), (np.float64(0), np.float64(1))
FGSM, PGD = partial(fgsm, eps=EPS, bounds=BOX), partial(pgd, eps=EPS, bounds=BOX, steps=3)


def rng():
    return np.random.default_rng(5)


MEASUREMENTS = {
    "church_windows": lambda m, x, y, **o: church_windows(
        m, x, y, eps=EPS, points=5, bounds=BOX, clip=True, rng=rng(), **o
    ),
    "larger_budget_does_not_help": lambda m, x, y, **o: larger_budget_does_not_help(
        m, x, y, attack=fgsm, eps=np.array([0.05, 0.5]), **o
    ),
    "masking_checks": lambda m, x, y, **o: masking_checks(
        m, x, y, eps=EPS, steps=3, sources={"m": m}, draws=2, bounds=BOX, rng=rng(), **o
    ),
    "minimal_distances": lambda m, x, y, **o: minimal_distances(m, x, y, attack=linearized, **o),
    "minimal_eps": lambda m, x, y, **o: minimal_eps(m, x, y, attack=fgsm, eps=np.array([0.05, 0.5]), halvings=3, **o),
    "more_steps_do_not_help": lambda m, x, y, **o: more_steps_do_not_help(
        m, x, y, attack=partial(pgd, eps=EPS), steps=(1, 3), **o
    ),
    "noise_as_good": lambda m, x, y, **o: noise_as_good(
        m, x, y, attack=FGSM, eps=EPS, draws=3, bounds=BOX, rng=rng(), **o
    ),
    "norm_demonstration": lambda m, x, y: norm_demonstration(
        0.6 + x / 8, y, true=0, other=1, size=0.3, rng=rng(), model=m
    ),
    "one_step_beats_many": lambda m, x, y, **o: one_step_beats_many(m, x, y, one_step=FGSM, many_steps=PGD, **o),
    "robustness_curve": lambda m, x, y, **o: robustness_curve(
        {"a": m, "b": m}, x, y, attack=fgsm, eps=np.array([0, 0.1, 0.3]), **o
    ),
    "transfer_beats_white_box": lambda m, x, y, **o: transfer_beats_white_box(
        m, x, y, sources={"m": m}, attack=FGSM, **o
    ),
    "transfer_matrix": lambda m, x, y, **o: transfer_matrix({"a": m}, {"a": m, "b": m}, x, y, attack=FGSM, **o),
    "unbounded_falls_short": lambda m, x, y, **o: unbounded_falls_short(
        m, x, y, attack=partial(pgd, eps=np.float64(1), steps=3), **o
    ),
    "zero_gradients": zero_gradients,
}

EXEMPT = {"wilson": "computes with counts alone: no examples, no model"}

WITHOUT_BATCHES = {"norm_demonstration": "chooses one pair among all images and perturbs that"}


@pytest.fixture(params=MEASUREMENTS)
def name(request):
    return request.param


@pytest.fixture
def examples():
    """Return a smooth model that computes each row alone, to the bit; examples, and labels of which some are wrong."""
    generator = np.random.default_rng(1)
    w, v = generator.normal(0, 2, (5, 6)), generator.normal(0, 2, (3, 5))
    x, y = generator.random((11, 6)), generator.integers(0, 3, 11)
    y[:4] = [0, 0, 1, 2]
    seen = []

    def model(x):
        values = x.data if isinstance(x, Tensor) else x
        seen.append(values.dtype)
        hidden = [ops.tanh(ops.sum(x * row.astype(values.dtype), axis=1, keepdims=True)) for row in w - 0.3]
        return ops.concatenate([sum(h * float(k) for h, k in zip(hidden, row, strict=True)) for row in v], axis=1)

    return model, x, y, seen


def same(first, second):
    """Compare two results to the bit, all that is in them."""
    assert type(first) is type(second)
    if is_dataclass(first):
        for field in fields(first):
            same(getattr(first, field.name), getattr(second, field.name))
    elif isinstance(first, tuple | list):
        for a, b in zip(first, second, strict=True):
            same(a, b)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            same(first[key], second[key])
    else:
        np.testing.assert_array_equal(first, second)


def test_every_measurement_is_in_the_table_or_exempt():
    functions = {name for name in evaluation.__all__ if inspect.isfunction(getattr(evaluation, name))}
    assert functions == MEASUREMENTS.keys() | EXEMPT.keys()
    assert not MEASUREMENTS.keys() & EXEMPT.keys()
    for name in MEASUREMENTS:
        parameters = inspect.signature(getattr(evaluation, name)).parameters
        assert ("batch_size" in parameters) == (name not in WITHOUT_BATCHES), name


DEFAULTS = {
    "church_windows": {"first": "sign", "second": "random", "eps": 0.25, "points": 101, "unit": "rms", "clip": False},
    "masking_checks": {"steps": 40, "draws": 10, "bounds": (0.0, 1.0)},
    "minimal_eps": {"halvings": 6},
    "more_steps_do_not_help": {"steps": (1, 10, 40)},
    "noise_as_good": {"draws": 10, "bounds": (0.0, 1.0)},
    "norm_demonstration": {"true": 3, "other": 7, "size": 4.0},
}


def test_defaults_are_those_documented(name):
    parameters = inspect.signature(getattr(evaluation, name)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default not in (p.empty, None)}
    if name not in WITHOUT_BATCHES:
        assert defaults.pop("batch_size") == 500
    assert defaults == DEFAULTS.get(name, {})


def test_help_describes_every_parameter(name):
    function = getattr(evaluation, name)
    text = inspect.getdoc(function)
    assert "see npadv.evaluation" not in text
    assert "\nRaises\n------\nValueError\n" in text
    described = text.partition("\nParameters\n")[2].partition("\nReturns\n")[0]
    names = {
        word for line in described.splitlines() if not line.startswith(" ") for word in line.split(" : ")[0].split(", ")
    }
    assert set(inspect.signature(function).parameters) <= names


def test_examples_and_labels_are_unchanged(name, examples):
    model, x, y, _ = examples
    x_before, y_before = x.copy(), y.copy()
    MEASUREMENTS[name](model, x, y)
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(y, y_before)


def test_the_same_call_gives_the_same_result(name, examples):
    model, x, y, _ = examples
    same(MEASUREMENTS[name](model, x, y), MEASUREMENTS[name](model, x, y))


@pytest.mark.parametrize("name", [name for name in MEASUREMENTS if name not in WITHOUT_BATCHES])
@pytest.mark.parametrize("batch_size", [1, 2, 10, 11, np.int64(3)])
def test_the_result_does_not_depend_on_the_batch_size(name, examples, batch_size):
    model, x, y, _ = examples
    whole, parts = (MEASUREMENTS[name](model, x, y, batch_size=size, progress=False) for size in (1000, batch_size))
    if name in ("more_steps_do_not_help", "masking_checks"):  # their means of losses are not rounded in the same order
        for a, b in zip(np.atleast_1d(whole), np.atleast_1d(parts), strict=True):
            assert (a.name, a.suspicious) == (b.name, b.suspicious)
            assert a.numbers == pytest.approx(b.numbers, rel=1e-12)
    else:
        same(whole, parts)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_model_evaluates_the_dtype_of_the_examples_alone(name, examples, dtype):
    model, x, y, seen = examples
    MEASUREMENTS[name](model, x.astype(dtype), y)
    assert set(seen) == {np.dtype(dtype)}


@pytest.mark.parametrize("dtype", ["uint64", ">i8", ">u2", "int8", "<i4"])
def test_labels_may_be_integers_of_any_kind(name, examples, dtype):
    model, x, y, _ = examples
    expected, result = (MEASUREMENTS[name](model, x, labels) for labels in (y, y.astype(dtype)))
    for a, b in zip(leaves(expected), leaves(result), strict=True):
        np.testing.assert_array_equal(a, b)


def leaves(result):
    """Yield the numbers, arrays and texts of a result."""
    if is_dataclass(result):
        result = [getattr(result, field.name) for field in fields(result)]
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, tuple | list):
        for part in result:
            yield from leaves(part)
    else:
        yield result


def test_a_measurement_runs_inside_no_record(name, examples):
    model, x, y, _ = examples
    expected = MEASUREMENTS[name](model, x, y)
    with no_record():
        result = MEASUREMENTS[name](model, x, y)
    same(result, expected)
