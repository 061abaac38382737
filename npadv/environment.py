"""Facts to keep with a result: the versions and the machine, on which it depends beside its seed."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import numpy as np


def environment(device: str = "cpu") -> dict[str, Any]:
    """Return the versions and the machine as a dict of text and numbers, for a results file.

    >>> sorted(environment())
    ['device', 'machine', 'versions']
    """
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    for package in ("npadv", "scipy", "scikit-learn"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    where: dict[str, Any] = {"name": device}
    if device == "cuda":
        from npadv.backend import require_cupy

        cupy = require_cupy()
        versions["cupy"] = cupy.__version__
        where["card"] = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    machine = {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()}
    return {"versions": versions, "machine": machine, "device": where}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
