"""Pooling: its formula, windows that do not fit, and maxima that are not numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from npadv import Tensor, grad, ops


def naive_pool(reduce, x, size, stride, padding, ceil_mode=False):
    """Apply ``reduce`` to what each window sees of the image."""
    rounded = np.ceil if ceil_mode else np.floor
    out = [int(rounded((n + 2 * p - k) / s)) + 1 for n, k, s, p in zip(x.shape[2:], size, stride, padding, strict=True)]
    starts = [
        [i * s - p for i in range(m) if i * s - p < n]  # the last window must see something
        for m, n, s, p in zip(out, x.shape[2:], stride, padding, strict=True)
    ]
    seen = [[x[:, :, max(a, 0) : a + size[0], max(b, 0) : b + size[1]] for b in starts[1]] for a in starts[0]]
    return np.array([[reduce(window) for window in row] for row in seen]).transpose(2, 3, 0, 1)


sides = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(size=sides, stride=sides, extra=sides, padded=st.booleans(), ceil_mode=st.booleans(), seed=seeds)
def test_pooling_is_its_formula(size, stride, extra, padded, ceil_mode, seed):
    padding = tuple(k // 2 * padded for k in size)
    shape = (2, 2, *(k + e - 1 for k, e in zip(size, extra, strict=True)))
    x = np.random.default_rng(seed).standard_normal(shape)
    highest = naive_pool(lambda window: window.max(axis=(2, 3)), x, size, stride, padding, ceil_mode)
    assert ops.max_pool2d(x, size, stride=stride, padding=padding, ceil_mode=ceil_mode).tolist() == highest.tolist()
    means = naive_pool(lambda window: window.sum(axis=(2, 3)) / np.prod(size), x, size, stride, padding)
    np.testing.assert_allclose(ops.avg_pool2d(x, size, stride=stride, padding=padding), means, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("place", range(4))
def test_a_maximum_that_is_no_number_has_no_winner(place):
    x = Tensor(np.arange(8.0).reshape(1, 1, 2, 4), requires_grad=True)
    x.data[0, 0, place // 2, place % 2] = np.nan
    y = ops.max_pool2d(x, 2)
    assert np.isnan(y.data).tolist() == [[[[True, False]]]]
    assert grad(y, x, np.ones(y.shape)).tolist() == [[[[0, 0, 0, 0], [0, 0, 0, 1]]]]


def test_the_stride_of_a_pooling_is_its_size_by_default():
    x = np.random.default_rng(0).standard_normal((1, 1, 6, 6))
    for pool in (ops.max_pool2d, ops.avg_pool2d):
        assert pool(x, (3, 2)).tolist() == pool(x, (3, 2), stride=(3, 2)).tolist()


@pytest.mark.parametrize(
    ("shape", "size", "settings", "message"),
    [
        ((1, 4, 4), 2, {}, r"expected images \(N, C, H, W\), got shape \(1, 4, 4\)"),
        ((1, 1, 4, 4), 0, {}, "size: expected an integer of at least 1, or two of them, got 0"),
        ((1, 1, 4, 4), 2, {"stride": -1}, "stride: .* at least 1.* got -1"),
        ((1, 1, 4, 4), 2, {"padding": 2}, r"padding: expected at most half the window \(2, 2\), got \(2, 2\)"),
        ((1, 1, 2, 2), 3, {}, r"a window of \(3, 3\) is larger than the image \(2, 2\)"),
    ],
)
def test_a_pooling_that_does_not_fit_says_so(shape, size, settings, message):
    for pool in (ops.max_pool2d, ops.avg_pool2d):
        with pytest.raises(ValueError, match=message):
            pool(np.zeros(shape), size, **settings)
