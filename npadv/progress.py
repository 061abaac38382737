"""Progress bars for long work, and Ctrl-C that waits for the end of a step. The signals TERM and HUP are treated as Ctrl-C.

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


SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C; the signals of a batch system that stops a job, and of a terminal that is closed. Windows has no SIGHUP."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let TERM and HUP raise KeyboardInterrupt, as Ctrl-C does, so that a run that is stopped keeps its results."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    # Ctrl-C has Python's own handler already. Handlers that the caller has set for TERM and HUP stay.
    with _handled(interrupt, [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]):
        yield


@contextmanager
def interrupts_held() -> Iterator[Callable[[], bool]]:
    """Hold a first Ctrl-C, and yield a function that returns whether it was pressed; a second Ctrl-C raises immediately.

    TERM and HUP are held as well where they raise KeyboardInterrupt: see ``stopped_by_signals``. Only the main thread may
    handle signals; elsewhere, and for ignored signals (nohup), nothing is held.
    """
    pressed = False

    def remember(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    fatal = [number for number in SIGNALS if signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN, None)]
    with _handled(remember, [number for number in SIGNALS if number not in fatal]):
        yield lambda: pressed


@contextmanager
def _handled(handler: Callable[[int, Any], None], numbers: Iterable[int]) -> Iterator[None]:
    """Handle the signals by ``handler`` within a ``with`` block, in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def spent(seconds: float) -> str:
    """Return a time as text: to two digits below 10 s, else in whole seconds.

    >>> spent(0.0382), spent(1.46), spent(123.4)
    ('0.038 s', '1.5 s', '123 s')
    """
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:,.0f} s"
