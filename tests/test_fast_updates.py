"""Fast versions of update rules, of attack steps and of dropout, against the plain ones, which the reader sees."""

import shutil

import fake_cupy
import numpy as np
import pytest

from npadv import norms, ops, optim
from npadv.backend import to_numpy
from npadv.fast import PAIRS

assert {norms.__name__ + ".l1_direction", optim.__name__ + ".adam_step"} <= PAIRS.keys()  # the imports made the pairs

LARGE = (600, 500)  # enough for two threads


@pytest.fixture
def cupy():
    if shutil.which("g++") is None:
        pytest.skip("g++, which runs kernels, is not installed")
    with fake_cupy.installed():
        yield __import__("cupy")


def both(name, *arrays, **settings):
    """Return copies of the arrays, changed in place by the plain version, and by the fast one."""
    results = []
    for version in PAIRS[name]:
        copies = [a.copy() for a in arrays]
        version(*copies, **settings)
        results.append(copies)
    return results


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", [(3, 2), LARGE, (1, 300_000)])
def test_momentum_in_halves_is_the_same_to_the_bit(shape, nesterov):
    p, v, g = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    settings = {"step_size": 0.1, "momentum": 0.9, "dampening": 0.0 if nesterov else 0.3, "nesterov": nesterov}
    plain, fast = both("npadv.optim.momentum_step", p, v, g, **settings)
    np.testing.assert_equal(fast, plain)
    assert (plain[0] != p).any()


def test_adam_in_halves_is_the_same_to_the_bit():
    p, m, v, g = np.random.default_rng(0).standard_normal((4, *LARGE)).astype(np.float32)
    plain, fast = both("npadv.optim.adam_step", p, m, v**2, g, step_size=0.1, betas=(0.9, 0.99), t=3, epsilon=1e-8)
    np.testing.assert_equal(fast, plain)


@pytest.mark.parametrize("kind", ["l1", "l2"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_directions_by_kernels_are_the_plain_ones(cupy, kind, dtype):
    g = np.random.default_rng(0).standard_normal((5, 3, 7)).astype(dtype)
    g[2] = 0
    plain, fast = PAIRS[f"npadv.norms.{kind}_direction"]
    np.testing.assert_allclose(to_numpy(fast(cupy.asarray(g))), plain(g), rtol=1e-6)


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_sign_steps_by_a_kernel_are_the_plain_ones(cupy, bounds):
    x, g = np.random.default_rng(0).random((2, 4, 9)).astype(np.float32)
    g -= 0.5
    plain, fast = PAIRS["npadv.norms.linf_step"]
    moved = fast(cupy.asarray(x), cupy.asarray(g), 0.3, bounds)
    np.testing.assert_array_equal(to_numpy(moved), plain(x, g, 0.3, bounds))


@pytest.mark.parametrize("rescale", [True, False])
def test_dropout_by_a_kernel_is_the_plain_one(cupy, rescale):
    x = np.random.default_rng(0).random((6, 7))
    plain, fast = PAIRS["npadv.ops.dropout.dropout"]
    here, there = ops.DeviceRandom(5, x), ops.DeviceRandom(5, cupy.asarray(x))
    for _ in range(2):
        expected = plain(x, rate=0.3, draw=here.draw(), rescale=rescale)
        got = fast(cupy.asarray(x), rate=0.3, draw=there.draw(), rescale=rescale)
        np.testing.assert_array_equal(to_numpy(got), expected)
        assert 0 < (expected == 0).sum() < x.size
