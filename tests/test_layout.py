"""The order and place of arrays in memory, which decide how fast they are read and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays, images

from npadv import Tensor, grad, nn, ops
from npadv.fast import ENABLED, PAIRS
from npadv.fast.layout import PAGE, avoid_aliasing, to_hwnc, to_nchw
from npadv.fast.memory import CACHE_LINE, aligned
from npadv.nn.parameter import Parameter
from npadv.shapes import conv_shapes

needs_fast = pytest.mark.skipif(not ENABLED, reason="NPADV_FAST=off: arrays lie as NumPy makes them")

# Cache lines ----------------------------------------------------------------------------------------------------------


@needs_fast
@given(array=arrays())
def test_a_copy_begins_at_a_cache_line(array):
    copy = aligned(array)
    np.testing.assert_array_equal(copy, array)
    assert (copy.dtype, copy.flags.writeable) == (array.dtype, True)
    assert not np.shares_memory(copy, array)
    assert not array.flags.c_contiguous or copy.ctypes.data % CACHE_LINE == 0


@needs_fast
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_weights_of_layers_begin_at_cache_lines(dtype):
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2D(1, 3, 3, rng=rng), nn.Flatten(), nn.Dense(12, 7, rng=rng)).astype(dtype)
    for name, parameter in model.named_parameters():
        assert (parameter.data.ctypes.data % CACHE_LINE, parameter.dtype) == (0, dtype), name


def test_a_parameter_is_a_copy():
    given = np.ones(3)
    parameter = Parameter(given)
    parameter.assign([1.0, 2.0, 3.0])
    assert given.tolist() == [1, 1, 1]


# Images ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 1, 32, 32), (2, 3, 32, 32), (4, 1, 64, 16), (0, 1, 32, 32)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_a_page_apart_are_spread_before_they_are_turned(shape, dtype):
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    spread = avoid_aliasing(x)
    np.testing.assert_array_equal(spread, x)
    assert x.size == 0 or spread.strides[0] % PAGE
    np.testing.assert_array_equal(to_hwnc(x), x.transpose(2, 3, 0, 1))
    assert to_hwnc(x).flags.c_contiguous


def test_other_images_are_left_where_they_lie():
    x = np.zeros((3, 1, 32, 32), np.float32)
    as_pixels = to_nchw(to_hwnc(x))
    for other in (x[:, :, 1:], as_pixels, np.zeros((3, 1, 28, 28), np.float32)):
        assert avoid_aliasing(other) is other


@needs_fast
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
    shapes = conv_shapes(x.shape, w.shape, padding=padding)
    plain_input_grad = PAIRS["npadv.ops.conv.conv2d_input_grad"].plain
    np.testing.assert_allclose(gradient, plain_input_grad(g, w, shapes=shapes), rtol=0, atol=1e-12)


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
