"""Gradients: what a backward pass visits, what it returns, and what it refuses."""

import numpy as np
import pytest

from npadv import Tensor, defvjp, grad, no_record, primitive
from npadv.autodiff import PRIMITIVES


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


@pytest.fixture
def counted():
    """A product that counts how often each of its rules is called."""
    calls = [0, 0]

    @primitive
    def counted_product(a, b):
        return a * b

    def rule(i):
        def vjp(g, y, *args):
            calls[i] += 1
            return g * args[1 - i]

        return vjp

    defvjp(counted_product, rule(0), rule(1))
    yield counted_product, calls
    del PRIMITIVES["counted_product"]


def test_what_meets_is_added_up():
    x = leaf([2, 3])
    y = x * x + x * 3 + x
    assert grad(y.sum(), x).tolist() == [2 * 2 + 4, 2 * 3 + 4]


def test_gradients_come_as_they_were_asked_for():
    x, w = leaf([1, 2]), leaf([3, 4], np.float32)
    y = (x * w).sum()
    assert type(grad(y, x)) is np.ndarray
    assert [g.tolist() for g in grad(y, (w, x))] == [[1, 2], [3, 4]]
    assert [g.dtype for g in grad(y, [x, w])] == [np.float64, np.float32]
    assert grad(y, []) == []
    assert isinstance(grad(y, x, create_graph=True), Tensor)
    assert grad(x, x, [5, 6]).tolist() == [5, 6]


def test_a_gradient_may_stop_halfway():
    x = leaf([1, 2])
    h = x * 3
    y = (h * h).sum()
    assert [g.tolist() for g in grad(y, [h, x])] == [[6, 12], [18, 36]]


def test_a_cotangent_weighs_the_outputs():
    x = leaf([1, 2])
    for weights in ([10, 1], np.array([10.0, 1.0]), Tensor([10.0, 1.0])):
        assert grad(x * x, x, weights).tolist() == [20, 4]
        assert grad(x * x, x, weights, create_graph=True).data.tolist() == [20, 4]


def test_only_the_records_between_wrt_and_y_are_visited(counted):
    product, calls = counted
    x, weights = leaf([1, 2]), [leaf([3, 4]) for _ in range(5)]
    y = x
    for w in weights:
        y = product(y, w)
    grad(y.sum(), x)
    assert calls == [5, 0]
    grad(y.sum(), weights[-1])
    assert calls == [5, 1]
    grad(y.sum(), weights[3])
    assert calls == [6, 2]


def test_records_that_lead_elsewhere_are_not_visited(counted):
    product, calls = counted
    x, z = leaf([1, 2]), leaf([3, 4])
    y = (product(z, z) + x).sum()
    grad(y, x)
    assert calls == [0, 0]


def test_grad_never_writes_to_anybodys_grad():
    x, w = leaf([1, 2]), leaf([3, 4])
    y = (x * w).sum()
    grad(y, x)
    grad(y, [x, w], create_graph=True)
    assert x.grad is w.grad is y.grad is None


def test_backward_adds_to_the_leaves_and_to_nothing_else():
    x, w, c = leaf([1, 2]), leaf([3, 4]), Tensor([1.0, 1.0])
    h = x * w * c
    h.sum().backward()
    h.backward(np.array([1.0, 10.0]))
    assert (x.grad.tolist(), w.grad.tolist()) == ([6, 44], [2, 22])
    assert h.grad is c.grad is None
    with pytest.raises(
        ValueError, match="backward: nothing was recorded; no tensor in this computation has requires_grad"
    ):
        c.backward()


REFUSED = {
    "y is not recorded": (
        lambda x: grad(Tensor(1.0), x),
        ValueError,
        "y was not recorded; no tensor it was made from has requires_grad=True",
    ),
    "wrt is not recorded": (
        lambda x: grad(x.sum(), Tensor(1.0)),
        ValueError,
        r"wrt\[0\].*was not recorded; make it with",
    ),
    "y does not depend on wrt": (
        lambda x: grad(x.sum(), [x, leaf(1)]),
        ValueError,
        r"wrt\[1\]\): y does not depend on this tensor; pass unused='zeros'",
    ),
    "wrt is younger than y": (lambda x: grad(x.sum(), x * 2), ValueError, "y does not depend on this tensor"),
    "y was computed without a record": (lambda x: grad(unrecorded(x), x), ValueError, "y was not recorded"),
    "y is detached": (lambda x: grad(x.sum().detach(), x), ValueError, "y was not recorded"),
    "y is an array": (lambda x: grad(x.data.sum(), x), TypeError, r"grad\(y\): expected a Tensor, got float64"),
    "wrt is an array": (lambda x: grad(x.sum(), [x, x.data]), TypeError, r"wrt\[1\]\): expected a Tensor, got ndarray"),
    "y is no scalar": (
        lambda x: grad(x * 2, x),
        ValueError,
        r"y has shape \(2,\); give a cotangent of that shape, or red",
    ),
    "the cotangent does not fit": (
        lambda x: grad(x * 2, x, np.ones(3)),
        ValueError,
        r"cotangent\): expected y's shape \(2,\), got \(3,\)",
    ),
    "unused is unknown": (
        lambda x: grad(x.sum(), x, unused="ignore"),
        ValueError,
        "expected 'raise' or 'zeros', got 'ignore'",
    ),
}


def unrecorded(x):
    with no_record():
        return x.sum()


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_differentiated_says_why(case):
    ask, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        ask(leaf([1, 2]))


def test_zeros_are_returned_for_the_unused_where_they_are_asked_for():
    x, other = leaf([1, 2]), leaf([[3]], np.float32)
    used, zeros = grad(x.sum(), [x, other], unused="zeros")
    assert used.tolist() == [1, 1]
    assert (zeros.tolist(), zeros.dtype) == ([[0]], np.float32)
    assert grad(Tensor(1.0), x, unused="zeros").tolist() == [0, 0]
    assert grad(x.sum(), other, unused="zeros", create_graph=True).data.tolist() == [[0]]
