"""The runner without a GPU: what CUDA's words mean in it, and that every fault it is there to find is found."""

import doctest
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from kernel_cases import needs_compiler

from npadv.kernels import cpu, sources

pytestmark = needs_compiler
every_build = pytest.mark.parametrize("build", cpu.BUILDS)


def kernel(body, parameters="real* y"):
    """A source with one kernel, `k`, whose body begins in line 2."""
    return f'#line 1 "k.cu"\nextern "C" __global__ void k({parameters}) {{\n{body}\n}}\n'


def run(body, *args, parameters="real* y", grid=(1,), block=(64,), shared_mem=0, options=(), alone=None, **how):
    module = cpu.Module(code=kernel(body, parameters), options=options)
    with cpu.running(block=alone, **how):
        module.get_function("k")(grid, block, args, shared_mem=shared_mem)


def zeros(n, dtype=np.float32):
    return np.zeros(n, dtype)


# ------------------------------------------------------------------------------------------ the words of the language

LANES = np.arange(64)

# What each thread of 64 writes to y[threadIdx.x], and what that should be.
WORDS = {
    "threadIdx.x + 1000 * blockDim.x": LANES + 64_000,
    "warpSize": np.full(64, 32),
    "__shfl_sync(~0u, threadIdx.x, 5)": LANES // 32 * 32 + 5,
    "__shfl_sync(~0u, threadIdx.x, 11, 8)": LANES // 8 * 8 + 3,
    "__shfl_down_sync(~0u, float(threadIdx.x), 3)": np.where(LANES % 32 < 29, LANES + 3, LANES),
    "__shfl_down_sync(~0u, threadIdx.x, 1, 4)": np.where(LANES % 4 < 3, LANES + 1, LANES),
    "__shfl_up_sync(~0u, double(threadIdx.x), 2)": np.where(LANES % 32 > 1, LANES - 2, LANES),
    "__shfl_xor_sync(~0u, (long long)threadIdx.x, 16)": LANES ^ 16,
    "__ballot_sync(~0u, threadIdx.x % 32 < 3)": np.full(64, 7),
    "__any_sync(~0u, threadIdx.x == 40)": LANES >= 32,
    "__all_sync(~0u, threadIdx.x < 40)": LANES < 32,
    "__popc(255) + __clz(1) + __ffs(8)": np.full(64, 8 + 31 + 4),
    "__umulhi(1u << 31, 4)": np.full(64, 2),
    "min(3, 4) + max(3.0f, 4.0f) + min(1.0, 2.0)": np.full(64, 8),
    'max(nanf(""), 1.0f) + fminf(nanf(""), 1.0f)': np.full(64, 2),
    "__int_as_float(__float_as_int(1.5f)) + __uint_as_float(__float_as_uint(0.5f))": np.full(64, 2),
    "__saturatef(-1.0f) + __saturatef(2.0f) + __fdividef(1.0f, 2.0f) + rsqrtf(4.0f)": np.full(64, 2),
    "exp(real(0)) + __expf(0.0f) + __logf(1.0f) + rsqrt(4.0)": np.full(64, 2.5),
    "make_float4(1, 2, 3, 4).w + make_double2(1, 2).y + make_int3(1, 2, 3).z": np.full(64, 9),
    "sizeof(float4) + alignof(float4) + alignof(float2)": np.full(64, 40),
    "__ldg(y + threadIdx.x)": LANES + 64_000,  # what the first of these words wrote
}


@every_build
def test_the_words_of_the_language(build):
    body = "\n".join(f"y[{i} * 64 + threadIdx.x] = {word};" for i, word in enumerate(WORDS))
    y = zeros(64 * len(WORDS), np.float64)
    run(body, y, options=["-Dreal=double"], build=build)
    for word, got, expected in zip(WORDS, y.reshape(-1, 64), WORDS.values(), strict=True):
        np.testing.assert_array_equal(got, expected, err_msg=word)


