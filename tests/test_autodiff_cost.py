"""Memory comes back without the collector, and an operation adds at most 2.5 microseconds."""

import gc
import time
import tracemalloc
import weakref

import numpy as np
import pytest

from npadv import Tensor, grad, hvp, ops


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


LONG = 100_000


def chain(x, length):
    y = x
    for _ in range(length):
        y = y * 1.0
    return y


@pytest.fixture
def no_collector():
    """Leave only reference counting."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_chain_of_100_000_operations_is_differentiated_and_freed_without_recursion(no_collector):
    x = leaf(2)
    y = chain(x, LONG)
    assert grad(y, x) == 1
    last = first = weakref.ref(y)
    while (argument := first()._args[0]) is not x:
        first = weakref.ref(argument)
    del y, argument
    assert last() is None
    assert first() is None


def test_a_chain_of_100_000_operations_is_differentiated_twice_without_recursion(no_collector):
    x = leaf(2)
    g = grad(chain(x, LONG), x, create_graph=True)
    died = weakref.ref(g)
    assert g.item() == 1
    assert grad(x * g, x) == 1
    del g
    assert died() is None


def test_every_step_gives_its_memory_back(no_collector):
    x = leaf(np.ones(1000))
    w = leaf(np.ones((1000, 3)))

    def step():
        loss = ops.square(ops.tanh(x @ w)).sum()
        loss.backward()
        x.grad = w.grad = None
        penalty = grad(loss, x, create_graph=True)
        grad(ops.square(penalty).sum(), [x, w])
        hvp(loss, x, x.data)

    tracemalloc.start()
    step()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20):
        step()
    assert gc.collect() == 0  # no cycles waited for the collector, which also clears the interpreter's free lists
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 1000  # of the 8000 bytes of x alone


def test_an_operation_costs_at_most_2_5_microseconds_more_than_numpys():
    """Forward and backward over a thousand products of 16 numbers, less the two thousand products that NumPy must do.

    It measures about 1.6. The best of many runs counts, since a busy machine only ever makes one slower; and where even
    the best is too slow, another round may show that it was the machine.
    """
    a = np.ones(16)
    x = leaf(a)

    def raw():
        y = a
        for _ in range(2000):
            y = y * a

    def taped():
        y = x
        for _ in range(1000):
            y = y * a
        grad(y, x, a)

    def best(f):
        times = []
        for _ in range(20):
            start = time.thread_time()  # of the processor, which other programs may use in between
            f()
            times.append(time.thread_time() - start)
        return min(times)

    added = min_until(lambda: (best(taped) - best(raw)) / 1000, enough=2.5e-6)
    assert added <= 2.5e-6


def min_until(measure, enough, tries=8):
    least = measure()
    while least > enough and (tries := tries - 1):
        least = min(least, measure())
    return least
