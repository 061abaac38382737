"""Convolution: its formula, SciPy's correlation, the adjoints, layouts in memory, and shapes that do not fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from primitive_table import convolutions
from scipy.signal import correlate2d
from strategies import IMAGE_LAYOUTS, distinct, laid_out, seeds

from npadv import Tensor, grad, ops
from npadv.ops.conv import conv2d_forward, conv2d_input_grad, conv2d_weight_grad
from npadv.testing import check_grads


def naive_conv2d(x, w, shapes):
    """Compute the formula at the head of npadv/ops/conv.py, word for word."""
    (sh, sw), (ph, pw), (dh, dw), groups = shapes.stride, shapes.padding, shapes.dilation, shapes.groups
    y = np.zeros(shapes.y)
    for n, k, a, b in np.ndindex(y.shape):
        for c, i, j in np.ndindex(w.shape[1:]):
            row, column = a * sh + i * dh - ph, b * sw + j * dw - pw
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                channel = k // (len(w) // groups) * w.shape[1] + c
                y[n, k, a, b] += w[k, c, i, j] * x[n, channel, row, column]
    return y


@settings(max_examples=30)
@given(call=convolutions())
def test_conv2d_is_its_formula(call):
    (x, w), settings = call
    expected = naive_conv2d(x, w, **settings)
    np.testing.assert_allclose(conv2d_forward(x, w, **settings), expected, rtol=1e-12, atol=1e-12)


def test_conv2d_is_scipys_correlation():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 7, 6)), rng.standard_normal((4, 3, 3, 2))
    for mode, padding in (("valid", 0), ("full", (2, 1))):
        expected = [
            [sum(correlate2d(*pair, mode) for pair in zip(image, taps, strict=True)) for taps in w] for image in x
        ]
        np.testing.assert_allclose(ops.conv2d(x, w, padding=padding), expected, rtol=1e-12, atol=1e-12)


@given(call=convolutions(), seed=seeds)
def test_the_gradients_of_a_convolution_are_its_adjoints(call, seed):
    (x, w), settings = call
    y = conv2d_forward(x, w, **settings)
    g = np.random.default_rng(seed).standard_normal(y.shape)
    expected = pytest.approx(np.vdot(g, y), rel=1e-12, abs=1e-11)
    assert np.vdot(conv2d_input_grad(g, w, **settings), x) == expected
    assert np.vdot(conv2d_weight_grad(x, g, **settings), w) == expected


@given(call=convolutions(), seed=seeds)
def test_conv_transpose2d_is_the_adjoint_of_conv2d(call, seed):
    (x, w), settings = call
    settings = {name: getattr(settings["shapes"], name) for name in ("stride", "padding", "dilation", "groups")}
    y = ops.conv2d(x, w, **settings)
    g = np.random.default_rng(seed).standard_normal(y.shape)
    smallest = ops.conv_transpose2d(g, w, **settings).shape
    extra = tuple(a - b for a, b in zip(x.shape[2:], smallest[2:], strict=True))  # what the stride stepped over
    back = ops.conv_transpose2d(g, w, output_padding=extra, **settings)
    assert back.shape == x.shape
    assert np.vdot(back, x) == pytest.approx(np.vdot(g, y), rel=1e-12, abs=1e-11)


@pytest.mark.parametrize("layout", IMAGE_LAYOUTS)
@pytest.mark.parametrize("kind", ["convolution", "pooling"])
def test_the_layout_in_memory_changes_nothing(layout, kind):
    x = distinct(np.random.default_rng(0), (2, 4, 5, 6))
    w = np.random.default_rng(1).standard_normal((3, 4, 2, 2))
    f = {"convolution": lambda x: ops.conv2d(x, w, padding=1), "pooling": lambda x: ops.max_pool2d(x, 2)}[kind]
    plain, moved = (Tensor(a, requires_grad=True) for a in (x, laid_out(x, *IMAGE_LAYOUTS[layout])))
    np.testing.assert_allclose(f(moved).data, f(plain).data, rtol=1e-12)
    g = np.random.default_rng(2).standard_normal(f(plain).shape)
    np.testing.assert_allclose(grad(f(moved), moved, g), grad(f(plain), plain, g), rtol=1e-12)
    check_grads(f, [moved.data])


@pytest.mark.parametrize(
    ("x", "w", "settings", "message"),
    [
        ((3, 4, 4), (1, 3, 2, 2), {}, r"conv2d\(x\): expected images \(N, C, H, W\), got shape \(3, 4, 4\)"),
        ((1, 3, 4, 4), (3, 2, 2), {}, r"conv2d\(w\): expected filters \(K, C/groups, KH, KW\), got shape \(3, 2, 2\)"),
        ((1, 3, 4, 4), (1, 2, 2, 2), {}, "need 2 channels and a multiple of 1 filters; got images of 3 channels"),
        ((1, 4, 4, 4), (3, 2, 2, 2), {"groups": 2}, "3 filters over 2 channels in 2 group"),
        ((1, 1, 2, 2), (1, 1, 3, 3), {}, "larger than the image"),
        ((1, 1, 4, 4), (1, 1, 2, 2), {"stride": 0}, "stride: expected an integer of at least 1, or two of them, got 0"),
        ((1, 1, 4, 4), (1, 1, 2, 2), {"padding": (1, -1)}, r"padding: .* at least 0.*got \(1, -1\)"),
        ((1, 1, 4, 4), (1, 1, 2, 2), {"dilation": 1.5}, "dilation: .* got 1.5"),
        ((1, 1, 4, 4), (1, 1, 2, 2), {"groups": 0}, "groups: expected an integer of at least 1, got 0"),
    ],
)
def test_a_convolution_that_does_not_fit_says_so(x, w, settings, message):
    with pytest.raises(ValueError, match=message):
        ops.conv2d(np.zeros(x), np.zeros(w), **settings)


def test_a_transposed_convolution_that_does_not_fit_says_so():
    x, w = np.zeros((1, 2, 3, 3)), np.zeros((2, 1, 2, 2))
    with pytest.raises(ValueError, match=r"conv_transpose2d: expected x \(N, K, H, W\)"):
        ops.conv_transpose2d(x[0], w)
    with pytest.raises(ValueError, match="output_padding: expected less than the stride or the dilation, got 2"):
        ops.conv_transpose2d(x, w, stride=2, output_padding=2)
