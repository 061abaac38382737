"""The CUDA kernels: their arithmetic on the CPU and on a GPU where there is one, their launches, their error messages.

A small stand-in for CuPy keeps "device" arrays in NumPy behind a wrapper that NumPy will not take, checks every launch
against the C signature, as CUDA does not, and runs the kernel's own source, compiled by g++ with kernels/cpu/serial.h.
"""

import contextlib
import ctypes
import functools
import importlib.util
import itertools
import math
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npadv import kernels

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "kernels").glob("*.cu"))
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
reals = st.sampled_from([np.float32, np.float64])


# -------------------------------------------------------------------------------------- a stand-in for CuPy


class Device(contextlib.nullcontext):
    def __init__(self, number=0):
        super().__init__()
        self.number = number

    def __eq__(self, other):
        return self.number == other.number

    def __repr__(self):
        return f"<Device {self.number}>"


class DeviceArray:
    __array_ufunc__ = None

    def __init__(self, host, device=0):
        self.host, self.device = host, Device(device)
        self.shape, self.dtype, self.size, self.flags = host.shape, host.dtype, host.size, host.flags

    def transpose(self, *axes):
        return DeviceArray(self.host.transpose(*axes))

    def __array__(self, *args, **kwargs):
        raise TypeError("a device array was used as a host array")


@functools.cache
def compile_serial(code, options):
    """The code as a shared library in which every kernel has a twin named kernel_serial."""
    exports = "".join(f"\nSERIAL_EXPORT({name})" for name in signatures(code))
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/kernel.so"
        command = ["g++", *options, "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o", library]
        command += ["-include", str(ROOT / "kernels/cpu/serial.h"), "-x", "c++", "-"]
        subprocess.run(command, input=code + exports, text=True, check=True)
        return ctypes.CDLL(library)


def signatures(code):
    """Each kernel's parameter types: {"k": ["const real*", "int"]}."""
    found = re.findall(r'extern "C" __global__ void (\w+)\(([^)]*)\)', code)
    return {name: [" ".join(p.split()[:-1]) for p in params.split(",")] for name, params in found}


class StandIn:
    """What npadv.kernels uses of CuPy. Launches are recorded, and run if there is a compiler and `run` is left on."""

    ndarray = DeviceArray

    def __init__(self, run=True):
        self.run, self.launches, self.compiled = run, [], []

    def asarray(self, host):
        return DeviceArray(np.asarray(host))

    def asnumpy(self, a):
        return a.host

    def empty(self, shape, dtype):
        return DeviceArray(np.full(shape, np.nan, dtype))

    def ascontiguousarray(self, a):
        return a if a.flags.c_contiguous else DeviceArray(np.ascontiguousarray(a.host))

    def may_share_memory(self, a, b):
        return np.may_share_memory(a.host, b.host)

    def RawModule(self, *, code, options):
        self.compiled.append(options)
        time.sleep(0.01)  # long enough for a second thread to want the same
        return types.SimpleNamespace(get_function=lambda name: functools.partial(self.launch, code, options, name))

    def launch(self, code, options, name, grid, block, args):
        self.launches.append((name, grid, block, args))
        real = {"-Dreal=float": np.float32, "-Dreal=double": np.float64}[options[1]]
        expected = signatures(code)[name]
        assert len(args) == len(expected), name
        for which, (parameter, arg) in enumerate(zip(expected, args, strict=True)):
            if parameter.endswith("real*"):
                assert isinstance(arg, DeviceArray), (name, which)
                assert arg.dtype == real, (name, which)
                assert arg.flags.c_contiguous, (name, which)
            else:
                assert type(arg) is {"real": real, "int": np.int32, "long long": np.int64}[parameter], (name, which)
        assert len(grid) == len(block) == 1
        assert 1 <= grid[0] <= 2**31 - 1
        assert block[0] in range(32, 1025, 32)
        if self.run:
            data = [a.host.ctypes.data_as(ctypes.c_void_p) if isinstance(a, DeviceArray) else a for a in args]
            # a pointer to each argument: those to scalars point into one-element arrays kept alive by `cells`
            cells = [ctypes.c_void_p(d.value) if isinstance(d, ctypes.c_void_p) else np.array([d]) for d in data]
            pointers = [ctypes.addressof(c) if isinstance(c, ctypes.c_void_p) else c.ctypes.data for c in cells]
            library = compile_serial(code, options)
            getattr(library, f"{name}_serial")(grid[0], block[0], (ctypes.c_void_p * len(pointers))(*pointers))


