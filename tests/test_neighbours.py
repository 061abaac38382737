"""Nearest neighbour and its smoothed version: exact, streamed, stable where everything underflows, and open to attacks."""

import tracemalloc
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from npadv import Tensor, grad, ops
from npadv.attacks import carlini_wagner, fgsm, jsma, linearized, pgd
from npadv.autodiff.derivatives import jacobian
from npadv.data import digits
from npadv.files import load_arrays, save_arrays
from npadv.functional import cross_entropy, softmax
from npadv.nn import NearestNeighbour, SmoothedNearestNeighbour, neighbours
from npadv.testing import check_grads

BOTH = pytest.mark.parametrize("kind", [NearestNeighbour, SmoothedNearestNeighbour])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# The formulas, on everything at once -----------------------------------------------------------------------------------


def squared_distances(x, images):
    """Return |x_i - p_n|^2, (N, M), from the differences and in as many digits as the machine has."""
    difference = x.astype(np.longdouble)[:, None] - images.astype(np.longdouble)
    return (difference**2).reshape(len(x), len(images), -1).sum(axis=2)


def naive_nearest(x, images, labels, classes):
    d = squared_distances(x, images)
    return np.stack([-d[:, labels == k].min(axis=1, initial=np.inf) for k in range(classes)], axis=1)


def naive_smoothed(x, images, labels, classes, gamma=1.0):
    """Return the probabilities of [WG], without 1/N."""
    d = squared_distances(x, images)
    w = np.exp(-gamma * (d - d.min(axis=1, keepdims=True)))
    w /= w.sum(axis=1, keepdims=True)
    return w @ np.eye(classes)[labels]


def naive_jacobian(x, images, labels, gamma):
    """Return d log y_k / dx for one example x (D,), (K, D)."""
    t = -gamma * squared_distances(x[None], images)[0]
    pull = -2 * gamma * (x.astype(np.longdouble) - images)

    def slope(mine):
        w = np.exp(t[mine] - t[mine].max())
        return (w @ pull[mine]) / w.sum()

    return np.stack([slope(labels == k) - slope(labels >= 0) for k in range(labels.max() + 1)])


@st.composite
def cases(draw):
    """Return examples and points, among them near-duplicates far from the origin, and the size of the blocks."""
    rng = np.random.default_rng(draw(seeds))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = draw(st.sampled_from([(3,), (1, 2, 2)]))
    m, classes = draw(st.integers(1, 12)), draw(st.integers(2, 4))
    centre = draw(st.sampled_from([0.0, 1.0, 100.0]))
    spread = draw(st.sampled_from([1.0, 1e-2, 1e-4, 0.0]))
    images, x = (
        (centre + spread * rng.standard_normal((n, *shape))).astype(dtype) for n in (m, draw(st.integers(1, 4)))
    )
    if draw(st.booleans()):
        x[0] = images[-1]
    return x, images, rng.integers(classes, size=m), classes, draw(st.sampled_from([1, 7, 1 << 20]))


@given(case=cases())
def test_the_nearest_point_is_found_exactly(case):
    x, images, labels, classes, cells = case
    with patch.object(neighbours, "CELLS", cells):
        logits = NearestNeighbour(images, labels, classes=classes)(x)
    assert logits.dtype == x.dtype
    expected = naive_nearest(x, images, labels, classes)
    present = np.bincount(labels, minlength=classes) > 0
    eps = np.finfo(x.dtype).eps
    np.testing.assert_allclose(logits[:, present], expected[:, present].astype(x.dtype), rtol=4 * eps, atol=0)
    assert (logits[:, ~present] == np.array(-1e30, x.dtype)).all()
    won = np.take_along_axis(expected, logits.argmax(axis=1)[:, None], axis=1)[:, 0]
    assert (won >= expected.max(axis=1) * (1 + 4 * eps)).all()  # all are negative


