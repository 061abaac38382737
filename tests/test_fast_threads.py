"""Threads, NumPy's BLAS and the memory allocator: the parts that fast versions are built of."""

import sys
import threading
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import arrays
from subprocesses import run_python

from npadv.fast import ENABLED, blas, memory, parallel

pytestmark = pytest.mark.skipif(not ENABLED, reason="NPADV_FAST=off: no threads, NumPy's own products")

# Matrix products ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False])
@settings(max_examples=50)
@given(data=st.data())
def test_products_are_added_to_what_is_there(direct, data):
    r, q, c, k, taps = (data.draw(st.integers(1, n)) for n in (9, 9, 5, 5, 3))
    dtype, rtol = data.draw(st.sampled_from([(np.float32, 1e-5), (np.float64, 1e-13)]))
    y, x, w = (data.draw(arrays(shape)).astype(dtype, order="C") for shape in ((r, k), (q, c + 2), (taps, c, k)))
    x = x[:, 1:-1]  # rows that lie apart
    counts = data.draw(st.lists(st.integers(0, min(r, q)), max_size=4))
    ranges = [tuple(data.draw(st.integers(0, top)) for top in (r - n, q - n)) for n in counts]
    ranges = [(*places, n, data.draw(st.integers(0, taps - 1))) for places, n in zip(ranges, counts, strict=True)]
    expected_y, expected_w = y.copy(), w.copy()
    for at, start, n, tap in ranges:
        expected_w[tap] += x[start : start + n].T @ y[at : at + n]
        expected_y[at : at + n] += x[start : start + n] @ w[tap]
    with pytest.MonkeyPatch.context() as patch:
        if not direct:
            patch.setattr(blas, "_GEMM", {})
        kept = y.copy()
        blas.add_products(y, x, w, ranges)
        np.testing.assert_allclose(y, expected_y, rtol=rtol, atol=rtol)
        blas.add_transposed_products(w, x, kept, ranges)
        np.testing.assert_allclose(w, expected_w, rtol=rtol, atol=rtol)


def test_numpys_blas_is_found():
    name = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    if name == "scipy-openblas":
        assert set(blas._GEMM) == {"f", "d"}
        assert blas.threads() == blas._get_threads() >= 1
    else:  # another build: whatever was found has been tried
        assert blas._compute_products(blas._GEMM)


def test_a_product_that_computes_something_else_is_not_used():
    def wrong(*arguments):
        pass

    assert not blas._compute_products({"f": wrong})


def test_blas_can_be_left_alone():
    code = "from npadv.fast import blas; print(blas._GEMM, blas.threads())"
    assert run_python(code, NPADV_BLAS="numpy").split() == ["{}", "1"]


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(monkeypatch):
    monkeypatch.setattr(parallel, "threads", lambda: 3)


def test_every_part_runs_once_and_several_threads_take_part(three):
    seen, together = [], threading.Barrier(3, timeout=10)

    def part(i):
        if i < 3:
            together.wait()  # would break if one thread did all
        seen.append((i, threading.get_ident()))

    parallel.run(part, 20)
    assert sorted(i for i, _ in seen) == list(range(20))
    assert len({thread for _, thread in seen}) == 3


def test_blas_has_one_thread_meanwhile_and_its_own_again_afterwards():
    code = """
from npadv.fast import blas, parallel
seen = [blas._get_threads()]
parallel.run(lambda i: seen.append(blas._get_threads()), 6)
with blas.one_thread():
    with blas.one_thread():
        pass
    seen += [blas._get_threads(), blas.threads()]
print(*seen, blas._get_threads())
"""
    assert run_python(code).split() == ["2", *6 * ["1"], "1", "2", "2"]


def test_within_a_part_everything_is_done_at_once(three):
    inner = []
    parallel.run(lambda i: parallel.run(lambda j: inner.append((i, j, threading.get_ident())), 4), 3)
    assert len(inner) == 12
    for i in range(3):  # by the thread that asked
        assert len({thread for part, _, thread in inner if part == i}) == 1


