"""Losses: their formulas, their gradients, their extremes, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import distinct, seeds

from npadv import Tensor, grad, ops
from npadv import functional as F
from npadv.testing import check_grads

autograd = pytest.importorskip("autograd", reason="autograd is not installed")
anp = pytest.importorskip("autograd.numpy")
autograd_logsumexp = pytest.importorskip("autograd.scipy.special").logsumexp


@st.composite
def batches(draw):
    """Return logits (N, K), their integer labels and their soft targets."""
    rng = np.random.default_rng(draw(seeds))
    n, k = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    return 3 * rng.standard_normal((n, k)), rng.integers(0, k, n), rng.uniform(0, 1, (n, k))


def their_log_softmax(z):
    return z - autograd_logsumexp(z, axis=1, keepdims=True)


# Each loss, per example, as its textbook writes it; its targets are made from labels, soft targets and other logits.
FORMULAS = {
    "cross_entropy, classes": (
        F.cross_entropy,
        lambda labels, soft: labels,
        lambda z, t: -their_log_softmax(z)[np.arange(len(t)), t],
    ),
    "cross_entropy, soft targets": (
        F.cross_entropy,
        lambda labels, soft: soft,
        lambda z, t: -anp.sum(t * their_log_softmax(z), axis=1),
    ),
    "kl_divergence": (
        F.kl_divergence,
        lambda labels, soft: 4 * soft,
        lambda z, t: anp.sum(anp.exp(their_log_softmax(z)) * (their_log_softmax(z) - their_log_softmax(t)), axis=1),
    ),
    "mean_squared_error": (
        F.mean_squared_error,
        lambda labels, soft: soft,
        lambda z, t: anp.mean((z - t) ** 2, axis=1),
    ),
    "binary_cross_entropy": (
        F.binary_cross_entropy,
        lambda labels, soft: soft,
        lambda z, t: -t * anp.log(1 / (1 + anp.exp(-z))) - (1 - t) * anp.log(1 / (1 + anp.exp(z))),
    ),
}
every_loss = pytest.mark.parametrize("case", FORMULAS)


@every_loss
@given(batch=batches())
def test_a_loss_is_its_formula_and_so_are_its_derivatives(case, batch):
    logits, labels, soft = batch
    loss, targets_of, formula = FORMULAS[case]
    targets = targets_of(labels, soft)
    expected = formula(logits, targets)
    for reduction, reduced in (("none", expected), ("sum", expected.sum()), ("mean", expected.mean())):
        np.testing.assert_allclose(loss(logits, targets, reduction), reduced, rtol=1e-10, atol=1e-12)
    z = Tensor(logits, requires_grad=True)
    g = grad(loss(z, targets), z)
    np.testing.assert_allclose(g, autograd.grad(lambda z: anp.mean(formula(z, targets)))(logits), rtol=1e-9, atol=1e-12)
    check_grads(lambda z: loss(z, targets, "none"), [logits])


@given(batch=batches())
def test_losses_are_differentiable_in_their_targets_too(batch):
    logits, _, soft = batch
    for loss in (F.cross_entropy, F.kl_divergence, F.mean_squared_error):
        check_grads(lambda z, t, loss=loss: loss(z, t, "none"), [logits, soft + 0.1])
    check_grads(lambda z, t: F.binary_cross_entropy(z, t, "none"), [logits, 0.05 + 0.9 * soft])


@given(batch=batches())
def test_classes_and_their_one_hot_rows_give_the_same_loss(batch):
    logits, labels, _ = batch
    z = Tensor(logits, requires_grad=True)
    rows = F.one_hot(labels, logits.shape[1], dtype=np.float64)
    by_class, by_row = F.cross_entropy(z, labels, "none"), F.cross_entropy(z, rows, "none")
    np.testing.assert_allclose(by_class.data, by_row.data, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(grad(by_class.sum(), z), grad(by_row.sum(), z), rtol=1e-12, atol=1e-12)


@every_loss
@given(batch=batches())
def test_under_sum_an_example_has_the_gradient_it_has_alone(case, batch):
    logits, labels, soft = batch
    loss, targets_of, _ = FORMULAS[case]
    targets = targets_of(labels, soft)

    def slope(rows):
        z = Tensor(logits[rows], requires_grad=True)
        return grad(loss(z, targets[rows], "sum"), z)

    together = slope(slice(None))
    assert together.tolist() == [slope(slice(n, n + 1))[0].tolist() for n in range(len(logits))]
    assert together[::-1].tolist() == slope(slice(None, None, -1)).tolist()


@every_loss
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits_give_finite_losses_and_gradients(case, dtype):
    loss, targets_of, _ = FORMULAS[case]
    labels = np.array([0, 1, 0, 1])
    targets = targets_of(labels, F.one_hot(labels, 2, dtype))
    logits = np.array([[1e4, -1e4], [1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]], dtype)
    z = Tensor(logits, requires_grad=True)
    y = loss(z, targets, "none")
    assert y.dtype == dtype
    assert np.isfinite(y.data).all()
    assert np.isfinite(grad(y.sum(), z)).all()
    assert np.isfinite(grad(ops.square(grad(y.sum(), z, create_graph=True)).sum(), z, unused="zeros")).all()


def test_at_the_extremes_the_losses_are_the_distances_of_the_logits():
    logits = np.array([[1e4, -1e4], [1e4, -1e4]])
    assert F.cross_entropy(logits, np.array([0, 1]), "none").tolist() == [0, 2e4]
    assert F.binary_cross_entropy(logits, np.array([[1, 0], [0, 1]]), "none").tolist() == [[0, 0], [1e4, 1e4]]
    assert F.kl_divergence(logits, logits[:, ::-1], "none").tolist() == [2e4, 2e4]


def test_examples_of_very_different_sizes_do_not_touch_each_other():
    logits = Tensor(np.array([[1000.0, 1000.0], [0.0, 0.0], [-1000.0, -1000.0]]), requires_grad=True)
    loss = F.cross_entropy(logits, np.array([0, 1, 0]), reduction="none")
    np.testing.assert_allclose(loss.data, np.log(2))
    g = grad(loss, logits, np.ones(3))
    np.testing.assert_allclose(g, [[-0.5, 0.5], [0.5, -0.5], [-0.5, 0.5]])


def test_a_loss_of_float32_stays_float32_whatever_its_targets_are():
    z = Tensor(np.zeros((2, 3), np.float32), requires_grad=True)
    for y in (
        F.cross_entropy(z, np.array([0, 2])),
        F.cross_entropy(z, np.full((2, 3), 1 / 3)),
        F.kl_divergence(z, np.zeros((2, 3), np.float32)),
        F.mean_squared_error(z, np.ones((2, 3), np.float32)),
        F.binary_cross_entropy(z, 1.0),
        F.binary_cross_entropy(z, 0),
    ):
        assert y.dtype == grad(y, z).dtype == np.float32


def test_losses_of_tensors_are_tensors_and_of_arrays_arrays():
    logits, labels = np.zeros((2, 3)), np.array([0, 2])
    assert isinstance(F.cross_entropy(logits, labels), np.floating)
    assert isinstance(F.cross_entropy(Tensor(logits), labels), Tensor)
    assert F.cross_entropy(Tensor(logits), Tensor(labels)).item() == F.cross_entropy(logits, labels.tolist())


def test_errors_of_one_number_per_example_are_squared_and_not_averaged():
    assert F.mean_squared_error(np.array([1.0, 2.0]), np.array([0.0, 4.0]), "none").tolist() == [1, 4]
    assert F.mean_squared_error(np.ones((2, 2, 2)), np.zeros((2, 2, 2)), "none").tolist() == [1, 1]


# 0 log 0 ----------------------------------------------------------------------------------------------------------------

IMPOSSIBLE = np.array([[0.0, 1.0, -np.inf]])  # a class that cannot be


def test_a_class_of_weight_0_may_have_the_logit_minus_infinity():
    logits, weights = Tensor(IMPOSSIBLE, requires_grad=True), Tensor(np.array([[0.25, 0.75, 0.0]]), requires_grad=True)
    without = F.cross_entropy(Tensor(IMPOSSIBLE[:, :2]), weights.data[:, :2])
    loss = F.cross_entropy(logits, weights)
    assert loss.item() == pytest.approx(without.item(), rel=1e-15)
    p = 1 / (1 + np.e)
    np.testing.assert_allclose(grad(loss, logits), [[p - 0.25, 0.25 - p, 0]], rtol=1e-14)
    assert np.isfinite(grad(loss, weights)).all()


def test_a_weight_of_0_still_has_its_gradient_where_the_logarithm_is_finite():
    weights = Tensor(np.array([[1.0, 0.0]]), requires_grad=True)
    loss = F.cross_entropy(np.array([[0.0, 0.0]]), weights)
    np.testing.assert_allclose(grad(loss, weights), [[np.log(2)] * 2])


def test_divergence_leaves_out_classes_of_probability_0():
    p, q = Tensor(IMPOSSIBLE, requires_grad=True), Tensor(np.array([[0.0, 2.0, 1.0]]), requires_grad=True)
    divergence = F.kl_divergence(p, q)
    a, b = (np.exp(z) / np.exp(z).sum() for z in (IMPOSSIBLE[0], q.data[0]))
    assert divergence.item() == pytest.approx((a[:2] * np.log(a[:2] / b[:2])).sum(), rel=1e-14)
    d_p, d_q = grad(divergence, [p, q])
    np.testing.assert_allclose(d_q, [b - a], rtol=1e-14)
    np.testing.assert_allclose(d_p[0, :2], a[:2] * (np.log(a[:2] / b[:2]) - divergence.item()), rtol=1e-13)
    assert d_p[0, 2] == 0


def test_divergence_of_equal_distributions_with_an_impossible_class_is_0():
    p, q = (Tensor(IMPOSSIBLE.copy(), requires_grad=True) for _ in "pq")
    divergence = F.kl_divergence(p, q)
    assert divergence.item() == 0
    np.testing.assert_array_equal(grad(divergence, [p, q]), np.zeros((2, 1, 3)))


def test_an_impossible_class_that_has_weight_costs_infinity():
    assert F.cross_entropy(IMPOSSIBLE, np.array([[0.5, 0.0, 0.5]])) == np.inf
    assert F.kl_divergence(np.zeros((1, 3)), IMPOSSIBLE) == np.inf


# Integers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int64, np.bool_])
def test_losses_of_integers_are_those_of_the_same_numbers_in_floating_point(dtype):
    a, b = (np.array([[10, 250, 3], [255, 0, 7]]) - shift for shift in (0, 20))
    a, b = a.astype(dtype), b.astype(dtype)
    labels = np.array([0, 2])
    for loss in (F.mean_squared_error, F.kl_divergence, lambda z, _: F.cross_entropy(z, labels)):
        assert loss(a, b) == loss(a.astype(np.float64), b.astype(np.float64))
    for function in (F.softmax, F.log_softmax, lambda z: F.binary_cross_entropy(z, 1.0)):
        np.testing.assert_array_equal(function(a), function(a.astype(np.float64)))


def test_the_squared_error_of_two_bytes():
    assert F.mean_squared_error(np.array([[10]], np.uint8), np.array([[30]], np.uint8)) == 400
    assert F.mean_squared_error(Tensor(np.array([[10]], np.uint8)), np.array([[30]], np.uint8)).item() == 400


@pytest.mark.parametrize("number", [0.9, np.float32(0.9), np.float64(0.9), 1, np.int64(1), np.True_])
def test_the_target_of_binary_cross_entropy_may_be_any_number(number):
    logits = np.array([0.5, -2.0], np.float32)
    loss = F.binary_cross_entropy(logits, number)
    assert loss.dtype == np.float32
    assert loss == pytest.approx(F.binary_cross_entropy(logits, np.full(2, number, np.float32)), rel=1e-6)
    with pytest.raises(
        ValueError, match=r"binary_cross_entropy\(targets\): expected probabilities in \[0, 1\], got from"
    ):
        F.binary_cross_entropy(logits, number + np.float32(1))


@pytest.mark.parametrize("dtype", [">i2", ">i8", "<i4", ">u4", "u8", "i1"])
def test_labels_may_have_any_integer_dtype_and_byte_order(dtype):
    logits = np.random.default_rng(0).standard_normal((3, 4))
    labels = np.array([0, 3, 1])
    assert F.cross_entropy(logits, labels.astype(dtype)) == F.cross_entropy(logits, labels)
    np.testing.assert_array_equal(F.one_hot(labels.astype(dtype), 4), np.eye(4)[labels])
    with pytest.raises(ValueError, match=r"labels: expected classes 0\.\.3, got values from 0 to 4"):
        F.cross_entropy(logits, np.array([0, 4, 1], dtype))


# Activations ----------------------------------------------------------------------------------------------------------


def test_softmax_sums_to_one_and_survives_the_extremes():
    for dtype in (np.float32, np.float64):
        x = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [np.log(1), np.log(2), np.log(5)]], dtype)
        expected = [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.125, 0.25, 0.625]]
        np.testing.assert_allclose(F.softmax(x), expected, rtol=1e-6)
        np.testing.assert_allclose(F.softmax(x.T, axis=0), np.transpose(expected), rtol=1e-6)
        assert F.log_softmax(x)[0].tolist() == [0, -2e4, -1e4]
        assert F.softmax(x).dtype == F.log_softmax(x).dtype == dtype


def test_leaky_relu_has_its_slope_on_the_left_and_at_0():
    x = Tensor([-2.0, 0.0, 3.0], requires_grad=True)
    y = F.leaky_relu(x, 0.1)
    assert y.data.tolist() == [-0.2, 0, 3]
    assert grad(y.sum(), x).tolist() == [0.1, 0.1, 1]


@given(seed=seeds, pieces=st.integers(1, 3), units=st.integers(1, 3), axis=st.sampled_from([1, -1, 2]))
def test_maxout_takes_the_largest_of_each_units_pieces(seed, pieces, units, axis):
    shape = [2, 4, 4]
    shape[axis] = pieces * units
    x = distinct(np.random.default_rng(seed), tuple(shape))
    y = F.maxout(x, pieces, axis)
    for u in range(units):
        its_pieces = np.take(x, [u + units * piece for piece in range(pieces)], axis)
        assert np.take(y, u, axis).tolist() == its_pieces.max(axis).tolist()
    check_grads(lambda x: F.maxout(x, pieces, axis), [x])


@pytest.mark.parametrize("axis", [2, 5, -3])
def test_maxout_refuses_an_axis_out_of_range(axis):
    with pytest.raises(ValueError, match=rf"maxout\(axis\): expected an axis of an array of 2 dimensions, got {axis}"):
        F.maxout(np.ones((2, 4)), 2, axis=axis)


def test_at_a_tie_of_pieces_the_first_wins():
    x = Tensor(np.ones((1, 4)), requires_grad=True)
    assert grad(F.maxout(x, 2).sum(), x).tolist() == [[1, 1, 0, 0]]


# What they refuse: each message names the argument, what was expected and what came -----------------------------------

z23 = np.zeros((2, 3))
nan23 = np.full((2, 3), np.nan)
REFUSED = {
    "a class too large": (
        lambda: F.cross_entropy(z23, [0, 3]),
        r"labels: expected classes 0\.\.2, got values from 0 to 3",
    ),
    "a class too small": (
        lambda: F.cross_entropy(z23, [-1, 0]),
        r"labels: expected classes 0\.\.2, got values from -1 to 0",
    ),
    "float classes": (
        lambda: F.cross_entropy(z23, [0.0, 1.0]),
        r"labels: expected integer classes 0\.\.2, got dtype float64",
    ),
    "boolean classes": (
        lambda: F.cross_entropy(z23, [True, False]),
        r"labels: expected integer classes.*got dtype bool",
    ),
    "too few classes": (
        lambda: F.cross_entropy(z23, [0]),
        r"labels: expected shape \(2,\), one class per example, got \(1,\)",
    ),
    "a class for all": (lambda: F.cross_entropy(z23, 1), r"labels: expected shape \(2,\).*got \(\)"),
    "logits of one example": (
        lambda: F.cross_entropy(z23[0], [0]),
        r"cross_entropy\(logits\): expected shape \(N, K\), got \(3,\)",
    ),
    "soft targets that do not fit": (
        lambda: F.cross_entropy(z23, z23.T),
        r"targets: expected shape \(2, 3\), got \(3, 2\)",
    ),
    "soft targets not a number": (
        lambda: F.cross_entropy(z23, nan23),
        "targets: expected finite, non-negative weights for each class, got from nan to nan",
    ),
    "infinite soft targets": (
        lambda: F.cross_entropy(z23, z23 + np.inf),
        "targets: expected finite, non-negative weights for each class, got from inf to inf",
    ),
    "negative soft targets": (
        lambda: F.cross_entropy(z23, z23 - 1),
        "targets: expected finite, non-negative weights for each class, got from -1.0 to -1.0",
    ),
    "integer soft targets": (
        lambda: F.cross_entropy(z23, z23.astype(int)),
        "targets: expected floating-point.*got dtype int64",
    ),
    "p of one example": (
        lambda: F.kl_divergence(z23[0], z23[0]),
        r"kl_divergence\(p_logits\): expected shape \(N, K\), got \(3,\)",
    ),
    "q that does not fit": (
        lambda: F.kl_divergence(z23, z23.T),
        r"kl_divergence\(q_logits\): expected shape \(2, 3\), got \(3, 2\)",
    ),
    "a target that would broadcast": (
        lambda: F.mean_squared_error(z23, z23[:1]),
        r"mean_squared_error\(target\): expected shape \(2, 3\), got \(1, 3\)",
    ),
    "a scalar prediction": (
        lambda: F.mean_squared_error(np.array(1.0), np.array(1.0)),
        r"mean_squared_error\(prediction\): expected a batch \(N, ...\), got a scalar",
    ),
    "probabilities that do not fit": (
        lambda: F.binary_cross_entropy(z23, z23[0]),
        r"binary_cross_entropy\(targets\): expected shape \(2, 3\), got \(3,\)",
    ),
    "a probability above 1": (
        lambda: F.binary_cross_entropy(z23, 1.5),
        r"targets\): expected probabilities in \[0, 1\], got from 1.5 to 1.5",
    ),
    "probabilities below 0": (
        lambda: F.binary_cross_entropy(z23, z23 - 0.5),
        r"targets\): expected probabilities in \[0, 1\], got from -0.5 to -0.5",
    ),
    "a probability not a number": (
        lambda: F.binary_cross_entropy(z23, nan23),
        r"expected probabilities in \[0, 1\], got from nan to nan",
    ),
    "an unknown reduction": (
        lambda: F.cross_entropy(z23, [0, 1], "average"),
        "reduction: expected one of none, sum, mean, got 'average'",
    ),
    "an empty batch to average": (
        lambda: F.cross_entropy(z23[:0], np.zeros(0, int)),
        "reduction='mean': expected at least one example, got an empty batch",
    ),
    "pieces that do not divide": (
        lambda: F.maxout(np.zeros((1, 5)), 2),
        r"maxout\(pieces\): expected a divisor of the 5 features on axis 1, got 2",
    ),
    "no pieces": (lambda: F.maxout(np.zeros((1, 5)), 0), r"maxout\(pieces\): expected a divisor .* got 0"),
    "a class one_hot has no column for": (
        lambda: F.one_hot([0, 3], 3),
        r"labels: expected classes 0\.\.2, got values from 0 to 3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_words(case):
    ask, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        ask()


@every_loss
def test_an_empty_batch_has_no_losses_and_sums_to_0(case):
    loss, targets_of, _ = FORMULAS[case]
    targets = targets_of(np.zeros(0, int), np.zeros((0, 3)))
    assert loss(np.zeros((0, 3)), targets, "none").shape[0] == 0
    assert loss(np.zeros((0, 3)), targets, "sum") == 0
    with pytest.raises(ValueError, match="reduction='mean': expected at least one example"):
        loss(np.zeros((0, 3)), targets)
