"""Kernels under changed circumstances: few blocks, a changed source, a barrier left out, an array on another device."""

import contextlib
import re

import numpy as np
import pytest

from npadv.kernels import cpu, launch, sources


class Elsewhere(np.ndarray):
    """An array whose device is another one."""

    device = "elsewhere"


@contextlib.contextmanager
def few_blocks():
    """Launch one block instead of many, so that the grid-stride loops take several rounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_MAX_BLOCKS", 1)
        yield


@contextlib.contextmanager
def changed(file, change):
    """Launch the kernels of ``kernels/<file>.cu`` with their source changed."""
    code = change(sources.translation_unit(file))
    original = sources.translation_unit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "translation_unit", lambda name: code if name == file else original(name))
        patch.setattr(launch, "_functions", {})
        patch.setenv("NPADV_KERNELS", "cpu")
        yield


def breaks_without_a_barrier(file, which, run):
    """Assert that ``run()`` passes the build that finds races, and fails it without one of the barriers in the source."""
    assert len(re.findall(r"__syncthreads\(\);", sources.translation_unit(file))) > which

    def without(code):
        barriers = [found.span() for found in re.finditer(r"__syncthreads\(\);", code)]
        start, end = barriers[which]
        return code[:start] + code[end:]

    with few_blocks(), cpu.running(build="races"):
        with changed(file, lambda code: code):
            run()
        with changed(file, without), pytest.raises(cpu.KernelFault, match=r"race|uninitialised"):
            run()


OVERFLOWS = {  # name: file, index arithmetic in 64 bits, the same in 32 bits
    "an element of four axes": (
        "conv2d_1_direct",
        "(((long long)a * B + b) * C + c) * D + d",
        "((a * B + b) * C + c) * D + d",
    ),
    "the plane of a tap": (
        "conv2d_2_tiles",
        "{(long long)(group * (s.C / s.groups) + c) * s.H * s.W, kh",
        "{(group * (s.C / s.groups) + c) * s.H * s.W, kh",
    ),
    "the image of a window": ("conv2d_2_tiles", "{(long long)n * s.C * s.H * s.W, oh", "{n * s.C * s.H * s.W, oh"),
    "the image of a result": (
        "conv2d_2_tiles",
        "((long long)(n / pixels) * s.K + group * rows() + m) * pixels",
        "((n / pixels) * s.K + group * rows() + m) * pixels",
    ),
    "the plane of a cotangent": ("conv2d_2_tiles", "{{(long long)k * s.OH * s.OW,", "{{k * s.OH * s.OW,"),
    "the image of a cotangent": (
        "conv2d_2_tiles",
        "{(long long)image * s.K * s.OH * s.OW, ih",
        "{image * s.K * s.OH * s.OW, ih",
    ),
    "the image of a pixel": (
        "conv2d_2_tiles",
        "((long long)(n / pixels) * s.C + group * rows() + m) * pixels",
        "((n / pixels) * s.C + group * rows() + m) * pixels",
    ),
    "the filter of a weight": ("conv2d_2_tiles", "(long long)m * depth()", "m * depth()"),
    "the row of a weight's gradient": (
        "conv2d_2_tiles",
        "(long long)(group * rows() + m) * columns() + n",
        "(group * rows() + m) * columns() + n",
    ),
    "the plane of a pooled image": ("max_pool", "x + i / OW / OH * H * W", "x + int(i / OW / OH) * H * W"),
    "a result of a product": ("matmul_2_tiles", "c[row * N + column]", "c[int(row) * int(N) + column]"),
}
"""Planted faults: the product overflows where an array has more than 2^31 elements (test_kernels_large.py)."""
