"""A whole training step as a CUDA graph: recorded once, then replayed by a single launch.

A step of a small network is a hundred kernels of a few microseconds each, and Python takes longer to launch one than the GPU
to run it. While a stream *captures*, launches are not done but written down, and the list, a graph, is later run as often as
one likes at the price of one launch. It repeats every launch to the letter: the same kernels on the same memory, and every
number that Python passed as an argument as it was then. So

- a batch is copied into arrays that stay where they are, and each shape of batch has a graph of its own;
- what changes from step to step lies in the device's memory: random state, step size, momentum (:func:`device_scalars`);
- what the host does besides, such as counting updates, it does again at each replay (:func:`on_replay`);
- what Python decided from a setting holds as long as the setting does (:func:`guard`), else the step is recorded anew;
- nothing may look at a value, for there is none yet; a check of labels waits for the batch to come (:func:`defer_check`);
- the memory of a graph's intermediate results is a pool of its own, from which nobody else is given any.

Everything else that Python computes in a step is what it was in the step that was recorded.

``CapturedStep`` is what ``fit(..., capture=True)`` repeats. The functions are for what takes part in a step: optimizers,
losses, random states. Outside of a captured step they do nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from npadv.backend import Array, is_array, like, xp_of

WARM_UP = 1
"""Steps of each shape that run as they come, before one is recorded: kernels are compiled, the memory pool fills."""

Step = Callable[..., Array]


class CapturedStep:
    """A step that is recorded and replayed.

    The first batch of a shape runs as it comes, the second is recorded, and from then on the record is replayed; the
    results are the same to the bit. All work is queued on a stream of its own, which waits for the caller's current
    stream and for which that one then waits; the host waits for neither.

    Parameters
    ----------
    step : callable
        ``step(*batch)``, from arrays on the GPU to the loss, an array on the GPU. It changes parameters in place.
    reference : cupy.ndarray
        Any array on the GPU that the step runs on.

    Raises
    ------
    ValueError
        The reference is not on a GPU; labels of a later batch are not what the step's own checks expect.
    RuntimeError
        The step cannot be recorded: it looks at a value, moves data, or calls cuBLAS, say. The message has CuPy's words.

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
        key = tuple((a.shape, a.dtype) for a in batch)
        record = self.records.get(key)
        if record is None or record.outdated():
            record = self.records[key] = _Record(self.cuda.MemoryPool())
        if record.graph is not None:
            record.prepare(batch)
        elif record.steps < WARM_UP:
            record.steps += 1
            with self.cuda.using_allocator(record.pool.malloc), _taking_part(record):
                return self._checked(self.step(*(like(a, self.reference) for a in batch)))
        else:
            self._record(record, batch)
        record.graph.launch(self.stream)
        return record.loss

    def _record(self, record: _Record, batch: Sequence[Array]) -> None:
        with self.cuda.using_allocator(record.pool.malloc), _taking_part(record):
            record.given, record.batch = batch, [like(a, self.reference).copy() for a in batch]
            self.stream.begin_capture()
            record.recording = True
            try:
                record.loss = self._checked(self.step(*record.batch))
                if not record.numbers:
                    raise RuntimeError(
                        "no optimizer of npadv.optim took a step, so nobody keeps its step size up to date"
                    )
                record.graph = self.stream.end_capture()
            except BaseException as error:
                with contextlib.suppress(Exception):  # what was wrong is known already; the stream must end its capture
                    self.stream.end_capture()
                self.records.clear()
                if error is record.refusal or not isinstance(error, Exception):
                    raise
                what = f"{type(error).__name__}: {error}"
                raise RuntimeError(f"capture: this step cannot be recorded as a CUDA graph: {what}") from error
            finally:
                record.recording, record.given = False, ()
        for numbers in record.numbers:
            numbers.send()

    def _checked(self, loss: Any) -> Array:
        if xp_of(loss) is np:
            raise TypeError(f"a captured step returns its loss as an array on the GPU, got {type(loss).__name__}")
        return loss


# What a replay needs to know ------------------------------------------------------------------------------------------


