"""Every fast version computes what its plain version computes: the one that the reader sees."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from primitive_table import TABLE, function_of
from strategies import arrays, images
from subprocesses import run_python

import npadv
from npadv import ops
from npadv.autodiff import PRIMITIVES
from npadv.fast import ENABLED, PAIRS, pool, reduce
from npadv.ops.pool import winners_of
from npadv.shapes import pool_shapes

PACKAGE = Path(npadv.__file__).parent


def pair_of(primitive):
    """Return the pair of a primitive, by its name."""
    return PAIRS[f"{function_of(primitive).__module__}.{primitive}"]


@st.composite
def masks(draw):
    g = draw(arrays())
    return (g, np.abs(g) > 0.5), {}


@st.composite
def maxima(draw):
    x = draw(arrays(st.sampled_from([(3,), (2, 3), (2, 17), (3, 2, 4)]))).round()  # with ties
    axis = draw(st.integers(0, x.ndim - 1))
    return (x, x.max(axis=axis), (axis,)), {}


@st.composite
def errors(draw):
    (x,), settings = draw(TABLE["softmax_cross_entropy"])
    residuals = reduce.softmax_cross_entropy_with_residuals(x, **settings)[1]
    return (x, settings["labels"], residuals), {}


@st.composite
def reshaped(draw):
    x = draw(arrays())
    return (np.arange(float(x.size)).reshape(x.shape).ravel(), x), {}


OTHERS = {
    "npadv.ops.elementwise.is_positive": arrays().map(lambda x: ((x,), {})),
    "npadv.ops.elementwise.masked": masks(),
    "npadv.ops.reduce.first_maximum": maxima(),
    "npadv.ops.reduce.softmax_error": errors(),
    "npadv.ops.shape.reshape_back": reshaped(),
}
"""How the functions are called that are no primitives; functions outside of npadv/ops are compared by tests of their own."""

BY_PRIMITIVE = {f"{function_of(name).__module__}.{name}": TABLE[name] for name in TABLE}


@pytest.mark.parametrize("name", sorted(name for name in PAIRS if name.startswith("npadv.ops")))
@given(data=st.data())
def test_the_fast_version_computes_what_the_plain_one_does(name, data):
    args, kwargs = data.draw((OTHERS | BY_PRIMITIVE)[name])
    pair = PAIRS[name]
    expected, got = pair.plain(*args, **kwargs), pair.fast(*args, **kwargs)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12, strict=True)


@given(x=images((2, 2, 6, 5)), padding=st.booleans(), ceil_mode=st.booleans())
def test_the_winners_of_max_pooling_are_the_first_maxima(x, padding, ceil_mode):
    x = x.round()  # with ties
    shapes = pool_shapes(x.shape, 3, 2, int(padding), ceil_mode)
    y, winners = pool.max_pool2d_with_winners(x, shapes=shapes)
    np.testing.assert_array_equal(y, PAIRS["npadv.ops.pool.max_pool2d_forward"].plain(x, shapes=shapes))
    np.testing.assert_array_equal(np.stack(winners), winners_of(x, shapes))


def test_the_switch():
    code = "from npadv import ops; print(ops.relu.__wrapped__.__globals__['__name__'], ops.relu.__wrapped__.__name__)"
    assert run_python(code, NPADV_FAST="off").split() == ["npadv.ops.elementwise", "relu"]
    assert run_python(code, NPADV_FAST="on").split() == ["npadv.fast.elementwise", "relu"]


def test_help_shows_the_plain_function():
    assert ops.conv2d.__module__ == "npadv.ops.conv"
    for name, op in PRIMITIVES.items():
        if str(op.forward.__module__).startswith("npadv."):  # that of a ufunc is None
            assert op.forward.__name__ == name


def test_nothing_outside_of_fast_switches_speed():
    """Environment variables that choose between versions are read in npadv/fast/ alone."""
    for path in PACKAGE.rglob("*.py"):
        if PACKAGE / "fast" not in path.parents:
            read = set(re.findall(r"environ(?:\.get\(|\[)\W*(\w+)", path.read_text("utf-8")))
            assert not read & {"NPADV_FAST", "NPADV_WINOGRAD", "NPADV_BLAS", "NPADV_MALLOC"}, path


def test_every_fast_function_has_its_plain_one():
    """What is decorated by ``faster`` is a function of npadv/fast/, and each serves one plain function."""
    modules = {pair.fast.__globals__["__name__"] for pair in PAIRS.values()}
    assert all((module.startswith("npadv.") and ".fast" in module) or module == "npadv.nn.fusion" for module in modules)
    fast = [pair.fast for pair in PAIRS.values()]
    assert len(fast) == len({id(function) for function in fast})
    assert (PRIMITIVES["relu"].forward is pair_of("relu").fast) == ENABLED
