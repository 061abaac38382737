"""Parameters that all attacks share are described once, in the docstring of the package, and shown by every ``help()``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

REFERENCE = re.compile(r"^(\w+(?:, \w+)*) : see npadv\.\w+\n", re.MULTILINE)
"""The line of a docstring that names shared parameters."""

ENTRY = re.compile(r"^(\w+)(?: : .*)?\n(?: .*\n?)+", re.MULTILINE)
"""An entry of a docstring's section: a name, perhaps its type, and an indented description."""


def complete_docstring(function: Callable[..., Any], package: str | None) -> None:
    """Replace a line ``model, x : see npadv.attacks`` of a docstring by the package's descriptions of these names.

    Such a docstring also gets the package's section "Raises", before its examples.
    """
    doc = inspect.cleandoc(function.__doc__ or "")
    if not package or not REFERENCE.search(doc):
        return
    shared = {entry[1]: entry[0].rstrip("\n") + "\n" for entry in ENTRY.finditer(inspect.cleandoc(package))}
    doc = REFERENCE.sub(lambda match: "".join(shared[name] for name in match[1].split(", ")), doc)
    errors = "".join(shared[name] for name in ("ValueError", "Interrupted") if name in shared)
    text, heading, examples = doc.partition("\n\nExamples\n")
    function.__doc__ = f"{text}\n\nRaises\n------\n{errors}{heading[1:]}{examples}\n"
