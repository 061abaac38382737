"""L-BFGS, feature, rubbish and substitute attacks: one dtype, inside no_record, any labels, errors that name the argument."""

import inspect

import numpy as np
import pytest
from error_lines import one_line

from npadv import Tensor, no_record, ops
from npadv.attacks import (
    confident_errors,
    evolved_rubbish,
    feature,
    fgsm,
    gaussian_rubbish,
    gradient_rubbish,
    lbfgs,
    substitute,
    transfer_attack,
)
from npadv.nn import Dense, ReLU, Sequential
from npadv.optim import SGD
from npadv.train import classification_loss

X = np.random.default_rng(1).random((5, 6)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1])
WEIGHTS = np.random.default_rng(0).normal(0, 2, (6, 3))
EPS, BOX = np.float64(0.1), (np.float64(0), np.float64(1))


def rng():
    return np.random.default_rng(0)


class Model:
    """A linear model that stores the dtypes it evaluates."""

    def __init__(self, dtype=np.float32):
        self.weights, self.seen = WEIGHTS.astype(dtype), set()

    def __call__(self, x):
        self.seen.add((x.data if isinstance(x, Tensor) else x).dtype)
        return x @ self.weights

    def labels(self, x):
        return (x @ self.weights).argmax(axis=1)


def run_substitute(model, x, y=None, **options):
    generator = rng()
    student = Sequential(Dense(6, 4, rng=generator), ReLU(), Dense(4, 3, rng=generator)).astype(x.dtype)

    def oracle(points):
        model.seen.add(points.dtype)
        return model.labels(points)

    options = {"budget": 20, "rounds": 2, "epochs": 1, **options}
    held_out = None if y is None else (x, y)
    return substitute(
        oracle, student, x, optimizer=SGD(student.parameters(), 0.1), rng=generator, held_out=held_out, **options
    )


ATTACKS = {
    "lbfgs": lambda m, x, y, **o: lbfgs(
        m, x, y, **{"weight": np.float64(1), "tolerance": np.float64(1e-5), "searches": 2, "bounds": BOX, **o}
    ),
    "lbfgs_batched": lambda m, x, y, **o: lbfgs(m, x, y, **{"solver": "batched", "searches": 2, "bounds": BOX, **o}),
    "feature": lambda m, x, y, **o: feature(m, x, x[0], layer=m, **{"eps": EPS, "bounds": BOX, **o}),
    "gradient_rubbish": lambda m, x, y, **o: gradient_rubbish(
        m, x, y, **{"steps": 3, "step": np.float64(0.1), "decay": np.float64(0.1), "bounds": BOX, **o}
    ),
    "confident_errors": lambda m, x, y, **o: confident_errors(m, x, **o),
    "gaussian_rubbish": lambda m, x, y, **o: gaussian_rubbish(
        m, (6,), **{"n": 3, "mean": np.float64(0), "bounds": BOX, "dtype": x.dtype, "rng": rng(), **o}
    ),
    "evolved_rubbish": lambda m, x, y, **o: evolved_rubbish(
        m, (6,), **{"generations": 2, "population": 5, "bounds": BOX, "dtype": x.dtype, "rng": rng(), **o}
    ),
    "substitute": lambda m, x, y, **o: run_substitute(m, x, y, **{"step": EPS, "bounds": BOX, **o}),
    "transfer_attack": lambda m, x, y, **o: transfer_attack(
        m, m.labels, fgsm, x, y, **{"eps": EPS, "bounds": BOX, **o}
    ),
}
BOXED = [name for name in ATTACKS if name != "confident_errors"]


def points(result):
    return result.x_adv if hasattr(result, "x_adv") else result.x


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_of_the_examples_is_kept_whatever_the_type_of_the_options(name, dtype):
    model = Model(dtype)
    result = ATTACKS[name](model, X.astype(dtype), Y)
    assert points(result).dtype == dtype
    assert model.seen == {np.dtype(dtype)}


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_a_climb_keeps_the_dtype_in_every_norm(norm):
    for step in (None, np.float64(0.1)):
        model = Model()
        assert gradient_rubbish(model, X, Y, steps=3, norm=norm, step=step, bounds=BOX).x.dtype == np.float32
        assert model.seen == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_runs_inside_no_record(name):
    expected = ATTACKS[name](Model(), X, Y)
    with no_record():
        result = ATTACKS[name](Model(), X, Y)
    np.testing.assert_array_equal(points(result), points(expected))


