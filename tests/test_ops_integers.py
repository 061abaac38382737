"""Integers: functions that NumPy has give what NumPy's give, the others compute in float64; no integer has a gradient."""

import numpy as np
import pytest

from npadv import Tensor, grad, ops

X = np.array([0, 5, 200], np.uint8)


@pytest.mark.parametrize("name", ["min", "max", "sum", "mean"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, bool])
def test_reductions_are_numpys(name, dtype):
    x = np.array([[0, 5, -56], [1, 0, 7]]).astype(dtype)
    for axis in (None, 0, 1):
        np.testing.assert_array_equal(getattr(ops, name)(x, axis=axis), getattr(np, name)(x, axis=axis), strict=True)


@pytest.mark.parametrize("name", ["softmax", "logsumexp", "sigmoid", "softplus"])
def test_functions_that_numpy_lacks_compute_in_float64(name):
    np.testing.assert_array_equal(getattr(ops, name)(X), getattr(ops, name)(X.astype(np.float64)), strict=True)


def test_cross_entropy_of_integers():
    for reduction in ("none", "sum", "mean"):
        loss = ops.softmax_cross_entropy(X[None], labels=np.array([0]), reduction=reduction)
        np.testing.assert_array_equal(loss, [200.0] if reduction == "none" else 200.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_convolutions_and_pools_do_not_wrap(dtype):
    x = np.full((1, 1, 4, 4), 100, dtype)
    w = np.full((1, 1, 2, 2), 2, dtype)
    assert (ops.conv2d(x, w) == 800).all()
    assert (ops.conv_transpose2d(x, w, stride=2) == 200).all()
    assert (ops.avg_pool2d(x, 2) == 100).all()
    assert ops.max_pool2d(x, 2, padding=1).dtype == dtype
    assert (ops.max_pool2d(x, 2, padding=1) == 100).all()
    assert (ops.max_pool2d(np.full((1, 1, 4, 4), -7, np.int16), 2, padding=1) == -7).all()


def test_a_cast_to_integers_has_the_derivative_0():
    x = Tensor([1.5, 2.5], requires_grad=True)
    y = x.astype(np.int64)
    assert y.data.tolist() == [1, 2]
    assert grad(y.sum(), x).tolist() == [0, 0]
    assert grad((x * y).sum(), x).tolist() == [1, 2]
