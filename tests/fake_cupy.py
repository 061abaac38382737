"""A stand-in for ``cupy``, to run the GPU's code path on a machine without a GPU.

A device array is a NumPy array in a wrapper that NumPy refuses and that refuses NumPy arrays, so that every accidental mix
of host and device raises, as it does with CuPy. ``COUNTS`` has how often the host waited for the device (``get``, ``item``,
``float``, ``bool``, ``synchronize``), how often data crossed over to it (``asarray``) and back, and how many kernels were
compiled and launched; ``LAUNCHES`` has each launch's kernel, grid, block and arguments. Kernels run their own source
(:mod:`npadv.kernels.cpu`), in the build and order that ``cpu.running`` says.

A stream can capture: until it ends, whatever would be queued on it is not done but written down, with the arrays that it
reads and writes; launching the graph does it. So a number that was passed as an argument keeps its value, and an array that
took the place of another one is not used. The operations that CUDA and CuPy refuse in a capture are refused: waits, uploads,
cuBLAS. Two faults that give wrong numbers now and then on a GPU are errors here: work on a stream that did not wait for the
work of another one, and a graph whose memory is, or may be, used by other arrays.
"""

import contextlib
import functools
import operator
import sys
import time
import types
import weakref

import numpy as np
import scipy.special

from npadv import Tensor
from npadv.kernels import arguments, cpu, launch

COUNTS = {"waits": 0, "uploads": 0, "downloads": 0, "compiled": 0, "launches": 0, "graphs": 0}
LAUNCHES = []


NAMES = """
abs arange arctanh argsort ascontiguousarray broadcast_to clip concatenate copy copyto cos cumsum einsum empty_like
equal exp expm1 eye full full_like greater isfinite log log1p maximum may_share_memory minimum moveaxis multiply nonzero
ones ones_like pad repeat sign sin sqrt stack take_along_axis tanh where zeros zeros_like
"""


def unwrap(value):
    if isinstance(value, ndarray):
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, tuple | list):
        return type(value)(map(unwrap, value))
    return value


def wrap(value):
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))  # a reduction gives an array of no dimension, not a number
    return type(value)(map(wrap, value)) if isinstance(value, tuple | list) else value


def queued(action):
    """Do something on the current stream, or write it down if that captures."""
    stream = get_current_stream()
    if stream.actions is not None:
        stream.actions.append(action)
        return
    for other in STREAMS:
        if other is not stream and other.done > stream.seen.get(other, 0):
            raise AssertionError(f"{stream} did not wait for what {other} has done")
    stream.done += 1
    action()


def synchronous(what):
    """Refuse what a capture does not allow."""
    if get_current_stream().actions is not None:
        raise RuntimeError(f"{what}: the current stream is capturing, so synchronous API calls are disallowed")


def shared(a, args):
    """Tell whether an array is a view of one of the arguments."""
    arrays = (
        x for arg in args for x in (arg if isinstance(arg, tuple | list) else (arg,)) if isinstance(x, np.ndarray)
    )
    return any(np.may_share_memory(a, b) for b in arrays)


def on_device(function):
    in_place = getattr(function, "__name__", "") == "copyto"

    @functools.wraps(function)
    def call(*args, **kwargs):
        plain, named = [unwrap(a) for a in args], {name: unwrap(value) for name, value in kwargs.items()}
        if in_place or "out" in named:
            queued(lambda: function(*plain, **named))
            return kwargs.get("out")
        stream = get_current_stream()
        if stream.actions is None:
            queued(lambda: None)
            return wrap(function(*plain, **named))
        if function in (operator.matmul, np.matmul):
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        with np.errstate(all="ignore"):  # for the shape alone: there are no values yet
            result = wrap(function(*plain, **named))
        if isinstance(result, ndarray) and not shared(result.host, plain) and function is not np.empty_like:
            stream.fresh.append(result.host)
            queued(lambda: operator.setitem(result.host, ..., function(*plain, **named)))
        return result

    return call


class Event:
    """How far a stream had come, and all that it had waited for."""

    def __init__(self, clock):
        self.clock = clock


