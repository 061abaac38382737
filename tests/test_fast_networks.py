"""Whole networks computed by many threads: the same bits, from several callers at once and after an exception."""

import threading

import numpy as np
import pytest

from npadv import Tensor, grad, nn, ops
from npadv.fast import ENABLED, linalg, parallel, shifted_gemm, winograd
from npadv.fast import conv as fast
from npadv.functional import cross_entropy

pytestmark = pytest.mark.skipif(not ENABLED, reason="NPADV_FAST=off: there are no threads")


def small_convnet(seed=0):
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Conv2D(1, 16, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.MaxPool2D(2),
        nn.Conv2D(16, 16, 3, rng=rng),
        nn.MaxPool2D(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dense(64, 10, rng=rng),
    )


def gradients(model, x, y):
    inputs = Tensor(x, requires_grad=True)
    with ops.winograd():
        loss = cross_entropy(model(inputs), y)
    return grad(loss, [inputs, *model.parameters()])


@pytest.fixture(params=["sums", "winograd"])
def lively(request, monkeypatch):
    """Many small parts for many threads, from the smallest sizes on; both by sums of products and by Winograd's algorithm."""
    monkeypatch.setattr(fast, "WINOGRAD", request.param == "winograd")
    monkeypatch.setattr(winograd, "MAX_COST_RATIO", np.inf)
    monkeypatch.setattr(winograd, "MAX_ELEMENTS", 1 << 14)
    monkeypatch.setattr(parallel, "threads", lambda: 3)
    monkeypatch.setattr(fast, "MIN_ROWS", 0)
    monkeypatch.setattr(linalg, "BLAS_THREADS", 1)
    monkeypatch.setattr(linalg, "OWN_THREADS", 1)
    monkeypatch.setattr(parallel.halves, "__kwdefaults__", {"least": 2})
    winograd.is_faster.cache_clear()
    yield
    winograd.is_faster.cache_clear()


def test_from_several_threads_at_once_each_gets_its_own_result(lively):
    model, rng = small_convnet(), np.random.default_rng(1)
    batches = [(rng.random((20, 1, 12, 12), np.float32), rng.integers(0, 10, 20)) for _ in range(4)]
    expected = [gradients(model, x, y) for x, y in batches]
    wrong = []

    def repeat(k):
        for _ in range(15):
            for got, right in zip(gradients(model, *batches[k]), expected[k], strict=True):
                if not np.array_equal(got, right):
                    wrong.append(k)

    threads = [threading.Thread(target=repeat, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_number_of_threads_changes_no_bit(lively, monkeypatch):
    model, rng = small_convnet(), np.random.default_rng(1)
    x, y = rng.random((20, 1, 12, 12), np.float32), rng.integers(0, 10, 20)
    several = gradients(model, x, y)
    monkeypatch.setattr(parallel, "threads", lambda: 1)
    for got, expected in zip(gradients(model, x, y), several, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_after_an_exception_in_the_middle_all_is_as_before(lively, monkeypatch):
    model, rng = small_convnet(), np.random.default_rng(1)
    x, y = rng.random((20, 1, 12, 12), np.float32), rng.integers(0, 10, 20)
    expected = gradients(model, x, y)
    module, name = (winograd, "_multiplied") if fast.WINOGRAD else (shifted_gemm, "add_products")
    calls, function = iter(range(100)), getattr(module, name)

    def failing(*args):
        if next(calls) == 3:
            raise MemoryError("in the middle")
        return function(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing)
        with pytest.raises(MemoryError, match="in the middle"):
            gradients(model, x, y)
    for got, right in zip(gradients(model, x, y), expected, strict=True):
        np.testing.assert_array_equal(got, right)


def test_products_divided_among_threads():
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "threads", lambda: 2)
        for m, k, n in [(130, 200, 90), (90, 200, 131), (2, 3000, 400)]:
            for dtype in (np.float32, np.float64):
                a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((n, k)).astype(dtype).T
                assert a.size * n >= linalg.OWN_THREADS
                expected = np.einsum("ij,jk->ik", a, b)
                np.testing.assert_allclose(ops.matmul(a, b), expected, rtol=0, atol=np.finfo(dtype).eps * 40 * k**0.5)
    with pytest.raises(ValueError, match="matmul"):
        ops.matmul(np.ones((300, 300)), np.ones((299, 300)))
    assert ops.matmul(np.ones((300, 300), np.float32), np.ones((300, 300))).dtype == np.float64
