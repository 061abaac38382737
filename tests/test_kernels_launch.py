"""Kernels found, read, compiled for CuPy, checked and launched: everything between a function's arguments and the GPU."""

import contextlib
import importlib.util
import itertools
import subprocess
import sys
import threading
import types
from pathlib import Path

import fake_cupy
import numpy as np
import pytest
from kernel_cases import needs_compiler

from npadv import kernels
from npadv.kernels import cpu, launch, sources
from npadv.kernels.arguments import _cupy

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "kernels").glob("*.cu"))


# ------------------------------------------------------------------------------------------------------ sources


def test_sources_are_found_in_a_checkout_and_in_a_wheel(tmp_path, monkeypatch):
    assert sources.names() == [path.stem for path in SOURCES]
    for path in SOURCES:
        assert kernels.source(path.stem) == path.read_text(encoding="utf-8")
    (tmp_path / "npadv" / "_kernels").mkdir(parents=True)
    (tmp_path / "npadv" / "_kernels" / "conv2d.cu").write_text("the wheel's")
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "conv2d.cu").write_text("another package's")
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "npadv" / "kernels" / "sources.py"))
    assert kernels.source("conv2d") == "the wheel's"
    with pytest.raises(FileNotFoundError, match=r"no kernel source conv3d\.cu; .* has conv2d$"):
        kernels.source("conv3d")


def test_includes_are_pasted_once_and_lines_keep_their_numbers(tmp_path):
    (tmp_path / "a.cuh").write_text('int a;\n#include "b.cuh"\nint after_b;\n')
    (tmp_path / "b.cuh").write_text("int b;\n")
    code = '// first\n#include "a.cuh"\n#include "b.cuh"  // again\nint last;\n'
    expanded = sources.expand(code, "k.cu", tmp_path)
    assert expanded.count("int b;") == 1
    at, line, file = {}, 0, ""
    for text in expanded.splitlines():
        if text.startswith("#line"):
            _, number, name = text.split()
            line, file = int(number), name.strip('"')
            continue
        at[text] = f"{file}:{line}"
        line += 1
    assert at["int a;"] == "a.cuh:1"
    assert at["int b;"] == "b.cuh:1"
    assert at["int after_b;"] == "a.cuh:3"
    assert at["int last;"] == "k.cu:4"


def test_every_kernel_is_read_and_no_text_of_one_is_passed_over():
    for path in SOURCES:
        code = sources.translation_unit(path.stem)
        found = sources.kernels_in(code)
        assert len(found) == sources._COMMENT.sub(" ", code).count("__global__"), path.name
        assert all(kernel.parameters for kernel in found.values())


def test_parameters_are_read_off_the_text():
    code = """
    constexpr int THREADS = 128;
    // extern "C" __global__ void not_this(int x) {}
    extern "C" __global__ void __launch_bounds__(THREADS, 2) first(const real* __restrict__ x, unsigned int n,  // how many
        unsigned char *mask, long long /* bytes */ m) {}
    extern "C" __global__ __launch_bounds__(64) void second(double v) {}
    extern "C" __global__ __launch_bounds__(SOME_SUM + 1) void third(bool b) {}
    """
    first, second, third = sources.kernels_in(code).values()
    assert first == (
        "first",
        (("x", "real", True), ("n", "unsigned", False), ("mask", "unsigned char", True), ("m", "long long", False)),
        128,
    )
    assert second == ("second", (("v", "double", False),), 64)
    assert third.max_threads == 1024
    with pytest.raises(ValueError, match=r"k: expected parameters of the types real, float, .*, got 'size_t n'"):
        sources.kernels_in('extern "C" __global__ void k(size_t n) {}')


# --------------------------------------------------------------------------------------------- launching, checked

CODE = """
extern "C" __global__ __launch_bounds__(512) void fill(real* y, const long long* labels, real value, int n, long long m,
                                                        unsigned char small, bool on) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    y[i] = value + (labels ? labels[i] : 0) + m + small + on;
}
extern "C" __global__ void where(int* y) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  y[block * blockDim.x * blockDim.y + threadIdx.x + blockDim.x * threadIdx.y] = 1000 * block + threadIdx.y;
}
extern "C" __global__ void borrow(real* y) {
  extern __shared__ real s[];
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
"""


@pytest.fixture(params=["numpy", "cupy"])
def xp(request, monkeypatch):
    """The source above as the file `here`, and the arrays to launch it on: NumPy's, or the stand-in for CuPy's."""
    monkeypatch.setattr(sources, "translation_unit", {"here": CODE}.__getitem__)
    monkeypatch.setattr(launch, "_functions", {})
    if request.param == "numpy":
        monkeypatch.setenv("NPADV_KERNELS", "cpu")
        yield np
    else:
        with fake_cupy.installed():
            yield sys.modules["cupy"]


