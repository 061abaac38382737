"""Label smoothing and distillation: targets other than the labels, computed by hand."""

import numpy as np
import pytest
from error_lines import one_line
from scipy.special import log_softmax, rel_entr, softmax

from npadv import Tensor, grad
from npadv.defenses import at_temperature, defensive_distillation, distillation, label_smoothing
from npadv.defenses.label_smoothing import smooth_targets
from npadv.nn import BatchNorm, Dense, Dropout, Sequential

RNG = np.random.default_rng(0)
X, Y, LOGITS = RNG.random((5, 4)), np.array([0, 1, 2, 0, 1]), 3 * RNG.standard_normal((5, 10))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def returns(logits):
    """Return a model that gives these logits, whatever its input."""
    return lambda x, **mode: logits


# Label smoothing ------------------------------------------------------------------------------------------------------

PUBLISHED = {"published": (0.9, 0.01), ".91/.01": (0.91, 0.01), "eps/(k-1)": (0.9, 0.1 / 9)}


@pytest.mark.parametrize("targets", PUBLISHED)
def test_the_targets_of_ten_classes_are_the_published_ones(targets):
    right, wrong = PUBLISHED[targets]
    rows = np.full((5, 10), wrong)
    rows[np.arange(5), Y] = right
    np.testing.assert_allclose(smooth_targets(Y, 10, targets, 0.1, np.float64), rows, rtol=1e-12)
    assert rows.sum(axis=1) == pytest.approx(0.99 if targets == "published" else 1.0)


@pytest.mark.parametrize("targets", PUBLISHED)
def test_the_smoothed_loss_is_the_formula(rng, targets):
    right, wrong = PUBLISHED[targets]
    log_p = log_softmax(LOGITS, axis=1)
    expected = -np.mean([right * row[y] + wrong * (row.sum() - row[y]) for row, y in zip(log_p, Y, strict=True)])
    assert label_smoothing(targets=targets)(returns(Tensor(LOGITS)), X, Y, rng=rng).item() == pytest.approx(expected)


@pytest.mark.parametrize("targets", PUBLISHED)
def test_without_smoothing_it_is_the_cross_entropy(rng, targets):
    expected = -log_softmax(LOGITS, axis=1)[np.arange(5), Y].mean()
    loss = label_smoothing(targets=targets, eps=0.0)(returns(Tensor(LOGITS)), X, Y, rng=rng)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("targets", PUBLISHED)
def test_the_best_logits_are_a_finite_distance_apart(targets):
    """At the minimum p is the targets' distribution, so z_right - z_wrong = log(right / wrong)."""
    z = Tensor(np.zeros((1, 10)), requires_grad=True)
    for _ in range(2000):
        z.assign(z.data - grad(label_smoothing(targets=targets)(returns(z), X[:1], np.array([3]), rng=None), z))
    right, wrong = PUBLISHED[targets]
    assert (z.data[0, 3] - np.delete(z.data[0], 3)).tolist() == pytest.approx([np.log(right / wrong)] * 9, rel=1e-6)


# Distillation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 5.0, 40.0])
def test_the_students_loss_is_the_divergence_at_the_temperature(rng, temperature):
    teacher = 3 * rng.standard_normal((5, 10))
    p, q = softmax(teacher / temperature, axis=1), softmax(LOGITS / temperature, axis=1)
    loss = distillation(returns(teacher), temperature=temperature)(returns(Tensor(LOGITS)), X, None, rng=rng)
    assert loss.item() == pytest.approx(rel_entr(p, q).sum(axis=1).mean(), rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 5.0, 40.0])
def test_the_teachers_loss_is_the_cross_entropy_at_the_temperature(rng, temperature):
    expected = -log_softmax(LOGITS / temperature, axis=1)[np.arange(5), Y].mean()
    assert at_temperature(temperature)(returns(Tensor(LOGITS)), X, Y, rng=rng).item() == pytest.approx(expected)


def test_the_gradients_in_the_logits_scale_as_one_over_the_temperature(rng):
    """The student's gradient is (q - p) / (T N), with p and q at temperature T."""
    teacher, sizes = rng.standard_normal((5, 10)), {}
    for temperature in (1.0, 10.0, 100.0):
        z = Tensor(temperature * LOGITS, requires_grad=True)  # so that q is the same at every temperature
        loss = distillation(returns(temperature * teacher), temperature=temperature)
        sizes[temperature] = grad(loss(returns(z), X, None, rng=rng), z)
        expected = (softmax(LOGITS, axis=1) - softmax(teacher, axis=1)) / (5 * temperature)
        np.testing.assert_allclose(sizes[temperature], expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(sizes[100.0], sizes[1.0] / 100, rtol=1e-9, atol=1e-14)


def network(rng):
    return Sequential(Dense(4, 6, rng=rng), BatchNorm(6), Dropout(0.5), Dense(6, 3, rng=rng)).astype(np.float64)


def test_the_teacher_is_asked_in_inference_and_gets_no_gradient(rng):
    teacher, student = network(rng), network(rng)
    before = {name: value.copy() for name, value in teacher.state().items()}
    loss = distillation(teacher, temperature=3.0)(student, X, Y, rng=rng)
    assert all(np.abs(g).max() > 0 for g in grad(loss, student.parameters()))
    with pytest.raises(ValueError, match="does not depend"):
        grad(loss, teacher.parameters())
    np.testing.assert_equal(teacher.state(), before)  # the averages of its batch normalization, too


def test_the_recipe_trains_the_teacher_first_and_the_student_on_it(rng):
    order = []

    def train(model, loss):
        order.append((model, loss(model, X, Y, rng=np.random.default_rng(0)).item()))

    student, teacher = defensive_distillation(lambda: Dense(4, 3, rng=rng).astype(np.float64), train, temperature=7.0)
    assert [model for model, _ in order] == [teacher, student]
    z_teacher, z_student = (X @ model.weight.data + model.bias.data for model in (teacher, student))
    assert order[0][1] == pytest.approx(-log_softmax(z_teacher / 7, axis=1)[np.arange(5), Y].mean())
    p, q = softmax(z_teacher / 7, axis=1), softmax(z_student / 7, axis=1)
    assert order[1][1] == pytest.approx(rel_entr(p, q).sum(axis=1).mean())


# What goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: label_smoothing(targets="hinton"),
            "targets: expected one of published, .91/.01, eps/(k-1), got 'hinton'",
        ),
        (lambda: label_smoothing(eps=1.0), "eps: expected a weight in [0, 1), got 1.0"),
        (lambda: label_smoothing(eps=-0.1), "eps: expected a weight in [0, 1), got -0.1"),
        (lambda: distillation(returns(X), temperature=0), "temperature: expected a finite number above 0, got 0"),
        (lambda: at_temperature(float("nan")), "temperature: expected a finite number above 0, got nan"),
        (
            lambda: defensive_distillation(lambda: None, lambda model, loss: None, temperature=-1.0),
            "temperature: expected a finite number above 0, got -1.0",
        ),
    ],
)
def test_bad_settings_are_named(call, message):
    one_line(call, message)