class Stream:
    def __init__(self, null=False, non_blocking=False):
        self.non_blocking, self.done, self.seen = non_blocking, 0, {}
        self.actions, self.fresh = None, []
        STREAMS.append(self)

    def __enter__(self):
        CURRENT.append(self)
        return self

    def __exit__(self, *exception):
        assert CURRENT.pop() is self

    def is_capturing(self):
        return self.actions is not None

    def begin_capture(self):
        if not self.non_blocking:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if ALLOCATORS[-1] is None:
            raise AssertionError("what a graph uses between its kernels would be given to others")
        self.actions, self.fresh = [], []
        self.pool = ALLOCATORS[-1].__self__

    def end_capture(self):
        if self.actions is None:
            raise RuntimeError("cudaErrorIllegalState: the operation cannot be performed in the present state")
        graph, self.actions = Graph(self.actions, self.pool), None
        for array in self.fresh:  # nothing has run yet
            array.fill(np.nan if array.dtype.kind == "f" else 0)
        self.pool.captured = True
        return graph

    def record(self, event=None):
        synchronous("Stream.record")
        return Event({**self.seen, self: self.done})

    def wait_event(self, event):
        for stream, done in event.clock.items():
            self.seen[stream] = max(done, self.seen.get(stream, 0))

    def synchronize(self):
        synchronous("Stream.synchronize")
        COUNTS["waits"] += 1


class Graph:
    def __init__(self, actions, pool):
        self.actions, self.pool = actions, weakref.ref(pool)

    def launch(self, stream=None):
        assert self.pool() is not None, "the memory of the graph is gone"
        assert get_current_stream() is (stream or get_current_stream())
        COUNTS["graphs"] += 1

        def replay():
            for action in self.actions:
                action()

        queued(replay)


class MemoryPool:
    captured = False

    def malloc(self, size):
        raise AssertionError("arrays of the stand-in lie elsewhere")


@contextlib.contextmanager
def using_allocator(allocator):
    if allocator.__self__.captured:
        raise AssertionError("the memory of a graph would be given to others")
    ALLOCATORS.append(allocator)
    try:
        yield
    finally:
        ALLOCATORS.pop()


def get_current_stream():
    return CURRENT[-1]


STREAMS, CURRENT, ALLOCATORS = [], [], [None]
CURRENT.append(Stream(null=True))


class Device(contextlib.nullcontext):
    def __init__(self, id=0):
        super().__init__()
        self.id = id

    def __eq__(self, other):
        return self.id == other.id

    def __hash__(self):
        return self.id

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def synchronize(self):
        synchronous("Device.synchronize")
        COUNTS["waits"] += 1