def to_host(a):
    return a.get() if hasattr(a, "get") else a


def arguments(xp, size=5, dtype=np.float32, **changes):
    args = {
        "y": xp.asarray(np.zeros(size, dtype)),
        "labels": None,
        "value": 0.5,
        "n": size,
        "m": 10,
        "small": 100,
        "on": True,
    }
    return {**args, **changes}


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_become_the_parameters_types(xp, dtype):
    args = arguments(xp, 700, dtype)
    launch.launch("here", "fill", args, blocks=launch.covering(700))
    np.testing.assert_array_equal(to_host(args["y"]), np.full(700, 111.5, dtype))
    args = arguments(
        xp, dtype=dtype, labels=xp.asarray(np.arange(5)), value=np.dtype(dtype).type(2), n=np.int32(5), on=False
    )
    launch.launch("here", "fill", args, blocks=1, threads=32)
    np.testing.assert_array_equal(to_host(args["y"]), 112 + np.arange(5))


@needs_compiler
def test_grids_and_blocks_may_have_three_dimensions(xp):
    y = xp.asarray(np.zeros(24 * 6, np.int32))
    launch.launch("here", "where", {"y": y}, blocks=(2, 3, 4), threads=(3, 2))
    expected = [1000 * block + t // 3 for block in range(24) for t in range(6)]
    np.testing.assert_array_equal(to_host(y), expected)


@needs_compiler
def test_dynamic_shared_memory_is_as_large_as_asked_for(xp):
    y = xp.asarray(np.zeros(64))
    for build in ("fast", "races", "memory"):
        with cpu.running(build=build):
            launch.launch("here", "borrow", {"y": y}, blocks=1, threads=64, shared=64 * 8)
        np.testing.assert_array_equal(to_host(y), np.arange(64)[::-1])
    with cpu.running(build="memory"), pytest.raises(cpu.KernelFault, match=r"borrow: .* use-after-poison"):
        launch.launch("here", "borrow", {"y": y}, blocks=1, threads=64, shared=63 * 8)


# What is wrong, what is said of it; the last three are how it is launched.
WRONG = {
    "args must be named y, labels, value, n, m, small, on; see k, n": (lambda xp: {"n": ..., "k": 1}, {}, TypeError),
    "y must be a MODULE.ndarray, got list": (lambda xp: {"y": [0.0]}, {}, TypeError),
    "labels must be int64, got int32": (lambda xp: {"labels": xp.asarray(np.zeros(5, np.int32))}, {}, TypeError),
    "expected arrays of float32 or float64 for real, got float16": (
        lambda xp: {"y": xp.asarray(np.zeros(5, np.float16))},
        {},
        TypeError,
    ),
    "y must be C-contiguous, got a strided view": (
        lambda xp: {"y": xp.asarray(np.zeros((5, 5))).T[1:]},
        {},
        ValueError,
    ),
    "value must be a real number, got str": (lambda xp: {"value": "1"}, {}, TypeError),
    "value must be float32, got numpy.float64": (lambda xp: {"value": np.float64(1)}, {}, TypeError),
    "n must be an integer, got 5.0": (lambda xp: {"n": 5.0}, {}, TypeError),
    "n must be an integer from -2147483648 to 2**31 - 1, got 2147483648": (lambda xp: {"n": 2**31}, {}, ValueError),
    "n must be int32, got numpy.int64": (lambda xp: {"n": np.int64(5)}, {}, TypeError),
    "m must be an integer from -9223372036854775808": (lambda xp: {"m": 2**63}, {}, ValueError),
    "m must be int64, got numpy.int32": (lambda xp: {"m": np.int32(5)}, {}, TypeError),
    "small must be an integer from 0 to 255, got 256": (lambda xp: {"small": 256}, {}, ValueError),
    "on must be True or False, got 2": (lambda xp: {"on": 2}, {}, TypeError),
    "threads must be at most 512 a block, got 513": (lambda xp: {}, {"threads": 513}, ValueError),
    "threads must be at most 512 a block, got 1024": (lambda xp: {}, {"threads": (32, 32)}, ValueError),
    "threads must be an integer from 1 to 1024, got 0": (lambda xp: {}, {"threads": 0}, ValueError),
    "threads must be an integer from 1 to 64, got 65": (lambda xp: {}, {"threads": (1, 1, 65)}, ValueError),
    "blocks must be an integer from 0 to 2**31 - 1, got 2147483648": (lambda xp: {}, {"blocks": 2**31}, ValueError),
    "blocks must be an integer from 0 to 65535, got 65536": (lambda xp: {}, {"blocks": (1, 65_536)}, ValueError),
    "blocks must be a number or up to three, got (1, 1, 1, 1)": (lambda xp: {}, {"blocks": (1, 1, 1, 1)}, ValueError),
    "shared must be an integer from 0 to 49152, got 49153": (lambda xp: {}, {"shared": 49_153}, ValueError),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_argument_of_a_launch_is_named_and_nothing_runs(xp, message):
    changes, how, error = WRONG[message]
    args = arguments(xp, **changes(xp))
    args = {name: value for name, value in args.items() if value is not ...}
    with pytest.raises(error) as raised:
        launch.launch("here", "fill", args, **{"blocks": 1, **how})
    assert str(raised.value).startswith("fill: " + message.replace("MODULE", xp.__name__))
    assert launch._functions == {}


def test_arrays_of_two_devices_are_refused(monkeypatch):
    monkeypatch.setattr(sources, "translation_unit", {"here": CODE}.__getitem__)
    with fake_cupy.installed() as counts:
        labels = fake_cupy.ndarray(np.zeros(5, np.int64), 1)
        message = "fill: labels must be on the device of the first array, <CUDA Device 0>, got <CUDA Device 1>"
        with pytest.raises(ValueError, match=message):
            launch.launch("here", "fill", arguments(sys.modules["cupy"], labels=labels), blocks=1)
        assert counts["launches"] == counts["compiled"] == 0


def test_a_grid_of_no_blocks_launches_nothing(xp):
    launch.launch("here", "fill", arguments(xp, 0), blocks=launch.covering(0))
    launch.launch("here", "fill", arguments(xp, 5), blocks=(3, 0))
    assert launch._functions == {}


def test_an_unknown_kernel_or_file_is_an_error(xp):
    with pytest.raises(KeyError):
        launch.launch("here", "unknown", {}, blocks=1)


@needs_compiler
def test_a_kernel_is_compiled_once_for_each_precision(monkeypatch):
    monkeypatch.setattr(sources, "translation_unit", {"here": CODE}.__getitem__)
    with fake_cupy.installed() as counts:
        cupy = sys.modules["cupy"]

        def fill(dtype):
            launch.launch("here", "fill", arguments(cupy, dtype=dtype), blocks=1)

        threads = [threading.Thread(target=fill, args=(dtype,)) for dtype in [np.float32, np.float64] * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts["launches"] == 8
        assert counts["compiled"] == 2


@needs_compiler
def test_what_waits_and_what_crosses_over_is_counted():
    with fake_cupy.installed() as counts:
        x = sys.modules["cupy"].asarray(np.ones((2, 3, 8, 8), np.float32))
        y = kernels.conv2d(x, x[:1, :, :3, :3])
        assert counts == {"waits": 0, "uploads": 1, "downloads": 0, "compiled": 1, "launches": 1, "graphs": 0}
        x.device.synchronize()
        assert y.get()[0, 0, 0, 0] == 27
        assert counts == {"waits": 2, "uploads": 1, "downloads": 1, "compiled": 1, "launches": 1, "graphs": 0}


def test_on_the_cpu_new_arrays_are_full_of_nan(monkeypatch):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    for shape, dtype in itertools.product([(), (3,), (2, 0), (2, 3)], [np.float32, np.float64]):
        a = launch.empty(np.zeros(1, dtype), shape)
        assert a.shape == shape
        assert a.dtype == dtype
        assert np.isnan(a).all()
    assert launch.empty(np.zeros(1), (2,), np.int64).tolist() == [-1, -1]


# ------------------------------------------------------------------------------------------ with and without CuPy


def test_importing_the_kernels_imports_neither_cupy_nor_a_compiler():
    code = "import sys, npadv.kernels; sys.exit('cupy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": "", "PYTHONPATH": str(ROOT)})


def test_without_cupy_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r'pip install "npadv\[gpu-cuda13\]".* or pip install "npadv\[gpu-cuda12\]"'):
        _cupy.__wrapped__()


