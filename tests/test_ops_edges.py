"""Edges: infinities, axes out of range, powers of zero, and arrays that change before the gradient is taken."""

import numpy as np
import pytest

from npadv import Tensor, grad, ops
from npadv.testing import check_grads

INF = np.inf


def leaf(values):
    return Tensor(np.array(values, dtype=float), requires_grad=True)


def test_logsumexp_where_all_are_minus_infinity():
    x = leaf([[-INF, -INF], [0.0, -INF]])
    with np.errstate(divide="ignore"):
        y = ops.logsumexp(x, axis=1)
    assert y.data.tolist() == [-INF, 0]
    assert grad(y, x, [1.0, 1.0]).tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("padding", [0, 1])
def test_max_pooling_where_all_are_minus_infinity_goes_to_the_first_pixel(padding):
    x = leaf(np.full((1, 1, 4, 4), -INF))
    y = ops.max_pool2d(x, 2, padding=padding)
    g = grad(y, x, np.ones(y.shape))
    assert g.sum() == y.size  # nothing is lost in the padding
    assert g[0, 0, 0, 0] == 1


@pytest.mark.parametrize("b", [-2.0, -0.5, 0.0, 1.0])
def test_the_slope_of_a_power_of_zero_in_its_exponent(b):
    exponent = leaf([b])
    with np.errstate(divide="ignore"):
        assert grad(0.0**exponent, exponent, [1.0]).tolist() == [0]


OUT_OF_RANGE = {
    "expand_dims": lambda x: ops.expand_dims(x, 5),
    "expand_dims, negative": lambda x: ops.expand_dims(x, -4),
    "sum": lambda x: ops.sum(x, axis=2),
    "mean": lambda x: ops.mean(x, axis=-3),
    "max": lambda x: ops.max(x, axis=(0, 2)),
    "logsumexp": lambda x: ops.logsumexp(x, axis=7),
    "softmax": lambda x: ops.softmax(x, axis=2),
    "concatenate": lambda x: ops.concatenate([x, x], axis=2),
    "stack": lambda x: ops.stack([x, x], axis=3),
}


@pytest.mark.parametrize("call", OUT_OF_RANGE.values(), ids=OUT_OF_RANGE)
@pytest.mark.parametrize("kind", [np.asarray, leaf])
def test_an_axis_out_of_range_is_refused(call, kind):
    with pytest.raises(np.exceptions.AxisError, match="out of bounds for array of dimension"):
        call(kind([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "logsumexp", "prod"])
@pytest.mark.parametrize("axis", [0, -1])
def test_an_array_without_axes_has_an_axis_0(name, axis):
    x = leaf(3.0)
    y = getattr(ops, name)(x, axis=axis)
    assert (float(y.data), float(grad(y, x))) == (3, 1)


@pytest.mark.parametrize(
    ("low", "high", "inside"),
    [
        (None, 1.0, [1, 1, 0]),
        (0.0, None, [0, 1, 1]),
        (np.array([0.0, 0.5, 0.0]), None, [0, 0, 1]),
    ],
)
def test_clip_with_one_bound(low, high, inside):
    x = leaf([-0.5, 0.3, 1.5])
    y = ops.clip(x, low, high)
    np.testing.assert_array_equal(y.data, np.clip(x.data, low, high))
    assert grad(y.sum(), x).tolist() == inside


@pytest.mark.parametrize("make", [np.array, list], ids=["array", "list"])
def test_an_index_may_change_before_the_gradient(make):
    x, index = leaf([1.0, 2.0, 3.0]), make([0, 2])
    y = x[index].sum() + x[index,].sum()
    index[0] = 1
    assert grad(y, x).tolist() == [2, 0, 2]


@pytest.mark.parametrize(
    "write", [lambda t, v: t.__setitem__(0, v[0]), lambda t, v: t.assign(v)], ids=["index", "assign"]
)
def test_a_recorded_value_is_not_copied_without_its_history(write):
    x, buffer = leaf([1.0, 2.0]), Tensor([0.0, 0.0])
    with pytest.raises(TypeError, match=r"its history would be lost; .* where\(...\) or concatenate"):
        write(buffer, 2 * x)
    write(buffer, (2 * x).detach())
    assert buffer.data[0] == 2


@pytest.mark.parametrize("data", [None, "abc", [None, 1.0], object()])
def test_only_numbers_make_a_tensor(data):
    with pytest.raises((TypeError, ValueError), match=r"Tensor\(data\): expected numbers"):
        Tensor(data)


@pytest.mark.parametrize(("stride", "dilation", "extra"), [(2, 4, 3), (3, 1, 2), (1, 3, 2)])
def test_output_padding_may_reach_to_the_dilation(stride, dilation, extra):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(1, 2, 3, 3)), rng.normal(size=(2, 1, 2, 2))
    small = ops.conv_transpose2d(x, w, stride=stride, dilation=dilation)
    large = ops.conv_transpose2d(x, w, stride=stride, dilation=dilation, output_padding=extra)
    assert large.shape == (1, 1, small.shape[2] + extra, small.shape[3] + extra)
    np.testing.assert_allclose(large[:, :, : small.shape[2], : small.shape[3]], small)
    assert not large[:, :, small.shape[2] :].any()
    check_grads(lambda x, w: ops.conv_transpose2d(x, w, stride=stride, dilation=dilation, output_padding=extra), [x, w])
    with pytest.raises(ValueError, match="output_padding: expected less than the stride or the dilation"):
        ops.conv_transpose2d(x, w, stride=stride, dilation=dilation, output_padding=max(stride, dilation))


def test_check_grads_wants_a_list():
    with pytest.raises(
        ValueError, match=r"check_grads\(args\): expected a list of arrays, got a single ndarray; write \[x\]"
    ):
        check_grads(ops.tanh, np.ones(3))