def test_rounding_alone_would_find_another():
    """What the test above is about: by |x|^2 - 2 <x, p> + |p|^2 in float32, a point that is not the nearest."""
    rng = np.random.default_rng(1)
    images = (1 + 1e-4 * rng.standard_normal((200, 50))).astype(np.float32)
    x = images[:50] + np.float32(1e-5) * rng.standard_normal((50, 50)).astype(np.float32)
    rough = (x * x).sum(axis=1)[:, None] - 2 * x @ images.T + (images * images).sum(axis=1)
    labels = np.arange(200)
    nearest = squared_distances(x, images).argmin(axis=1)
    assert (rough.argmin(axis=1) != nearest).sum() > 10
    for cells in (500, 1 << 20):
        with patch.object(neighbours, "CELLS", cells):
            np.testing.assert_array_equal(NearestNeighbour(images, labels)(x).argmax(axis=1), nearest)
    mixed = [NearestNeighbour(images.astype(a), labels)(x.astype(b)) for a, b in ((float, "f4"), ("f4", float))]
    assert [logits.dtype for logits in mixed] == [np.float64] * 2
    for logits in mixed:
        np.testing.assert_array_equal(logits.argmax(axis=1), nearest)


@given(case=cases(), gamma=st.sampled_from([0.1, 1.0, 30.0]))
def test_the_smoothed_version_is_the_papers_formula(case, gamma):
    x, images, labels, classes, cells = case
    with patch.object(neighbours, "CELLS", cells):
        logits = SmoothedNearestNeighbour(images, labels, gamma=gamma, classes=classes)(x)
    assert logits.dtype == x.dtype
    expected = naive_smoothed(x, images, labels, classes, gamma).astype(np.float64)
    # float64 keeps 1e-16 of |x|^2, here up to 4e4, and gamma multiplies what is lost
    np.testing.assert_allclose(softmax(logits.astype(np.float64)), expected, rtol=1e-5, atol=1e-9)
    assert np.isfinite(logits).all()


def test_gamma_is_1_in_the_paper_and_the_smoothed_version_tends_to_the_nearest(rng):
    images, labels, x = rng.random((30, 5)), rng.integers(3, size=30), rng.random((20, 5))
    np.testing.assert_allclose(
        np.exp(SmoothedNearestNeighbour(images, labels)(x)),
        naive_smoothed(x, images, labels, 3).astype(float),
        rtol=1e-9,
    )
    sharp, nearest = SmoothedNearestNeighbour(images, labels, gamma=1e6)(x), NearestNeighbour(images, labels)(x)
    np.testing.assert_array_equal(sharp.argmax(axis=1), nearest.argmax(axis=1))
    np.testing.assert_allclose(sharp / 1e6, nearest - nearest.max(axis=1, keepdims=True), atol=1e-5)


# Gradients -------------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(seed=seeds, cells=st.sampled_from([1, 9, 1 << 20]))
def test_the_smoothed_version_is_differentiable_to_the_third_order(seed, cells):
    rng = np.random.default_rng(seed)
    model = SmoothedNearestNeighbour(rng.random((7, 3)), rng.integers(3, size=7), gamma=0.8)
    with patch.object(neighbours, "CELLS", cells):
        check_grads(lambda x: softmax(model(x)), [rng.random((2, 3))], order=3)


