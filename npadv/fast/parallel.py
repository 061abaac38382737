"""Threads: one function applied to several parts of the work, on several cores.

NumPy releases Python's lock inside its loops, so threads in large array operations run at the same time. In operations of a
few microseconds they would wait for the lock, so each part should be large. The threads are started once and kept. There are
as many as NumPy's BLAS would use (``OPENBLAS_NUM_THREADS`` sets both numbers), and while they run, BLAS is limited to one
thread for each of them.

The result of a part must depend on its number only, and no two parts may write to the same memory. Then results are the same,
to the last bit, for any number of threads. ``NPADV_FAST=off`` computes all parts in the calling thread.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from itertools import count
from queue import SimpleQueue
from typing import Any

import numpy as np

from npadv.fast import ENABLED
from npadv.fast.blas import one_thread, threads


def run(part: Callable[[int], Any], parts: int) -> None:
    """Call ``part(0)`` ... ``part(parts - 1)``, on several threads if they are free.

    Inside a part, or while another thread uses the workers, the calling thread computes all parts itself. So no call waits
    for another, and there is no deadlock. After an exception in a part, no further part begins, and the exception is raised.

    >>> squares = [0, 0, 0]
    >>> run(lambda i: squares.__setitem__(i, i * i), 3)
    >>> squares
    [0, 1, 4]
    """
    if parts == 1 or not ENABLED or threads() == 1 or not _workers.lock.acquire(blocking=False):
        for i in range(parts):
            part(i)
        return
    try:
        with one_thread():
            _workers.run(part, parts)
    finally:
        _workers.lock.release()


def halves(function: Callable[..., Any], *arrays: Any, least: int = 1 << 18) -> None:
    """Call a function on the first and on the second half (along the first axis) of arrays, at the same time.

    The function changes some of the arrays in place. Row i of a changed array may depend only on row i of each array. Arrays
    of fewer than ``least`` elements and CuPy arrays are not divided.

    >>> x, y = np.zeros(3), np.array([1.0, 2.0, 3.0])
    >>> halves(lambda x, y: np.multiply(y, 2, out=x), x, y, least=2)
    >>> x
    array([2., 4., 6.])
    """
    first = arrays[0]
    if not ENABLED or type(first) is not np.ndarray or first.size < least or len(first) < 2:
        function(*arrays)
        return
    middle = len(first) // 2
    run(lambda i: function(*(a[i * middle : middle if i == 0 else None] for a in arrays)), 2)


class Scratch(threading.local):
    """Memory for temporary arrays, kept for the next one: a buffer for each thread, of the largest size that was needed.

    >>> scratch = Scratch()
    >>> scratch.array((2, 3), "float32").shape
    (2, 3)
    """

    def __init__(self) -> None:
        self.bytes = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an uninitialised array, valid until the next call in the same thread."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size > self.bytes.size:
            self.bytes = np.empty(size, np.uint8)
        array: np.ndarray = self.bytes[:size].view(dtype).reshape(shape)
        return array


class _Workers:
    """Threads that wait for a job; the thread that gives them one holds ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.jobs: list[SimpleQueue[Callable[[], None]]] = []  # one for each thread
        self.done: SimpleQueue[None] = SimpleQueue()

    def run(self, part: Callable[[int], Any], parts: int) -> None:
        """Divide the parts among the workers and the calling thread."""
        helpers = min(threads(), parts) - 1
        while len(self.jobs) < helpers:
            self._start_worker()
        take = count().__next__
        errors: list[BaseException] = []

        def job() -> None:
            while not errors and (i := take()) < parts:
                try:
                    part(i)
                except BaseException as error:
                    errors.append(error)

        for jobs in self.jobs[:helpers]:
            jobs.put(job)
        job()
        while helpers:  # even after Ctrl-C: the next call must find them idle
            try:
                self.done.get()
                helpers -= 1
            except BaseException as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _start_worker(self) -> None:
        jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()

        def serve() -> None:
            while True:
                jobs.get()()  # without a name: a name would keep the job's arrays alive
                self.done.put(None)

        self.jobs.append(jobs)
        threading.Thread(target=serve, name=f"npadv-{len(self.jobs)}", daemon=True).start()


_workers = _Workers()


def _reset_after_fork() -> None:
    """Start without workers in a forked child, which has none of its parent's threads."""
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
