"""A whole training step as a CUDA graph: recorded once, then replayed by a single launch.

A step of a small network is a hundred kernels of a few microseconds each, and Python takes longer to launch a kernel than the
GPU takes to run it. While a stream *captures*, launches are recorded in a graph instead of being run. One launch then runs the
whole graph, as often as needed. The graph repeats every launch exactly: the same kernels on the same memory, with the same
numbers as arguments. Therefore

- each batch is copied into arrays that stay in place, and there is one graph for each shape of batch;
- numbers that change from step to step lie in the device's memory: random state, step size, momentum (:func:`device_scalars`);
- the host's part of a step, such as counting updates, is repeated at each replay (:func:`on_replay`);
- settings that Python read while recording are compared before each replay, and after a change the step is recorded again
  (:func:`guard`);
- values cannot be read while recording, because they are not computed yet, so labels are checked in the host's batch, before
  each replay (:func:`defer_check`);
- the graph's intermediate results lie in a private memory pool.

All other numbers that Python computes in a step keep their values from the recorded step.

``fit(..., capture=True)`` repeats a ``CapturedStep``. The functions at the end are called by the parts of a step: optimizers,
losses, random states. Outside of a captured step they record nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from npadv.backend import Array, is_array, like, xp_of

WARM_UP = 1
"""Steps of each shape that run before one is recorded: they compile the kernels and fill the memory pool."""

Step = Callable[..., Array]


class CapturedStep:
    """A step that is recorded and replayed.

    The first batch of a shape runs normally, the second is recorded, and all further ones replay the record. The results are
    the same to the bit. All work is queued on a private stream, which first waits for the caller's current stream. The
    caller's stream then waits for the private one. The host waits for neither.

    Parameters
    ----------
    step : callable
        ``step(*batch)``, from arrays on the GPU to the loss, an array on the GPU. It changes parameters in place.
    reference : cupy.ndarray
        Any array on the GPU that the step runs on.

    Raises
    ------
    ValueError
        The reference is not on a GPU; labels of a later batch fail the step's own checks.
    RuntimeError
        The step cannot be recorded, for example because it reads a value, moves data or calls cuBLAS. The message has CuPy's
        words.

    Examples
    --------
    >>> CapturedStep(lambda x, y: x.sum(), np.zeros(1))
    Traceback (most recent call last):
        ...
    ValueError: capture: expected a model on a GPU, as after model.to('cuda'); got one on the CPU
    """

    def __init__(self, step: Step, reference: Array) -> None:
        if xp_of(reference) is np:
            raise ValueError("capture: expected a model on a GPU, as after model.to('cuda'); got one on the CPU")
        self.step, self.reference = step, reference
        self.cuda = xp_of(reference).cuda
        with reference.device:
            self.stream = self.cuda.Stream(non_blocking=True)
        self.records: dict[Any, _Record] = {}  # by the shapes and dtypes of a batch

    def __call__(self, *batch: Array) -> Array:
        """Take the step for a batch, of host or device arrays; return its loss."""
        with self.reference.device:
            caller = self.cuda.get_current_stream()
            self.stream.wait_event(caller.record())
            try:
                with self.stream:
                    loss = self._take(batch)
            finally:
                caller.wait_event(self.stream.record())
            return loss.copy()  # the next replay will overwrite it

    def _take(self, batch: Sequence[Array]) -> Array:
        """Run, record or replay the step."""
        key = tuple((a.shape, a.dtype) for a in batch)
        record = self.records.get(key)
        if record is None or record.outdated():
            record = self.records[key] = _Record(self.cuda.MemoryPool())
        if record.graph is not None:
            record.prepare(batch)
        elif record.steps < WARM_UP:
            record.steps += 1
            with self.cuda.using_allocator(record.pool.malloc), _current(record):
                return self._checked(self.step(*(like(a, self.reference) for a in batch)))
        else:
            self._record(record, batch)
        record.graph.launch(self.stream)
        return record.loss

    def _record(self, record: _Record, batch: Sequence[Array]) -> None:
        """Run the step's Python code while the stream captures its launches."""
        with self.cuda.using_allocator(record.pool.malloc), _current(record):
            record.host_batch, record.batch = batch, [like(a, self.reference).copy() for a in batch]
            self.stream.begin_capture()
            record.recording = True
            try:
                record.loss = self._checked(self.step(*record.batch))
                if not record.scalars:
                    raise RuntimeError(
                        "no optimizer of npadv.optim took a step, so a replay could not follow its step size"
                    )
                record.graph = self.stream.end_capture()
            except BaseException as error:
                # The stream must stop capturing; the first error is the one to report.
                with contextlib.suppress(Exception):
                    self.stream.end_capture()
                self.records.clear()
                if error is record.failed_check or not isinstance(error, Exception):
                    raise
                reason = f"{type(error).__name__}: {error}"
                raise RuntimeError(f"capture: this step cannot be recorded as a CUDA graph: {reason}") from error
            finally:
                record.recording, record.host_batch = False, ()
        for scalars in record.scalars:
            scalars.send()

    def _checked(self, loss: Any) -> Array:
        if xp_of(loss) is np:
            raise TypeError(f"a captured step returns its loss as an array on the GPU, got {type(loss).__name__}")
        return loss


