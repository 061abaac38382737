"""Copies and pickles of tensors: whole, and independent of the original."""

import copy
import multiprocessing
import pickle
import threading

import numpy as np
import pytest
from subprocesses import run_python

from npadv import Tensor, grad, ops
from npadv.autodiff import Tensor as TensorClass
from npadv.nn.parameter import MaxNorm, Parameter

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
}
every_copy = pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)


@every_copy
def test_a_copy_has_a_gradient_of_its_own(make):
    a = Tensor([1.0, 2.0], requires_grad=True)
    b = make(a)
    first, second = grad((a * 3 + b * 5).sum(), [a, b])
    assert (first.tolist(), second.tolist()) == ([3, 3], [5, 5])


@every_copy
def test_a_change_of_one_is_not_seen_in_the_other(make):
    a = Tensor([1.0, 2.0], requires_grad=True)
    a.grad = np.array([7.0, 8.0])
    b = make(a)
    y = (b * b).sum()
    a[0] = 9.0
    a.grad[0] = 0.0
    assert (b.data.tolist(), b.grad.tolist()) == ([1, 2], [7, 8])
    assert grad(y, b).tolist() == [2, 4]  # and the change of a does not count as one of b


@every_copy
def test_a_parameter_keeps_its_settings(make):
    a = Parameter([3.0, 4.0], step_scale=0.5, constraint=MaxNorm(1.0, (0,)))
    b = make(a)
    assert (type(b), b.step_scale, b.constraint, b.requires_grad) == (Parameter, 0.5, MaxNorm(1.0, (0,)), True)
    assert not np.shares_memory(a.data, b.data)


def test_a_deep_copy_of_a_result_has_a_history_of_its_own():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    x_copy, y_copy = copy.deepcopy((x, y))
    assert grad(y_copy, x_copy).tolist() == [2, 4]
    with pytest.raises(ValueError, match="does not depend"):
        grad(y_copy, x)
    x[0] = 5.0
    assert grad(y_copy, x_copy).tolist() == [2, 4]


def test_a_copy_of_a_result_shares_its_arguments():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = copy.copy((x * x).sum())
    assert grad(y, x).tolist() == [2, 4]


def test_a_deep_copy_of_a_long_history_needs_no_recursion():
    x = y = Tensor(1.0, requires_grad=True)
    for _ in range(20_000):
        y = y + 1.0
    x_copy, y_copy = copy.deepcopy((x, y))
    assert (float(y_copy.data), float(grad(y_copy, x_copy))) == (20_001, 1)


def test_a_recorded_result_is_not_pickled():
    x = Tensor([1.0], requires_grad=True)
    with pytest.raises(TypeError, match=r"a recorded result \(of multiply\) cannot be pickled; pickle .detach\(\)"):
        pickle.dumps(x * 2)
    assert pickle.loads(pickle.dumps((x * 2).detach())).data.tolist() == [2]


def test_a_pickle_in_another_process_takes_its_place_in_that_order(tmp_path):
    (tmp_path / "tensor.pickle").write_bytes(pickle.dumps(Tensor([1.0, 2.0], requires_grad=True)))
    code = f"""
import pickle
from npadv import Tensor, grad
own = [Tensor([1.0, 1.0], requires_grad=True) for _ in range(9)]
a = pickle.load(open({str(tmp_path / "tensor.pickle")!r}, "rb"))
total = a * 3
for b in own:
    total = total + b
print(*[g.tolist() for g in grad(total.sum(), [a, *own])])
"""
    assert run_python(code).split("]")[0] == "[3.0, 3.0"


def _three_times(x):
    return grad((x * 3).sum(), x)


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_tensors_go_to_process_pools_and_come_back(start):
    x = Tensor([1.0, 2.0], requires_grad=True)
    with multiprocessing.get_context(start).Pool(1) as pool:
        assert pool.apply(_three_times, (x,)).tolist() == [3, 3]
        back = pool.apply(copy.copy, (x,))
    assert isinstance(back, TensorClass)
    first, second = grad((x * 3 + back * 5).sum(), [x, back])
    assert (first.tolist(), second.tolist()) == ([3, 3], [5, 5])


def test_copies_made_in_threads_are_independent():
    x, found = Tensor(np.ones(3), requires_grad=True), []

    def work():
        for _ in range(50):
            y = copy.deepcopy(x)
            found.append(grad(ops.sum(y * x), [x, y])[1].tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[1, 1, 1]] * 200
