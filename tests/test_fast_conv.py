"""Convolution, fast: every algorithm equals the plain im2col, for all shapes and layouts and on several threads."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import images
from subprocesses import run_python

from npadv import Tensor, attacks, grad, nn, ops, optim
from npadv.defenses import adversarial_training
from npadv.fast import ENABLED, PAIRS, im2col, parallel, row_im2col, shifted_gemm, winograd
from npadv.fast import conv as fast
from npadv.fast.layout import to_hwnc
from npadv.functional import cross_entropy
from npadv.ops.conv import conv2d_forward
from npadv.shapes import conv_shapes
from npadv.testing import check_grads
from npadv.train import classification_loss, gradient_update

needs_fast = pytest.mark.skipif(not ENABLED, reason="NPADV_FAST=off: the plain version runs instead")

plain_conv2d, plain_input_grad, plain_weight_grad = (
    PAIRS[f"npadv.ops.conv.{name}"].plain for name in ("conv2d_forward", "conv2d_input_grad", "conv2d_weight_grad")
)

# Settings that leave no choice between the algorithms.
ALL_ROWS = [(fast, "MIN_CHANNELS", 0), (fast, "MIN_ROWS", 0), (fast, "WINOGRAD", False)]
WINOGRAD = [(fast, "MIN_CHANNELS", 0), (fast, "MIN_ROWS", 0), (winograd, "MAX_COST_RATIO", np.inf)]
ALGORITHMS = {
    "winograd": WINOGRAD,
    "winograd, an image at a time": [*WINOGRAD, (winograd, "MAX_ELEMENTS", 1)],
    "shifted_gemm": [*ALL_ROWS, (fast, "GEMM_MULTIPLICATIONS", 0)],
    "shifted_gemm, small tiles": [*ALL_ROWS, (fast, "GEMM_MULTIPLICATIONS", 0), (shifted_gemm, "TILE_ROWS", (1, 2))],
    "row_im2col": [*ALL_ROWS, (fast, "GEMM_MULTIPLICATIONS", 1 << 60), (row_im2col, "WORTH_TWO_THREADS", 0)],
    "im2col": [(fast, "MIN_CHANNELS", 1 << 60)],
    "im2col, all rows at once": [(fast, "MIN_CHANNELS", 1 << 60), (im2col, "MIN_BLOCKS", 1)],
    "im2col, some rows at once": [(fast, "MIN_CHANNELS", 1 << 60), (im2col, "MIN_BLOCKS", 3)],
    "im2col, in pieces": [(fast, "MIN_CHANNELS", 1 << 60), (im2col, "MAX_UNPACKED", 32), (im2col, "MIN_PIECE", 1)],
    "im2col, one pixel at a time": [(fast, "MIN_CHANNELS", 1 << 60), (im2col, "MAX_COLUMNS", 1)],
}


CACHES = (im2col._blocks, im2col._pieces, shifted_gemm.tiles, winograd.is_faster)  # what an algorithm changes
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


@contextlib.contextmanager
def using(algorithm, threads=1):
    """Compute with one algorithm and a number of threads, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in ALGORITHMS[algorithm]:
            patch.setattr(module, name, value)
        patch.setattr(parallel, "threads", lambda: threads)
        for cache in CACHES:
            cache.cache_clear()
        yield
    for cache in CACHES:
        cache.cache_clear()


@st.composite
def convolutions(draw, dtype=np.float64, algorithm=""):
    """Return x, w, g and the shapes of a convolution, with sizes on both sides of every threshold."""
    only_winograd = algorithm.startswith("winograd")
    most = (1, 3, 1) if only_winograd else (3, 3, 2)  # it has no strides, dilations and groups
    groups = 1 if only_winograd else draw(st.sampled_from([1, 1, 2]))
    stride, padding, dilation = (draw(st.tuples(some, some)) for some in map(st.integers, (1, 0, 1), most))
    c, k = draw(st.integers(1, 5)), draw(st.integers(1, 5)) * groups
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    least = [max(1, d * (n - 1) + 1 - 2 * p) for d, n, p in zip(dilation, kernel, padding, strict=True)]
    size = [n + draw(st.integers(0, 7)) for n in least]
    images_shape, filters_shape = (draw(st.integers(0, 4)), c * groups, *size), (k, c, *kernel)
    shapes = conv_shapes(images_shape, filters_shape, stride, padding, dilation, groups)
    shapes = shapes.cropped(*(draw(st.integers(0, min(5, n - 1))) for n in shapes.y[2:]))
    shapes = shapes._replace(allow_winograd=only_winograd)
    x, w, g = (draw(images(shape)).astype(dtype) for shape in (shapes.x, shapes.w, shapes.y))
    return x, w, g, shapes