class ndarray:
    __module__ = "cupy"
    __array_ufunc__ = None

    def __init__(self, host, device=0):
        self.host, self.device = host, Device(device)

    @property
    def base(self):
        return None if self.host.base is None else ndarray(self.host.base)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_function__(self, function, types, *args):
        if any(issubclass(kind, Tensor) for kind in types):
            return NotImplemented  # as CuPy, which leaves the call to the Tensor
        raise TypeError(f"numpy.{function.__name__} was called on a device array")

    def get(self, stream=None):
        synchronous("ndarray.get")
        queued(lambda: None)
        COUNTS["waits"] += 1
        COUNTS["downloads"] += 1
        return self.host.copy()

    def item(self):
        synchronous("ndarray.item")
        queued(lambda: None)
        COUNTS["waits"] += 1
        COUNTS["downloads"] += 1
        return self.host.item()

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __bool__(self):
        return bool(self.item())

    def __len__(self):
        return len(self.host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __setitem__(self, index, value):
        index, value = unwrap(index), unwrap(value)
        queued(lambda: operator.setitem(self.host, index, value))


for _name in ("shape", "strides", "dtype", "itemsize", "ndim", "size", "flags", "T"):
    setattr(ndarray, _name, property(lambda self, name=_name: wrap(getattr(self.host, name))))
for _name in (
    "all",
    "any",
    "argmax",
    "argmin",
    "astype",
    "copy",
    "max",
    "mean",
    "min",
    "ravel",
    "reshape",
    "sum",
    "swapaxes",
    "transpose",
    "view",
):
    setattr(ndarray, _name, on_device(getattr(np.ndarray, _name)))


def binary(function, swapped=False):
    device_function = on_device((lambda a, b: function(b, a)) if swapped else function)

    def call(self, other):
        if isinstance(other, Tensor):
            return NotImplemented  # CuPy calls NumPy's ufunc, which calls Tensor's __array_ufunc__
        return device_function(self, other)

    return call


for _name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "matmul", "mod", "and", "or", "xor", "rshift"):
    setattr(ndarray, f"__{_name}__", binary(getattr(operator, f"__{_name}__")))
    setattr(ndarray, f"__r{_name}__", binary(getattr(operator, f"__{_name}__"), swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "abs", "invert", "getitem"):
    setattr(ndarray, f"__{_name}__", on_device(getattr(operator, f"__{_name}__")))


def in_place(function):
    def call(self, other):
        other = unwrap(other)
        queued(lambda: function(self.host, other))
        return self

    return call


for _name in ("iadd", "isub", "imul", "itruediv", "iand", "ixor"):
    setattr(ndarray, f"__{_name}__", in_place(getattr(operator, f"__{_name}__")))


class RawModule:
    def __init__(self, *, code, options):
        assert get_current_stream().actions is None, "a kernel was compiled in a capture: no step had warmed it up"
        COUNTS["compiled"] += 1
        time.sleep(0.01)  # long enough for a second thread to want the same
        self.module = cpu.Module(code=code, options=options)

    def get_function(self, name):
        run = self.module.get_function(name)

        def launch(grid, block, args, *, shared_mem=0):
            plain = unwrap(args)
            if get_current_stream().actions is None:
                COUNTS["launches"] += 1
                LAUNCHES.append((name, grid, block, args))
            queued(lambda: run(grid, block, plain, shared_mem=shared_mem))

        return launch


def empty(shape, dtype=float):
    """Memory as it comes: NaN, so that what is read before it was written is seen."""
    dtype = np.dtype(dtype)
    return ndarray(np.full(shape, np.nan if dtype.kind == "f" else -1 if dtype.kind == "i" else 255, dtype))


def asarray(value, dtype=None):
    if isinstance(value, ndarray):
        return value if dtype is None or value.dtype == dtype else value.astype(dtype)
    synchronous("asarray of host data")
    queued(lambda: None)
    COUNTS["uploads"] += 1
    return ndarray(np.array(value, dtype=dtype))


def on_device_at(target, index, values):
    index, values = unwrap(index), unwrap(values)
    queued(lambda: np.add.at(target.host, index, values))


def module():
    """Return the stand-in as a module named ``cupy``."""
    fake = types.ModuleType("cupy")
    own = {"ndarray": ndarray, "RawModule": RawModule, "asarray": asarray, "empty": empty, "is_available": lambda: True}
    for name in NAMES.split():
        own[name] = on_device(getattr(np, name))
    own["add"] = types.SimpleNamespace(
        at=on_device_at,
    )
    own["ogrid"] = type("Grid", (), {"__getitem__": lambda self, index: wrap(np.ogrid[index])})()
    windows = on_device(np.lib.stride_tricks.sliding_window_view)
    own["lib"] = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(sliding_window_view=windows))
    own.update(inf=np.inf, float32=np.float32, float64=np.float64, uint64=np.uint64, __version__="0 (a stand-in)")
    properties = {"name": b"no card"}
    own["cuda"] = types.SimpleNamespace(
        Device=Device,
        Event=Event,
        Graph=Graph,
        MemoryPool=MemoryPool,
        Stream=Stream,
        get_current_stream=get_current_stream,
        runtime=types.SimpleNamespace(getDeviceProperties=lambda number: properties),
        using_allocator=using_allocator,
    )
    vars(fake).update(own)
    return fake


@contextlib.contextmanager
def installed():
    """Let ``import cupy`` find the stand-in; count from zero."""
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = module()
    sys.modules["cupyx.scipy.special"] = types.SimpleNamespace(erf=on_device(scipy.special.erf))
    arguments._cupy.cache_clear()
    functions, launch._functions = launch._functions, {}
    COUNTS.update(dict.fromkeys(COUNTS, 0))
    LAUNCHES.clear()
    del STREAMS[1:], CURRENT[1:], ALLOCATORS[1:]
    STREAMS[0].done, STREAMS[0].seen = 0, {}
    try:
        yield COUNTS
    finally:
        launch._functions = functions
        arguments._cupy.cache_clear()
        sys.modules.pop("cupy")
        sys.modules.pop("cupyx.scipy.special")
        if before is not None:
            sys.modules["cupy"] = before
