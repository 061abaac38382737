"""A stand-in for ``cupy``, to run the GPU's code path on a machine without a GPU.

A device array is a NumPy array in a wrapper that NumPy refuses and that refuses NumPy arrays, so that every accidental mix
of host and device raises, as it does with CuPy. ``COUNTS`` has how often the host waited for the device (``get``, ``item``,
``float``, ``bool``, ``synchronize``), how often data crossed over to it (``asarray``) and back, and how many kernels were
compiled and launched; ``LAUNCHES`` has each launch's kernel, grid, block and arguments. Kernels run their own source
(:mod:`npadv.kernels.cpu`), in the build and order that ``cpu.running`` says.
"""

import contextlib
import functools
import operator
import sys
import time
import types

import numpy as np

from npadv.kernels import cpu, launch

COUNTS = {"waits": 0, "uploads": 0, "downloads": 0, "compiled": 0, "launches": 0}
LAUNCHES = []


NAMES = """
abs arange arctanh argsort ascontiguousarray broadcast_to clip concatenate copy copyto cumsum empty_like equal exp eye full
isfinite log log1p maximum may_share_memory minimum moveaxis multiply ones ones_like pad sign sqrt stack take_along_axis tanh
where zeros zeros_like
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


def on_device(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return wrap(function(*map(unwrap, args), **{name: unwrap(value) for name, value in kwargs.items()}))

    return call


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

    def __array_function__(self, function, *args):
        raise TypeError(f"numpy.{function.__name__} was called on a device array")

    def get(self):
        COUNTS["waits"] += 1
        COUNTS["downloads"] += 1
        return self.host.copy()

    def item(self):
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
        self.host[unwrap(index)] = unwrap(value)


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
    "transpose",
    "view",
):
    setattr(ndarray, _name, on_device(getattr(np.ndarray, _name)))


def binary(function, swapped=False):
    device_function = on_device((lambda a, b: function(b, a)) if swapped else function)

    def call(self, other):
        if not isinstance(other, ndarray) and getattr(other, "__array_ufunc__", self) is None:
            return NotImplemented  # as CuPy leaves it to a Tensor
        return device_function(self, other)

    return call


for _name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "matmul", "mod", "and", "or"):
    setattr(ndarray, f"__{_name}__", binary(getattr(operator, f"__{_name}__")))
    setattr(ndarray, f"__r{_name}__", binary(getattr(operator, f"__{_name}__"), swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "abs", "invert", "getitem"):
    setattr(ndarray, f"__{_name}__", on_device(getattr(operator, f"__{_name}__")))


def in_place(function):
    def call(self, other):
        function(self.host, unwrap(other))
        return self

    return call


for _name in ("iadd", "isub", "imul", "itruediv", "iand", "ixor"):
    setattr(ndarray, f"__{_name}__", in_place(getattr(operator, f"__{_name}__")))


class RawModule:
    def __init__(self, *, code, options):
        COUNTS["compiled"] += 1
        time.sleep(0.01)  # long enough for a second thread to want the same
        self.module = cpu.Module(code=code, options=options)

    def get_function(self, name):
        run = self.module.get_function(name)

        def launch(grid, block, args, *, shared_mem=0):
            COUNTS["launches"] += 1
            LAUNCHES.append((name, grid, block, args))
            run(grid, block, unwrap(args), shared_mem=shared_mem)

        return launch


def empty(shape, dtype=float):
    """Memory as it comes: NaN, so that what is read before it was written is seen."""
    dtype = np.dtype(dtype)
    return ndarray(np.full(shape, np.nan if dtype.kind == "f" else -1 if dtype.kind == "i" else 255, dtype))


def asarray(value, dtype=None):
    if isinstance(value, ndarray):
        return value if dtype is None or value.dtype == dtype else value.astype(dtype)
    COUNTS["uploads"] += 1
    return ndarray(np.array(value, dtype=dtype))


def module():
    """Return the stand-in as a module named ``cupy``."""
    fake = types.ModuleType("cupy")
    own = {"ndarray": ndarray, "RawModule": RawModule, "asarray": asarray, "empty": empty, "is_available": lambda: True}
    for name in NAMES.split():
        own[name] = on_device(getattr(np, name))
    own["add"] = types.SimpleNamespace(
        at=lambda target, index, values: np.add.at(target.host, unwrap(index), unwrap(values))
    )
    own["ogrid"] = type("Grid", (), {"__getitem__": lambda self, index: wrap(np.ogrid[index])})()
    windows = on_device(np.lib.stride_tricks.sliding_window_view)
    own["lib"] = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(sliding_window_view=windows))
    own.update(inf=np.inf, float32=np.float32, float64=np.float64, __version__="0 (a stand-in)")
    properties = {"name": b"no card"}
    own["cuda"] = types.SimpleNamespace(
        Device=Device,
        runtime=types.SimpleNamespace(getDeviceProperties=lambda number: properties),
    )
    vars(fake).update(own)
    return fake


@contextlib.contextmanager
def installed():
    """Let ``import cupy`` find the stand-in; count from zero."""
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = module()
    launch._cupy.cache_clear()
    functions, launch._functions = launch._functions, {}
    COUNTS.update(dict.fromkeys(COUNTS, 0))
    LAUNCHES.clear()
    try:
        yield COUNTS
    finally:
        launch._functions = functions
        launch._cupy.cache_clear()
        sys.modules.pop("cupy")
        if before is not None:
            sys.modules["cupy"] = before
