"""The speed of npadv's attacks: ``python -m benchmarks attacks``.

**lbfgs** is compared with SciPy's L-BFGS-B, which attacks one image at a time: see ``attacks_lbfgs.py``.

**fgsm, pgd, jsma, linearized, carlini_wagner** are compared with other libraries' attacks: see ``attacks_peers.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from benchmarks import attacks_lbfgs, attacks_peers

PARTS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "lbfgs": attacks_lbfgs.run,
    **{part: functools.partial(attacks_peers.run, part) for part in attacks_peers.COMPARISONS},
}