def test_without_a_gpu_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(is_available=lambda: False))
    with pytest.raises(RuntimeError, match="no CUDA device or driver is visible"):
        _cupy.__wrapped__()


def test_the_environment_says_where_kernels_run(monkeypatch):
    host = np.zeros(3)
    with fake_cupy.installed():
        cupy = sys.modules["cupy"]
        for asked, array, module in [("cpu", host, np), ("cpu", cupy.asarray(host), cupy), ("", host, cupy)]:
            monkeypatch.setenv("NPADV_KERNELS", asked)
            assert launch.array_module(array) is module
        monkeypatch.setenv("NPADV_KERNELS", "gpu")
        with pytest.raises(ValueError, match="NPADV_KERNELS: expected 'cpu' or nothing, got 'gpu'"):
            launch.array_module(host)


def test_host_and_device_arrays_do_not_mix(monkeypatch):
    with fake_cupy.installed():
        device = sys.modules["cupy"].asarray(np.zeros((1, 1, 3, 3)))
        with pytest.raises(TypeError, match=r"conv2d: w must be a cupy\.ndarray, got numpy\.ndarray"):
            kernels.conv2d(device, np.zeros((1, 1, 3, 3)))
        monkeypatch.setenv("NPADV_KERNELS", "cpu")
        with pytest.raises(TypeError, match=r"conv2d: x must be a cupy\.ndarray, got numpy\.ndarray"):
            kernels.conv2d(np.zeros((1, 1, 3, 3)), device)


