"""One small call of every kernel, and the same result by NumPy: for the parts that compile, check or watch all kernels.

    python -m benchmarks.gpu.cases      # call them all, and wait for the GPU; compute-sanitizer runs this

A case's function takes the module of the arrays (CuPy) and a dtype. It returns pairs: the kernel's result, on the GPU, and
NumPy's, which is computed in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from npadv import Tensor, grad, kernels, norms, ops
from npadv.backend import require_cupy
from npadv.functional import cross_entropy, maxout
from npadv.shapes import pool_shapes

Pairs = list[tuple[Any, Any]]


class Case(NamedTuple):
    """A call: its name, the kernels' file, the function, and how far the results may be apart in units of rounding."""

    name: str
    file: str
    run: Callable[[Any, Any], Pairs]
    roundings: float = 100


CONV_FILES = {1: "conv2d_1_direct", 2: "conv2d_2_tiles", 3: "conv2d_3_registers", 4: "conv2d_4_split_k"}
MATMUL_FILES = {1: "matmul_1_naive", 2: "matmul_2_tiles", 3: "matmul_3_registers", 4: "matmul_4_prefetch"}


def cases() -> Iterator[Case]:
    """Yield all cases."""
    for version, file in CONV_FILES.items():
        yield Case(f"convolution {version}", file, functools.partial(convolution, version=version))
    for version, file in MATMUL_FILES.items():
        yield Case(f"product {version}", file, functools.partial(product, version=version))
    yield Case("step by sign", "sign_step", lambda xp, dtype: step(xp, dtype, "linf"), roundings=4)
    yield Case("step in l2", "steepest_step", lambda xp, dtype: step(xp, dtype, "l2"))
    yield Case("step in l1", "steepest_step", lambda xp, dtype: step(xp, dtype, "l1"), roundings=4)
    yield Case("maxout", "maxout", maxouts, roundings=4)
    yield Case("max pooling", "max_pool", pooling, roundings=4)
    yield Case("cross-entropy", "cross_entropy", classification)
    yield Case("dropout", "dropout", dropout, roundings=4)
    yield Case("SGD", "updates", sgd)
    yield Case("SGD with momentum", "updates", momentum)
    yield Case("Adam", "updates", adam)
    yield Case("max-norm of columns", "max_norm", lambda xp, dtype: max_norm(xp, dtype, (6, 5), (0,)))
    yield Case("max-norm of filters", "max_norm", lambda xp, dtype: max_norm(xp, dtype, (4, 3, 3, 3), (1, 2, 3)))


def draw(seed: int, *shape: int, dtype: Any) -> Any:
    """Return host numbers between -1 and 1, none of them nearly 0, which are the same in every precision."""
    numbers = np.random.default_rng(seed).integers(1, 64, (2, *shape))
    return (np.where(numbers[0] > 31, 1, -1) * numbers[1] / 64).astype(dtype)


def value_and_gradients(f: Callable[..., Any], *arrays: Any, g: Any) -> list[Any]:
    """Return ``f(*arrays)`` and its gradients for the cotangent ``g``, in float64 on the host."""
    leaves = [Tensor(a.astype(np.float64), requires_grad=True) for a in arrays]
    y = f(*leaves)
    return [y.data, *grad(y, leaves, cotangent=g.astype(np.float64))]


# ------------------------------------------------------------------------------------------------------- the calls


def convolution(xp: Any, dtype: Any, version: int) -> Pairs:
    """Return a convolution with bias and ReLU, and both gradients."""
    x, w = draw(0, 2, 3, 9, 8, dtype=dtype), draw(1, 5, 3, 3, 2, dtype=dtype)
    b, g = draw(2, 5, dtype=dtype), draw(3, 2, 5, 5, 5, dtype=dtype)
    where: dict[str, Any] = {"stride": (2, 2), "padding": (1, 1)}
    expected = value_and_gradients(lambda x, w: ops.conv2d(x, w, **where), x, w, g=g)
    expected[0] = np.maximum(expected[0] + b.astype(np.float64)[:, None, None], 0)
    dx, dw, db, dg = map(xp.asarray, (x, w, b, g))
    got = [
        kernels.conv2d(dx, dw, bias=db, relu=True, **where, version=version),
        kernels.conv2d_input_grad(dg, dw, x.shape, **where, version=version),
        kernels.conv2d_weight_grad(dx, dg, w.shape, **where, version=version),
    ]
    return list(zip(got, expected, strict=True))


def product(xp: Any, dtype: Any, version: int) -> Pairs:
    """Return a matrix product with a bias, for each way of storing the factors."""
    pairs = []
    a, b, bias = draw(0, 37, 29, dtype=dtype), draw(1, 29, 35, dtype=dtype), draw(2, 35, dtype=dtype)
    expected = a.astype(np.float64) @ b + bias
    for flip_a in (False, True):
        for flip_b in (False, True):
            stored = [np.ascontiguousarray(m.T if flip else m) for m, flip in ((a, flip_a), (b, flip_b))]
            da, db = map(xp.asarray, stored)
            flips = {"transpose_a": flip_a, "transpose_b": flip_b}
            pairs.append((kernels.matmul(da, db, **flips, bias=xp.asarray(bias), version=version), expected))
    return pairs


