"""The values of operations against NumPy's and SciPy's, and their derivatives at kinks and ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from primitive_table import TABLE, function_of
from scipy.special import erf, expit

from npadv import Tensor, grad, ops


def added_at(index, values, shape):
    out = np.zeros(shape)
    np.add.at(out, index, values)
    return out


def added_along(values, indices, axis, shape):
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return added_at(np.take_along_axis(numbers, indices, axis), values, numbers.size).reshape(shape)


NUMPYS = {
    "astype": lambda x, dtype: x.astype(dtype),
    "broadcast_to": lambda x, shape: np.broadcast_to(x, shape),
    "clip": np.clip,
    "concatenate_args": lambda *xs, axis: np.concatenate(xs, axis),
    "cos": np.cos,
    "cumsum_along": np.cumsum,
    "divide": np.divide,
    "einsum_args": lambda *xs, letters, output: np.einsum(",".join(letters) + "->" + output, *xs),
    "erf": erf,
    "expm1": np.expm1,
    "getitem": lambda x, index: x[index],
    "log1p": np.log1p,
    "logsumexp": lambda x, axis, keepdims: np.log(np.exp(x).sum(axis, keepdims=keepdims)),
    "matmul": np.matmul,
    "max": np.max,
    "maximum": np.maximum,
    "mean": np.mean,
    "min": np.min,
    "minimum": np.minimum,
    "pad": lambda x, widths, value: np.pad(x, widths, constant_values=value) if x.ndim else x,
    "power": np.power,
    "relu": lambda x: np.where(x > 0, x, 0),
    "scatter_add": lambda values, index, shape: added_at(index, values, shape),
    "scatter_along_axis": added_along,
    "sigmoid": expit,
    "sign": np.sign,
    "sin": np.sin,
    "softplus": lambda x: np.logaddexp(0, x),
    "sum": np.sum,
    "sum_to": lambda x, shape: x.sum(tuple(range(x.ndim - len(shape)))).sum(
        tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True
    ),
    "take_along_axis": lambda x, indices, axis: np.take_along_axis(x, indices, axis),
    "transpose": np.transpose,
    "where": np.where,
}


@pytest.mark.parametrize("name", NUMPYS)
@given(data=st.data())
def test_values_are_numpys(name, data):
    args, kwargs = data.draw(TABLE[name])
    expected = NUMPYS[name](*args, **kwargs)
    np.testing.assert_allclose(function_of(name)(*args, **kwargs), expected, rtol=1e-13, atol=1e-13, strict=True)


def test_logsumexp_takes_infinities():
    for infinite, expected in (([-np.inf, 3.0], 3.0), ([np.inf, 3.0], np.inf)):
        assert ops.logsumexp(np.array(infinite)) == expected
    x = Tensor([-np.inf, 3.0], requires_grad=True)
    assert grad(ops.logsumexp(x), x).tolist() == [0, 1]
    with np.errstate(divide="ignore"):  # as numpy.log of 0
        assert ops.logsumexp(np.array([-np.inf, -np.inf])) == -np.inf


# Kinks and ties: one rule each ----------------------------------------------------------------------------------------


def slope(f, x):
    x = Tensor(np.array(x, dtype=float), requires_grad=True)
    return grad(f(x).sum(), x).tolist()


def test_at_a_kink_the_slope_is_the_one_written_down():
    assert slope(ops.relu, [-1, 0, 1]) == [0, 0, 1]
    assert slope(ops.abs, [-1, 0, 1]) == [-1, 0, 1]
    assert slope(ops.sign, [-1, 0, 1]) == [0, 0, 0]
    assert slope(lambda x: ops.clip(x, -1, 1), [-1.1, -1, 0, 1, 1.1]) == [0, 1, 1, 1, 0]


def test_ties_go_to_the_first():
    a, b = (Tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    for choose in (ops.maximum, ops.minimum):
        first, second = grad(choose(a, b).sum(), [a, b])
        assert (first.tolist(), second.tolist()) == ([1, 1], [0, 0])
        assert slope(lambda x, choose=choose: choose(x, x), [1, 2]) == [1, 1]
    for choose in (ops.max, ops.min):
        assert slope(choose, [[1, 1], [1, 1]]) == [[1, 0], [0, 0]]
        assert slope(lambda x, choose=choose: choose(x, axis=0), [[1, 1], [1, 1]]) == [[1, 1], [0, 0]]
        assert slope(lambda x, choose=choose: choose(x, axis=(1, 0)), [[1, 1], [1, 1]]) == [[1, 0], [0, 0]]
    assert slope(lambda x: ops.max_pool2d(x, 2), np.ones((1, 1, 2, 2))) == [[[[1, 0], [0, 0]]]]


def test_the_slope_of_sqrt_at_0_is_infinite():
    with np.errstate(divide="ignore"):
        assert slope(ops.sqrt, [0.0]) == [np.inf]


def test_powers_of_0_have_their_limits_slopes():
    assert [slope(lambda x, b=b: x**b, [0.0]) for b in (0, 0.0, 1, 2, 2.5)] == [[0], [0], [1], [0], [0]]
    assert slope(lambda b: np.zeros(3) ** b, [0.0, 1.0, 2.0]) == [0, 0, 0]
    assert slope(lambda b: 0.0**b, [1.0, 2.0]) == [0, 0]
    assert slope(lambda a: a ** np.array([0.0, 1.0, 2.0]), [0.0, 0.0, 0.0]) == [0, 1, 0]


def test_the_branch_not_taken_contributes_nothing_even_where_its_slope_is_infinite():
    with np.errstate(divide="ignore"):
        x = Tensor([0.0, 4.0], requires_grad=True)
        a = Tensor([0.0, 0.0], requires_grad=True)
        assert grad(ops.where(np.array([True, False]), a, ops.sqrt(x)), a, [np.inf, np.inf]).tolist() == [np.inf, 0]
        assert grad(ops.where(True, x, 2 * x).sum(), x).tolist() == [1, 1]