@contextlib.contextmanager
def cupy_is(module):
    """Make the kernels see `module` as CuPy, with nothing compiled yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_cupy", lambda: module)
        patch.setattr(kernels, "_functions", {})
        yield module


@pytest.fixture(
    scope="module",
    params=[pytest.param("serial", marks=needs_compiler), pytest.param("cuda", marks=pytest.mark.gpu)],
)
def xp(request):
    """The device on which the kernels' arithmetic is checked: the CPU, a thread at a time, or a GPU."""
    if request.param == "serial":
        module = StandIn()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = pytest.importorskip("cupy", reason="CuPy is not installed")
            if not module.is_available():
                pytest.skip("no CUDA device")
    with cupy_is(module):
        yield module


@pytest.fixture
def recorder():
    with cupy_is(StandIn(run=False)) as module:
        yield module


# ----------------------------------------------------------------------------------------------- the sign step


def naive_sign_step(x, g, eps, lo, hi, x0, radius):
    """One element, spelled out in Python floats of the array's precision."""
    real = type(x)
    v = x if g == 0 else x + eps if g > 0 else x - eps if g < 0 else real(math.nan)
    for low, high in ((x0 - radius, x0 + radius), (lo, hi)):
        if math.isnan(v) or math.isnan(low):
            return real(math.nan)
        v = low if v < low else high if v > high else v
    return v


@st.composite
def sign_steps(draw, size=None):
    """x, g, eps and the keywords of a sign step."""
    real = draw(reals)
    n = draw(st.sampled_from([0, 1, 31, 33, 255, 256, 257])) if size is None else size
    width = 32 if real is np.float32 else 64
    numbers = st.floats(-2, 2, width=width)
    kinks = st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf])
    x, x0 = (draw(hnp.arrays(real, n, elements=st.one_of(numbers, st.just(math.nan)))) for _ in "xc")
    g = draw(hnp.arrays(real, n, elements=st.one_of(numbers, kinks)))
    lo, hi = sorted((draw(numbers), draw(numbers)))
    bounds = draw(st.sampled_from([None, (lo, hi), (lo, lo), (-math.inf, hi)]))
    ball = draw(st.sampled_from([{}, {"center": x0, "radius": draw(st.floats(0, 1))}]))
    return x, g, draw(st.floats(0, 1)), {"bounds": bounds, **ball}


@settings(deadline=None)
@given(sign_steps(size=5))
def test_the_reference_is_the_naive_loop(step):
    x, g, eps, how = step
    before, real = x.copy(), x.dtype.type
    lo, hi = map(real, how["bounds"] or (-math.inf, math.inf))
    centers, radius = how.get("center", np.zeros_like(x)), real(how.get("radius", math.inf))
    expected = [naive_sign_step(a, b, real(eps), lo, hi, c, radius) for a, b, c in zip(x, g, centers, strict=True)]
    y = kernels.sign_step_reference(x, g, eps, **how)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, np.array(expected, real))
    np.testing.assert_array_equal(x, before)


@settings(deadline=None, max_examples=60)
@given(step=sign_steps())
def test_sign_step_is_its_reference_to_the_bit(xp, step):
    x, g, eps, how = step
    expected = kernels.sign_step_reference(x, g, eps, **how)
    on_device = {name: xp.asarray(v) if name == "center" else v for name, v in how.items()}
    a = xp.asarray(x.copy())
    assert kernels.sign_step(a, xp.asarray(g), eps, **on_device) is a
    np.testing.assert_array_equal(xp.asnumpy(a), expected)


