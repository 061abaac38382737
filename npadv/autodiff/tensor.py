"""A tensor: an array, and the record of how it was made.

A result ``y = multiply(a, b)`` keeps four things, which are all that its gradient will need:

    y._operation    the operation, with its gradient rules        multiply
    y._args         the arguments it was called with              (a, b)
    y._values       the same arguments as plain arrays            [a.data, b.data]
    y._kwargs       the settings it was called with               {}

A tensor made by hand has no operation: it is a *leaf* of the graph that the arguments form. ``primitive.py`` makes the
records, and ``gradient.py`` follows them back. This file computes nothing: the operators of a tensor, such as ``x + y``, are
installed by ``npadv/ops/operators.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from npadv.backend import Array, is_array, shape_of, to_device, to_numpy

if TYPE_CHECKING:
    from npadv.autodiff.operators import Operators  # x + y, x.sum(): installed by npadv/ops, a floor above
    from npadv.autodiff.primitive import Operation
else:
    Operators = object

tick = count(1).__next__
"""The tape's clock: every tensor and every change in place gets the next number. Of two, the later one has the larger."""


class Tensor(Operators):
    """An array, and how it was made.

    Parameters
    ----------
    data : array, or anything ``numpy.asarray`` takes
        The values. An array is kept, not copied; its type (NumPy's or CuPy's) decides where work runs.
    requires_grad : bool
        Record the computations on this tensor, so that its gradient can be computed. Floating point only.

    Attributes
    ----------
    data : array
        The values.
    grad : array or None
        Filled by :meth:`backward`, on leaves only.

    Examples
    --------
    >>> import npadv
    >>> x = npadv.Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = (x * x).sum()
    >>> npadv.grad(y, x)
    array([2., 4., 6.])
    """

    __slots__ = (
        "__weakref__",
        "_args",
        "_kwargs",
        "_operation",
        "_order",
        "_values",
        "_version",
        "data",
        "grad",
        "requires_grad",
    )

    data: Array
    grad: Array | None
    requires_grad: bool
    _operation: Operation | None  # None for a leaf, which has no _args, _values and _kwargs either
    _args: tuple[Any, ...]
    _values: list[Any]
    _kwargs: dict[str, Any]
    _order: int  # when the tensor was made, by the tape's clock
    _version: list[int]  # [when the data was last changed in place]; one list for all tensors that share the memory

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            raise TypeError("Tensor(data): data is a Tensor already; use .detach() for its values without its history")
        given = data
        self.data = data = as_array(data)
        if data.dtype.kind not in "fiubc":
            raise TypeError(f"Tensor(data): expected numbers, got {data.dtype} from {type(given).__name__}")
        if requires_grad and data.dtype.kind != "f":
            raise ValueError(f"Tensor(requires_grad=True): expected a floating-point dtype, got {data.dtype}")
        self.requires_grad = requires_grad
        self.grad = None
        self._operation = None
        self._order = tick()
        self._version = [0]

    # History --------------------------------------------------------------------------------------------------------

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by hand and not by a primitive."""
        return self._operation is None

    def backward(self, cotangent: Array | None = None) -> None:
        """Add d(self)/d(leaf) to ``leaf.grad`` for every leaf that requires it: ``grad`` over all leaves."""
        from npadv.autodiff.gradient import backward  # the walk stands on this module

        backward(self, cotangent)

    def detach(self) -> Tensor:
        """Return a tensor with the same values (the same memory) and no history."""
        x = Tensor(self.data)
        x._version = self._version
        return x

    # Changes in place -----------------------------------------------------------------------------------------------

    def mark_changed(self) -> None:
        """Note that ``data`` was changed in place: a gradient through an earlier record then raises an error."""
        if self._operation is not None:
            raise RuntimeError(
                f"in-place change of a recorded result (of {self._operation.name}): only leaves may be changed in place; "
                "use where(...) or concatenate(...) to build a new tensor, or .detach() to leave the tape"
            )
        self._version[0] = _note_change()

    def __setitem__(self, index: Any, value: Any) -> None:
        value = _without_history(value, "tensor[index] = value")
        self.mark_changed()
        self.data[plain_index(index)] = value

    def assign(self, value: Any) -> None:
        """Copy ``value`` into ``data`` in place (shapes must agree) and mark the change."""
        value = _without_history(value, "assign(value)")
        if shape_of(value) != self.shape:
            raise ValueError(f"assign(value): expected shape {self.shape}, got {shape_of(value)}")
        self.mark_changed()
        self.data[...] = value

    def to(self, device: str) -> Tensor:
        """Move ``data`` to ``"cpu"`` or ``"cuda"``, in place; returns the tensor itself."""
        self.mark_changed()
        self.data = to_device(self.data, device)
        return self

    def __copy__(self) -> Self:
        from npadv.autodiff.copies import shallow_copy

        return shallow_copy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        from npadv.autodiff.copies import deep_copy

        return deep_copy(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        from npadv.autodiff.copies import pickled

        return pickled(self)

    # The array's own attributes -------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.data.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements."""
        return self.data.dtype

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        body = np.array2string(to_numpy(self.data), separator=", ", prefix="Tensor(", threshold=20)
        return f"Tensor({body}, dtype={self.dtype}{', requires_grad=True' if self.requires_grad else ''})"

    def __bool__(self) -> bool:
        note_read("bool(tensor)")
        return bool(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def item(self) -> float:
        """Return the only element as a Python number."""
        note_read("tensor.item()")
        return self.data.item()

    def numpy(self) -> np.ndarray:
        """Return the values as a NumPy array on the host."""
        note_read("tensor.numpy()")
        return to_numpy(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad:
            raise TypeError("numpy.asarray(tensor) would drop the tensor's history; take tensor.data if that is meant")
        return np.array(self.data, dtype=dtype, copy=copy)


_changes = [0]  # when any tensor was last changed in place
_changing = threading.Lock()


def _note_change() -> int:
    with _changing:  # so that the last change is also the latest, whichever thread made it
        _changes[0] = tick()
        return _changes[0]


def last_change() -> int:
    """Return when any tensor was last changed in place, by the tape's clock: a gradient of newer records needs no check."""
    return _changes[0]


def as_array(value: Any) -> Array:
    """Return an array as it is, and numbers, NumPy's scalars among them, as arrays without axes."""
    return value if is_array(value) and not isinstance(value, np.generic) else np.asarray(value)


def value_of(x: Any) -> Any:
    """Return the array of a Tensor, and anything else unchanged.

    Rules use it for values with derivative zero, such as a mask, an index or a sign.
    """
    return x.data if isinstance(x, Tensor) else x


def plain_index(x: Any) -> Any:
    """Return an index, or a value, with the Tensors in it replaced by their arrays."""
    return tuple(map(value_of, x)) if isinstance(x, tuple) else value_of(x)


# Reads ----------------------------------------------------------------------------------------------------------------
#
# ``float(x)`` and ``x > 0`` return values without a record. ``replay.py`` asks whether a function has read such values.

_reads: ContextVar[list[str] | None] = ContextVar("reads", default=None)


@contextmanager
def watch_reads() -> Iterator[list[str]]:
    """Collect the calls that read a value from a tensor within a ``with`` block, in this thread or task."""
    reads: list[str] = []
    token = _reads.set(reads)
    try:
        yield reads
    finally:
        _reads.reset(token)


def note_read(call: str) -> None:
    """Note that a call reads a value from a tensor."""
    reads = _reads.get()
    if reads is not None:
        reads.append(call)


def _without_history(value: Any, where: str) -> Any:
    """Return the array to copy into a tensor's memory; raise an error for a recorded value, whose history would be lost."""
    if isinstance(value, Tensor) and value._operation is not None and value.requires_grad:
        raise TypeError(
            f"{where}: the value was recorded, and its history would be lost; build a new tensor with where(...) or "
            "concatenate(...), or pass value.detach() if only its values are meant"
        )
    return plain_index(value)
