"""Part a: the machine, and one kernel of each file compiled and run: the errors of a first contact show here."""

from __future__ import annotations

import functools
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.cases import Case, cases
from benchmarks.gpu.tasks import Here, NotHereError, Task
from npadv import kernels
from npadv.environment import environment
from npadv.kernels import launch, sources


def tasks(here: Here) -> list[Task]:
    """Return a task for the machine, and one for each file of kernels."""
    first = {case.file: case for case in reversed(list(cases()))}
    files = [
        Task(f"compiles {name}.cu", functools.partial(compiled, here, name, first.get(name)))
        for name in sources.names()
    ]
    facts = {"machine": machine, "driver": driver}
    last = {"launches": launches, "PyTorch": torch_versions}  # PyTorch takes seconds to import
    begin, end = ([Task(name, functools.partial(f, here)) for name, f in some.items()] for some in (facts, last))
    return [*begin, *files, *end]


def machine(here: Here) -> dict[str, Any]:
    """Return the card and the versions."""
    facts = environment("cuda")
    return {"card": facts["device"]["card"], "environment": facts}


def torch_versions(here: Here) -> dict[str, Any]:
    """Return the versions of PyTorch and of the libraries that it brings."""
    torch = here.torch()
    cudnn = torch.backends.cudnn.version()
    return {"versions": {"torch": torch.__version__, "torch_cuda": torch.version.cuda, "cudnn": cudnn}}


def driver(here: Here) -> dict[str, Any]:
    """Return the driver's version, CUDA's, and properties of the card that limit kernels."""
    if here.rehearsal:
        raise NotHereError("a GPU")
    runtime = here.xp.cuda.runtime
    properties = runtime.getDeviceProperties(here.xp.cuda.Device().id)
    names = ("major", "minor", "multiProcessorCount", "sharedMemPerBlock", "totalGlobalMem", "clockRate", "l2CacheSize")
    found = {name: int(properties[name]) for name in names if name in properties}
    found |= {"driver_cuda": int(runtime.driverGetVersion()), "runtime_cuda": int(runtime.runtimeGetVersion())}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        return {**found, "nvidia_smi": done.stdout.strip()}
    except (OSError, subprocess.SubprocessError):
        return found


def compiled(here: Here, name: str, case: Case | None) -> dict[str, Any]:
    """Run a file's first case; return the seconds of the first call, most of which is compiling, and of the second."""
    if case is None:
        raise AssertionError(f"benchmarks/gpu/cases.py has no call of a kernel in {name}.cu")
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        case.run(here.xp, np.float32)
        here.xp.cuda.Device().synchronize()
        seconds.append(time.perf_counter() - begin)
    return {"first_seconds": seconds[0], "second_seconds": seconds[1]}


def launches(here: Here) -> dict[str, Any]:
    """Return the microseconds that Python takes to launch a kernel and to call a function of ``npadv.kernels``.

    The kernel has nothing to do, so the GPU is always ready for the next one.
    """
    x = here.xp.asarray(np.zeros(1, np.float32))
    arguments = {"x": x, "g": x.copy(), "eps": np.float32(0), "lo": np.float32(-1), "hi": np.float32(1), "n": 0}
    calls: dict[str, Callable[[], Any]] = {
        "launch": lambda: launch.launch("sign_step", "sign_step", arguments, blocks=1),
        "sign_step": lambda: kernels.sign_step(x, arguments["g"], 0.0),
    }
    times = 3 if here.rehearsal else 1000
    found = {}
    for name, call in calls.items():
        call()
        here.xp.cuda.Device().synchronize()
        begin = time.perf_counter()
        for _ in range(times):
            call()
        found[f"{name}_microseconds"] = (time.perf_counter() - begin) / times * 1e6
    return found