def test_sign_step_propagates_nan_and_ignores_zero(xp):
    g = xp.asarray(np.array([math.nan, 0.0, -0.0, 1e-30, -math.inf], np.float32))
    x = kernels.sign_step(xp.asarray(np.full(5, 0.5, np.float32)), g, 0.25, bounds=(0, 1))
    np.testing.assert_array_equal(xp.asnumpy(x), np.array([math.nan, 0.5, 0.5, 0.75, 0.25], np.float32))


def test_few_threads_do_the_work_of_many(xp, monkeypatch):
    """The grid-stride loop: one block covers 1000 elements in several rounds."""
    monkeypatch.setattr(kernels, "_MAX_BLOCKS", 1)
    x = kernels.sign_step(xp.asarray(np.zeros(1000)), xp.asarray(np.ones(1000)), 1.0)
    assert (xp.asnumpy(x) == 1).all()


def test_a_strided_gradient_is_read_in_the_order_of_x(xp):
    g = np.random.default_rng(0).normal(size=(5, 7))
    x = kernels.sign_step(xp.asarray(np.zeros((7, 5))), xp.asarray(g).transpose(1, 0), 1.0)
    np.testing.assert_array_equal(xp.asnumpy(x), np.sign(g.T))


# ------------------------------------------------------------------------------------------------- convolution


def naive_conv2d(x, w, g, stride, padding, dilation, groups):
    """y, dL/dx and dL/dw window by window: cut one out, multiply, and put the gradients back where it was cut."""
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    (N, _, H, W), (K, CG, KH, KW) = x.shape, w.shape
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    OH = (padded.shape[2] - dh * (KH - 1) - 1) // sh + 1
    OW = (padded.shape[3] - dw * (KW - 1) - 1) // sw + 1
    y, gx, gw = np.zeros((N, K, OH, OW)), np.zeros(padded.shape), np.zeros(w.shape)
    g = np.zeros(y.shape) if g is None else g
    for k, oh, ow in itertools.product(range(K), range(OH), range(OW)):
        first = k // (K // groups) * CG
        window = (
            slice(None),
            slice(first, first + CG),
            slice(oh * sh, oh * sh + dh * (KH - 1) + 1, dh),
            slice(ow * sw, ow * sw + dw * (KW - 1) + 1, dw),
        )
        y[:, k, oh, ow] = (padded[window] * w[k]).sum((1, 2, 3))
        gx[window] += g[:, k, oh, ow, None, None, None] * w[k]
        gw[k] += (g[:, k, oh, ow, None, None, None] * padded[window]).sum(0)
    return y, gx[:, :, ph : ph + H, pw : pw + W], gw


