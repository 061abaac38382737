"""Church windows against half-planes and loops, and the demonstration of the norms."""

import shutil

import fake_cupy
import numpy as np
import pytest
from attack_cases import linear, network

from npadv import ops
from npadv.attacks import fgsm
from npadv.autodiff import value_of
from npadv.evaluation import Interrupted, church_windows, norm_demonstration
from npadv.norms import norm

PAIRS = [("sign", "random"), ("random", "random"), ("sign", "gradient"), ("gradient", "sign"), ("random", "sign")]


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    model = network(rng).astype(np.float64)
    x = rng.random((7, 1, 2, 2))
    return model, x, rng.integers(0, 3, 7)


def windows(model, x, y, **options):
    return church_windows(model, x, y, **({"rng": np.random.default_rng(5), "points": 9} | options))


def test_a_window_on_a_linear_classifier_is_two_half_planes():
    w, b, model = linear(2, 2, 2)
    x, y = np.random.default_rng(0).random((5, 2)), np.array([0, 1, 0, 1, 1])
    right, up = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    found = windows(model, x, y, first=right, second=up, unit="l2", eps=0.7, points=31)
    h, v = found.h[None, None, :], found.v[None, :, None]
    slope, offset = w[:, 1] - w[:, 0], b[1] - b[0]
    inside = (x[:, :1, None] + h) * slope[0] + (x[:, 1:, None] + v) * slope[1] + offset > 0
    np.testing.assert_array_equal(found.classes, inside)
    assert 0 < inside.mean() < 1
    np.testing.assert_array_equal(found.labels, y)
    np.testing.assert_allclose([found.h[0], found.h[-1], found.v[0], found.v[-1]], [-0.7, 0.7, -0.7, 0.7])
    assert not found.degenerate.any()
    assert not found.outside.any()


