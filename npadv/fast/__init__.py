"""Faster versions of the plain functions, one module for each file of ``ops/`` that it speeds up.

A plain function stands in ``ops/`` (or ``nn/``, ``optim.py``), and one line above it names the faster version:

    @primitive
    @faster(fast.elementwise.relu)
    def relu(x):
        return xp_of(x).maximum(x, 0)

Under ``NPADV_FAST=off`` in the environment, ``faster`` returns the plain function. The whole library then runs on the plain
versions, and a debugger steps through them. ``PAIRS`` holds both versions of each function, which the tests compare.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, NamedTuple

ENABLED = os.environ.get("NPADV_FAST") != "off"
"""Whether fast versions replace the plain ones in this process."""


class Pair(NamedTuple):
    """A plain function and its faster version."""

    plain: Callable[..., Any]
    fast: Callable[..., Any]


PAIRS: dict[str, Pair] = {}
"""Every pair by the plain function's module and name."""


def faster(fast: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Name the faster version of the function below: same arguments, same results up to rounding.

    The fast version takes all arguments that the plain one takes, CuPy arrays included, and calls the plain one (``plain``)
    where it is not faster. The choice is made once, at import, so it costs a call no time.
    """

    def choose(plain: Callable[..., Any]) -> Callable[..., Any]:
        PAIRS[f"{plain.__module__}.{plain.__qualname__}"] = Pair(plain, fast)
        update_wrapper(fast, plain)  # help() and error messages show the plain function's name and text
        return fast if ENABLED else plain

    return choose


def plain(fast: Callable[..., Any]) -> Callable[..., Any]:
    """Return the plain version of a fast function."""
    return fast.__wrapped__  # type: ignore[attr-defined]


def if_enabled(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return a function that only saves time, such as a ``forward_with_residuals``; None under ``NPADV_FAST=off``."""
    return function if ENABLED else None