def step(xp: Any, dtype: Any, norm: str) -> Pairs:
    """Return a step of steepest ascent in a norm, clipped to a box."""
    x, g = draw(0, 3, 70, dtype=dtype), draw(1, 3, 70, dtype=dtype)
    kernel = {"linf": kernels.sign_step, "l2": kernels.l2_step, "l1": kernels.l1_step}[norm]
    direction = norms.steepest_ascent_direction(g.astype(np.float64), norm)
    expected = (x + 0.125 * direction).clip(-0.75, 0.75)
    if norm == "l1":
        expected[direction == 0] = x[direction == 0]  # only the element that moves is clipped
    return [(kernel(xp.asarray(x), xp.asarray(g), 0.125, bounds=(-0.75, 0.75)), expected)]


def maxouts(xp: Any, dtype: Any) -> Pairs:
    """Return maxout over five pieces, and its gradient."""
    x, g = draw(0, 3, 10, 4, dtype=dtype), draw(1, 3, 2, 4, dtype=dtype)
    expected = value_and_gradients(lambda x: maxout(x, 5, 1), x, g=g)
    y, winners = kernels.maxout(xp.asarray(x), 5, axis=1)
    return list(zip([y, kernels.maxout_grad(xp.asarray(g), winners, 5, axis=1)], expected, strict=True))


def pooling(xp: Any, dtype: Any) -> Pairs:
    """Return max pooling with overlapping windows and padding, and its gradient."""
    x, g = draw(0, 2, 3, 7, 8, dtype=dtype), draw(1, 2, 3, 3, 4, dtype=dtype)
    expected = value_and_gradients(lambda x: ops.max_pool2d(x, 3, stride=2, padding=(0, 1)), x, g=g)
    shapes = pool_shapes(x.shape, 3, stride=2, padding=(0, 1))
    y, winners = kernels.max_pool2d(xp.asarray(x), shapes)
    return list(zip([y, kernels.max_pool2d_grad(xp.asarray(g), winners, shapes)], expected, strict=True))


def classification(xp: Any, dtype: Any) -> Pairs:
    """Return the softmax cross-entropy of each row, and its gradient."""
    z, g, labels = draw(0, 9, 7, dtype=dtype), draw(1, 9, dtype=dtype), np.arange(9) % 7
    expected = value_and_gradients(lambda z: cross_entropy(z, labels, reduction="none"), z, g=g)
    dz, dg, dl = map(xp.asarray, (z, g, labels))
    got = [kernels.cross_entropy(dz, dl), kernels.cross_entropy_grad(dz, dl, dg)]
    return list(zip(got, expected, strict=True))


def dropout(xp: Any, dtype: Any) -> Pairs:
    """Return dropout from a state on the GPU."""
    x, random = draw(0, 5, 13, dtype=dtype), ops.DeviceRandom(3, np.zeros(1))
    expected = ops.dropout(x.astype(np.float64), rate=0.25, draw=random.draw())
    state = xp.asarray(np.array([3, 0], np.uint64))
    return [(kernels.dropout(xp.asarray(x), 0.25, state), expected)]


def sgd(xp: Any, dtype: Any) -> Pairs:
    """Return parameters after a step with weight decay."""
    p, g = draw(0, 6, 5, dtype=dtype), draw(1, 6, 5, dtype=dtype)
    dp = xp.asarray(p)
    kernels.sgd(dp, xp.asarray(g), xp.asarray(np.array([0.1])), weight_decay=0.5)
    return [(dp, p - 0.1 * (g.astype(np.float64) + 0.5 * p))]


def momentum(xp: Any, dtype: Any) -> Pairs:
    """Return velocity and parameters after a step with momentum."""
    p, g, v = (draw(seed, 6, 5, dtype=dtype) for seed in range(3))
    dp, dv = xp.asarray(p), xp.asarray(v)
    kernels.sgd(dp, xp.asarray(g), xp.asarray(np.array([0.1, 0.9])), velocity=dv)
    velocity = 0.9 * v.astype(np.float64) + g
    return [(dv, velocity), (dp, p - 0.1 * velocity)]


def adam(xp: Any, dtype: Any) -> Pairs:
    """Return both averages and the parameters after the second step."""
    p, g, m = (draw(seed, 6, 5, dtype=dtype) for seed in range(3))
    s = np.abs(draw(3, 6, 5, dtype=dtype))
    dp, dm, ds = map(xp.asarray, (p, m, s))
    b1, b2, t = 0.9, 0.999, 2
    settings = xp.asarray(np.array([0.01, t, 1 - b1**t, 1 - b2**t]))
    kernels.adam(dp, xp.asarray(g), dm, ds, settings)
    g64 = g.astype(np.float64)
    mean, square = b1 * m + (1 - b1) * g64, b2 * s + (1 - b2) * g64**2
    moved = p - 0.01 * (mean / (1 - b1**t)) / (np.sqrt(square / (1 - b2**t)) + 1e-8)
    return [(dm, mean), (ds, square), (dp, moved)]


def max_norm(xp: Any, dtype: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Pairs:
    """Return weights whose units' lengths are limited."""
    w = draw(0, *shape, dtype=dtype)
    dw = xp.asarray(w)
    kernels.max_norm(dw, 0.75, axes)
    lengths = np.sqrt((w.astype(np.float64) ** 2).sum(axis=axes, keepdims=True))
    return [(dw, w * np.minimum(1, 0.75 / lengths))]


def main() -> None:
    """Call every kernel on the GPU, and wait for it."""
    cupy = require_cupy()
    cupy.cuda.set_allocator(None)  # a pool would put arrays side by side, where an access outside of one hits another
    for case in cases():
        for dtype in (np.float32, np.float64):
            case.run(cupy, dtype)
    cupy.cuda.Device().synchronize()


if __name__ == "__main__":
    main()