# -------------------------------------------------------------------------------------------- the real compiler


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
    for line in done.stdout.splitlines():
        file = line.partition(".cu")[0]
        compiled = {part.split()[0] for part in line.partition("registers: ")[2].partition(";")[0].split(", ")}
        assert compiled == set(sources.kernels_in(sources.translation_unit(file)))


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
        ("__shared__ real a[12289]; a[threadIdx.x] = 1; __syncthreads(); y[0] = a[1];", "does not compile"),
    ],
    ids=["error", "warning", "spill", "shared memory"],
)
def test_a_fault_in_a_kernel_fails_the_compile_check(tmp_path, body, complaint):
    path = tmp_path / "planted.cu"
    path.write_text(f'extern "C" __global__ __launch_bounds__(1024) void planted(real* y) {{\n{body}\n}}\n')
    done = compile_for_gpus(path)
    assert done.returncode == 1
    assert f"planted.cu sm_75 float  FAILED: {complaint}" in done.stderr


# --------------------------------------------------------------------------------------------- plans of launches


@pytest.fixture
def launched(monkeypatch):
    """Return the list of the arguments of all launches, which run nothing, and forget all plans."""
    found = []
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    monkeypatch.setattr(launch, "_plans", {})
    monkeypatch.setattr(
        launch, "_function", lambda *which: lambda grid, block, args, **more: found.append((grid, args))
    )
    return found


def step(x, g, *, eps=0.5, n=4, **how):
    args = {"x": x, "g": g, "eps": eps, "lo": np.float32(-1), "hi": np.float32(1), "n": n}
    launch.launch("sign_step", "sign_step", args, **{"blocks": 1, **how})


def test_a_launch_is_checked_once_for_each_shape_and_setting(launched, monkeypatch):
    made, real = [], launch._make_plan
    monkeypatch.setattr(launch, "_make_plan", lambda *args: made.append(args) or real(*args))
    x, g = np.zeros(4, np.float32), np.ones(4, np.float32)
    for eps in (0.5, 0.25, np.float32(0.125), -0.0, 0.0):
        step(x, g, eps=eps)
    step(g, x)
    assert len(made) == 2  # eps as a Python float, and as a NumPy one
    assert [float(args[2]) for _, args in launched] == [0.5, 0.25, 0.125, -0.0, 0.0, 0.5]
    assert [np.signbit(args[2]) for _, args in launched[3:5]] == [True, False]
    assert all(type(args[2]) is np.float32 for _, args in launched)
    assert launched[-1][1][0] is g
    step(x, g, n=3)
    step(x, g, blocks=2)
    assert len(made) == 4
    assert launched[-2][1][5] == 3
    assert launched[-1][0] == (2,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x, g: step(x, g.astype(np.float64)), "g must be float32, got float64"),
        (lambda x, g: step(x, np.ones(8, np.float32)[::2]), "g must be C-contiguous"),
        (lambda x, g: step(x, list(g)), "g must be a numpy.ndarray, got list"),
        (lambda x, g: step(x, g, n=2.0), "n must be an integer, got 2.0"),
        (lambda x, g: step(x, g, n=2**70), "n must be an integer from"),
        (lambda x, g: step(x, g, eps="1"), "eps must be a real number, got str"),
        (lambda x, g: step(x, g, threads=2048), "threads must be"),
    ],
)
def test_a_plan_does_not_let_a_wrong_argument_through(launched, wrong, message):
    x, g = np.zeros(4, np.float32), np.ones(4, np.float32)
    step(x, g)
    with pytest.raises((TypeError, ValueError), match=message):
        wrong(x, g)
    assert len(launched) == 1


def test_a_plan_does_not_let_arrays_of_two_devices_through(launched):
    class Elsewhere(np.ndarray):
        device = "elsewhere"

    x, g = np.zeros(4, np.float32), np.ones(4, np.float32)
    for _ in range(2):
        with pytest.raises(ValueError, match="g must be on the device of the first array, cpu, got elsewhere"):
            step(x, g.view(Elsewhere))


def test_plans_are_forgotten_when_there_are_many(launched, monkeypatch):
    monkeypatch.setattr(launch, "_MAX_PLANS", 3)
    x, g = np.zeros(4, np.float32), np.ones(4, np.float32)
    for n in range(4):
        step(x, g, n=n)
        assert 1 <= len(launch._plans) <= 3