@pytest.mark.parametrize("failing", [0, 5])
def test_an_exception_comes_out_and_the_workers_stay_usable(three, failing):
    done = []

    def part(i):
        if i == failing:
            raise KeyError(i)
        done.append(i)

    with pytest.raises(KeyError, match=str(failing)):
        parallel.run(part, 1000)
    assert len(done) < 1000  # what had not begun was left
    done.clear()
    parallel.run(done.append, 7)
    assert sorted(done) == list(range(7))
    assert blas._held.inside == 0


def test_ctrl_c_while_waiting_for_the_others_leaves_them_idle():
    code = """
import signal, threading, time
from npadv.fast import parallel
parallel.threads = lambda: 2
done, begun = [], threading.Event()

def part(i):
    if threading.current_thread() is threading.main_thread():
        begun.wait()
        signal.setitimer(signal.ITIMER_REAL, 0.2)  # when this thread is done and the other is not
        return
    begun.set()
    time.sleep(0.6)
    done.append(i)

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
try:
    parallel.run(part, 2)
except KeyboardInterrupt:
    again = []
    parallel.run(again.append, 4)
    print(len(done), sorted(again))
"""
    assert run_python(code).strip() == "1 [0, 1, 2, 3]"


def test_halves_meet_in_the_middle_once(three):
    for n in (1, 2, 3, 8, 9):
        x, y = np.zeros((n, 2)), np.arange(2.0 * n).reshape(n, 2)
        parallel.halves(lambda x, y: np.add(x, y, out=x), x, y, least=1)
        np.testing.assert_array_equal(x, y)


def test_scratch_is_each_threads_own_and_grows():
    scratch, other = parallel.Scratch(), []
    mine = scratch.array((2, 3), np.float32)
    thread = threading.Thread(target=lambda: other.append(scratch.array((2, 3), np.float32)))
    thread.start()
    thread.join()
    assert not np.shares_memory(mine, other[0])
    assert np.shares_memory(mine, scratch.array((6,), np.float32))
    assert scratch.array((100, 100), np.float64).shape == (100, 100)


def test_a_forked_child_has_workers_of_its_own_and_all_of_blas():
    code = """
import os
from npadv.fast import blas, parallel
children = []

def part(i):  # in the middle of other work, while BLAS is held to one thread
    if i == 0:
        child = os.fork()
        if child == 0:
            done, threads = [], blas._get_threads()
            parallel.run(done.append, 5)
            os._exit(0 if sorted(done) == [0, 1, 2, 3, 4] and threads == blas.threads() == 2 else 1)
        children.append(child)

parallel.run(part, 2)
print(os.waitpid(children[0], 0)[1])
"""
    assert run_python(code).strip() == "0"


# Memory ---------------------------------------------------------------------------------------------------------------

STEPS = """
import resource, sys
import numpy as np
from npadv import nn, optim
from npadv.train import classification_loss, gradient_update
rng = np.random.default_rng(0)
model = nn.network("syn_convnet", rng=rng)
optimizer = optim.SGD(model.parameters(), 0.01, momentum=0.9)
x, y = rng.random((64, 1, 28, 28), np.float32), rng.integers(0, 10, 64)
usage = lambda: resource.getrusage(resource.RUSAGE_SELF)
counts = []
for i in range(40):
    before = usage().ru_minflt
    gradient_update(model, classification_loss, optimizer, x, y, rng=rng)
    counts.append(usage().ru_minflt - before)
    if i == 9:
        early = usage().ru_maxrss
print(max(counts[10:]), usage().ru_maxrss - early)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library of Linux has the settings")
def test_after_the_first_steps_no_new_memory_is_taken():
    faults, growth = map(int, run_python(STEPS).split())
    assert faults < 64  # pages of 4 KiB; a step computes 9,000 of them
    assert growth < 2048  # KiB


@pytest.mark.parametrize("setting", [{"NPADV_MALLOC": "system"}, {"MALLOC_TRIM_THRESHOLD_": "131072"}])
def test_memory_can_be_left_to_the_system(setting):
    assert run_python("from npadv.fast import memory; print(memory.keep_freed())", **setting).strip() == "False"


def test_without_the_settings_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: types.SimpleNamespace())
    assert memory.keep_freed() is False
