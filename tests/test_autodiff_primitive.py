"""Primitives: rules are counted, missing rules say so, residuals reach the rules."""

import numpy as np
import pytest

from npadv import Tensor, defvjp, grad, no_record, ops, primitive
from npadv.autodiff import PRIMITIVES, operation_of, positional_parameters
from npadv.testing import check_grads


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


@pytest.fixture
def registry():
    """Forget what a test adds to the registry."""
    known = dict(PRIMITIVES)
    yield PRIMITIVES
    PRIMITIVES.clear()
    PRIMITIVES.update(known)


def test_a_primitive_without_a_rule_says_how_to_give_it_one(registry):
    @primitive
    def lonely(x):
        return x + 0

    x = leaf([1, 2])
    with pytest.raises(
        NotImplementedError, match=r"lonely has no gradient rule: give it one with defvjp\(lonely, \.\.\.\)"
    ):
        grad(lonely(x).sum(), x)


def test_rules_are_counted_and_may_refuse(registry):
    @primitive
    def pick(x, which, *, scale=1):
        return x[which] * scale

    with pytest.raises(ValueError, match=r"defvjp\(pick\): expected 2 rule\(s\), one per positional argument, got 1"):
        defvjp(pick, lambda g, y, x, which, scale: g)
    with pytest.raises(ValueError, match=r"expected 1 rule\(s\)"):
        defvjp(pick, None, variadic=True)
    defvjp(pick, lambda g, y, x, which, scale: g, None)
    x = leaf([1, 2])
    assert pick(x, 1, scale=3).item() == 6
    with pytest.raises(TypeError, match="pick is not differentiable in argument 1"):
        operation_of(pick).rules[1](None)
    assert positional_parameters(pick) == ["x", "which"]


def test_residuals_reach_the_rules(registry):
    runs = []

    @primitive
    def power(x, *, exponent):
        runs.append("plain")
        return x**exponent

    def with_residuals(x, *, exponent):
        runs.append("with residuals")
        return x**exponent, x ** (exponent - 1)

    def rule(g, y, x, exponent, residuals):
        assert isinstance(residuals, np.ndarray)
        return g * exponent * (x ** (exponent - 1) if isinstance(x, Tensor) else residuals)

    defvjp(power, rule, forward_with_residuals=with_residuals)
    x = leaf([1, 2])
    with no_record():
        assert power(x, exponent=3).data.tolist() == power(x.data, exponent=3).tolist() == [1, 8]
    assert runs == ["plain", "plain"]  # no record, no residuals
    y = power(x, exponent=3).sum()
    assert runs == ["plain", "plain", "with residuals"]
    assert grad(y, x).tolist() == grad(y, x).tolist() == [3, 12]
    first = grad(y, x, create_graph=True)
    assert grad(first.sum(), x).tolist() == [6, 12]
    check_grads(lambda x: power(x, exponent=3), [np.array([0.5, -1.2])])

    with pytest.raises(ValueError, match=r"expected 1 rule\(s\)"):
        defvjp(power)
    assert operation_of(power).forward_with_residuals is with_residuals  # a refused call changes nothing
    defvjp(power, lambda g, y, x, exponent: g * exponent * x ** (exponent - 1))
    assert grad(power(x, exponent=3).sum(), x).tolist() == [3, 12]


def test_a_ufunc_may_become_a_primitive(registry):
    sine = primitive(np.sin)
    defvjp(sine, lambda g, y, x: g * ops.sqrt(1 - y * y))  # where the cosine is positive
    check_grads(sine, [np.array([0.3, -1.2])])
    assert positional_parameters(np.arctan2) == ["x0", "x1"]


def test_a_plain_function_is_no_primitive():
    with pytest.raises(TypeError, match="expected a function made by @primitive, got <built-in function len>"):
        defvjp(len, lambda g, y, x: g)