# Records --------------------------------------------------------------------------------------------------------------


class _Record:
    """A step for one shape of batch: its graph, its memory, and the host's part of each replay, in order."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool  # lives as long as the graph; once that is recorded, nothing else is allocated from it
        self.steps = 0  # steps taken before the graph was recorded
        self.recording = False
        self.graph: Any = None
        self.batch: list[Array] = []  # the arrays that the graph reads
        self.host_batch: Sequence[Array] = ()  # the batch that is being recorded, as the caller passed it
        self.failed_check: Exception | None = None
        self.loss: Any = None
        self.actions: list[Callable[[], object]] = []
        self.scalars: list[_DeviceScalars] = []
        self.checks: list[tuple[int, Callable[[Array], object]]] = []
        self.guards: list[tuple[Callable[[], Sequence[Any]], list[Any]]] = []

    def prepare(self, batch: Sequence[Array]) -> None:
        """Check a batch and copy it, and all numbers that change, to where the graph reads them."""
        for i, check in self.checks:
            if isinstance(batch[i], np.ndarray):
                check(batch[i])
        for buffer, a in zip(self.batch, batch, strict=True):
            buffer[...] = like(a, buffer)
        for action in self.actions:
            action()

    def add_check(self, i: int, check: Callable[[Array], object]) -> None:
        """Check the i-th array of a batch, now and before each replay, if it is on the host, where no wait is needed."""
        self.checks.append((i, check))
        if isinstance(self.host_batch[i], np.ndarray):
            try:
                check(self.host_batch[i])
            except Exception as error:
                self.failed_check = error
                raise

    def outdated(self) -> bool:
        """Return whether a guarded setting was changed or a guarded array replaced after the step was recorded."""
        return not all(len(then) == len(now := facts()) and all(map(_same, then, now)) for facts, then in self.guards)


def _same(a: Any, b: Any) -> bool:
    """Compare numbers by value, arrays by identity."""
    return a is b or not (is_array(a) or is_array(b) or a != b)


class _DeviceScalars:
    """Numbers in the device's memory that follow the host's."""

    def __init__(self, numbers: Callable[[], Sequence[float]], reference: Array) -> None:
        self.numbers, self.now = numbers, list(numbers())
        self.sent: list[float] = []
        self.array = xp_of(reference).empty((len(self.now),), np.float64)

    def send(self) -> None:
        if self.now != self.sent:
            self.array[...] = like(np.array(self.now, np.float64), self.array)
            self.sent = self.now

    def update(self) -> None:
        self.now = list(self.numbers())
        self.send()


# Functions for the parts of a step ------------------------------------------------------------------------------------

_current_record: ContextVar[_Record | None] = ContextVar("captured step", default=None)


@contextlib.contextmanager
def _current(record: _Record) -> Iterator[None]:
    token = _current_record.set(record)
    try:
        yield
    finally:
        _current_record.reset(token)


def active() -> bool:
    """Return whether a captured step is running; then all work must be possible while recording, even in a warm-up."""
    return _current_record.get() is not None


def device_scalars(numbers: Callable[[], Sequence[float]], reference: Array) -> Array:
    """Return numbers as an array of float64 on the device of ``reference``, which kernels read when they run.

    If the step is being recorded, ``numbers`` is called again and the array filled before each replay, in the order of the
    calls of this function and of :func:`on_replay`.
    """
    record = _current_record.get()
    if record is None or not record.recording:
        return like(np.array(numbers(), np.float64), reference)
    scalars = _DeviceScalars(numbers, reference)
    record.scalars.append(scalars)
    record.actions.append(scalars.update)
    return scalars.array


def on_replay(action: Callable[[], object]) -> None:
    """Call ``action`` before each replay of the step being recorded, but not now: the caller does it itself now."""
    record = _current_record.get()
    if record is not None and record.recording:
        record.actions.append(action)


def guard(facts: Callable[[], Sequence[Any]]) -> None:
    """Record the step again when ``facts()`` has changed: numbers are compared by value, arrays by identity."""
    record = _current_record.get()
    if record is not None and record.recording:
        record.guards.append((facts, list(facts())))


def defer_check(array: Array, check: Callable[[Array], object]) -> bool:
    """Return whether the values of an array cannot be read because the step is being recorded.

    If the array belongs to the step's batch, ``check`` is then called with the host's array instead, now and before each
    replay.
    """
    record = _current_record.get()
    if record is None or not record.recording or not is_array(array) or xp_of(array) is np:
        return False
    for i, own in enumerate(record.batch):
        if own.shape == array.shape and own.dtype == array.dtype and xp_of(own).may_share_memory(own, array):
            record.add_check(i, check)
    return True
