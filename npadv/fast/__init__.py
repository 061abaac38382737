"""Everything that is there for speed alone, one module for each file of ``ops/`` that it speeds up.

The plain version of a function stands where its idea is taught, and one word above it names the version that computes the
same faster:

    @primitive
    @faster(fast.elementwise.relu)
    def relu(x):
        return xp_of(x).maximum(x, 0)

``NPADV_FAST=off`` in the environment makes ``faster`` return the plain function, everywhere: the library then runs on what
the reader sees, and a debugger steps through it. Every pair is kept in ``PAIRS``, where the tests find both versions and
compare them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, NamedTuple

ENABLED = os.environ.get("NPADV_FAST") != "off"
"""Whether fast versions replace the plain ones in this process."""


class Pair(NamedTuple):
    """A plain function and the one that computes the same faster."""

    plain: Callable[..., Any]
    fast: Callable[..., Any]


PAIRS: dict[str, Pair] = {}
"""Every pair by the plain function's module and name."""


def faster(fast: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Name the faster version of the function below: same arguments, same results up to rounding.

    The fast version takes whatever the plain one takes, CuPy arrays included, and falls back to the plain expression where
    it has nothing better. It is chosen once, at import, so a call costs nothing more.
    """

    def choose(plain: Callable[..., Any]) -> Callable[..., Any]:
        PAIRS[f"{plain.__module__}.{plain.__qualname__}"] = Pair(plain, fast)
        update_wrapper(fast, plain)  # help() and error messages show the plain function's name and text
        return fast if ENABLED else plain

    return choose


def plain(fast: Callable[..., Any]) -> Callable[..., Any]:
    """Return the plain version of a fast function, which this falls back to where it has nothing better."""
    return fast.__wrapped__  # type: ignore[attr-defined]


def if_enabled(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return a function that only saves time, such as one that keeps residuals; None under ``NPADV_FAST=off``."""
    return function if ENABLED else None
