"""Progress bars, where somebody is looking: on a terminal with tqdm installed, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any


def track(items: Iterable[Any], *, total: int, label: str, show: bool | None = None, initial: int = 0) -> Iterator[Any]:
    """Yield the items, drawing a bar on stderr as they pass; ``show=None`` draws only if stderr is a terminal.

    >>> list(track(range(3), total=3, label="counting"))
    [0, 1, 2]
    """
    if show is None:
        show = sys.stderr.isatty()
    if show:
        try:
            from tqdm import tqdm
        except ImportError:
            show = False
    if not show:
        yield from items
        return
    with tqdm(items, total=total, desc=label, initial=initial, leave=False, dynamic_ncols=True) as bar:
        yield from bar
