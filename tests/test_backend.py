"""Where NumPy and CuPy differ, as far as it can be seen without CuPy: and that nothing heavy is imported unasked."""

import json
import sys
import types

import numpy as np
import pytest
from subprocesses import run_python

from npadv import backend
from npadv.backend import (
    add_at,
    device_module,
    is_array,
    like,
    require_cupy,
    sliding_windows,
    to_device,
    to_numpy,
    xp_of,
)


@pytest.fixture
def cupy(monkeypatch):
    """Put a stand-in of a few lines in CuPy's place, and return an array of it."""
    module = types.ModuleType("cupy")

    class ndarray:
        def __init__(self, values):
            self.values = np.asarray(values)

        def get(self):
            return self.values

    ndarray.__module__ = "cupy"
    module.ndarray = ndarray
    module.asarray = lambda x: x if isinstance(x, ndarray) else ndarray(x)
    module.is_available = lambda: True
    monkeypatch.setitem(sys.modules, "cupy", module)
    return ndarray([1.0, 2.0])


def test_an_array_decides_where_work_runs(cupy):
    here = np.ones(2)
    assert xp_of(here, 2.0, np.float32(1)) is xp_of() is np
    assert xp_of(cupy).__name__ == xp_of(here, cupy).__name__ == "cupy"
    assert is_array(here)
    assert is_array(cupy)
    assert not is_array([1.0])
    assert not is_array(1.0)


def test_arrays_move_between_devices_by_name(cupy):
    there = to_device(np.array([1.0, 2.0]), "cuda")
    assert type(there) is type(cupy)
    assert to_device(there, "cuda") is there
    np.testing.assert_array_equal(to_device(there, "cpu"), [1, 2])
    assert type(like(np.ones(2), cupy)) is type(cupy)
    np.testing.assert_array_equal(to_numpy(cupy), [1, 2])


def test_what_is_there_already_is_not_copied():
    x = np.ones(2)
    assert to_device(x, "cpu") is x
    assert like(x, np.zeros(0)) is x
    assert to_numpy(x) is x


def test_an_unknown_device_is_named():
    with pytest.raises(ValueError, match="device: expected one of 'cpu', 'cuda', got 'gpu'"):
        device_module("gpu")
    assert device_module("cpu") is np


def test_without_cupy_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # what `import cupy` then raises is an ImportError
    with pytest.raises(RuntimeError, match=r'needs CuPy, which is not installed: pip install "npadv\[gpu-cuda13\]"'):
        to_device(np.ones(2), "cuda")


def test_without_a_device_the_message_says_so(monkeypatch, cupy):
    monkeypatch.setattr(sys.modules["cupy"], "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"CuPy.* no CUDA device"):
        require_cupy()


def test_add_at_counts_an_element_named_twice():
    target = np.zeros(3)
    add_at(target, (np.array([0, 2, 2]),), np.array([1.0, 10.0, 100.0]))
    np.testing.assert_array_equal(target, [1, 0, 110])


def test_sliding_windows_puts_the_windows_own_axes_last():
    windows = sliding_windows(np.arange(12).reshape(3, 4), (2, 2), axis=(0, 1))
    assert windows.shape == (2, 3, 2, 2)
    np.testing.assert_array_equal(windows[1, 2], [[6, 7], [10, 11]])
    assert not windows.flags.writeable


# Importing ------------------------------------------------------------------------------------------------------------

IMPORT = """
import time
started = time.perf_counter()
import numpy, scipy
libraries = time.perf_counter()
import npadv
finished = time.perf_counter()
print((finished - libraries) / (libraries - started))
"""


def test_importing_npadv_takes_at_most_twice_as_long_as_numpy_and_scipy():
    """Both are imported in one process, so a busy machine slows both; the best of five runs counts."""
    ratios = []
    while len(ratios) < 5 and min(ratios, default=9.0) >= 2:
        ratios.append(float(run_python(IMPORT)))
    assert min(ratios) < 2


def test_importing_npadv_imports_no_slow_libraries():
    modules = json.loads(run_python("import json, sys, npadv; print(json.dumps(sorted(sys.modules)))"))
    assert not {"matplotlib", "sklearn", "cupy", "scipy.optimize", "jinja2", "tqdm", "pooch"} & set(modules)


def test_only_one_file_names_cupy_in_an_import():
    """Everything in which NumPy and CuPy differ is in backend.py, and in the kernels that it launches."""
    from pathlib import Path

    package = Path(backend.__file__).parent
    naming = {path.name for path in package.rglob("*.py") if "import cupy" in path.read_text()}
    assert naming <= {"backend.py"}