@every_build
def test_a_sum_by_shuffles_shared_memory_and_atomics(build):
    body = """
      __shared__ real part[32];
      extern __shared__ real all[];
      real s = 0;
      for (int i = threadIdx.x; i < n; i += blockDim.x) all[i] = x[blockIdx.x * n + i];
      __syncthreads();
      for (int i = threadIdx.x; i < n; i += blockDim.x) s += all[n - 1 - i];
      for (int o = 16; o; o /= 2) s += __shfl_down_sync(0xffffffffu, s, o);
      if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
      __syncthreads();
      if (threadIdx.x < 32) {
        s = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
        for (int o = 16; o; o /= 2) s += __shfl_xor_sync(0xffffffffu, s, o);
        if (threadIdx.x == 0) { y[blockIdx.x] = s; atomicAdd(total, s); }
      }"""
    x = np.random.default_rng(0).integers(-9, 9, (7, 300)).astype(np.float32)
    for order in cpu.ORDERS:
        y, total = zeros(7), zeros(1)
        parameters = "const real* __restrict__ x, real* y, real* total, int n"
        args = (x, y, total, np.int32(300))
        run(body, *args, parameters=parameters, grid=(7,), block=(128,), shared_mem=1200, build=build, order=order)
        np.testing.assert_array_equal(y, x.sum(1))
        assert total == x.sum()


@every_build
def test_atomics(build):
    body = """
      atomicAdd(y, 2); atomicSub(y + 1, 1); atomicMax(y + 2, int(threadIdx.x)); atomicMin(y + 3, -int(threadIdx.x));
      atomicOr(y + 4, 1 << threadIdx.x % 8); atomicAnd(y + 5, ~(1 << threadIdx.x % 8)); atomicXor(y + 6, 3);
      if (threadIdx.x == 0) y[7] = atomicExch(y + 8, 5) + 10 * atomicCAS(y + 8, 5, 6);
      int old; do old = y[9]; while (atomicCAS(y + 9, old, old + threadIdx.x) != old);"""
    y = np.array([0, 0, 0, 0, 0, 255, 0, 0, 1, 0], np.int32)
    if build == "races":  # the last line reads what others update; that it does so atomically is not to be seen
        body = body.rpartition("int old")[0] + "atomicAdd(y + 9, threadIdx.x);"
    run(body, y, parameters="int* y", build=build)
    assert y.tolist() == [128, -64, 63, -63, 255, 0, 0, 51, 6, 2016]


def test_grids_and_blocks_have_three_dimensions():
    body = """
      const int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
      const int b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
      y[b * blockDim.x * blockDim.y * blockDim.z + t] += b * 1000 + t;"""
    for order in cpu.ORDERS:
        y = zeros(24 * 30)
        run(body, y, grid=(2, 3, 4), block=(5, 2, 3), order=order)
        np.testing.assert_array_equal(y, [b * 1000 + t for b in range(24) for t in range(30)])


def test_lanes_that_have_left_are_not_waited_for_and_give_nothing():
    y = zeros(40)
    run("if (threadIdx.x > 35) return;\ny[threadIdx.x] = __shfl_down_sync(~0u, real(threadIdx.x), 4);", y, block=(40,))
    np.testing.assert_array_equal(y[:28], np.arange(4, 32))
    np.testing.assert_array_equal(y[32:36], [np.nan] * 4)  # from 36 .. 39, who have returned


def test_shared_memory_is_new_in_each_block_and_starts_as_nan():
    body = (
        "__shared__ real s[4];\n"
        + "extern __shared__ real d[];\n"
        + (
            "if (threadIdx.x == 0) y[blockIdx.x] = s[3] + 1;\nif (threadIdx.x == 1) y[2 + blockIdx.x] = d[0] + 1;"
            "\n__syncthreads(); s[3] = d[0] = 1;"
        )
    )
    y = zeros(4)
    run(body, y, grid=(2,), shared_mem=4)
    assert np.isnan(y).all()


