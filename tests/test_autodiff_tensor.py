"""A tensor answers like its array, takes part in operators, and says what it cannot be."""

import operator

import numpy as np
import pytest

from npadv import Tensor, grad, ops
from npadv.testing import check_grads


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


def test_a_tensor_answers_like_its_array():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    assert (x.shape, x.ndim, x.size, x.dtype, len(x)) == ((2, 3), 2, 6, np.float64, 2)
    assert [row.data.tolist() for row in x] == [[0, 1, 2], [3, 4, 5]]
    assert x.T.shape == x.transpose().shape == x.transpose(1, 0).shape == x.transpose((1, 0)).shape == (3, 2)
    assert x.reshape(3, 2).shape == x.reshape((3, 2)).shape == x.reshape(-1, 2).shape == (3, 2)
    assert x[1, 2].item() == 5
    assert x[np.array([0, 0])].shape == x[Tensor(np.array([0, 0]))].shape == (2, 3)
    assert isinstance(x[1, 2].item(), float)
    assert x.numpy() is x.data
    assert (x.sum().item(), x.mean().item(), x.max().item(), x.min().item()) == (15, 2.5, 5, 0)
    assert x.sum(axis=0, keepdims=True).shape == (1, 3)
    assert not Tensor(0.0)
    assert Tensor(1.0)


def test_a_tensor_of_several_elements_is_neither_true_nor_a_number():
    with pytest.raises(ValueError, match="ambiguous"):
        bool(Tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="can only convert an array of size 1"):
        Tensor([1.0, 2.0]).item()
    with pytest.raises(TypeError, match="unsized"):
        len(Tensor(1.0))


def test_repr_shows_values_dtype_and_whether_gradients_are_recorded():
    assert repr(Tensor([1.0, 2.0])) == "Tensor([1., 2.], dtype=float64)"
    assert repr(leaf([1], np.float32)) == "Tensor([1.], dtype=float32, requires_grad=True)"
    assert "..." in repr(Tensor(np.zeros(1000)))


@pytest.mark.parametrize("compare", [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne])
def test_comparisons_are_plain_boolean_arrays(compare):
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    expected = compare(a, b).tolist()
    for result in (compare(leaf(a), b), compare(leaf(a), leaf(b)), compare(a, leaf(b)), compare(leaf(a), 2)):
        assert type(result) is np.ndarray
        assert result.tolist() == expected


def test_a_tensor_is_hashed_by_identity():
    x, y = leaf([1, 2]), leaf([1, 2])
    assert {x: "x", y: "y"}[x] == "x"


OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.matmul]


@pytest.mark.parametrize("apply", OPERATORS)
def test_an_operator_is_recorded_whichever_side_the_tensor_is_on(apply):
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.5, 1.5])
    for left, right in ((leaf(a), leaf(b)), (leaf(a), b), (a, leaf(b))):
        y = apply(left, right)
        assert isinstance(y, Tensor)
        assert y.requires_grad
        assert y.data.tolist() == apply(a, b).tolist()
    check_grads(apply, [a, b])


def test_numbers_take_the_tensors_type_on_both_sides():
    x = leaf([1, 2], np.float32)
    for y in (x + 1, 1.5 + x, x - 1.5, 1 - x, x * 2.5, 2 * x, x / 3, 3.5 / x, x**2, 2.5**x, -x, abs(x)):
        assert y.dtype == np.float32
        assert grad(y.sum(), x).dtype == np.float32


def test_numpy_may_read_a_tensor_but_not_drop_its_history():
    assert np.asarray(Tensor([1.0, 2.0])).tolist() == [1, 2]
    assert np.asarray(Tensor([1.0, 2.0]), dtype=np.float32).dtype == np.float32
    for recorded in (leaf([1, 2]), leaf([1, 2]) * 2):
        with pytest.raises(TypeError, match=r"would drop the tensor's history; take tensor\.data"):
            np.asarray(recorded)
    with pytest.raises(TypeError, match=r"numpy\.arctan of a Tensor has no gradient rule"):
        np.arctan(leaf([1, 2]))


def test_what_cannot_be_a_tensor_says_so():
    with pytest.raises(TypeError, match=r"data is a Tensor already; use \.detach\(\)"):
        Tensor(Tensor(1.0))
    with pytest.raises(ValueError, match="expected a floating-point dtype, got int64"):
        Tensor(np.array([1, 2]), requires_grad=True)


def test_an_array_is_kept_and_not_copied():
    a = np.zeros(3)
    assert Tensor(a).data is a
    x = leaf([1, 2])
    assert x.detach().data is x.data
    assert not x.detach().requires_grad


def test_a_primitive_on_arrays_is_just_itself():
    assert type(ops.tanh(np.zeros(3))) is np.ndarray
    assert not (Tensor([1.0]) * 2).requires_grad
    assert (Tensor([1.0]) * 2).is_leaf
    assert not (leaf([1]) * 2).is_leaf
