"""A heat map of rates with the number in each cell: how often examples crafted on one model fool another.

The shade of a cell, white at 0 and blue at 100%, repeats its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from npadv.report.figures import check_length, check_range, place, sheet, text_width, write
from npadv.report.palette import BLUE, INK, MUTED, RULE, WHITE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Least and largest width and the height of a cell, in inches; the columns' names decide the width.
WIDE, WIDEST, TALL = 1.02, 1.7, 0.52
BOLD = 1.15  # width of bold letters over that of plain ones


def heat_table(
    values: npt.ArrayLike,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    row_title: str = "crafted on",
    column_title: str = "error of",
    low: npt.ArrayLike | None = None,
    high: npt.ArrayLike | None = None,
    clean: npt.ArrayLike | None = None,
) -> Figure:
    """Draw rates as a table, each cell shaded by its number.

    Parameters
    ----------
    values
        (R, C) rates in [0, 1]; NaN for a rate of no examples.
    rows, columns
        Names. A cell whose row and column have the same name, a white-box attack, is framed.
    row_title, column_title
        Headings of the rows and of the columns.
    low, high
        (R, C) bounds of an interval, written below the rate; both or none.
    clean
        (C,) rates without an attack, drawn as the top row.

    Examples
    --------
    >>> figure = heat_table([[0.9, 0.3], [0.4, 1.0]], rows=["maxout", "tanh"], columns=["maxout", "tanh"])
    >>> figure.get_label()
    'Error of each column, crafted on each row: maxout: maxout 90.0%, tanh 30.0%; tanh: maxout 40.0%, tanh 100.0%.'
    """
    rates = _rates("values", values, (len(rows), len(columns)))
    if (low is None) != (high is None):
        raise ValueError("low and high come together; expected both or none, got one")
    ends = [_rates(name, end, rates.shape) for name, end in (("low", low), ("high", high)) if end is not None]
    names, table = list(rows), rates
    if clean is not None:
        check_length("clean", np.asarray(clean), len(columns))
        names, table = (
            ["nothing", *rows],
            np.vstack([_rates("clean", np.asarray(clean)[None], (1, len(columns))), rates]),
        )
    apart = 0.1 if clean is not None else 0.0

    wide = min(WIDEST, max(WIDE, *(text_width(column, 10) * BOLD + 0.12 for column in columns)))
    left = max(0.7, *(text_width(name, 10) for name in (*names, row_title))) + 0.2
    top = 0.66
    summary = "; ".join(
        f"{name}: " + ", ".join(f"{column} {_percent(rate)}" for column, rate in zip(columns, line, strict=True))
        for name, line in zip(names, table, strict=True)
    )
    figure = sheet(
        left + len(columns) * wide + 0.06,
        top + len(names) * TALL + apart + 0.06,
        f"{column_title.capitalize()} each column, {row_title} each row: {summary}.",
    )
    write(figure, left - 0.14, top - 0.1, row_title, colour=MUTED, ha="right", va="bottom")
    write(figure, left + len(columns) * wide / 2, 0.1, column_title, colour=MUTED, ha="center", va="top")
    for j, column in enumerate(columns):
        across = left + (j + 0.5) * wide
        write(figure, across, top - 0.1, column, size=10, weight="bold", fit=wide - 0.08, ha="center", va="bottom")
    for i, (name, line) in enumerate(zip(names, table, strict=True)):
        down = top + i * TALL + (apart if i else 0)
        write(figure, left - 0.14, down + TALL / 2, name, size=10, weight="bold", ha="right", va="center")
        for j, rate in enumerate(line):
            k = i - (len(names) - len(rows))  # the row of `values`
            axes = place(figure, left + j * wide + 0.02, down + 0.02, wide - 0.04, TALL - 0.04)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_facecolor(_shade(rate))
            own = k >= 0 and name == columns[j]
            for spine in axes.spines.values():
                spine.set(color=INK if own else RULE, linewidth=1.8 if own else 0.6)
            ink = WHITE if rate > 0.8 else INK  # the one with the higher contrast
            middle = down + TALL / 2
            interval = bool(ends) and k >= 0 and np.isfinite(rate)
            across = left + (j + 0.5) * wide
            write(
                figure,
                across,
                middle - (0.08 if interval else 0),
                _percent(rate),
                size=11,
                colour=ink,
                ha="center",
                va="center",
            )
            if interval:
                text = f"{100 * ends[0][k, j]:.1f} to {100 * ends[1][k, j]:.1f}"
                write(figure, across, middle + 0.12, text, size=7.5, colour=ink, ha="center", va="center")
    return figure


def _rates(name: str, values: npt.ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    rates = np.asarray(values, dtype=np.float64)
    if rates.shape != shape or not rates.size:
        raise ValueError(f"{name} has shape {rates.shape}; expected {shape}, a row and a column for each name")
    check_range(name, rates[~np.isnan(rates)], 0.0, 1.0)
    return rates


def _percent(rate: float) -> str:
    return "–" if np.isnan(rate) else f"{rate:.1%}"


def _shade(rate: float) -> str:
    """Return a colour between white at 0 and blue at 1."""
    end = [int(BLUE[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    share = 0.0 if np.isnan(rate) else float(rate)
    return "#" + "".join(f"{round(255 * (1 - share * (1 - part))):02x}" for part in end)