def test_printf_shows(capfd):
    for build in ("fast", "memory"):
        run(
            'if (threadIdx.x == 3) printf("x is %g\\n", y[3]);\nif (threadIdx.x == 63) fflush(stdout);',
            zeros(64),
            build=build,
        )
    assert capfd.readouterr().out == "x is 0\nx is 0\n"


@pytest.mark.parametrize("build", ["fast", "races"])
def test_fibers_without_assembly_are_the_same(build):
    body = (
        "__shared__ real s[64];\ns[threadIdx.x] = threadIdx.x;\n__syncthreads();\ny[threadIdx.x] = s[63 - threadIdx.x];"
    )
    y = zeros(64)
    run(body, y, options=["-DPORTABLE_FIBERS"], build=build)
    np.testing.assert_array_equal(y, np.arange(64)[::-1])


# --------------------------------------------------------------------------------------------------------- order

WHO_WHEN = "y[int(atomicAdd(y, 1)) + 1] = threadIdx.x + blockDim.x * blockIdx.x;"


@every_build
def test_threads_and_blocks_take_turns_in_the_order_asked_for(build):
    if build == "races":  # threads read what others wrote, which is the point here
        return
    turns = {}
    for order, seed in [("forward", 0), ("reverse", 0), ("random", 1), ("random", 2)]:
        y, again = zeros(129), zeros(129)
        for out in (y, again):
            run(WHO_WHEN, out, grid=(2,), order=order, seed=seed, build=build)
        np.testing.assert_array_equal(y, again)
        turns[order, seed] = y[1:].astype(int).tolist()
    forward = list(range(128))
    assert turns["forward", 0] == forward
    assert turns["reverse", 0] == forward[::-1]
    assert turns["random", 1] != turns["random", 2] != forward
    assert sorted(turns["random", 1]) == sorted(turns["random", 2]) == forward


def test_a_result_that_depends_on_the_order_differs():
    body = "__shared__ real last;\nlast = threadIdx.x;\n__syncthreads();\ny[threadIdx.x] = last;"
    results = []
    for order in ("forward", "reverse"):
        results.append(zeros(64))
        run(body, results[-1], order=order)
    assert results[0][0] == 63
    assert results[1][0] == 0


def test_a_launch_beyond_the_limits_is_an_error():
    with pytest.raises(cpu.KernelFault, match=r"k: .* 1025 threads a block, at most 1024$"):
        run("y[0] = 1;", zeros(1), block=(41, 25))
    with pytest.raises(cpu.KernelFault, match=r"k: .* 300000 bytes of shared memory a block, at most 232448$"):
        run("y[0] = 1;", zeros(1), shared_mem=300_000)


def test_one_block_alone():
    y = zeros(64 * 6)
    run("y[(blockIdx.y * gridDim.x + blockIdx.x) * 64 + threadIdx.x] = 1;", y, grid=(2, 3), alone=(1, 2, 0))
    assert y.reshape(6, 64).sum(1).tolist() == [0, 0, 0, 0, 0, 64]
    with pytest.raises(ValueError, match=r"block: expected one of k's grid \(2, 3, 1\), got \(2, 0, 0\)"):
        run("y[0] = 1;", y, grid=(2, 3), alone=(2, 0, 0))


# ------------------------------------------------------------------------------------------- arguments, settings

