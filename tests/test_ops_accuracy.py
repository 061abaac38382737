"""Sums keep their digits in every memory layout, and float16 does not overflow on the way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import IMAGE_LAYOUTS, axes, laid_out, seeds

from npadv import Tensor, grad, nn, ops
from npadv.backend import accurate_sum


def test_a_sum_over_many_rows():
    assert ops.sum(np.full((4_000_000, 2), 0.1, np.float32), axis=0) == pytest.approx([400_000, 400_000], rel=1e-6)


@pytest.mark.parametrize("layout", IMAGE_LAYOUTS)
def test_sums_over_images_in_every_layout(layout):
    x = laid_out(np.random.default_rng(0).random((64, 4, 60, 60), np.float32), *IMAGE_LAYOUTS[layout])
    exact = x.astype(np.float64).sum(axis=(0, 2, 3))
    np.testing.assert_allclose(ops.sum(x, axis=(0, 2, 3)), exact, rtol=1e-6)
    np.testing.assert_allclose(ops.mean(x, axis=(0, 2, 3)), exact / x[:, 0].size, rtol=1e-6)
    np.testing.assert_allclose(ops.sum_to(x, shape=(4, 1, 1)).ravel(), exact, rtol=1e-6)


def test_the_gradient_of_a_bias():
    rng = np.random.default_rng(0)
    w, b = rng.random((4, 1, 1, 1), np.float32), Tensor(np.zeros((4, 1, 1), np.float32), requires_grad=True)
    y = ops.conv2d(rng.random((64, 1, 112, 112), np.float32), w) + b
    g = rng.random(y.shape, np.float32)
    np.testing.assert_allclose(grad(y, b, g).ravel(), g.astype(np.float64).sum(axis=(0, 2, 3)), rtol=1e-6)


def test_batch_normalisation_of_a_constant():
    x = ops.conv2d(np.full((64, 1, 112, 112), 0.1, np.float32), np.full((2, 1, 1, 1), 3.3, np.float32))
    y = nn.BatchNorm(2)(x, train=True)
    assert abs(y.data).max() < 1e-3


@given(
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    data=st.data(),
    seed=seeds,
    keepdims=st.booleans(),
)
def test_an_accurate_sum_is_a_sum(shape, data, seed, keepdims):
    x = np.random.default_rng(seed).integers(-9, 9, (*shape, 150)).astype(np.float64)
    x = x.transpose(data.draw(st.permutations(range(x.ndim))))
    axis = data.draw(axes(x.shape, empty=False))
    np.testing.assert_array_equal(accurate_sum(x, axis, keepdims), x.sum(axis=axis, keepdims=keepdims), strict=True)


@pytest.mark.parametrize("n", [15, 16, 17, 1000, 16**3, 16**3 + 1])
def test_blocks_and_their_rest(n):
    x = np.arange(3.0 * n).reshape(n, 3)
    np.testing.assert_array_equal(accurate_sum(x, 0), x.sum(axis=0))


def test_float16():
    hundreds = np.full(1000, 100, np.float16)
    assert (ops.mean(hundreds), ops.mean(hundreds).dtype) == (100, np.float16)
    assert ops.sum(np.ones((5000, 2), np.float16), axis=0).tolist() == [5000, 5000]
    assert ops.logsumexp(np.zeros(60000, np.float16)) == pytest.approx(11, abs=0.01)
    assert ops.softmax(np.zeros((70000, 1), np.float16), axis=0).sum(dtype=np.float64) == pytest.approx(1, abs=0.1)


def test_the_cross_entropy_of_a_large_batch_in_float16():
    x, labels = np.zeros((70000, 4), np.float16), np.zeros(70000, int)
    loss = ops.softmax_cross_entropy(x, labels=labels, reduction="mean")
    assert (loss.dtype, float(loss)) == (np.float16, pytest.approx(np.log(4), rel=1e-3))
