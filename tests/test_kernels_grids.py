"""How many blocks each kernel is given, that one block computes the same, and that no kernel is without a caller."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from kernel_cases import needs_compiler, same_bits
from kernel_mutations import few_blocks

import npadv
from npadv import kernels
from npadv.kernels import conv, launch, sources
from npadv.kernels.matmul import FILES as MATMUL_FILES
from npadv.shapes import pool_shapes


def launches():
    """For each kernel a call, which returns what the kernel wrote, and the blocks of 256 threads that its work is for."""
    rng = np.random.default_rng(0)

    def random(*shape):
        return rng.normal(size=shape).astype(np.float32)

    x, y, z, v, w = (random(70, 130) for _ in "xyzvw")
    images, g, labels = random(2, 3, 20, 20), random(2, 3, 10, 10), rng.integers(0, 130, 70)
    pooling = pool_shapes(images.shape, 2)
    corners = np.add.outer(np.arange(10) * 40, np.arange(10) * 2).astype(np.int32)  # of the windows, in their image
    winners = np.broadcast_to(corners, g.shape).copy()
    state, numbers = np.array([3, 4], np.uint64), np.array([0.1, 0.9, 0.5, 0.5])

    def changed(function, *arrays, **how):
        return lambda: [function(*arrays, **how), *arrays][1:]

    return {
        "sign_step": (changed(kernels.sign_step, x, y, 1), 36),  # 9100 elements
        "l2_step": (changed(kernels.l2_step, x, y, 1), 70),  # a block for a row
        "l1_step": (changed(kernels.l1_step, x, y, 1), 70),
        "matmul_nn": (lambda: [kernels.matmul(x, random(130, 200))], 8),
        "matmul_nt": (lambda: [kernels.matmul(x, y, transpose_b=True)], 4),
        "matmul_tn": (lambda: [kernels.matmul(x, y, transpose_a=True)], 9),
        "matmul_tt": (lambda: [kernels.matmul(x, random(200, 70), transpose_a=True, transpose_b=True)], 12),
        "maxout_forward": (lambda: kernels.maxout(x, 2), 18),  # 4550 results
        "maxout_backward": (lambda: [kernels.maxout_grad(x, rng.integers(0, 2, (70, 130), np.int32), 2)], 72),
        "max_pool_forward": (lambda: kernels.max_pool2d(images, pooling), 3),
        "max_pool_backward": (lambda: [kernels.max_pool2d_grad(g, winners, pooling)], 10),
        "cross_entropy_forward": (lambda: [kernels.cross_entropy(x, labels)], 9),  # a warp for a row
        "cross_entropy_backward": (lambda: [kernels.cross_entropy_grad(x, labels, y[:, 0])], 9),
        "dropout": (lambda: [kernels.dropout(x, 0.5, state)], 9),  # four elements a thread
        "sgd": (changed(kernels.sgd, x, y, numbers[:1]), 36),
        "sgd_momentum": (changed(kernels.sgd, x, y, numbers[:2], velocity=z), 36),
        "adam": (changed(kernels.adam, x, y, z, v * v, numbers), 36),
        "max_norm_rows": (changed(kernels.max_norm, w, 1, (1,)), 70),
        "max_norm_columns": (changed(kernels.max_norm, w, 1, (0,)), 5),  # a block for 32 columns
    }


@pytest.mark.parametrize("kernel", launches())
def test_the_work_is_given_to_as_many_blocks_as_it_takes(monkeypatch, kernel):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    launched = []
    monkeypatch.setattr(
        launch, "_function", lambda xp, file, name, real: lambda *how, **more: launched.append((name, how))
    )
    call, blocks = launches()[kernel]
    call()
    ((name, (grid, *_)),) = launched
    assert (name, grid) == (kernel, (blocks,))


@needs_compiler
@pytest.mark.parametrize("kernel", launches())
def test_one_block_does_the_work_of_many(monkeypatch, kernel):
    """The grid-stride loops: what was launched decides who does the work, not what comes of it."""
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    many = launches()[kernel][0]()
    with few_blocks():
        one = launches()[kernel][0]()
    arrays = [(a, b) for a, b in zip(many, one, strict=True) if isinstance(a, np.ndarray)]
    assert arrays
    for a, b in arrays:
        assert same_bits(a, b)
        assert a.dtype.kind != "f" or np.isfinite(a).all()  # no element was left as it was made


def test_every_kernel_is_launched_by_some_function(monkeypatch):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    launched = set()
    monkeypatch.setattr(
        launch, "_function", lambda xp, file, name, real: lambda *how, **more: launched.add(f"{file} {name}")
    )
    for call, _ in launches().values():
        call()
    x, w, a = np.ones((1, 65, 16, 16)), np.ones((65, 65, 3, 3)), np.ones((2, 2))
    for version, flips in itertools.product(MATMUL_FILES, itertools.product([False, True], repeat=2)):
        kernels.matmul(a, a, transpose_a=flips[0], transpose_b=flips[1], version=version)
    for version in conv.FILES:
        g = kernels.conv2d(x, w, relu=True, version=version)
        kernels.conv2d_input_grad(g, w, x.shape, version=version)
        kernels.conv2d_weight_grad(x, g, w.shape, version=version)
    all_kernels = {
        f"{file} {name}" for file in sources.names() for name in sources.kernels_in(sources.translation_unit(file))
    }
    assert launched == all_kernels


def test_every_function_that_launches_a_kernel_is_called_by_the_library():
    package = Path(npadv.__file__).parent
    texts = [path.read_text("utf-8") for path in package.rglob("*.py") if package / "kernels" not in path.parents]
    called = {name for text in texts for name in re.findall(r"\bkernels\.(\w+)\(", text)}
    assert set(kernels.__all__) - {"source"} <= called