class _Record:
    """A step of one shape: its graph, the memory that it runs in, and the host's part of it, in order."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool  # lives as long as the graph, and gives memory to nobody else once that is recorded
        self.steps = 0  # taken before there was a graph
        self.recording = False
        self.graph: Any = None
        self.batch: list[Array] = []
        self.given: Sequence[Array] = ()  # the batch that is being recorded, as it came
        self.refusal: Exception | None = None  # what a check has said of it
        self.loss: Any = None
        self.actions: list[Callable[[], object]] = []
        self.numbers: list[_Numbers] = []
        self.checks: list[tuple[int, Callable[[Array], object]]] = []
        self.assumed: list[tuple[Callable[[], Sequence[Any]], list[Any]]] = []

    def prepare(self, batch: Sequence[Array]) -> None:
        """Do what comes before a launch: the batch and all that changes go to where the graph will look for them."""
        for i, check in self.checks:
            if isinstance(batch[i], np.ndarray):
                check(batch[i])
        for buffer, a in zip(self.batch, batch, strict=True):
            buffer[...] = like(a, buffer)
        for action in self.actions:
            action()

    def expect(self, i: int, check: Callable[[Array], object]) -> None:
        """Check an array of the batch, now and before each replay, where that needs no wait: if it comes from the host."""
        self.checks.append((i, check))
        if isinstance(self.given[i], np.ndarray):
            try:
                check(self.given[i])
            except Exception as error:
                self.refusal = error
                raise

    def outdated(self) -> bool:
        """Whether a setting has changed, or an array was replaced, that the graph has as it was."""
        return not all(len(then) == len(now := facts()) and all(map(_same, then, now)) for facts, then in self.assumed)


def _same(a: Any, b: Any) -> bool:
    return a is b or not (is_array(a) or is_array(b) or a != b)


class _Numbers:
    """Numbers in the device's memory that follow the host's."""

    def __init__(self, numbers: Callable[[], Sequence[float]], reference: Array) -> None:
        self.numbers, self.now = numbers, list(numbers())
        self.sent: list[float] = []
        self.array = xp_of(reference).empty((len(self.now),), np.float64)

    def send(self) -> None:
        if self.now != self.sent:
            self.array[...] = like(np.array(self.now, np.float64), self.array)
            self.sent = self.now

    def follow(self) -> None:
        self.now = list(self.numbers())
        self.send()


# For those who take part in a step ------------------------------------------------------------------------------------

_current: ContextVar[_Record | None] = ContextVar("captured step", default=None)


@contextlib.contextmanager
def _taking_part(record: _Record) -> Iterator[None]:
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)


def active() -> bool:
    """Tell whether a captured step is running, recorded or not: then all must be done as if it were recorded."""
    return _current.get() is not None


def device_scalars(numbers: Callable[[], Sequence[float]], reference: Array) -> Array:
    """Return numbers as an array of float64 on the device of ``reference``, which kernels read when they run.

    In a recorded step ``numbers`` is called again, and the array filled, before each replay: in the order in which this
    and :func:`on_replay` were called.
    """
    record = _current.get()
    if record is None or not record.recording:
        return like(np.array(numbers(), np.float64), reference)
    kept = _Numbers(numbers, reference)
    record.numbers.append(kept)
    record.actions.append(kept.follow)
    return kept.array


def on_replay(action: Callable[[], object]) -> None:
    """Have the host do something before each replay of the step that is being recorded; now, the caller does it."""
    record = _current.get()
    if record is not None and record.recording:
        record.actions.append(action)


def guard(facts: Callable[[], Sequence[Any]]) -> None:
    """Have the step recorded anew when ``facts()`` are others than now: numbers by value, arrays by identity."""
    record = _current.get()
    if record is not None and record.recording:
        record.assumed.append((facts, list(facts())))


def defer_check(array: Array, check: Callable[[Array], object]) -> bool:
    """Tell whether the values of an array cannot be looked at, because the step is being recorded.

    If the array is one of the step's batch, ``check`` is called with the one on the host that takes its place, now and
    before each replay.
    """
    record = _current.get()
    if record is None or not record.recording or not is_array(array) or xp_of(array) is np:
        return False
    for i, own in enumerate(record.batch):
        if own.shape == array.shape and own.dtype == array.dtype and xp_of(own).may_share_memory(own, array):
            record.expect(i, check)
    return True
