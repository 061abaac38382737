"""Part f: the time of each kernel in a captured step of adversarial training, measured by PyTorch's profiler.

The profiler records the kernels of the whole process, CuPy's and a replayed graph's included.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.gpu.tasks import Here, NotHereError, Task
from npadv import nn
from npadv.capture import CapturedStep
from npadv.defenses import adversarial_training
from npadv.kernels import launch
from npadv.optim import SGD
from npadv.train import gradient_update

REPLAYS = 20


def tasks(here: Here) -> list[Task]:
    """Return the launches of a step, and the times of its kernels."""
    return [
        Task("launches of an adversarial step", lambda: launches(here)),
        Task("kernel times of a captured adversarial step", lambda: times(here)),
    ]


def adversarial_step(here: Here) -> tuple[Any, Any, Any]:
    """Return a step of adversarial training of [SYN]'s convnet, and its batch."""
    model = nn.network("syn_convnet", rng=np.random.default_rng(0)).to("cuda")
    optimizer, loss = SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-3), adversarial_training(0.1)
    rng, n = np.random.default_rng(1), 2 if here.rehearsal else 128
    x, y = here.xp.asarray(rng.random((n, 1, 28, 28), np.float32)), here.xp.asarray(rng.integers(0, 10, n))

    def step(x: Any, y: Any) -> Any:
        return gradient_update(model, loss, optimizer, x, y, rng=rng)  # rng is not used

    return step, x, y


def launches(here: Here) -> dict[str, Any]:
    """Count the launches of npadv's own kernels in a step that is not captured."""
    counted: Counter[str] = Counter()
    real = launch.launch

    def counting(file: str, kernel: str, *args: Any, **options: Any) -> None:
        counted[f"{file}: {kernel}"] += 1
        real(file, kernel, *args, **options)

    step, x, y = adversarial_step(here)
    step(x, y)
    kernels = [module for name, module in sys.modules.items() if name.startswith("npadv.kernels.")]
    users: list[Any] = [module for module in kernels if getattr(module, "launch", None) is real]
    for module in users:
        module.launch = counting
    try:
        step(x, y)
    finally:
        for module in users:
            module.launch = real
    return {"launches": sum(counted.values()), "kernels": dict(counted.most_common())}


def times(here: Here) -> dict[str, Any]:
    """Replay the captured step under the profiler; return microseconds a step and calls a step of each kernel."""
    step, x, y = adversarial_step(here)
    captured = CapturedStep(step, x)
    for _ in range(4):
        captured(x, y)
    if here.rehearsal:
        raise NotHereError("a GPU: the stand-in's kernels have no times")
    torch = here.torch()
    activity = torch.profiler.ProfilerActivity.CUDA
    here.xp.cuda.Device().synchronize()
    with torch.profiler.profile(activities=[activity]) as profile:
        for _ in range(REPLAYS):
            captured(x, y)
        here.xp.cuda.Device().synchronize()
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_device_time_total)
    kernels = [
        {"kernel": row.key[:120], "microseconds": row.self_device_time_total / REPLAYS, "calls": row.count / REPLAYS}
        for row in rows
        if row.self_device_time_total > 0
    ]
    if not kernels:
        raise AssertionError("the profiler recorded no kernels")
    return {"microseconds": sum(row["microseconds"] for row in kernels), "kernels": kernels}