@pytest.mark.parametrize("name", ["lbfgs", "lbfgs_batched", "gradient_rubbish", "substitute", "transfer_attack"])
@pytest.mark.parametrize("dtype", ["uint64", ">i4", ">i8", ">u2", "int8"])
def test_labels_may_be_integers_of_any_kind(name, dtype):
    expected, result = (ATTACKS[name](Model(), X, labels) for labels in (Y, Y.astype(dtype)))
    np.testing.assert_array_equal(points(result), points(expected))


@pytest.mark.parametrize("dtype", ["uint64", ">i8"])
def test_an_oracle_may_return_integers_of_any_kind(dtype):
    model = Model()
    results = (transfer_attack(model, lambda x, d=d: model.labels(x).astype(d), fgsm, X, eps=0.3) for d in (dtype, int))
    first, second = results
    np.testing.assert_array_equal(first.success, second.success)
    np.testing.assert_array_equal(first.prediction, second.prediction)


@pytest.mark.parametrize("solver", ["scipy", "batched"])
def test_a_gradient_that_is_not_finite_in_one_pixel_is_flagged(solver):
    """The square root has an infinite slope at 0: in the first pixel of the first example."""
    x, y = np.array([[0.0, 0.5, 0.3], [0.5, 0.5, 0.3]]), np.array([0, 0])
    w = np.array([[4.0, -4.0], [4.0, -4.0], [1.0, -1.0]])
    root = lambda x: ops.sqrt(x) @ w + np.array([-8.0, 8.0])  # noqa: E731
    with np.errstate(divide="ignore", invalid="ignore"):
        attacked = lbfgs(root, x, y, targeted=True, solver=solver, searches=2)
        imitated = feature(root, x, np.full(3, 0.4), layer=root, eps=0.2, solver=solver)
        climbed = gradient_rubbish(root, x, y, steps=2)
    for result in (attacked, imitated, climbed):
        np.testing.assert_array_equal(result.flags["non_finite_gradient"], [True, False])
        assert np.isfinite(points(result)).all()


DEFAULTS = {
    lbfgs: {"targeted": False, "bounds": (0.0, 1.0), "squared": True, "solver": "scipy", "weight": 1.0, "searches": 12,
            "max_iterations": 100, "tolerance": 1e-5, "at_once": 256},
    feature: {"bounds": (0.0, 1.0), "solver": "scipy", "max_iterations": 200, "tolerance": 1e-5, "at_once": 256},
    confident_errors: {"threshold": 0.5, "sigmoid": False, "batch_size": 500},
    gaussian_rubbish: {"mean": 0.0, "deviation": 1.0, "threshold": 0.5, "sigmoid": False, "dtype": np.float32,
                       "device": "cpu", "batch_size": 500},
    gradient_rubbish: {"steps": 100, "norm": "l2", "decay": 0.0, "threshold": 0.5, "sigmoid": False, "bounds": (0.0, 1.0)},
    evolved_rubbish: {"generations": 200, "population": 200, "mutation_rate": 0.1, "halved_every": 1000, "eta": 15.0,
                      "crossover": 0.0, "threshold": 0.5, "sigmoid": False, "bounds": (0.0, 1.0), "dtype": np.float32,
                      "device": "cpu"},
    substitute: {"rounds": 6, "step": 0.1, "reservoir_after": 3, "epochs": 10, "batch_size": 100,
                 "loss": classification_loss, "bounds": (0.0, 1.0), "at_once": 256, "resume": False},
    transfer_attack: {"targeted": False},
}  # fmt: skip


@pytest.mark.parametrize("function", DEFAULTS)
def test_defaults_are_those_documented(function):
    parameters = inspect.signature(function).parameters.values()
    assert {p.name: p.default for p in parameters if p.default not in (p.empty, None)} == DEFAULTS[function]


