"""The facts at the foot of a page: how the run can be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def page_facts(results: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the seed, time, versions and machine of a run, after the facts in ``more``.

    ``results`` holds the keys ``data``, ``seed``, ``seconds`` and those of :func:`npadv.environment.environment`.
    """
    machine, device = results["machine"], results["device"]
    return {
        **more,
        "data": results["data"],
        "seed": results["seed"],
        "time": f"{results['seconds']:.0f} s",
        "versions": results["versions"],
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['system']}",
        "device": device.get("card", device["name"]),
    }
