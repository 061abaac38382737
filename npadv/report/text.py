"""A table of results, which the page and the terminal both show.

Numbers of one column have the same number of decimals, so that their decimal points align; text is shown unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: 97.3%, −0.25, < 0.1, 3.1 ± 0.2, 12 s
_NUMBER = re.compile(r"[<>≤≥≈~±+−-]?\s?\d[\d.,]*(e[+-]?\d+)?(\s?[±/–-]\s?\d[\d.,]*)?\s?(%|[a-zµ]{1,3})?", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """Column headings, rows of cells, and a caption; a cell is text, a number, or None for "not measured".

    >>> Table(["model", "error"], [["maxout", 0.0094], ["softmax"]])
    Traceback (most recent call last):
    ValueError: rows[1] has 1 cells; expected 2, one for each column
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("columns is empty; expected at least one heading")
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"rows[{i}] has {len(row)} cells; expected {len(self.columns)}, one for each column")

    @property
    def cells(self) -> list[list[str]]:
        """Every cell as text, row by row.

        >>> Table(["model", "l2"], [["maxout", 1.25], ["softmax", 0.5], ["RBF", None]]).cells
        [['maxout', '1.25'], ['softmax', '0.50'], ['RBF', '–']]
        """
        columns = [_texts([row[j] for row in self.rows]) for j in range(len(self.columns))]
        return [[column[i] for column in columns] for i in range(len(self.rows))]

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether all its cells are numbers; such a column is aligned to the right.

        >>> Table(["model", "error", "layers"], [["RBF", "1.5%", 2]]).numeric
        [False, True, True]
        """
        columns = [[cell for cell in column if cell != "–"] for column in zip(*self.cells, strict=True)]
        columns = columns or [[] for _ in self.columns]
        return [bool(column) and all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]


def format_table(table: Table) -> str:
    """Return the table as lines of aligned plain text: caption, headings, a rule, rows.

    >>> print(format_table(Table(["model", "error"], [["softmax", "99.9%"], ["RBF", "55.4%"]], "FGSM, ε = 0.25")))
    FGSM, ε = 0.25
    <BLANKLINE>
    model    error
    --------------
    softmax  99.9%
    RBF      55.4%
    """
    lines = [[str(heading) for heading in table.columns], *table.cells]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    aligned = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, table.numeric, strict=True)
        ).rstrip()
        for line in lines
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([*([table.caption, ""] if table.caption else []), aligned[0], rule, *aligned[1:]])


def checks_table(checks: Iterable[tuple[str, bool, str]], *, caption: str = "") -> Table:
    """Return checks as a table: for each its name, its verdict, and its explanation.

    A check is a name, which may be an identifier, whether it is suspicious, and the explanation.

    >>> checks_table([("zero_gradients", True, "31% are zero"), ("noise_as_good", False, "0% against 80%")]).cells
    [['zero gradients', 'SUSPICIOUS', '31% are zero'], ['noise as good', 'not seen', '0% against 80%']]
    """
    rows = [[name.replace("_", " "), "SUSPICIOUS" if bad else "not seen", why] for name, bad, why in checks]
    return Table(["sign of masked gradients", "", "what was measured"], rows, caption)


def _texts(column: Sequence[Any]) -> list[str]:
    """Return one column as text; its floats keep four significant digits at most and share their decimals."""
    rounded = [f"{cell:.4g}" for cell in column if isinstance(cell, float | np.floating)]
    decimals = max((len(text.partition(".")[2]) for text in rounded), default=0)
    shared = ".4g" if any("e" in text for text in rounded) else f".{decimals}f"
    return [
        "–"
        if cell is None
        else f"{cell:{shared}}"
        if isinstance(cell, float | np.floating)
        else " ".join(str(cell).split())
        for cell in column
    ]
