"""Kernels on arrays of more than 2^31 elements, whose indices need 64 bits.

The arrays are zero but for a few elements at the end, in memory that is not backed until it is touched; and of the grid only
the block that computes the last element is run. So each test takes little time and memory.
"""

import mmap
import subprocess
import sys

import numpy as np
import pytest
from kernel_cases import needs_compiler
from kernel_mutations import OVERFLOWS, changed

from npadv.kernels import conv, cpu
from npadv.kernels.launch import THREADS, covering, launch
from npadv.kernels.matmul import FILES as MATMUL_FILES
from npadv.kernels.matmul import TILES as MATMUL_TILES
from npadv.shapes import conv_shapes

pytestmark = needs_compiler


def zeros(*shape):
    """An array of float32 that takes no memory where it is not touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, 4 * int(np.prod(shape, dtype=np.int64)), flags=flags)
    memory.madvise(getattr(mmap, "MADV_NOHUGEPAGE", 15))
    return np.frombuffer(memory, np.float32).reshape(shape)


def run_last_block(file, kernel, args, *, blocks, threads=THREADS):
    """Run the block of the last tile; of a grid-stride loop (``blocks`` is None) that of the last element of the output."""
    if blocks is None:
        output = args[next(name for name in ("y", "gx", "gw") if name in args)]
        blocks = (covering(output.size),)
        block = ((output.size - 1) // THREADS % blocks[0], 0, 0)
    else:
        block = tuple(n - 1 for n in (*blocks, 1, 1)[:3])
    with cpu.running(block=block):
        launch(file, kernel, args, blocks=blocks, threads=threads)


def convolve(version, which, arrays, x_shape, w_shape, groups=1):
    """Run the last block of a version of a convolution or of one of its gradients, with stride 1 and no padding."""
    shapes = conv_shapes(x_shape, w_shape, groups=groups)
    (N, C, H, W), (K, _, KH, KW), (_, _, OH, OW) = shapes.x, shapes.w, shapes.y
    sizes = {"N": N, "C": C, "H": H, "W": W, "K": K, "KH": KH, "KW": KW, "OH": OH, "OW": OW, "groups": groups}
    args = {**arrays, **sizes, "sh": 1, "sw": 1, "ph": 0, "pw": 0, "dh": 1, "dw": 1}
    rows, columns = {
        "forward": (K // groups, N * OH * OW),
        "input_grad": (C // groups, N * H * W),
        "weight_grad": (K // groups, C // groups * KH * KW),
    }[which]
    kernel = f"conv2d_{which}"
    blocks, threads = None, THREADS
    if version > 1:
        high, wide = conv.TILES[version]
        blocks = (-(-columns // wide), -(-rows // high), groups)
    if version == 4:
        output = args.pop({"forward": "y", "input_grad": "gx", "weight_grad": "gw"}[which])
        args.update(parts=output, results=output.size, terms=1 << 20)
        kernel, threads = f"{kernel}_parts", 128
    elif which == "forward":
        args.update(bias=None, relu=0)
    run_last_block(conv.FILES[version], kernel, args, blocks=blocks, threads=threads)


IMAGES, FILTERS, GROUPS = (2, 2200, 1000, 1000), (2200, 10, 3, 3), 220


def of_images(version):
    """Forward: x and y have more than 2^31 elements in an image."""
    rng = np.random.default_rng(0)
    x, w, y = zeros(*IMAGES), rng.integers(1, 9, FILTERS).astype(np.float32), zeros(2, 2200, 998, 998)
    x[-1, -10:, -3:, -3:] = rng.integers(1, 9, (10, 3, 3))
    convolve(version, "forward", {"x": x, "w": w, "y": y}, IMAGES, FILTERS, GROUPS)
    assert y[-1, -1, -1, -1] == (x[-1, -10:, -3:, -3:] * w[-1]).sum()


def of_cotangents(version):
    """The input gradient of the same."""
    rng = np.random.default_rng(0)
    g, w, gx = zeros(2, 2200, 998, 998), rng.integers(1, 9, FILTERS).astype(np.float32), zeros(*IMAGES)
    g[-1, -10:, -1, -1] = rng.integers(1, 9, 10)
    convolve(version, "input_grad", {"g": g, "w": w, "gx": gx}, IMAGES, FILTERS, GROUPS)
    assert gx[-1, -1, -1, -1] == (g[-1, -10:, -1, -1] * w[-10:, -1, -1, -1]).sum()


PIXELS, WEIGHTS = (1, 47_000, 1, 1), (47_000, 47_000, 1, 1)


def of_weights(version):
    """Forward: w has more than 2^31 elements."""
    x, w, y = zeros(*PIXELS), zeros(*WEIGHTS), zeros(*PIXELS)
    x[0, -2:, 0, 0], w[-1, -2:, 0, 0] = [2, 3], [5, 7]
    convolve(version, "forward", {"x": x, "w": w, "y": y}, PIXELS, WEIGHTS)
    assert y[0, -1, 0, 0] == 2 * 5 + 3 * 7


def of_weights_gradient(version):
    """The weight gradient of the same."""
    x, g, gw = zeros(*PIXELS), zeros(*PIXELS), zeros(*WEIGHTS)
    x[0, -1], g[0, -1] = 2, 3
    convolve(version, "weight_grad", {"x": x, "g": g, "gw": gw}, PIXELS, WEIGHTS)
    assert gw[-1, -1, 0, 0] == 6


def of_a_product(version):
    """A matrix product of more than 2^31 elements."""
    side = 47_000
    a, b, c = zeros(side, 2), zeros(2, side), zeros(side, side)
    a[-1], b[:, -1] = [2, 3], [5, 7]
    if version == 1:
        blocks = covering(c.size)
        block = (c.size - 1) // THREADS % blocks
    else:
        blocks = (-(-side // MATMUL_TILES[version])) ** 2
        block = blocks - 1
    with cpu.running(block=(block, 0, 0)):
        args = {"a": a, "b": b, "bias": None, "c": c, "M": side, "N": side, "K": 2}
        launch(MATMUL_FILES[version], "matmul_nn", args, blocks=blocks)
    assert c[-1, -1] == 2 * 5 + 3 * 7


def of_pooled_images(version):
    """Max pooling of more than 2^31 pixels, and its gradient."""
    planes, side, out = 2200, 1000, 500
    x, y, gx = zeros(planes, side, side), zeros(planes, out, out), zeros(planes, side, side)
    winner = zeros(planes, out, out).view(np.int32)
    sizes = {"planes": planes, "H": side, "W": side, "KH": 2, "KW": 2, "OH": out, "OW": out}
    sizes |= {"sh": 2, "sw": 2, "ph": 0, "pw": 0}
    x[-1, -1, -1] = 5
    run_last_block("max_pool", "max_pool_forward", {"x": x, "y": y, "winner": winner, **sizes}, blocks=None)
    assert (y[-1, -1, -1], winner[-1, -1, -1]) == (5, side * side - 1)
    run_last_block("max_pool", "max_pool_backward", {"g": y, "winner": winner, "gx": gx, **sizes}, blocks=None)
    assert gx[-1, -1, -1] == 5


CASES = {
    **{
        f"{case.__name__} {version}": (case, version) for case in (of_images, of_cotangents) for version in (1, 2, 3, 4)
    },
    **{
        f"{case.__name__} {version}": (case, version)
        for case in (of_weights, of_weights_gradient)
        for version in (1, 2)
    },
    **{f"of_a_product {version}": (of_a_product, version) for version in MATMUL_FILES},
    "of_pooled_images": (of_pooled_images, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_a_kernel_reaches_the_last_element(monkeypatch, case):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    function, version = CASES[case]
    function(version)


CAUGHT_BY = {
    "an element of four axes": "of_images 1",
    "the plane of a tap": "of_images 2",
    "the image of a window": "of_images 2",
    "the image of a result": "of_images 2",
    "the plane of a cotangent": "of_cotangents 2",
    "the image of a cotangent": "of_cotangents 2",
    "the image of a pixel": "of_cotangents 2",
    "the filter of a weight": "of_weights 2",
    "the row of a weight's gradient": "of_weights_gradient 2",
    "the plane of a pooled image": "of_pooled_images",
    "a result of a product": "of_a_product 2",
}


@pytest.mark.parametrize("fault", OVERFLOWS)
def test_an_index_of_32_bits_is_caught(fault):
    """In a process of its own, because a wrong index may end it."""
    done = subprocess.run([sys.executable, __file__, fault], capture_output=True, text=True, check=False)
    assert done.returncode < 0 or "AssertionError" in done.stderr, done.stderr


def run_with(fault):
    file, right, wrong = OVERFLOWS[fault]

    def plant(code):
        assert code.count(right) >= 1, right
        return code.replace(right, wrong)

    function, version = CASES[CAUGHT_BY[fault]]
    with changed(file, plant):
        function(version)


if __name__ == "__main__":
    run_with(sys.argv[1])