def agree(got, expected, terms, algorithm=""):
    """Compare up to the rounding of a sum of so many terms in any order; Winograd's algorithm may lose a digit more."""
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    digit = 10 if algorithm.startswith("winograd") else 1
    bound = 4 * np.sqrt(terms + 1) * np.finfo(got.dtype).eps * np.abs(expected).max(initial=1) * 4 * digit
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


def all_three_agree(x, w, g, shapes, algorithm):
    agree(fast.conv2d(x, w, shapes=shapes), plain_conv2d(x, w, shapes=shapes), w[0].size, algorithm)
    agree(fast.conv2d_input_grad(g, w, shapes=shapes), plain_input_grad(g, w, shapes=shapes), w[:, 0].size, algorithm)
    agree(fast.conv2d_weight_grad(x, g, shapes=shapes), plain_weight_grad(x, g, shapes=shapes), g[:, 0].size, algorithm)


@every_algorithm
@settings(max_examples=60)
@given(data=st.data())
def test_all_three_equal_the_plain_ones(algorithm, data):
    x, w, g, shapes = data.draw(convolutions(data.draw(st.sampled_from([np.float32, np.float64])), algorithm))
    copies = [a.copy() for a in (x, w, g)]
    with using(algorithm, threads=data.draw(st.sampled_from([1, 2, 5]))):
        all_three_agree(x, w, g, shapes, algorithm)
    for a, b in zip((x, w, g), copies, strict=True):
        np.testing.assert_array_equal(a, b)  # no argument is changed


def test_stride_2_with_images_as_wide_as_results():
    g, w = np.random.default_rng(0).standard_normal((4, 1, 2, 2)), np.full((1, 1, 1, 1), 3.0)
    shapes = conv_shapes(g.shape, w.shape, stride=2, padding=1)  # reads columns -1 and 1 of columns 0 and 1
    with using("row_im2col"):
        agree(fast.conv2d_input_grad(g, w, shapes=shapes), plain_input_grad(g, w, shapes=shapes), 1)


@every_algorithm
@settings(max_examples=15)
@given(data=st.data())
def test_first_and_second_derivatives(algorithm, data):
    x, w, _, shapes = data.draw(convolutions(algorithm=algorithm).filter(lambda drawn: drawn[0].size < 60))
    with using(algorithm, threads=2):
        check_grads(lambda x, w: conv2d_forward(x, w, shapes=shapes), [x, w], order=2)


@pytest.mark.parametrize(
    ("c", "k", "size", "kernel", "padding", "crop", "expected"),
    [
        (1, 32, 28, 5, 0, 0, "im2col"),
        (32, 64, 9, 5, 0, 0, "row_im2col"),  # 5 x 5 results, of 8 x 8 in four tiles
        (32, 64, 9, 5, 0, 1, "winograd"),
        (32, 64, 9, 5, 2, 1, "winograd"),
        (64, 64, 32, 3, 1, 0, "winograd"),
        (512, 512, 4, 3, 1, 0, "shifted_gemm"),  # Winograd's filters alone would take 38 MB
        (48, 96, 10, 8, 3, 0, "shifted_gemm"),
        (48, 96, 4, 5, 3, 0, "shifted_gemm"),  # more than half is padding
        (32, 64, 13, 6, 0, 1, "row_im2col"),  # too many taps
    ],
)
def test_the_choice_for_the_papers_layers(c, k, size, kernel, padding, crop, expected):
    shapes = conv_shapes((128, c, size, size), (k, c, kernel, kernel), padding=padding).cropped(crop, crop)
    conditions = {
        "im2col": fast.use_im2col,
        "winograd": fast.use_winograd,
        "shifted_gemm": fast.use_gemm_per_tap,
        "row_im2col": lambda shapes: True,
    }
    allowed = shapes._replace(allow_winograd=True)
    assert next(name for name, condition in conditions.items() if condition(allowed)) == expected
    assert not fast.use_winograd(shapes)