@st.composite
def convolutions(draw):
    """x, w and the keywords of a convolution, in whole numbers so small that every sum is exact in its precision."""
    small = st.integers(1, 3)
    N, groups = draw(st.integers(0, 2)), draw(small)
    C, K = groups * draw(st.integers(0, 2)), groups * draw(st.integers(0, 2))
    KH, KW, sh, sw, dh, dw = (draw(small) for _ in range(6))
    ph, pw = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    sides = st.sampled_from([0, 1, 2, 3, 5, 6, 8, 31, 33])
    H = draw(sides.filter(lambda side: side + 2 * ph > dh * (KH - 1)))
    W = draw(sides.filter(lambda side: side + 2 * pw > dw * (KW - 1)))
    # Products below 2^8 in float32 and below 2^40 in float64: a double kernel that adds in float is caught.
    real, most = draw(st.sampled_from([(np.float32, 2**4), (np.float64, 2**20)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.integers(-most, most, (N, C, H, W)).astype(real)
    w = rng.integers(-most, most, (K, C // groups, KH, KW)).astype(real)
    return x, w, rng, most, {"stride": (sh, sw), "padding": (ph, pw), "dilation": (dh, dw), "groups": groups}


@settings(deadline=None, max_examples=80)
@given(case=convolutions())
def test_convolution_and_its_gradients_are_the_naive_loop(xp, case):
    x, w, rng, most, how = case
    y, _, _ = naive_conv2d(x, w, None, **how)
    g = rng.integers(-most, most, y.shape).astype(x.dtype)
    y, gx, gw = naive_conv2d(x, w, g, **how)
    dx, dw, dg = map(xp.asarray, (x, w, g))
    for result, expected in [
        (kernels.conv2d(dx, dw, **how), y),
        (kernels.conv2d_input_grad(dg, dw, x.shape, **how), gx),
        (kernels.conv2d_weight_grad(dx, dg, w.shape, **how), gw),
    ]:
        assert isinstance(result, xp.ndarray)
        assert result.dtype == x.dtype
        assert result.shape == expected.shape
        np.testing.assert_array_equal(xp.asnumpy(result), expected)


def test_convolution_takes_strided_views(xp):
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (6, 5, 2, 3)).astype(float)  # images kept as (H, W, C, N)
    w = rng.integers(-9, 9, (3, 3, 2, 4)).astype(float)  # filters kept as (KH, KW, C, K)
    y, _, _ = naive_conv2d(x.transpose(3, 2, 0, 1), w.transpose(3, 2, 0, 1), None, (1, 1), (1, 1), (1, 1), 1)
    dx, dw = xp.asarray(x).transpose(3, 2, 0, 1), xp.asarray(w).transpose(3, 2, 0, 1)
    assert not dx.flags.c_contiguous
    np.testing.assert_array_equal(xp.asnumpy(kernels.conv2d(dx, dw, padding=(1, 1))), y)


# ---------------------------------------------------------------------------------------------------- launches


@pytest.mark.parametrize("n", [1, 31, 256, 257, 1000])
def test_the_grid_covers_every_element(recorder, n):
    kernels.sign_step(recorder.asarray(np.zeros(n)), recorder.asarray(np.zeros(n)), 0.1)
    ((name, (blocks,), (threads,), args),) = recorder.launches
    assert name == "sign_step"
    assert (blocks - 1) * threads < n <= blocks * threads
    assert args[-1] == n


def test_each_function_launches_its_kernel_once_with_its_sizes(recorder):
    x, w, g = (recorder.asarray(np.zeros(s, np.float32)) for s in [(2, 4, 9, 8), (6, 2, 3, 2), (2, 6, 5, 7)])
    how = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 1), "groups": 2}
    outs = [
        kernels.conv2d(x, w, **how),
        kernels.conv2d_input_grad(g, w, (2, 4, 9, 8), **how),
        kernels.conv2d_weight_grad(x, g, (6, 2, 3, 2), **how),
    ]
    assert [out.shape for out in outs] == [(2, 6, 5, 7), (2, 4, 9, 8), (6, 2, 3, 2)]
    assert [launch[0] for launch in recorder.launches] == ["conv2d_forward", "conv2d_input_grad", "conv2d_weight_grad"]
    for (_, (blocks,), (threads,), args), out in zip(recorder.launches, outs, strict=True):
        assert args[2] is out
        assert list(args[3:]) == [2, 4, 9, 8, 6, 3, 2, 5, 7, 2, 1, 1, 0, 1, 1, 2]
        assert blocks * threads >= out.size


def test_projection_has_a_kernel_of_its_own(recorder):
    x, g, center = (recorder.asarray(np.zeros(3)) for _ in range(3))
    kernels.sign_step(x, g, 0.1, center=center, radius=0.2)
    assert [launch[0] for launch in recorder.launches] == ["projected_sign_step"]


def test_nothing_is_launched_for_no_elements(recorder):
    none, w = recorder.asarray(np.zeros((0, 1, 5, 5))), recorder.asarray(np.zeros((2, 1, 3, 3)))
    kernels.sign_step(none, recorder.asarray(np.zeros((0, 1, 5, 5))), 0.1)
    assert kernels.conv2d(none, w).shape == (0, 2, 3, 3)
    assert recorder.launches == recorder.compiled == []


def test_a_huge_array_stays_within_the_limits_of_a_grid(recorder):
    huge = types.SimpleNamespace(size=2**40, dtype=np.dtype("float32"))
    a = recorder.asarray(np.zeros(1, np.float32))
    real = np.float32(0)
    kernels._launch("sign_step", "sign_step", huge, (a, a, real, real, real, np.int64(2**40)))
    assert recorder.launches[0][1] == (65_535,)


def test_a_kernel_is_compiled_once_for_each_precision(recorder):
    def step(dtype):
        kernels.sign_step(recorder.asarray(np.zeros(3, dtype)), recorder.asarray(np.zeros(3, dtype)), 0.1)

    threads = [threading.Thread(target=step, args=(dtype,)) for dtype in ["float32", "float64"] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorder.launches) == 8
    assert sorted(recorder.compiled) == [("-std=c++17", "-Dreal=double"), ("-std=c++17", "-Dreal=float")]


# ---------------------------------------------------------------------------------------------- wrong arguments


def device_array(*shape, dtype="float32", device=0):
    return DeviceArray(np.zeros(shape, dtype), device)


X, W, G = device_array(2, 4, 6, 5), device_array(6, 4, 3, 3), device_array(2, 6, 4, 3)
P, Q = device_array(3), device_array(3)
SHIFTED = np.zeros(8, "float32")

WRONG_STEPS = {
    "x must be a cupy.ndarray, got numpy.ndarray": ((np.zeros(3), Q, 1), {}, TypeError),
    "g must be a cupy.ndarray, got list": ((P, [0.0], 1), {}, TypeError),
    "x must be float32 or float64, got int32": ((device_array(3, dtype="int32"), Q, 1), {}, TypeError),
    "x must be float32 or float64, got float16": ((device_array(3, dtype="float16"), Q, 1), {}, TypeError),
    "g must have the dtype of x, float32, got float64": ((P, device_array(3, dtype="float64"), 1), {}, TypeError),
    "g must be on the device of x, <Device 0>, got <Device 1>": ((P, device_array(3, device=1), 1), {}, ValueError),
    "g must have the shape of x, (3,), got (3, 1)": ((P, device_array(3, 1), 1), {}, ValueError),
    "g must not share memory with x": ((P, P, 1), {}, ValueError),
    "g must not share memory": ((DeviceArray(SHIFTED[1:]), DeviceArray(SHIFTED[:-1]), 1), {}, ValueError),
    "x must be C-contiguous": ((device_array(2, 3).transpose(1, 0), device_array(3, 2), 1), {}, ValueError),
    "center must be a cupy.ndarray, got float": ((P, Q, 1), {"center": 0.0, "radius": 1}, TypeError),
    "center must have the shape of x, (3,)": ((P, Q, 1), {"center": device_array(4), "radius": 1}, ValueError),
    "center must not share memory with x": ((P, Q, 1), {"center": P, "radius": 1}, ValueError),
    "center and radius must be given together, got no radius": ((P, Q, 1), {"center": Q}, ValueError),
    "center and radius must be given together, got no center": ((P, Q, 1), {"radius": 1}, ValueError),
    "radius must be at least 0 and finite in float32, got -1": ((P, Q, 1), {"center": Q, "radius": -1}, ValueError),
    "eps must be at least 0 and finite in float32, got -0.1": ((P, Q, -0.1), {}, ValueError),
    "eps must be at least 0 and finite in float32, got nan": ((P, Q, math.nan), {}, ValueError),
    "eps must be at least 0 and finite in float32, got 1e+300": ((P, Q, 1e300), {}, ValueError),
    "eps must be a real number, got str": ((P, Q, "0.1"), {}, TypeError),
    "eps must be a real number, got ndarray": ((P, Q, np.zeros(3)), {}, TypeError),
    "bounds must be (lo, hi) with lo <= hi, got (1, 0)": ((P, Q, 1), {"bounds": (1, 0)}, ValueError),
    "bounds must be (lo, hi) with lo <= hi, got (0, nan)": ((P, Q, 1), {"bounds": (0, math.nan)}, ValueError),
    "bounds must be None or a pair (lo, hi), got 1": ((P, Q, 1), {"bounds": 1}, TypeError),
    "bounds must be a real number, got NoneType": ((P, Q, 1), {"bounds": (0, None)}, TypeError),
}
WRONG_CONVOLUTIONS = {
    "x must be a cupy.ndarray, got numpy.ndarray": ((np.zeros(3), W), {}, TypeError),
    "w must have the dtype of x, float32": ((X, device_array(6, 4, 3, 3, dtype="float64")), {}, TypeError),
    "w must be on the device of x": ((X, device_array(6, 4, 3, 3, device=1)), {}, ValueError),
    "x.shape must be (N, C, H, W), got (4, 6, 5)": ((device_array(4, 6, 5), W), {}, ValueError),
    "w.shape must be (K, C/groups, KH, KW), got (4,)": ((X, device_array(4)), {}, ValueError),
    "w.shape must have C/groups = 4/1 = 4 as its second, got 3": ((X, device_array(6, 3, 3, 3)), {}, ValueError),
    "w.shape must have windows of at least 1x1, got 0x3": ((X, device_array(6, 4, 0, 3)), {}, ValueError),
    "groups must divide both C = 4 and K = 6, got 4": ((X, W), {"groups": 4}, ValueError),
    "groups must be an integer from 1 to 2**31 - 1, got 0": ((X, W), {"groups": 0}, ValueError),
    "groups must be an integer, got 1.0": ((X, W), {"groups": 1.0}, TypeError),
    "stride must be a tuple (height, width), got 2": ((X, W), {"stride": 2}, TypeError),
    "stride must be (height, width), got (1, 1, 1)": ((X, W), {"stride": (1, 1, 1)}, ValueError),
    "stride[1] must be an integer from 1 to 2**31 - 1, got 0": ((X, W), {"stride": (1, 0)}, ValueError),
    "stride[0] must be an integer from 1 to 2**31 - 1": ((X, W), {"stride": (2**31, 1)}, ValueError),
    "padding[0] must be an integer from 0 to 2**31 - 1": ((X, W), {"padding": (-1, 0)}, ValueError),
    "padding must keep the image's sides below 2**31": ((X, W), {"padding": (2**30, 0)}, ValueError),
    "dilation[1] must be an integer from 1": ((X, W), {"dilation": (1, 0)}, ValueError),
    "w.shape must have windows that fit in the padded image, 6x5, got 3x3 dilated to 3x7": (
        (X, W),
        {"dilation": (1, 3)},
        ValueError,
    ),
}
WRONG_INPUT_GRADS = {
    "g must have the shape of conv2d(x, w), (2, 6, 4, 4), got (2, 6, 4, 3)": ((G, W, (2, 4, 6, 6)), {}, ValueError),
    "input_shape must be (N, C, H, W), got (4, 6, 5)": ((G, W, (4, 6, 5)), {}, ValueError),
    "input_shape[3] must be an integer, got 5.0": ((G, W, (2, 4, 6, 5.0)), {}, TypeError),
}
WRONG_WEIGHT_GRADS = {
    "g must have the shape of conv2d(x, w), (2, 7, 4, 3), got (2, 6, 4, 3)": ((X, G, (7, 4, 3, 3)), {}, ValueError),
    "weight_shape must have C/groups = 4/1 = 4 as its second, got 2": ((X, G, (6, 2, 3, 3)), {}, ValueError),
}
WRONG = {
    kernels.sign_step: WRONG_STEPS,
    kernels.conv2d: WRONG_CONVOLUTIONS,
    kernels.conv2d_input_grad: WRONG_INPUT_GRADS,
    kernels.conv2d_weight_grad: WRONG_WEIGHT_GRADS,
}


@pytest.mark.parametrize(
    ("function", "message"), [(f, message) for f, messages in WRONG.items() for message in messages]
)
def test_a_wrong_argument_is_named_and_nothing_is_launched(recorder, function, message):
    args, how, error = WRONG[function][message]
    with pytest.raises(error) as raised:
        function(*args, **how)
    assert str(raised.value).startswith(f"{function.__name__}: {message}")
    assert recorder.launches == []


def test_the_arguments_of_the_wrong_examples_are_right_but_for_one(recorder):
    kernels.sign_step(P, Q, 1, bounds=(0, 1e300))
    kernels.conv2d(X, W)
    kernels.conv2d_input_grad(G, W, [2, 4, 6, 5])
    kernels.conv2d_weight_grad(X, G, (6, 4, 3, 3))
    assert len(recorder.launches) == 4


# ----------------------------------------------------------------------------- sources, imports, the real compiler


def test_sources_are_found_in_a_checkout_and_in_a_wheel(tmp_path, monkeypatch):
    assert [path.stem for path in SOURCES] == ["conv2d", "sign_step"]
    for path in SOURCES:
        assert kernels.source(path.stem) == path.read_text(encoding="utf-8")
    (tmp_path / "npadv" / "_kernels").mkdir(parents=True)
    (tmp_path / "npadv" / "_kernels" / "conv2d.cu").write_text("the wheel's")
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "conv2d.cu").write_text("another package's")
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "npadv" / "kernels.py"))
    assert kernels.source("conv2d") == "the wheel's"
    with pytest.raises(FileNotFoundError, match=r"no kernel source conv3d\.cu; .* has conv2d$"):
        kernels.source("conv3d")