X = zeros(64)
WRONG = {
    "expected 3 arguments, got 2": ((X, np.float32(1)), TypeError),
    "x: expected a float32 array, got float64 array": ((zeros(64, np.float64), np.float32(1), np.int64(1)), TypeError),
    "x: expected a float32 array, got list": (([0.0], np.float32(1), np.int64(1)), TypeError),
    "x: expected a C-contiguous array, got a strided one": (
        (zeros((8, 8))[:, ::2], np.float32(1), np.int64(1)),
        ValueError,
    ),
    "a: expected numpy.float32, got float": ((X, 1.0, np.int64(1)), TypeError),
    "a: expected numpy.float32, got float64": ((X, np.float64(1), np.int64(1)), TypeError),
    "n: expected numpy.int64, got int32": ((X, np.float32(1), np.int32(1)), TypeError),
    "n: expected numpy.int64, got int": ((X, np.float32(1), 1), TypeError),
}


@pytest.mark.parametrize("message", WRONG)
def test_an_argument_of_the_wrong_width_is_named(message):
    args, error = WRONG[message]
    with pytest.raises(error, match=f"^k: {re.escape(message)}$"):
        run("x[0] = a + n;", *args, parameters="real* x, float a, long long n")


def test_every_type_of_parameter_arrives():
    numbers = {"float": 1.5, "double": 2.5, "int": -3, "unsigned": 2**32 - 1, "long long": -(2**40)}
    numbers |= {"unsigned long long": 2**63, "unsigned char": 255, "signed char": -5, "bool": True}
    parameters = ", ".join(f"const {t}* p{i}, {t} v{i}" for i, t in enumerate(numbers))
    body = "".join(f"y[{i}] = *p{i} == v{i};" for i in range(len(numbers)))
    args = []
    for c_type, value in numbers.items():
        dtype = sources.DTYPES[c_type]
        args += [np.array([value], dtype), dtype.type(value)]
    for build in ("fast", "memory"):
        y = zeros(len(numbers))
        run(body, y, *args, parameters=f"real* y, {parameters}", block=(1,), build=build)
        assert y.all()


def test_an_array_given_twice_is_one_array():
    for build in cpu.BUILDS:
        x = np.arange(64, dtype=np.float32)
        run("y[threadIdx.x] = 2 * x[threadIdx.x];", x, x, parameters="real* y, const real* x", build=build)
        np.testing.assert_array_equal(x, 2 * np.arange(64))


def test_settings_come_from_the_environment_and_are_checked(monkeypatch):
    monkeypatch.setenv("NPADV_KERNELS_BUILD", "races")
    monkeypatch.setenv("NPADV_KERNELS_ORDER", "reverse")
    assert cpu.settings() == cpu.Settings("races", "reverse")
    with cpu.running(build="memory") as how:
        assert how == cpu.settings() == cpu.Settings("memory", "reverse")
    monkeypatch.setenv("NPADV_KERNELS_ORDER", "backwards")
    with pytest.raises(ValueError, match="order: expected one of forward, reverse, random, got 'backwards'"):
        cpu.settings()
    monkeypatch.delenv("NPADV_KERNELS_ORDER")
    with (
        pytest.raises(ValueError, match="build: expected one of fast, debug, races, memory, got 'slow'"),
        cpu.running(build="slow"),
    ):
        pass


# --------------------------------------------------------------------------------------------- compiling, the cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of compiled kernels."""
    monkeypatch.setattr(cpu, "user_cache", lambda: tmp_path)
    cpu._compiled.cache_clear()
    yield tmp_path / "kernels"
    cpu._compiled.cache_clear()
    cpu._compiler.cache_clear()


def test_a_kernel_is_compiled_once_and_kept(cache, monkeypatch):
    run("y[threadIdx.x] = 1;", zeros(64))
    (kept,) = cache.iterdir()
    cpu._compiled.cache_clear()
    monkeypatch.setattr(cpu.subprocess, "run", None)  # a second process finds it
    run("y[threadIdx.x] = 1;", zeros(64))
    assert list(cache.iterdir()) == [kept]


