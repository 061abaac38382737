"""How fast npadv's attacks are beside the way they are usually computed: ``python -m benchmarks attacks``.

**lbfgs.** Beside SciPy's L-BFGS-B, one image at a time: see ``attacks_lbfgs.py``.

**fgsm, pgd, jsma, linearized, carlini_wagner.** Beside other libraries': see ``attacks_peers.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from benchmarks import attacks_lbfgs, attacks_peers

PARTS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "lbfgs": attacks_lbfgs.run,
    **{part: functools.partial(attacks_peers.run, part) for part in attacks_peers.DUELS},
}
