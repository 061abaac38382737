"""Gradients belong to the caller: writable, and no two share memory."""

import numpy as np
import pytest

from npadv import Tensor, grad, ops


@pytest.fixture
def a():
    return Tensor([1.0, 2.0, 3.0], requires_grad=True)


@pytest.fixture
def b():
    return Tensor([4.0, 5.0, 6.0], requires_grad=True)


RESULTS = {
    "a sum of two": lambda a, b: (a + b).sum(),
    "a transpose": lambda a, b: (a.reshape(3, 1).T + b).sum(),
    "a concatenation": lambda a, b: ops.concatenate([a, b]).sum(),
    "a mean": lambda a, b: ops.mean(a) + ops.mean(b),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_are_writable_and_share_nothing(result, create_graph, a, b):
    first, second = (
        getattr(g, "data", g) if create_graph else g for g in grad(result(a, b), [a, b], create_graph=create_graph)
    )
    expected = second.copy()
    first *= 0
    np.testing.assert_array_equal(second, expected)
    second += 1


def test_backward_fills_arrays_of_their_own(a, b):
    (a + b).sum().backward()
    a.grad *= 0
    assert b.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", [np.asarray, Tensor])
@pytest.mark.parametrize("create_graph", [False, True])
def test_the_cotangent_is_not_handed_out(kind, create_graph, a, b):
    weights = np.array([1.0, 2.0, 3.0])
    for g in grad(a + b, [a, b], kind(weights), create_graph=create_graph):
        values = g.data if create_graph else g
        assert not np.shares_memory(values, weights)
        values += 1
    assert weights.tolist() == [1, 2, 3]


def test_the_gradient_of_a_tensor_in_itself_is_not_the_cotangent(a):
    weights = np.ones(3)
    assert not np.shares_memory(grad(a, a, weights), weights)


def test_copied_gradients_can_be_differentiated_again(a, b):
    g, h = grad((a + b) * (a + b), [a, b], np.ones(3), create_graph=True)
    assert g is not h
    assert grad((g * h).sum(), a).tolist() == [40, 56, 72]  # 8 (a + b)


def test_an_array_that_a_rule_need_not_copy_is_not_copied(a):
    """The gradient of a product is an array of its own already."""
    seen = []
    y = ops.square(a)
    rules = y._operation.rules
    y._operation.rules = (lambda *args: seen.append(rules[0](*args)) or seen[-1],)
    try:
        assert grad(y.sum(), a) is seen[0]
    finally:
        y._operation.rules = rules
