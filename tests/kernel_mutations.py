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