@pytest.mark.parametrize("pair", PAIRS)
def test_every_point_is_the_class_at_its_place(problem, pair):
    model, x, y = problem
    found = windows(model, x, y, first=pair[0], second=pair[1], points=5, eps=1.5, bounds=(-0.5, 1.5))
    assert len(np.unique(found.classes)) > 1
    for n in range(len(x)):
        for i, v in enumerate(found.v):
            for j, h in enumerate(found.h):
                point = x[n] + h * found.directions[n, 0] + v * found.directions[n, 1]
                assert found.classes[n, i, j] == value_of(model(point[None])).argmax()
                assert found.outside[n, i, j] == bool(((point < -0.5) | (point > 1.5)).any())
    np.testing.assert_array_equal(found.classes[:, 2, 2], value_of(model(x)).argmax(axis=1))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("unit", ["rms", "l2", "linf"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_directions_are_orthogonal_and_one_unit_long(problem, pair, unit, dtype):
    model, x, y = problem
    found = windows(model.astype(dtype), x.astype(dtype), y, first=pair[0], second=pair[1], unit=unit)
    assert found.directions.dtype == dtype
    u1, u2 = found.directions.reshape(7, 2, 4).swapaxes(0, 1).astype(np.float64)
    size = {
        "rms": lambda u: np.sqrt((u**2).mean(axis=1)),
        "l2": lambda u: norm(u, "l2"),
        "linf": lambda u: norm(u, "linf"),
    }
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for u in (u1, u2):
        np.testing.assert_allclose(size[unit](u), 1, rtol=tolerance)
    np.testing.assert_allclose((u1 * u2).sum(axis=1), 0, atol=4 * tolerance)


def test_the_paper_s_directions(problem):
    """[WG] fig. 1.4: the sign of the gradient, and the component of the gradient that is orthogonal to it."""
    w, _, model = linear(4, 6, 2)
    x, y = np.full((1, 6), 0.5), np.array([0])
    g = w[:, 1] - w[:, 0]  # the loss of class 0 rises with z_1 - z_0
    found = windows(model, x, y, first="sign", second="gradient")
    np.testing.assert_allclose(found.directions[0, 0], np.sign(g))
    rest = g - g @ np.sign(g) / 6 * np.sign(g)
    np.testing.assert_allclose(found.directions[0, 1], rest / np.sqrt((rest**2).mean()))
    # The right edge of the middle row is the result of the fast gradient sign method.
    model, x, y = problem
    found = windows(model, x, y, eps=0.3, points=3, bounds=(0.0, 1.0), clip=True)
    np.testing.assert_array_equal(found.classes[:, 1, 2], fgsm(model, x, y, eps=0.3).prediction)
    free = windows(model, x, y, eps=0.3, points=3)
    np.testing.assert_array_equal(free.classes[:, 1, 2], fgsm(model, x, y, eps=0.3, bounds=(-9.0, 9.0)).prediction)


def test_random_directions_are_uniform_among_those_orthogonal_to_the_first():
    _, _, model = linear(0, 4, 3)
    x, y = np.full((4000, 4), 0.5), np.zeros(4000, dtype=int)
    first = np.array([1.0, 1.0, 0.0, 0.0])
    found = windows(model, x, y, first=first, second="random", unit="l2", points=2)
    u = found.directions[:, 1]
    axis = first / np.sqrt(2)
    np.testing.assert_allclose(u.T @ u / 4000, (np.eye(4) - np.outer(axis, axis)) / 3, atol=0.02)
    np.testing.assert_allclose(u.mean(axis=0), 0, atol=0.03)
    assert len(np.unique(u, axis=0)) == 4000


def test_directions_of_one_s_own(problem):
    model, x, y = problem
    rng = np.random.default_rng(1)
    one, each = rng.random((1, 2, 2)), rng.random(x.shape)
    found = windows(model, x, y, first=one, second=each, unit="given")
    np.testing.assert_array_equal(found.directions[:, 0], np.broadcast_to(one, x.shape))
    np.testing.assert_array_equal(found.directions[:, 1], each)
    upright = windows(model, x, y, first=one, second=each, unit="l2").directions
    np.testing.assert_allclose(upright[:, 0], np.broadcast_to(one / np.linalg.norm(one), x.shape))
    assert ((upright[:, 1] * each).sum(axis=(1, 2, 3)) > 0).all()


def test_directions_that_are_nearly_parallel_come_out_orthogonal():
    _, _, model = linear(0, 50, 2)
    rng = np.random.default_rng(0)
    x, first = np.full((1, 50), 0.5, np.float32), rng.normal(0, 1, 50).astype(np.float32)
    second = (first + 1e-4 * rng.normal(0, 1, 50)).astype(np.float32)
    u1, u2 = windows(model, x, np.array([0]), first=first, second=second, unit="l2").directions[0].astype(np.float64)
    assert abs(u1 @ u2) < 1e-6


def test_a_plane_that_is_none_is_marked():
    flat = lambda x: ops.matmul(x * 0.0, np.ones((2, 2))) + np.array([2.0, 0.0])  # noqa: E731
    x, y = np.full((3, 2), 0.5), np.zeros(3, dtype=int)
    found = windows(flat, x, y)
    assert found.degenerate.all()
    assert (found.classes == 0).all()
    assert np.isfinite(found.directions).all()
    _, _, model = linear(0, 2, 2)
    along = np.array([[1.0, 0.3], [0.3, 1.0], [0.1, 0.7]])
    for unit in ("l2", "given"):
        found = windows(model, x, y, first=along, second=np.array([0.1, 0.7]), unit=unit)
        assert found.degenerate.tolist() == [False, False, True]
    # Where |g_i| are all equal, nothing of the gradient is left beside its sign.
    even = lambda x: x @ np.array([[1.0, -1.0], [-1.0, 1.0]])  # noqa: E731
    assert windows(even, x, y, first="sign", second="gradient").degenerate.all()
    assert windows(even, x.astype(np.float32), y, first="sign", second="gradient").degenerate.all()


@pytest.mark.parametrize("pair", PAIRS)
def test_windows_do_not_depend_on_the_batch(problem, pair):
    model, x, y = problem
    whole = windows(model, x, y, first=pair[0], second=pair[1], points=5, eps=1.0, bounds=(0.0, 1.0))
    sizes = []

    def watched(x):
        sizes.append(len(x))
        return model(x)

    for size in (1, 7, 25, 60, 174):
        sizes.clear()
        again = windows(
            watched, x, y, first=pair[0], second=pair[1], points=5, eps=1.0, bounds=(0.0, 1.0), batch_size=size
        )
        assert max(sizes) <= size
        for name, value in vars(whole).items():
            if value.dtype.kind == "f":
                np.testing.assert_allclose(vars(again)[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
            else:
                np.testing.assert_array_equal(vars(again)[name], value, err_msg=name)


def test_ctrl_c_keeps_the_windows_that_are_finished(problem):
    model, x, y = problem
    looks = []

    def impatient(x):
        looks.append(len(x))
        if len(looks) > 9:
            raise KeyboardInterrupt
        return model(x)

    with pytest.raises(Interrupted) as stop:
        windows(impatient, x, y, points=5, batch_size=25)  # one look for the check, then gradient and window, in turn
    found = stop.value.result
    assert found.classes.shape == (4, 5, 5)
    np.testing.assert_array_equal(found.classes, windows(model, x, y, points=5).classes[:4])
    np.testing.assert_array_equal(found.directions, windows(model, x, y, points=5, batch_size=25).directions[:4])


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++, which runs the kernels here, is not installed")
@pytest.mark.parametrize("unit", ["rms", "linf", "given"])
def test_windows_on_the_device(problem, unit):
    model, x, y = problem
    options = {"second": "gradient", "unit": unit, "bounds": (0.0, 1.0), "clip": True}
    host = windows(model, x, y, first="random", **options)
    with fake_cupy.installed():
        import cupy

        device = windows(model.to("cuda"), cupy.asarray(x), cupy.asarray(y), first="random", **options)
        for name, value in vars(host).items():
            assert isinstance(vars(device)[name], np.ndarray)
            np.testing.assert_allclose(vars(device)[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


# The norms ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def digits():
    """Blobs of ink, of three classes, that lie about as far apart as digits do."""
    rng = np.random.default_rng(3)
    images = np.zeros((40, 1, 12, 10), np.float32)
    labels = rng.integers(0, 3, 40)
    for image, label in zip(images, labels, strict=True):
        image[0, 2:10, 2 + label : 7 + label] = rng.uniform(0.3, 1.0) * rng.uniform(0.8, 1.0, (8, 5))
    return images, labels


def test_six_perturbations_of_one_size(digits):
    images, labels = digits
    found = norm_demonstration(images, labels, true=0, other=2, size=4.0, rng=np.random.default_rng(0))
    clean = found.clean
    assert (found.true, found.other) == (0, 2)
    assert found.perturbation.shape == found.perturbed.shape == (2, 3, 1, 12, 10)
    np.testing.assert_allclose(found.perturbed - clean, found.perturbation, atol=1e-12)
    np.testing.assert_allclose(found.l2, found.l2[0, 0], rtol=1e-12)
    np.testing.assert_allclose(found.l2.reshape(-1), np.linalg.norm(found.perturbation.reshape(6, -1), axis=1))
    np.testing.assert_allclose(found.linf.reshape(-1), np.abs(found.perturbation.reshape(6, -1)).max(axis=1))
    np.testing.assert_allclose(found.linf[1], found.l2[1] / np.sqrt(120), rtol=1e-12)
    assert (found.linf[0] > 2 * found.linf[1]).all()
    assert found.prediction is None

    pairs = [(np.linalg.norm(b - a), a, b) for a in images[labels == 0] for b in images[labels == 2]]
    size, mine, theirs = min(pairs, key=lambda pair: abs(pair[0] - 4.0))
    assert found.l2[0, 0] == pytest.approx(size, rel=1e-6)
    np.testing.assert_array_equal(clean, mine)
    np.testing.assert_allclose(found.perturbed[0, 0], theirs, atol=1e-12)


def test_the_pair_is_the_best_of_all():
    rng = np.random.default_rng(0)
    images, labels = rng.random((900, 6)), rng.integers(0, 3, 900)
    for size in (0.05, 0.6, 1.1):
        found = norm_demonstration(images, labels, true=1, other=2, size=size, rng=rng)
        gaps = np.linalg.norm(images[labels == 1][:, None] - images[labels == 2], axis=2)
        i, j = np.unravel_index(np.abs(gaps - size).argmin(), gaps.shape)
        np.testing.assert_array_equal(found.clean, images[labels == 1][i])
        np.testing.assert_allclose(found.perturbed[0, 0], images[labels == 2][j])
        assert i > 0
    # Many are farther from the others than from black.
    dark = np.where((labels == 1)[:, None], images * rng.uniform(0.1, 0.8, (900, 1)), images)
    found = norm_demonstration(dark, labels, true=1, other=2, size=1.0, rng=rng)
    assert found.l2[0, 0] <= np.linalg.norm(found.clean)


@pytest.mark.parametrize("alike", [False, True])
def test_the_second_row_leads_to_the_same_class_and_the_third_erases(digits, alike):
    images, labels = digits
    if alike:  # no image of the class is as far as the other class: the step extends past the farthest
        images = np.where(images > 0, 0.8 + 0.2 * images, images)
    found = norm_demonstration(images, labels, true=1, other=0, size=1.0, rng=np.random.default_rng(0))
    eta, size = found.perturbation[0, 1], found.l2[0, 0]
    ways = [image - found.clean for image in images[labels == 1]]
    distances = [np.linalg.norm(way) for way in ways]
    far_enough = [(d, way) for d, way in zip(distances, ways, strict=True) if d >= size]
    assert bool(far_enough) != alike
    distance, way = (
        min(far_enough, key=lambda pair: pair[0]) if far_enough else (max(distances), ways[np.argmax(distances)])
    )
    np.testing.assert_allclose(eta, way * size / distance, atol=1e-6)

    left = found.perturbed[0, 2]
    assert (left >= -1e-12).all()
    assert (left <= found.clean + 1e-12).all()
    touched = np.argwhere((found.clean[0] > 0) & (left[0] < found.clean[0] - 1e-9))
    kept = np.argwhere((found.clean[0] > 0) & (left[0] > found.clean[0] - 1e-9))
    centre = (np.argwhere(found.clean[0] > 0) * found.clean[0][found.clean[0] > 0][:, None]).sum(0) / found.clean.sum()
    reach = lambda places: np.linalg.norm(places - centre, axis=1)  # noqa: E731
    assert reach(touched).max() <= reach(kept).min() + 1e-9
    assert ((left[0] > 1e-9) & (left[0] < found.clean[0] - 1e-9)).sum() <= 1  # one pixel is erased in part


def test_signs_stay_and_zeros_get_random_ones(digits):
    images, labels = digits
    found = norm_demonstration(images, labels, true=0, other=2, size=4.0, rng=np.random.default_rng(0))
    free, confined = found.perturbation
    np.testing.assert_array_equal(np.sign(confined)[free != 0], np.sign(free)[free != 0])
    drawn = np.sign(confined)[free == 0]
    assert set(drawn) == {-1.0, 1.0}
    assert abs(drawn.mean()) < 0.2
    again = norm_demonstration(images, labels, true=0, other=2, size=4.0, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(again.perturbation, found.perturbation)


def test_a_model_classifies_the_six(digits):
    images, labels = digits
    asked = []

    def model(x):
        asked.append(x)
        return np.stack([x[:, 0, :, 2 + k : 7 + k].sum(axis=(1, 2)) for k in range(3)], axis=1)

    found = norm_demonstration(images, labels, true=0, other=2, size=4.0, rng=np.random.default_rng(0), model=model)
    assert found.prediction[:, 0].tolist() == [2, 0]  # the other class; and not, under the same l2 norm
    assert asked[0].dtype == np.float32
    np.testing.assert_array_equal(
        found.prediction.reshape(-1), model(found.perturbed.reshape(6, 1, 12, 10)).argmax(axis=1)
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++, which runs the kernels here, is not installed")
def test_a_model_on_the_device_classifies_them_too(digits):
    images, labels = digits
    options = {"true": 0, "other": 2, "size": 4.0}
    model = network_of(images.shape[1:])
    host = norm_demonstration(images, labels, rng=np.random.default_rng(0), model=model, **options)
    with fake_cupy.installed():
        import cupy

        there = cupy.asarray(images), cupy.asarray(labels)
        device = norm_demonstration(*there, rng=np.random.default_rng(0), model=model.to("cuda"), **options)
    np.testing.assert_array_equal(device.prediction, host.prediction)
    np.testing.assert_array_equal(device.perturbed, host.perturbed)


def network_of(shape):
    from npadv.nn import Dense, Flatten, Sequential

    return Sequential(Flatten(), Dense(int(np.prod(shape)), 3, rng=np.random.default_rng(0)))


X, Y = np.full((4, 2), 0.5), np.array([0, 1, 0, 1])
MODEL = lambda x: x @ np.array([[1.0, -1.0], [2.0, -3.0]])  # noqa: E731


def church(**changes):
    return church_windows(**({"model": MODEL, "x": X, "y": Y, "rng": np.random.default_rng(0)} | changes))


def norms(images=np.eye(3), labels=np.array([3, 7, 3]), **changes):  # noqa: B008
    return norm_demonstration(images, labels, **({"rng": np.random.default_rng(0)} | changes))


WRONG = {
    "first": (lambda: church(first="fgsm"), r"^first: expected one of sign, gradient, random, or an array, got 'fgsm'"),
    "second": (lambda: church(second=np.zeros(3)), r"^second: expected .* shape \(4, 2\) or \(2,\), got \(3,\)"),
    "a list": (lambda: church(second=[1.0, 2.0]), r"^second: expected a name or an array .* got list"),
    "NaN": (lambda: church(second=np.array([1.0, np.nan])), r"^second: expected finite numbers"),
    "rng": (lambda: church(rng=None), r"^rng: expected a numpy\.random\.Generator for a random direction, got NoneType"),
    "unit": (lambda: church(unit="l1"), r"^unit: expected one of rms, l2, linf, given, got 'l1'"),
    "eps": (lambda: church(eps=0.0), r"^eps: expected a positive number, got 0\.0"),
    "points": (lambda: church(points=1), r"^points: expected an integer of at least 2, got 1"),
    "batch": (lambda: church(batch_size=0), r"^batch_size: expected an integer of at least 1, got 0"),
    "clip": (lambda: church(clip=True), r"^clip: expected bounds to clip to, got bounds=None"),
    "bounds": (lambda: church(bounds=(1.0, 0.0)), r"^bounds: expected \(low, high\) with low < high"),
    "outside": (lambda: church(x=X + 1, bounds=(0.0, 1.0)), r"^x: expected values in the box"),
    "labels": (lambda: church(y=Y + 1), r"^y: expected classes 0\.\.1"),
    "left the tape": (lambda: church(model=lambda x: 2 * value_of(x)), r"^model: expected logits computed from"),
    "probabilities": (lambda: church(model=lambda x: x), r"^model: expected logits, got probabilities"),
    "few": (lambda: norms(labels=np.array([3, 7, 1])), r"^images: expected 2 of class 3 and 1 of class 7, got 1 and 1"),
    "none": (lambda: norms(labels=np.array([3, 3, 1])), r"^images: expected 2 of class 3 and 1 of class 7, got 2 and 0"),
    "one class": (lambda: norms(other=3), r"^other: expected a class other than true, got 3 for both"),
    "size": (lambda: norms(size=-1.0), r"^size: expected a positive number, got -1\.0"),
    "far": (lambda: norms(), r"^images: expected one of class 3 that is nearer to one of class 7 than to black"),
    "no generator": (lambda: norms(rng=0), r"^rng: expected a numpy\.random\.Generator, got int"),
    "above 1": (lambda: norms(images=2 * np.eye(3)), r"^x: expected values in the box"),
    "label shape": (lambda: norms(labels=np.array([3, 7])), r"^labels: expected shape \(3,\)"),
    "again": (
        lambda: norms(images=np.array([[1.0, 0.1], [1.0, 0.5], [1.0, 0.1]])),
        r"^images: expected different images of the class `true`, got copies of one",
    ),
    "same": (lambda: norms(images=np.ones((3, 2))), r"^images: expected one of class 3 that is nearer"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_input_is_named(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