def test_winograd_leaves_out_cropped_results():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3, 10, 10)), rng.normal(size=(2, 3, 3, 3))
    shapes = conv_shapes(x.shape, w.shape).cropped(5, 5)._replace(allow_winograd=True)  # more than a whole tile
    g = rng.normal(size=shapes.y)
    with using("winograd"):
        all_three_agree(x, w, g, shapes, "winograd")


@needs_fast
def test_winograd_runs_in_training_only(monkeypatch):
    asked = []
    monkeypatch.setattr(winograd, "is_faster", lambda shapes: asked.append(shapes) or False)
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2D(16, 16, 3, rng=rng), nn.MaxPool2D(2), nn.Flatten(), nn.Dense(256, 3, rng=rng))
    x, y = rng.random((32, 16, 10, 10), np.float32), rng.integers(0, 3, 32)
    attacks.fgsm(model, x, y, eps=0.1)
    gradients_of = grad(cross_entropy(model(x, train=True), y), model.parameters())
    assert len(gradients_of) == 4
    assert asked == []
    gradient_update(model, classification_loss, optim.SGD(model.parameters(), 0.1), x, y, rng=rng)
    assert len(asked) == 2  # forward, and the gradient of the filters
    asked.clear()
    gradient_update(model, adversarial_training(0.1), optim.SGD(model.parameters(), 0.1), x, y, rng=rng)
    assert len(asked) == 6  # the attack's forward and gradient, too
    model(x)
    assert len(asked) == 6


def test_winograd_can_be_refused():
    code = "from npadv.fast import conv; print(conv.WINOGRAD)"
    assert run_python(code, NPADV_WINOGRAD="off").split() == ["False"]
    assert run_python(code).split() == ["True"]


@needs_fast
def test_winograd_costs_one_digit():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(16, 32, 12, 12)), rng.normal(size=(32, 32, 5, 5))
    exact = plain_conv2d(x, w, shapes=conv_shapes(x.shape, w.shape, padding=2))
    errors = {}
    for algorithm in ("winograd", "row_im2col"):
        with using(algorithm), ops.winograd():
            y = ops.conv2d(x.astype(np.float32), w.astype(np.float32), padding=2)
        errors[algorithm] = np.abs(y - exact).max() / np.abs(exact).max()
    assert errors["row_im2col"] < 1e-6 < errors["winograd"] < 1e-5


@needs_fast
@every_algorithm
def test_results_lie_in_memory_as_the_next_operation_reads_them(algorithm):
    with using(algorithm):
        x = Tensor(np.ones((3, 4, 6, 5)), requires_grad=True)
        with ops.winograd():
            y = ops.conv2d(x, np.ones((2, 4, 3, 3)))
        g = grad(y, x, np.ones(y.shape))
    for result in (y.data, g):
        assert np.shares_memory(to_hwnc(result), result)  # a view: nothing is copied


@every_algorithm
@pytest.mark.parametrize("narrow", range(3))
def test_mixed_precisions_compute_in_the_wider_one(algorithm, narrow):
    rng = np.random.default_rng(0)
    given = [rng.normal(size=shape) for shape in ((2, 3, 6, 5), (2, 3, 3, 3), (2, 2, 6, 5))]
    given[narrow] = given[narrow].astype(np.float32)
    x, w, g = given
    wide_x, wide_w, wide_g = (a.astype(np.float64) for a in given)
    shapes = conv_shapes(x.shape, w.shape, padding=1)._replace(allow_winograd=True)
    with using(algorithm):
        if narrow != 2:
            agree(fast.conv2d(x, w, shapes=shapes), plain_conv2d(wide_x, wide_w, shapes=shapes), 27, algorithm)
        if narrow != 0:
            got = fast.conv2d_input_grad(g, w, shapes=shapes)
            agree(got, plain_input_grad(wide_g, wide_w, shapes=shapes), 18, algorithm)
        if narrow != 1:
            got = fast.conv2d_weight_grad(x, g, shapes=shapes)
            agree(got, plain_weight_grad(wide_x, wide_g, shapes=shapes), 60, algorithm)


@pytest.mark.parametrize("setting", ["stride", "dilation", "groups"])
def test_winograd_has_no_strides_dilations_and_groups(setting):
    filters = (64, 32 if setting == "groups" else 64, 5, 5)
    with using("winograd"):
        assert not winograd.is_faster(conv_shapes((8, 64, 20, 20), filters, **{setting: 2}))
