"""Mistakes that measurements must not make: which examples count, which gradients are flagged, and unclear errors."""

from functools import partial

import numpy as np
import pytest
from error_lines import one_line

from npadv import ops
from npadv.attacks import AttackResult, fgsm, linearized, pgd
from npadv.evaluation import (
    Distances,
    church_windows,
    masking_checks,
    minimal_distances,
    minimal_eps,
    more_steps_do_not_help,
    noise_as_good,
    norm_demonstration,
    robustness_curve,
    wilson,
    zero_gradients,
)

X, Y = np.random.default_rng(0).random((5, 6)), np.array([0, 1, 2, 0, 1])
WEIGHTS = np.random.default_rng(1).normal(size=(6, 3))
IMAGES = 0.6 + X.reshape(5, 1, 2, 3) / 5


def model(x):
    return x @ WEIGHTS


def rng():
    return np.random.default_rng(0)


def test_examples_count_if_they_are_correct_before_the_attack():
    """After its one step, this attack has turned a third of the examples into another class; they count all the same."""
    x = np.linspace(0, 1, 60).reshape(30, 2)
    line = lambda x: (x[:, :1] - 2.0) * np.array([[-1.0, 1.0]])  # noqa: E731  all of class 0 in the box

    def attack(model, x, y, *, steps):
        x_adv = np.where((np.round(x[:, :1] * 29.5) % 3 == 0), x + 1.5 + steps, x + 0.1 * steps)
        prediction = model(x_adv).argmax(axis=1)
        return AttackResult(x_adv, prediction != y, x[:, 0], np.zeros(len(x), int), prediction, {})

    y = np.zeros(30, int)
    assert line(attack(line, x, y, steps=1).x_adv).argmax(axis=1).sum() == 10
    check = more_steps_do_not_help(line, x, y, attack=attack, steps=(1, 2))
    assert check.numbers["examples"] == 30
    wrong = np.arange(30) % 5 == 0
    check = more_steps_do_not_help(line, x, np.where(wrong, 1, 0), attack=attack, steps=(1, 2))
    assert check.numbers["examples"] == 24


def test_a_gradient_that_is_not_finite_in_one_pixel_is_counted():
    """The square root has an infinite slope at 0: in the first pixel of every second example, and in no other pixel."""
    x = np.random.default_rng(0).uniform(0.2, 0.8, (40, 3))
    x[::2, 0] = 0
    root = lambda x: ops.sqrt(x) @ np.array([[1.0, -1.0], [1.0, -1.0], [-2.0, 2.0]])  # noqa: E731
    with np.errstate(divide="ignore", invalid="ignore"):
        check = zero_gradients(root, x, np.zeros(40, int))
    assert check.numbers == {"examples": 40, "zero": 0.0, "non_finite": 0.5}
    assert check.suspicious


def test_a_gradient_that_is_zero_in_some_pixels_is_no_zero_gradient():
    x = np.random.default_rng(0).uniform(0.2, 0.8, (40, 3))
    check = zero_gradients(lambda x: x @ np.array([[1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]), x, np.zeros(40, int))
    assert check.numbers["zero"] == 0


# Errors: one line that names the argument ---------------------------------------------------------------------------------

CALLS = {
    "church": partial(church_windows, model, X, Y, points=3),
    "checks": partial(masking_checks, model, X, Y, steps=2),
    "noise": partial(noise_as_good, model, X, Y, attack=partial(fgsm, eps=0.1)),
}
BOUNDS = "bounds: expected (low, high) with low < high"


@pytest.mark.parametrize(
    "bounds", ["0,1", (0,), ("0", "1"), 3, (0, 1, 2), (1, 0), np.eye(2), (np.zeros(6), np.ones(6))]
)
@pytest.mark.parametrize("call", CALLS)
def test_bounds_that_are_no_box_are_named(call, bounds):
    one_line(lambda: CALLS[call](eps=0.1, bounds=bounds, rng=rng()), BOUNDS)


@pytest.mark.parametrize("eps", ["0.1", None, np.full(5, 0.1), [0.1], True, 1e308, np.float64("nan")])
@pytest.mark.parametrize("call", CALLS)
def test_an_eps_that_is_no_number_is_named(call, eps):
    one_line(lambda: CALLS[call](eps=eps, rng=rng()), "eps: expected a")


@pytest.mark.parametrize(
    "eps", ["0.1", "ab", None, ["0.1"], [None], [[0.1]], [0.1, [0.2]], True, [True], [1e308], [1j]]
)
@pytest.mark.parametrize("function", [robustness_curve, minimal_eps])
def test_budgets_that_are_no_numbers_are_named(function, eps):
    one_line(lambda: function(model, X, Y, attack=fgsm, eps=eps), "eps: expected a")


WRONG = {
    "attack as text": (
        lambda: robustness_curve(model, X, Y, attack="fgsm", eps=[0.1]),
        "attack: expected a callable, got",
    ),
    "no attack": (lambda: minimal_distances(model, X, Y, attack=None), "attack: expected a callable, got None"),
    "no model": (lambda: minimal_distances(None, X, Y, attack=linearized), "model: expected a callable, got None"),
    "steps": (
        lambda: more_steps_do_not_help(model, X, Y, attack=pgd, steps=3),
        "steps: expected at least 2 increasing",
    ),
    "steps as text": (
        lambda: more_steps_do_not_help(model, X, Y, attack=pgd, steps="13"),
        "steps: expected at least 2",
    ),
    "clip as text": (lambda: CALLS["church"](clip="False", bounds=(0, 1), rng=rng()), "clip: expected True or False"),
    "unit": (lambda: CALLS["church"](unit=["l2"], rng=rng()), "unit: expected one of rms, l2, linf, given, got ['l2']"),
    "true as text": (
        lambda: norm_demonstration(IMAGES, Y, true="0", other=1, rng=rng()),
        "true: expected an integer of at least 0, got '0'",
    ),
    "no other": (lambda: norm_demonstration(IMAGES, Y, true=0, other=None, rng=rng()), "other: expected an integer"),
    "size as text": (lambda: norm_demonstration(IMAGES, Y, size="4", rng=rng()), "size: expected a positive number"),
    "no rng": (lambda: norm_demonstration(IMAGES, Y, rng=None), "rng: expected a numpy.random.Generator, got NoneType"),
    "confidence as text": (lambda: wilson(1, 2, "0.9"), "confidence: expected a number between 0 and 1, got '0.9'"),
    "confidences": (lambda: wilson(1, 2, np.full(2, 0.9)), "confidence: expected a number between 0 and 1, got array"),
    "radius as text": (lambda: Distances(np.ones(3)).within("a"), "r: expected distances of at least 0, got 'a'"),
    "quantile as text": (lambda: Distances(np.ones(3)).quantile("a"), "q: expected a number in [0, 1], got 'a'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_named(name):
    one_line(*WRONG[name])


def test_a_confidence_may_be_numpys_number():
    low, high = wilson(3, 9, np.float32(0.5))
    assert 0 < low < 1 / 3 < high < 1
