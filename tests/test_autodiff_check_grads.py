"""check_grads finds a mistake in any order and argument."""

import numpy as np
import pytest

import npadv
from npadv import defvjp, ops, primitive
from npadv.autodiff import PRIMITIVES
from npadv.testing import check_grads


@pytest.fixture
def registry():
    """Forget what a test adds to the registry."""
    known = dict(PRIMITIVES)
    yield PRIMITIVES
    PRIMITIVES.clear()
    PRIMITIVES.update(known)


def test_check_grads_wants_float64():
    with pytest.raises(
        ValueError, match=r"check_grads\(args\[1\]\): expected float64, whose differences mean something, got"
    ):
        check_grads(ops.add, [np.ones(2), np.ones(2, np.float32)])


def test_check_grads_finds_a_mistake_in_any_order_and_argument(registry):
    @primitive
    def weighted_cube(a, b):
        return a * b * b * b

    def with_rules(*rules):
        defvjp(weighted_cube, *rules)
        return lambda order: check_grads(weighted_cube, [np.array([1.5]), np.array([2.0])], order=order)

    right = (lambda g, y, a, b: g * b * b * b), (lambda g, y, a, b: g * 3 * a * b * b)
    with_rules(*right)(order=3)
    with pytest.raises(
        AssertionError, match=r"order 1, argument 1 of shape \(1,\): the rules say .*, the difference says"
    ):
        with_rules(right[0], lambda g, y, a, b: g * 3.003 * a * b * b)(order=1)
    detached = with_rules(right[0], lambda g, y, a, b: g * 3 * npadv.autodiff.value_of(a) * b * b)
    detached(order=1)
    with pytest.raises(AssertionError, match="order 2, argument 0"):
        detached(order=2)
    late = with_rules(right[0], lambda g, y, a, b: g * 3 * a * half_detached_square(b))
    late(order=2)
    with pytest.raises(AssertionError, match="order 3"):
        late(order=3)


@primitive
def half_detached_square(b):
    return b * b


defvjp(half_detached_square, lambda g, y, b: g * 2 * npadv.autodiff.value_of(b))
