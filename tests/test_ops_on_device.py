"""The operations that a NumPy user reaches for, on device arrays: values and gradients are those on the host."""

import shutil
import sys

import fake_cupy
import numpy as np
import pytest
from scipy.special import erf

from npadv import Tensor, grad, ops
from npadv.backend import to_numpy

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="g++, which the stand-in for CuPy needs, is not installed"
)

X = np.random.default_rng(0).uniform(0.3, 2, (3, 4))
CALLS = {
    "argmax": lambda x: x * 0 + ops.argmax(x, axis=1, keepdims=True),
    "argmin": lambda x: x * 0 + x.argmin(axis=1, keepdims=True),
    "cos": ops.cos,
    "cumsum": lambda x: ops.cumsum(x, 1),
    "dot": lambda x: x.dot(x.T),
    "einsum": lambda x: ops.einsum("ij,kj->ik", x, x),
    "einsum, a diagonal": lambda x: ops.einsum("ii->i", x[:, :3]),
    "erf": ops.erf,
    "expm1": ops.expm1,
    "flip": ops.flip,
    "log1p": ops.log1p,
    "outer": lambda x: ops.outer(x, x),
    "prod": lambda x: ops.prod(x, axis=1),
    "prod of none": lambda x: ops.prod(x[:0], axis=0) * x[0],
    "repeat": lambda x: ops.repeat(x, 2, axis=0),
    "repeat, each its own number of times": lambda x: ops.repeat(x, [2, 0, 1], axis=0),
    "roll": lambda x: ops.roll(x, (1, 2), (0, 1)),
    "sin": ops.sin,
    "sort": lambda x: ops.sort(x, 1),
    "split": lambda x: ops.split(x, 2, axis=1)[1],
    "std": lambda x: x.std(axis=0),
    "tensordot": lambda x: ops.tensordot(x, x, ([1], [1])),
    "tile": lambda x: ops.tile(x, (2, 1)),
    "topk": lambda x: ops.topk(x, 2, axis=1)[0],
    "var": lambda x: x.var(axis=0, ddof=1),
    "a list": lambda x: x * [1.0, 2.0, 3.0, 4.0],
    "numpy.tanh": np.tanh,
    "numpy.sum": lambda x: np.sum(x, axis=1),
    "numpy.where": lambda x: np.where(x > 1, x, 0.0),
    "numpy.concatenate": lambda x: np.concatenate([x, x * x]),
    "numpy.take": lambda x: np.take(x, [1, 0], axis=1),
    "scipy's erf": erf,
}


@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_on_the_device_are_those_of_the_host(name):
    def run(x):
        x = Tensor(x, requires_grad=True)
        y = CALLS[name](x)
        return y.data, grad((y * y).sum(), x)

    expected = run(X)
    with fake_cupy.installed():
        got = run(sys.modules["cupy"].asarray(X))
        assert all(isinstance(a, fake_cupy.ndarray) for a in got)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(to_numpy(a), b, rtol=1e-14)
