"""Where arrays lie in memory: it decides how fast they are read, and nothing else."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays, images

from npadv import Tensor, grad, nn, ops
from npadv.fast.layout import PAGE, apart, pixels
from npadv.fast.layout import images as as_images
from npadv.fast.memory import LINE, aligned
from npadv.nn.parameter import Parameter
from npadv.ops import conv, elementwise
from npadv.ops.conv import conv_geometry, output_shape

# Cache lines ----------------------------------------------------------------------------------------------------------


@given(array=arrays())
def test_a_copy_begins_at_a_cache_line(array):
    copy = aligned(array)
    np.testing.assert_array_equal(copy, array)
    assert (copy.dtype, copy.flags.writeable) == (array.dtype, True)
    assert not np.shares_memory(copy, array)
    assert not array.flags.c_contiguous or copy.ctypes.data % LINE == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_weights_of_layers_begin_at_cache_lines(dtype):
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2D(1, 3, 3, rng=rng), nn.Flatten(), nn.Dense(12, 7, rng=rng)).astype(dtype)
    for name, parameter in model.named_parameters():
        assert (parameter.data.ctypes.data % LINE, parameter.dtype) == (0, dtype), name


def test_a_parameter_is_a_copy():
    given = np.ones(3)
    parameter = Parameter(given)
    parameter.assign([1.0, 2.0, 3.0])
    assert given.tolist() == [1, 1, 1]


# Zeros to compare with ------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """Take the fast way for the smallest arrays, too, and begin without zeros."""
    monkeypatch.setattr(elementwise, "FEW", 0)
    monkeypatch.setattr(elementwise, "_BLOCKS", {})


@pytest.mark.usefixtures("few")
@given(
    array=arrays(), dtype=st.sampled_from([np.float16, np.float32, np.float64]), kept=st.sampled_from([0, 8, 1 << 24])
)
def test_relu_is_the_maximum_with_zero_however_its_argument_lies(array, dtype, kept):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elementwise, "MOST", kept)
        x = array.astype(dtype, copy=False)
        x[x > 1.9], x[x < -1.9] = np.nan, -0.0
        before = x.copy()
        y = ops.relu(x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(x, before)
    assert (y.dtype, y.strides) == (dtype, np.maximum(x, 0).strides)


def test_relu_of_large_arrays_and_their_parts():
    rng = np.random.default_rng(0)
    large = rng.normal(size=(80, 90)).astype(np.float32)
    for x in (large, large.T, large[::2, 1:], large[::-1], large[:, ::-2], np.broadcast_to(large[0], (70, 90))):
        np.testing.assert_array_equal(ops.relu(x), np.where(x > 0, x, 0))
    assert ops.relu(np.arange(-5000, 5000)).tolist() == [max(0, i) for i in range(-5000, 5000)]


@pytest.mark.usefixtures("few")
def test_zeros_lie_as_what_they_are_compared_with_and_are_not_kept_without_end(monkeypatch):
    x = np.ones((3, 4, 5)).transpose(1, 2, 0)
    zeros = elementwise._zeros(x)
    assert (zeros.shape, zeros.strides, zeros.any()) == (x.shape, x.strides, False)
    monkeypatch.setattr(elementwise, "MOST", x.nbytes)
    assert elementwise._zeros(np.ones(61)).shape == ()
    assert elementwise._BLOCKS[x.dtype].size == x.size


@pytest.mark.usefixtures("few")
def test_the_zeros_are_nobodys_to_change():
    x = np.ones(5000)
    assert not elementwise._zeros(x).flags.writeable
    assert not elementwise._zero(x).flags.writeable
    y = ops.relu(x)
    y[:] = 7
    assert ops.relu(-x).tolist() == [0.0] * 5000


@pytest.mark.usefixtures("few")
def test_several_threads_share_the_zeros():
    wrong = []

    def compute(size):
        x = np.random.default_rng(size).normal(size=size)
        for _ in range(200):
            if not np.array_equal(ops.relu(x), np.maximum(x, 0)):
                wrong.append(size)

    threads = [threading.Thread(target=compute, args=(size,)) for size in (10, 100, 1000, 10000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Images ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 1, 32, 32), (2, 3, 32, 32), (4, 1, 64, 16), (0, 1, 32, 32)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_a_page_apart_are_spread_before_they_are_turned(shape, dtype):
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    spread = apart(x)
    np.testing.assert_array_equal(spread, x)
    assert x.size == 0 or spread.strides[0] % PAGE
    np.testing.assert_array_equal(pixels(x), x.transpose(2, 3, 0, 1))
    assert pixels(x).flags.c_contiguous


def test_other_images_are_left_where_they_lie():
    x = np.zeros((3, 1, 32, 32), np.float32)
    as_pixels = as_images(pixels(x))
    for other in (x[:, :, 1:], as_pixels, np.zeros((3, 1, 28, 28), np.float32)):
        assert apart(other) is other


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 2])
def test_the_gradient_of_pictures_lies_as_pictures_do(channels, padding):
    rng = np.random.default_rng(0)
    x = Tensor(rng.normal(size=(5, channels, 32, 32)), requires_grad=True)
    w = rng.normal(size=(4, channels, 5, 5))
    y = ops.conv2d(x, w, padding=padding)
    g = rng.normal(size=y.shape)
    gradient = grad(y, x, g)
    assert gradient.flags.c_contiguous
    geometry = conv_geometry(1, padding, 1, 1)
    assert y.shape == output_shape(x.shape, w.shape, geometry)
    np.testing.assert_allclose(gradient, conv.plain_input_grad(g, w, x.shape, geometry), rtol=0, atol=1e-12)
    np.testing.assert_allclose(y.data, conv.plain_conv2d(x.data, w, geometry), rtol=0, atol=1e-12)


@given(data=st.data())
def test_a_border_leaves_images_as_they_lie(data):
    x = data.draw(images((2, 3, 4, 5)))
    widths = ((0, 0), (0, 1), (2, 0), (1, 3))
    y = ops.pad(x, widths=widths, value=0.5)
    np.testing.assert_array_equal(y, np.pad(x, widths, constant_values=0.5))
    order = np.argsort([-abs(stride) for stride in x.strides], kind="stable")
    assert np.argsort([-stride for stride in y.strides], kind="stable").tolist() == order.tolist()


@pytest.mark.parametrize("widths", [((1, 1),), ((1, 1), (0, -1)), ()])
def test_a_border_that_does_not_fit_is_refused(widths):
    with pytest.raises(ValueError, match=r"pad\(widths\): expected \(before, after\), at least 0, for each of 2 axes"):
        ops.pad(np.ones((2, 2)), widths=widths)
