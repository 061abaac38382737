"""Where the kernels' tests run: on the CPU in every build and order, or with ``-m gpu`` on a GPU."""

import shutil
import warnings

import numpy as np
import pytest

from npadv.backend import to_numpy
from npadv.kernels import cpu

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="g++, which runs the kernels here, is not installed"
)


@pytest.fixture(
    scope="module", params=[pytest.param("cpu", marks=needs_compiler), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def xp(request):
    """The module whose arrays the kernels get: NumPy, where they run as fibers, or CuPy."""
    if request.param == "cpu":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NPADV_KERNELS", "cpu")
            yield np
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("cupy", reason="CuPy is not installed")
        if not module.is_available():
            pytest.skip("no CUDA device")
    yield module


def same_bits(a, b):
    """Tell whether two arrays are of one shape and dtype and the same to the bit; any NaN is as good as another."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a[a == 0]), np.signbit(b[b == 0]))


def every_way(run, xp, *, deterministic=True, checked=True):
    """Return what ``run()`` gives, as a list of NumPy arrays, after running it in every order of threads and every build.

    ``run`` makes its own inputs, launches kernels and returns an array or several. On the CPU it runs in three orders of
    threads, which must agree to the bit if ``deterministic``, and, if ``checked``, watched for races and in the sanitizers'
    build, which must agree too. On a GPU it runs twice.
    """

    def once(**how):
        with cpu.running(**how):
            out = run()
        return [to_numpy(a) for a in (out if isinstance(out, (tuple, list)) else (out,))]

    if xp is not np:
        ways = [{}, {}]
    else:
        ways = [{"order": "forward"}, {"order": "reverse"}, {"order": "random", "seed": 1}]
        ways += [{"build": "races", "order": "random", "seed": 2}, {"build": "memory"}] * checked
    results = [once(**how) for how in ways]
    for how, result in zip(ways, results, strict=True):
        assert len(result) == len(results[0])
        for got, expected in zip(result, results[0], strict=True):
            same = same_bits(got, expected) if deterministic else np.allclose(got, expected, rtol=1e-5, atol=1e-6)
            assert same, f"{how} gave {got}, {ways[0]} gave {expected}"
    return results[0]
