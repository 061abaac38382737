"""Recording: switched off within a block, for each thread alone."""

import concurrent.futures
import threading

import numpy as np
import pytest

from npadv import Tensor, grad, hvp, no_record
from npadv.autodiff import recording


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


def test_no_record_leaves_no_record_and_may_be_nested():
    x = leaf([1, 2])
    with no_record():
        assert not (x * 2).requires_grad
        with recording(True):
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad
    with pytest.raises(KeyError), no_record():
        raise KeyError
    assert (x * 2).requires_grad


def test_a_second_derivative_may_be_asked_for_where_nothing_is_recorded():
    x = leaf([1, 2])
    y = (x**3).sum()
    with no_record():
        assert hvp(y, x, np.ones(2)).tolist() == [6, 12]
        assert grad(y, x, create_graph=True).requires_grad


def test_each_thread_records_for_itself():
    x = leaf([1, 2])
    seen = {}

    def look(name):
        seen[name] = (x * 2).requires_grad
        with no_record():
            seen[f"{name}, off"] = (x * 2).requires_grad

    with no_record():
        thread = threading.Thread(target=look, args=["started inside"])
        thread.start()
        thread.join()
        assert not (x * 2).requires_grad
    assert seen == {"started inside": True, "started inside, off": False}


def test_threads_that_differentiate_at_once_do_not_disturb_each_other():
    start = threading.Barrier(4)

    def work(k):
        start.wait()
        results = []
        for _ in range(50):
            x = leaf([k, 2.0])
            y = x
            for _ in range(20):
                with no_record():
                    _ = y * 2
                y = y * x
            results.append(grad(y.sum(), x).tolist())
        return results

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for k, results in enumerate(pool.map(work, range(4))):
            assert results == [[21.0 * k**20, 21.0 * 2**20]] * 50