def test_another_source_build_precision_or_header_is_another_library(cache, monkeypatch):
    made = set()
    for body, build, options in [
        ("1", "fast", ()),
        ("2", "fast", ()),
        ("1", "debug", ()),
        ("1", "fast", ["-Dreal=double"]),
    ]:
        run(f"y[threadIdx.x] = {body};", zeros(64, np.float64 if options else np.float32), build=build, options=options)
        made |= set(cache.iterdir())
    assert len(made) == 4
    monkeypatch.setattr(cpu, "_headers", lambda: (sources.folder() / "cpu", "changed"))
    cpu._compiled.cache_clear()
    run("y[threadIdx.x] = 1;", zeros(64))
    assert len(set(cache.iterdir())) == 5


def test_threads_may_compile_and_launch_at_once(cache):
    results = [zeros(64) for _ in range(6)]
    threads = [threading.Thread(target=run, args=("y[threadIdx.x] = 1;", y)) for y in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((y == 1).all() for y in results)
    assert len(list(cache.iterdir())) == 1


def test_what_does_not_compile_is_shown_and_leaves_nothing(cache):
    with pytest.raises(RuntimeError, match=r"(?s)could not compile the kernels k:\n.*k\.cu:2.*'undeclared'"):
        run("y[0] = undeclared;", zeros(64))
    assert list(cache.iterdir()) == []


def test_a_compilers_warning_is_a_warning_each_time(cache):
    for _ in range(2):
        with pytest.raises(UserWarning, match=r"(?s)k\.cu:2.*unused variable"):
            run("int unused; y[0] = 1;", zeros(64))
    assert list(cache.iterdir()) == []


def test_without_a_compiler_one_sentence_says_so(cache, monkeypatch):
    monkeypatch.setenv("PATH", str(cache))
    cpu._compiler.cache_clear()
    message = "^running kernels on the CPU needs a compiler: expected g\\+\\+ on the PATH, found none$"
    with pytest.raises(RuntimeError, match=message):
        run("y[threadIdx.x] = 1;", zeros(64))


def test_a_signature_misread_is_noticed(monkeypatch):
    module = cpu.Module(code=kernel("y[0] = 1;") + "// the text says real*")
    misread = module.kernels["k"]._replace(parameters=(sources.Parameter("y", "int", True),))
    monkeypatch.setitem(module.kernels, "k", misread)
    with pytest.raises(RuntimeError, match=r"k: read as \(int\*\), but compiled as \(float\*\)"):
        module.get_function("k")((1,), (1,), (zeros(1, np.int32),))


def test_an_unknown_kernel_is_named():
    with pytest.raises(ValueError, match="kernel: expected one of k, got 'l'"):
        cpu.Module(code=kernel("y[0] = 1;")).get_function("l")


def test_the_readers_guide_is_right(monkeypatch):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    guide = sources.folder() / "cpu" / "README.md"
    failed, tried = doctest.testfile(str(guide), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert failed == 0
    assert tried == 9


def test_a_debugger_stops_in_a_kernel_and_knows_its_variables(tmp_path):
    gdb = shutil.which("gdb")
    if gdb is None:
        pytest.skip("gdb is not installed")
    (tmp_path / "k.cu").write_text(kernel("const real doubled = 2 * y[threadIdx.x];\ny[threadIdx.x] = doubled;"))
    (tmp_path / "step.py").write_text(
        "import numpy as np; from npadv.kernels import cpu\n"
        "m = cpu.Module(code=open('k.cu').read()); y = np.full(4, 21, np.float32)\n"
        "with cpu.running(build='debug', order='reverse'): m.get_function('k')((1,), (4,), (y,))\n"
    )
    commands = [
        "handle SIGCONT nostop noprint",
        "set breakpoint pending on",
        "break k.cu:3",
        "run step.py",
        "print threadIdx.x",
        "print doubled",
    ]
    flags = [flag for command in commands for flag in ("-ex", command)]
    done = subprocess.run(
        [gdb, "-batch", "-nx", *flags, sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "$1 = 3\n$2 = 42\n" in done.stdout, done.stdout + done.stderr
