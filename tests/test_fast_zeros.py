"""The arrays of zeros that ReLU compares with."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays

from npadv.fast import elementwise


@pytest.fixture
def few(monkeypatch):
    """Use zeros for the smallest arrays, too, and begin without any."""
    monkeypatch.setattr(elementwise, "MIN_ZEROS", 0)
    monkeypatch.setattr(elementwise, "_blocks", {})


@pytest.mark.usefixtures("few")
@given(
    array=arrays(), dtype=st.sampled_from([np.float16, np.float32, np.float64]), kept=st.sampled_from([0, 8, 1 << 24])
)
def test_relu_in_every_layout(array, dtype, kept):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elementwise, "MAX_ZEROS", kept)
        x = array.astype(dtype, copy=False)
        x[x > 1.9], x[x < -1.9] = np.nan, -0.0
        before = x.copy()
        y = elementwise.relu(x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(x, before)
    assert (y.dtype, y.strides) == (dtype, np.maximum(x, 0).strides)


def test_relu_of_large_arrays_and_their_parts():
    rng = np.random.default_rng(0)
    large = rng.normal(size=(80, 90)).astype(np.float32)
    for x in (large, large.T, large[::2, 1:], large[::-1], large[:, ::-2], np.broadcast_to(large[0], (70, 90))):
        np.testing.assert_array_equal(elementwise.relu(x), np.where(x > 0, x, 0))
    assert elementwise.relu(np.arange(-5000, 5000)).tolist() == [max(0, i) for i in range(-5000, 5000)]


@pytest.mark.usefixtures("few")
def test_zeros_have_the_layout_of_their_partner_and_a_limit(monkeypatch):
    x = np.ones((3, 4, 5)).transpose(1, 2, 0)
    zeros = elementwise._zeros(x)
    assert (zeros.shape, zeros.strides, zeros.any()) == (x.shape, x.strides, False)
    monkeypatch.setattr(elementwise, "MAX_ZEROS", x.nbytes)
    assert elementwise._zeros(np.ones(61)).shape == ()
    assert elementwise._blocks[x.dtype].size == x.size


@pytest.mark.usefixtures("few")
def test_the_zeros_are_read_only():
    x = np.ones(5000)
    assert not elementwise._zeros(x).flags.writeable
    assert not elementwise._zero(x).flags.writeable
    y = elementwise.relu(x)
    y[:] = 7
    assert elementwise.relu(-x).tolist() == [0.0] * 5000


@pytest.mark.usefixtures("few")
def test_several_threads_share_the_zeros():
    wrong = []

    def compute(size):
        x = np.random.default_rng(size).normal(size=size)
        for _ in range(200):
            if not np.array_equal(elementwise.relu(x), np.maximum(x, 0)):
                wrong.append(size)

    threads = [threading.Thread(target=compute, args=(size,)) for size in (10, 100, 1000, 10000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
