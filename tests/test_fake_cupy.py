"""What stands in for CuPy: its streams capture as CUDA's do, and it finds what a GPU would answer with wrong numbers."""

import ast
import importlib.util
import inspect
import sys
from pathlib import Path

import fake_cupy
import numpy as np
import pytest
from subprocesses import run_python

import npadv


@pytest.fixture
def counts():
    with fake_cupy.installed() as counts:
        yield counts


def test_the_stand_in_repeats_what_was_recorded_and_no_more(counts):
    cupy = sys.modules["cupy"]
    x, y, number, pool = cupy.asarray(np.arange(3.0)), cupy.asarray(np.zeros(3)), 2.0, cupy.cuda.MemoryPool()
    twice, stream = cupy.asarray(np.array([1, 1])), cupy.cuda.Stream(non_blocking=True)
    stream.wait_event(cupy.cuda.get_current_stream().record())
    with stream, cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        z = (x.reshape(3, 1) * number).reshape(3) + 1
        y += z
        y[0] = 5.0
        cupy.add.at(y, twice, 1.0)
        cupy.maximum(y, 3.0, out=y)
        cupy.copyto(z, y)
        for refused in (float, bool, lambda a: a.get(), lambda a: cupy.asarray(np.ones(1)), cupy.ndarray.item):
            with pytest.raises(RuntimeError, match="is capturing"):
                refused(y[0])
        graph = stream.end_capture()
        assert y.get().tolist() == [0, 0, 0]  # nothing was done
        assert np.isnan(z.get()).all()
        x[...], number = cupy.asarray(np.array([10.0, 20.0, 30.0])), 3.0
        graph.launch()
        assert y.get().tolist() == z.get().tolist() == [5, 43, 61]
        graph.launch(stream)
        assert y.get().tolist() == [5, 86, 122]


def test_the_stand_in_finds_streams_that_do_not_wait_and_memory_in_other_hands(counts):
    cupy = sys.modules["cupy"]
    x, pool, stream = cupy.asarray(np.arange(3.0)), cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
    with stream, pytest.raises(AssertionError, match="did not wait"):
        x + 1
    stream.wait_event(cupy.cuda.get_current_stream().record())
    with stream:
        with pytest.raises(AssertionError, match="given to others"):
            stream.begin_capture()
        with cupy.cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            y = x + 1
            graph = stream.end_capture()
        with pytest.raises(AssertionError, match="given to others"), cupy.cuda.using_allocator(pool.malloc):
            pass
        graph.launch()
    with pytest.raises(AssertionError, match="did not wait"):
        y.get()
    del pool, stream.pool
    with pytest.raises(AssertionError, match="memory of the graph is gone"):
        graph.launch()
    with pytest.raises(RuntimeError, match="cannot capture on the default"):
        cupy.cuda.get_current_stream().begin_capture()


# Names ------------------------------------------------------------------------------------------------------------------


def array_module_names():
    """Every name that npadv takes from the array module, ``xp.name`` or ``xp_of(x).name``, and one place of each."""
    found = {}
    for path in sorted(Path(npadv.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            parts, inner = [], node
            while isinstance(inner, ast.Attribute):
                parts.insert(0, inner.attr)
                inner = inner.value
            by_name = isinstance(inner, ast.Name) and inner.id in ("xp", "cupy")
            by_call = isinstance(inner, ast.Call) and getattr(inner.func, "id", "") in ("xp_of", "require_cupy")
            if parts and (by_name or by_call):
                found[".".join(parts)] = f"{path.name}:{node.lineno}"
    return found


def test_the_stand_in_has_every_name_that_npadv_takes_from_cupy():
    fake = fake_cupy.module()
    assert {name: at for name, at in array_module_names().items() if not has(fake, name)} == {}


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_cupy_has_every_name_that_npadv_takes_from_it():
    names = sorted(array_module_names())
    code = f"import cupy; print([name for name in {names!r} if not has(cupy, name)])"
    assert run_python(f"{inspect.getsource(has)}\n{code}").strip() == "[]"


def has(module, name):
    for part in name.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True