EXTREMES = {  # how far the examples are from the middle of the points, gamma, how far the points are from each other
    "far away": (1e6, 1.0, 1.0),
    "far away, narrow": (1e4, 1e3, 1.0),
    "narrow": (1.0, 1e9, 1.0),
    "a thousandth apart": (1.0, 1e8, 1e-3),
    "wide": (1.0, 1e-6, 1.0),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cells", [20, 1 << 20])
def test_gradients_are_right_where_all_kernels_underflow(rng, name, dtype, cells):
    distance, gamma, spread = EXTREMES[name]
    images = (50 + spread * rng.standard_normal((40, 6))).astype(dtype)
    labels = np.arange(40) % 3
    x = (50 + distance * spread * rng.standard_normal((4, 6))).astype(dtype)
    underflow = np.exp(-gamma * squared_distances(x, images)).astype(np.float64) == 0
    assert underflow.any() == (name != "wide")
    inputs = Tensor(x, requires_grad=True)
    with patch.object(neighbours, "CELLS", cells):
        got = jacobian(SmoothedNearestNeighbour(images, labels, gamma=gamma)(inputs), inputs)  # (N, K, N, D)
    for i in range(4):
        expected = naive_jacobian(x[i], images, labels, gamma).astype(np.float64)
        tolerance = (1e-6 if dtype == np.float64 else 1e-5) * np.abs(expected).max()
        np.testing.assert_allclose(got[i, :, i], expected, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_right_for_narrow_kernels_half_way_between_two_points(rng, dtype):
    """Where the squares of distances differ by a millionth of themselves, and that is what decides."""
    images = rng.random((20, 50)).astype(dtype)
    x = (images[:10] + images[10:]) / 2 + (1e-8 * rng.standard_normal((10, 50))).astype(dtype)
    labels, gamma = np.arange(20) // 10, 1e6 if dtype == np.float32 else 1e7
    probabilities = naive_smoothed(x, images, labels, 2, gamma).astype(np.float64)
    assert ((probabilities > 0.01) & (probabilities < 0.99)).all(axis=1).sum() > 3
    inputs = Tensor(x, requires_grad=True)
    logits = SmoothedNearestNeighbour(images, labels, gamma=gamma)(inputs)
    np.testing.assert_allclose(np.exp(logits.data), probabilities, atol=1e-6)
    got = jacobian(logits, inputs)
    for i in range(10):
        expected = naive_jacobian(x[i], images, labels, gamma).astype(np.float64)
        np.testing.assert_allclose(got[i, :, i], expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_the_loss_of_a_sure_classifier_still_has_a_gradient():
    """p is 1 in float32, and 1 - p some 1e-30: what the cross-entropy loses there, the logits' rule puts back."""
    images, labels = np.array([[0.0, 0.0], [8.0, 2.0]], np.float32), np.array([0, 1])
    x = Tensor(np.array([[0.0, 0.1]], np.float32), requires_grad=True)
    model = SmoothedNearestNeighbour(images, labels)
    got = grad(cross_entropy(model(x), np.array([0]), reduction="sum"), x)
    share = np.exp(-(64 + 1.9**2) + 0.01)
    np.testing.assert_allclose(got, share * 2 * np.array([[8.0, 2.0]]), rtol=1e-5)


def test_nearest_neighbour_has_the_gradient_of_the_distance_it_reports(rng):
    images, labels = rng.random((30, 4), np.float32), rng.integers(3, size=30)
    x = rng.random((5, 4), np.float32)
    inputs = Tensor(x, requires_grad=True)
    got = grad(NearestNeighbour(images, labels)(inputs).sum(), inputs)
    d = squared_distances(x, images)
    expected = np.zeros(x.shape)
    for k in range(3):
        mine = np.flatnonzero(labels == k)
        expected -= 2 * (x - images[mine[d[:, mine].argmin(axis=1)]])
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert got.dtype == np.float32


def test_points_almost_equally_near_are_told_apart_beyond_float32():
    rng = np.random.default_rng(2)
    x, u = rng.random((1, 784), np.float32), rng.standard_normal((300, 784))
    images = (x + u / np.linalg.norm(u, axis=1, keepdims=True)).astype(
        np.float32
    )  # all at distance 1, but for rounding
    inputs = Tensor(x, requires_grad=True)
    got = grad(NearestNeighbour(images, np.zeros(300, int))(inputs)[:, 0].sum(), inputs)
    d = squared_distances(x, images)[0]
    assert np.sort(d)[1] / d.min() - 1 < np.finfo(np.float32).eps
    np.testing.assert_allclose(got, -2 * (x - images[d.argmin()][None]), atol=1e-7)


# Ties, classes without points, order -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [1, 1 << 20])
def test_at_ties_the_first_of_a_class_and_the_lowest_of_the_classes(cells):
    images = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    model = NearestNeighbour(images, np.array([1, 0, 0, 1]))
    x = Tensor(np.array([[0.0]]), requires_grad=True)
    with patch.object(neighbours, "CELLS", cells):
        logits = model(x)
    np.testing.assert_array_equal(logits.data, [[-1, -1]])
    assert logits.data.argmax() == 0
    assert grad(logits, x, np.array([[1.0, 0.0]]))[0, 0] == -2  # towards -1, the first of class 0
    assert grad(logits, x, np.array([[0.0, 1.0]]))[0, 0] == 2


@BOTH
def test_a_class_without_points_is_never_the_answer_and_hinders_no_attack(rng, kind):
    images, labels = rng.random((20, 4), np.float32), rng.choice([0, 2], 20)
    model = kind(images, labels, classes=5)
    x = rng.random((6, 4), np.float32)
    logits = model(x)
    assert logits.shape == (6, 5)
    assert np.isfinite(logits).all()
    assert set(logits.argmax(axis=1)) <= {0, 2}
    np.testing.assert_array_equal(logits[:, [0, 2]], kind(images, labels // 2)(x))
    for attack in (
        lambda: fgsm(model, x, eps=0.3),
        lambda: fgsm(model, x, np.full(6, 4), eps=0.3),  # a label of which the model knows nothing
        lambda: pgd(model, x, np.full(6, 1), eps=0.3, steps=3, targeted=True),
        lambda: linearized(model, x, steps=5),
        lambda: jsma(model, x, pixels=2, theta=0.4),
        lambda: carlini_wagner(model, x, searches=2, steps=5),
    ):
        result = attack()
        assert np.isfinite(result.x_adv).all()
        assert np.isfinite(result.distance).all()
        assert set(result.prediction) <= {0, 2}


def test_the_order_of_the_training_set_does_not_matter(rng):
    images, labels, x = rng.random((50, 3)), rng.integers(4, size=50), rng.random((10, 3))
    order = rng.permutation(50)
    np.testing.assert_array_equal(
        NearestNeighbour(images, labels)(x), NearestNeighbour(images[order], labels[order])(x)
    )
    np.testing.assert_allclose(
        SmoothedNearestNeighbour(images, labels)(x),
        SmoothedNearestNeighbour(images[order], labels[order])(x),
        rtol=1e-12,
    )


# Memory ----------------------------------------------------------------------------------------------------------------


@BOTH
def test_memory_depends_on_the_batch_and_not_on_the_number_of_points(rng, kind):
    """The distances of 256 examples to 30,000 points would take 59 MiB in float64, and several copies of them."""
    model = kind(rng.random((30_000, 784), np.float32), np.arange(30_000) % 10)
    x = rng.random((256, 784), np.float32)
    peaks = []
    for recorded in (False, True):
        tracemalloc.start()
        inputs = Tensor(x, requires_grad=recorded)
        logits = model(inputs)
        if recorded:
            grad(logits.sum(), inputs)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    assert peaks[0] < 28
    assert peaks[1] < 56


def test_second_derivatives_are_streamed_too(rng):
    model = SmoothedNearestNeighbour(rng.random((40_000, 8), np.float32), np.arange(40_000) % 10, gamma=5.0)
    x = Tensor(rng.random((64, 8)), requires_grad=True)
    with patch.object(neighbours, "CELLS", 1 << 14):
        tracemalloc.start()
        g = grad(model(x)[:, 0].sum(), x, create_graph=True)
        grad((g * g).sum(), x)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    assert peak < 5  # one array of distances takes 20


def test_points_that_are_all_the_same_are_searched_in_bounded_memory(rng):
    images = np.full((3000, 100), 0.3, np.float32)
    model, x = NearestNeighbour(images, np.arange(3000) % 2), rng.random((50, 100), np.float32)
    with patch.object(neighbours, "CELLS", 1 << 17):
        tracemalloc.start()
        logits = model(x)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    assert peak < 12  # all pairs' differences would take 57
    np.testing.assert_allclose(logits, naive_nearest(x, images[:2], np.arange(2), 2).astype(np.float32), rtol=1e-6)


# As models -------------------------------------------------------------------------------------------------------------


@BOTH
def test_an_example_does_not_depend_on_its_batch_and_nothing_is_changed(rng, kind):
    images, labels, x = (
        rng.random((40, 1, 2, 3), np.float32),
        rng.integers(3, size=40),
        rng.random((5, 1, 2, 3), np.float32),
    )
    kept = images.copy(), labels.copy(), x.copy()
    model = kind(images, labels)
    logits = model(x)
    np.testing.assert_allclose(np.concatenate([model(x[i : i + 1]) for i in range(5)]), logits, rtol=1e-5)
    np.testing.assert_array_equal(model(x.reshape(5, 6)), logits)
    np.testing.assert_array_equal(model(x, train=True, rng=rng), logits)
    for before, after in zip(kept, (images, labels, x), strict=True):
        np.testing.assert_array_equal(before, after)
    images[:] = 0  # the model has its own
    np.testing.assert_array_equal(model(x), logits)
    assert model.parameters() == []
    assert model(x[:0]).shape == (0, 3)
    x[2, 0, 0, 0] = np.nan
    np.testing.assert_array_equal(np.isnan(model(x)).any(axis=1), [False, False, True, False, False])


@BOTH
def test_points_are_saved_and_loaded_and_change_their_precision(rng, kind, tmp_path):
    images, labels, x = rng.random((20, 4), np.float32), rng.integers(3, size=20), rng.random((5, 4), np.float32)
    model = kind(images, labels)
    model.save(tmp_path / "points.npz")
    other = kind(np.zeros((20, 4), np.float32), np.arange(20) % 3)
    np.testing.assert_array_equal(other.load(tmp_path / "points.npz")(x), model(x))
    assert model.astype(np.float64).counts.dtype == np.int64
    assert model(x).dtype == np.float64
    with pytest.raises(ValueError, match=r"points: expected shape \(21, 4\)"):
        kind(np.zeros((21, 4), np.float32), np.arange(21) % 3).load(tmp_path / "points.npz")
    state = load_arrays(tmp_path / "points.npz")
    save_arrays(tmp_path / "wrong.npz", {**state, "counts": state["counts"] + 1})
    with pytest.raises(ValueError, match=r"counts\): expected 20 points in all, got"):
        other.load(tmp_path / "wrong.npz")(x)


@pytest.fixture(scope="module")
def data():
    return digits()


def test_nearest_neighbour_agrees_with_scikit_learn(data):
    classifier = pytest.importorskip("sklearn.neighbors").KNeighborsClassifier(1)
    train, test = (split.images.reshape(len(split), -1) for split in (data.train, data.test))
    classifier.fit(train, data.train.labels)
    distance, _ = classifier.kneighbors(test)
    logits = NearestNeighbour(train, data.train.labels)(test)
    np.testing.assert_allclose(logits.max(axis=1), -(distance[:, 0] ** 2), rtol=1e-5)
    tied = (logits == logits.max(axis=1, keepdims=True)).sum(axis=1) > 1
    assert tied.mean() < 0.02  # pixels are sixteenths, so that ties occur
    np.testing.assert_array_equal(logits.argmax(axis=1)[~tied], classifier.predict(test)[~tied])


def test_what_is_crafted_on_the_smoothed_version_deceives_nearest_neighbour(data):
    """[WG] table 1.1, second row, on smaller digits."""
    model, smoothed = (
        kind(data.train.images, data.train.labels) for kind in (NearestNeighbour, SmoothedNearestNeighbour)
    )
    x, y = data.test.images[:200], data.test.labels[:200]
    result = fgsm(smoothed, x, y, eps=0.25)
    assert not result.flags["zero_gradient"].any()
    assert (model(x).argmax(axis=1) != y).mean() < 0.05
    assert (model(result.x_adv).argmax(axis=1) != y).mean() > 0.4
    assert result.success.mean() > 0.4


# Bad input -------------------------------------------------------------------------------------------------------------

IMAGES, LABELS = np.zeros((3, 2)), np.array([0, 1, 1])
BAD = {
    "a list": (
        ([[0.0]], LABELS),
        {},
        r"images\): expected floating-point examples \(M, \.\.\.\), at least one, got list",
    ),
    "integers": ((np.zeros((3, 2), int), LABELS), {}, r"images\): .* got shape \(3, 2\) of int64"),
    "one row": ((np.zeros(3), LABELS), {}, r"images\): .* got shape \(3,\) of float64"),
    "none": ((IMAGES[:0], LABELS[:0]), {}, r"images\): .* got shape \(0, 2\) of float64"),
    "nan": ((IMAGES * np.nan, LABELS), {}, r"images\): expected finite values, got NaN or infinity"),
    "too few labels": ((IMAGES, LABELS[:2]), {}, r"labels\): expected shape \(3,\), one class per example, got \(2,\)"),
    "negative labels": ((IMAGES, LABELS - 1), {}, r"labels\): expected classes 0\.\."),
    "large labels": (
        (IMAGES, LABELS + 1),
        {"classes": 2},
        r"labels\): expected classes 0\.\.1, got values from 1 to 2",
    ),
    "float labels": ((IMAGES, LABELS / 1), {}, r"labels\): expected integer classes .*, got dtype float64"),
    "one class": ((IMAGES, LABELS), {"classes": 1}, r"classes\): expected an integer of at least 2, got 1"),
}


@BOTH
@pytest.mark.parametrize("name", BAD)
def test_bad_points_are_refused(kind, name):
    arguments, options, message = BAD[name]
    with pytest.raises(ValueError, match=rf"^{kind.__name__}\({message}"):
        kind(*arguments, **options)


@pytest.mark.parametrize("gamma", [0, -1.0, float("nan"), float("inf")])
def test_a_gamma_that_is_no_width_is_refused(gamma):
    with pytest.raises(
        ValueError, match=rf"SmoothedNearestNeighbour\(gamma\): expected a positive number, got {gamma}"
    ):
        SmoothedNearestNeighbour(IMAGES, LABELS, gamma=gamma)


@BOTH
@pytest.mark.parametrize("shape", [(2,), (4, 3), (4, 1, 2, 2)])
def test_a_batch_of_other_features_is_refused(kind, shape):
    with pytest.raises(
        ValueError, match=rf"{kind.__name__}\(x\): expected a batch \(N, \.\.\.\) of 2 features, got shape"
    ):
        kind(IMAGES, LABELS)(np.zeros(shape))


def test_a_sum_over_no_blocks_is_refused():
    with pytest.raises(ValueError, match=r"sum_over_blocks\(blocks\): expected at least one block, got none"):
        ops.sum_over_blocks(np.ones(2), function=lambda block, x: x, blocks=[])


def test_a_tensor_that_is_two_arguments_of_a_sum_gets_both_shares():
    x = Tensor(np.array([3.0]), requires_grad=True)
    y = ops.sum_over_blocks(x, x, function=lambda block, a, b: block * a * a * b, blocks=[1.0, 2.0])  # 3 x^3
    first = grad(y, x, create_graph=True)
    second = grad(first, x, create_graph=True)
    assert [float(v.data[0]) for v in (y, first, second)] == [81.0, 81.0, 54.0]
    assert grad(second, x)[0] == 18.0