# Errors: one line that names the argument ---------------------------------------------------------------------------------

BOUNDS = "bounds: expected (low, high) with low < high"


@pytest.mark.parametrize("bounds", ["0,1", (0,), ("0", "1"), 3, (0, 1, 2), np.eye(2), (np.zeros(6), np.ones(6))])
@pytest.mark.parametrize("name", BOXED)
def test_bounds_that_are_no_box_are_named(name, bounds):
    one_line(lambda: ATTACKS[name](Model(), X, Y, bounds=bounds), BOUNDS)


@pytest.mark.parametrize("name", ["lbfgs", "feature", "evolved_rubbish", "substitute", "transfer_attack"])
def test_an_attack_that_needs_a_box_names_it(name):
    one_line(lambda: ATTACKS[name](Model(), X, Y, bounds=None), BOUNDS)


@pytest.mark.parametrize("eps", ["0.1", None, [0.1], True, 1e308])
@pytest.mark.parametrize("name", ["feature", "transfer_attack"])
def test_an_eps_that_is_no_number_is_named(name, eps):
    one_line(lambda: ATTACKS[name](Model(), X, Y, eps=eps), "eps: expected a")


WRONG = [
    ("lbfgs", {"targeted": "False"}, "targeted: expected True or False, got 'False'"),
    ("lbfgs", {"squared": "False"}, "squared: expected True or False, got 'False'"),
    ("lbfgs", {"weight": "1"}, "weight: expected a positive number, got '1'"),
    ("lbfgs", {"weight": np.ones(5)}, "weight: expected a positive number, got an array of shape (5,)"),
    ("lbfgs", {"tolerance": None}, "tolerance: expected a finite number of at least 0, got None"),
    ("lbfgs", {"solver": ["scipy"]}, "solver: expected one of scipy, batched, got ['scipy']"),
    ("feature", {"solver": None}, "solver: expected one of scipy, batched, got None"),
    ("feature", {"tolerance": "0"}, "tolerance: expected a finite number of at least 0, got '0'"),
    ("gradient_rubbish", {"sigmoid": "False"}, "sigmoid: expected True or False, got 'False'"),
    (
        "gradient_rubbish",
        {"threshold": np.ones(2)},
        "threshold: expected a number in [0, 1], got an array of shape (2,)",
    ),
    ("gradient_rubbish", {"step": np.ones(5)}, "step: expected a positive number, got an array of shape (5,)"),
    ("gradient_rubbish", {"decay": None}, "decay: expected a finite number of at least 0, got None"),
    ("confident_errors", {"threshold": "a"}, "threshold: expected a number in [0, 1], got 'a'"),
    ("confident_errors", {"sigmoid": 1}, "sigmoid: expected True or False, got 1"),
    ("gaussian_rubbish", {"mean": "1"}, "mean: expected a finite number, got '1'"),
    ("gaussian_rubbish", {"mean": np.ones(6)}, "mean: expected a finite number, got an array of shape (6,)"),
    ("gaussian_rubbish", {"dtype": "abc"}, "dtype: expected a floating-point dtype, got 'abc'"),
    ("evolved_rubbish", {"mutation_rate": "1"}, "mutation_rate: expected a number in [0, 1], got '1'"),
    ("evolved_rubbish", {"crossover": None}, "crossover: expected a number in [0, 1], got None"),
    ("evolved_rubbish", {"eta": "1"}, "eta: expected a finite number of at least 0, got '1'"),
    ("evolved_rubbish", {"sigmoid": "False"}, "sigmoid: expected True or False, got 'False'"),
    ("substitute", {"resume": "False"}, "resume: expected True or False, got 'False'"),
    ("substitute", {"step": None}, "step: expected a positive number, got None"),
    ("transfer_attack", {"targeted": "False"}, "targeted: expected True or False, got 'False'"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG, ids=[f"{name} {options}" for name, options, _ in WRONG])
def test_a_wrong_argument_is_named(name, options, message):
    one_line(lambda: ATTACKS[name](Model(), X, Y, **options), message)
