"""Long work: progress bars, and Ctrl-C, which is held until a step is done.

Bars are drawn only on a terminal, and only if tqdm is installed.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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


@contextmanager
def interrupts_held() -> Iterator[Callable[[], bool]]:
    """Hold a first Ctrl-C and yield a function that tells whether it was pressed; a second Ctrl-C raises immediately.

    Only the main thread may handle signals; elsewhere, and where Ctrl-C is ignored (nohup), nothing is held.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is signal.SIG_IGN:
        yield lambda: False
        return
    pressed = False

    def remember(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, previous)


def spent(seconds: float) -> str:
    """Return a time in seconds, to two digits or to whole seconds.

    >>> spent(0.0382), spent(1.46), spent(123.4)
    ('0.038 s', '1.5 s', '123 s')
    """
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:,.0f} s"
