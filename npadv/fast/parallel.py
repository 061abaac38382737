"""Several cores on one array: the same function on several parts of the work, each part by whoever is free.

NumPy holds Python's lock only between its loops, so threads that spend their time in large array operations run side by
side; in operations of a few microseconds they would spend it waiting for the lock, so a part should be large. The threads
are started once and kept, as many as NumPy's BLAS would use (``OPENBLAS_NUM_THREADS`` sets both), and BLAS is held to one
thread for each of them meanwhile.

What a part computes must depend on nothing but its number, and parts must not write to the same memory; then results are
the same, to the last bit, whoever computes which part.
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

from npadv.fast.blas import one_thread, threads


def run(part: Callable[[int], Any], parts: int) -> None:
    """Call ``part(0)`` ... ``part(parts - 1)``, on several threads if they are free.

    Called from within a part, or while another thread has the workers, it does everything itself: nothing waits, so
    nothing can wait for itself. An exception of a part stops those not yet begun and is raised here.

    >>> squares = [0, 0, 0]
    >>> run(lambda i: squares.__setitem__(i, i * i), 3)
    >>> squares
    [0, 1, 4]
    """
    if parts == 1 or threads() == 1 or not _workers.lock.acquire(blocking=False):
        for i in range(parts):
            part(i)
        return
    try:
        with one_thread():
            _workers.run(part, parts)
    finally:
        _workers.lock.release()


def halves(function: Callable[..., Any], *arrays: Any, least: int = 1 << 18) -> None:
    """Call a function on the first and on the second half (along the first axis) of arrays of one length, side by side.

    The function changes some of them in place and treats their elements, or at least their rows, alike. Arrays of fewer
    than ``least`` elements, and CuPy's, are handed to it whole.

    >>> x, y = np.zeros(3), np.array([1.0, 2.0, 3.0])
    >>> halves(lambda x, y: np.multiply(y, 2, out=x), x, y, least=2)
    >>> x
    array([2., 4., 6.])
    """
    first = arrays[0]
    if type(first) is not np.ndarray or first.size < least or len(first) < 2:
        function(*arrays)
        return
    middle = len(first) // 2
    run(lambda i: function(*(a[i * middle : middle if i == 0 else None] for a in arrays)), 2)


class Scratch(threading.local):
    """Memory for what is soon forgotten, kept for the next time: one array for each thread, as large as was ever asked.

    >>> scratch = Scratch()
    >>> scratch.array((2, 3), "float32").shape
    (2, 3)
    """

    def __init__(self) -> None:
        self.bytes = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array of arbitrary content, good until the same thread asks again."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size > self.bytes.size:
            self.bytes = np.empty(size, np.uint8)
        array: np.ndarray = self.bytes[:size].view(dtype).reshape(shape)
        return array


class _Workers:
    """Threads that wait for a job; ``lock`` is held by whoever has one for them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.jobs: list[SimpleQueue[Callable[[], None]]] = []  # one for each thread
        self.done: SimpleQueue[None] = SimpleQueue()

    def run(self, part: Callable[[int], Any], parts: int) -> None:
        """Share the parts out among the workers and the caller."""
        helpers = min(threads(), parts) - 1
        while len(self.jobs) < helpers:
            self._hire()
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
        while helpers:  # even after Ctrl-C: whoever comes next must find them idle
            try:
                self.done.get()
                helpers -= 1
            except BaseException as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _hire(self) -> None:
        jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()

        def serve() -> None:
            while True:
                jobs.get()()  # and forget it: it holds on to its arrays
                self.done.put(None)

        self.jobs.append(jobs)
        threading.Thread(target=serve, name=f"npadv-{len(self.jobs)}", daemon=True).start()


_workers = _Workers()


def _forget() -> None:
    """Begin anew in a forked child, which has none of its parent's threads."""
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
