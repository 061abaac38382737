"""Changes in place: caught where a gradient would be wrong, and nowhere else."""

import numpy as np
import pytest

from npadv import Tensor, grad, ops


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


CHANGES = {
    "an item": lambda t: t.__setitem__(0, 5),
    "an item by tensor": lambda t: t.__setitem__(Tensor(np.array([0])), Tensor([5.0])),
    "assign": lambda t: t.assign([5, 5]),
    "mark_changed": lambda t: t.mark_changed(),
    "to": lambda t: t.to("cpu"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_leaf_changed_after_it_was_recorded_is_caught(change):
    x = leaf([1, 2])
    y = (x * x).sum()
    CHANGES[change](x)
    with pytest.raises(
        RuntimeError, match=r"multiply \(recorded with shapes \[\(2,\), \(2,\)\]\).*was changed in place"
    ):
        grad(y, x)
    assert grad((x * x).sum(), x).tolist() == (2 * x.data).tolist()  # a record made after the change is right again


@pytest.mark.parametrize("change", CHANGES)
def test_a_recorded_result_refuses_to_be_changed(change):
    y = leaf([1, 2]) * 2
    with pytest.raises(RuntimeError, match=r"in-place change of a recorded result \(of multiply\): only leaves may"):
        CHANGES[change](y)
    assert y.data.tolist() == [2, 4]


def test_a_change_of_anything_the_gradient_reads_is_caught():
    x, constant = leaf([1, 2]), Tensor([3.0, 4.0])
    y = (x * constant).sum()
    constant[0] = 5
    with pytest.raises(RuntimeError, match="multiply"):
        grad(y, x)
    w, v = leaf([1, 2]), leaf([[3], [4]])
    y = (w * v.reshape(2)).sum()  # reads v's memory through a view of it
    v[0] = 5
    with pytest.raises(RuntimeError, match="multiply"):
        grad(y, w)
    y = ops.exp(x)
    y.detach()[0] = 5  # the rule of exp reads its result
    with pytest.raises(RuntimeError, match=r"exp .* or its result, was changed in place"):
        grad(y.sum(), x)


def test_a_change_elsewhere_is_nobodys_business():
    x, other = leaf([1, 2]), leaf([3, 4])
    y = (x * x).sum()
    _ = (other * x).sum()
    other[0] = 5
    assert grad(y, x).tolist() == [2, 4]
    constant = Tensor(np.zeros(2))
    constant[:] = leaf([1, 2])
    constant.assign(constant.data + 1)
    assert grad((x * constant).sum(), x).tolist() == [2, 3]  # what changed before the record is part of it


def test_assign_and_to_check_what_they_are_given():
    x = leaf([1, 2])
    with pytest.raises(ValueError, match=r"assign\(value\): expected shape \(2,\), got \(1,\)"):
        x.assign([1])
    with pytest.raises(ValueError, match="device: expected one of 'cpu', 'cuda', got 'tpu'"):
        x.to("tpu")
    assert x.to("cpu") is x