def test_importing_the_launcher_does_not_import_cupy():
    code = "import sys, npadv.kernels; sys.exit('cupy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_cupy_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r'pip install "npadv\[gpu-cuda13\]".* or pip install "npadv\[gpu-cuda12\]"'):
        kernels._cupy.__wrapped__()


def test_without_a_gpu_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(is_available=lambda: False))
    with pytest.raises(RuntimeError, match="no CUDA device or driver is visible"):
        kernels._cupy.__wrapped__()


def has_nvrtc():
    with contextlib.suppress(ImportError):
        return importlib.util.find_spec("cuda.bindings.nvrtc") is not None
    return False


needs_nvrtc = pytest.mark.skipif(not has_nvrtc(), reason="cuda-bindings is not installed")


def compile_for_gpus(*files):
    command = [sys.executable, str(ROOT / ".ci/compile_kernels.py"), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_nvrtc
def test_the_cuda_compiler_takes_every_kernel():
    done = compile_for_gpus()
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(SOURCES) * 3 * 2
    assert "sign_step.cu sm_90 double registers: " in done.stdout


@needs_nvrtc
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("y[0] = undeclared;", "does not compile"),
        ("int unused; y[0] = 1;", "compiles with warnings"),
        (
            "real a[96];\n#pragma unroll\nfor (int i = 0; i < 96; ++i) a[i] = y[i * threadIdx.x];\n__syncthreads();\n"
            "#pragma unroll\nfor (int i = 0; i < 96; ++i) y[i * threadIdx.x] = a[95 - i] * a[i];",
            "spills registers",
        ),
    ],
    ids=["error", "warning", "spill"],
)
def test_a_fault_in_a_kernel_fails_the_compile_check(tmp_path, body, complaint):
    path = tmp_path / "planted.cu"
    path.write_text(f'extern "C" __global__ __launch_bounds__(1024) void planted(real* y) {{\n{body}\n}}\n')
    done = compile_for_gpus(path)
    assert done.returncode == 1
    assert f"planted.cu sm_75 float  FAILED: {complaint}" in done.stderr
