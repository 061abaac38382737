"""Curves: accuracy against the size of the perturbation, distances to the nearest error, loss and error by epoch.

The input is fractions; percent is drawn. The axis of accuracy always runs from 0 to 100%: a shorter axis would make small
differences look large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from npadv.report.figures import as_fractions, place, sheet, text_width
from npadv.report.palette import INK, MARKERS, MUTED, RULE, SERIES, WHITE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_curves(
    curves: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]], *, xlabel: str, chance: float | None = None
) -> Figure:
    """Draw accuracy against the budget of the attack, each curve named at its right end.

    Parameters
    ----------
    curves
        For each name, increasing budgets (N,) and accuracies (N,) in [0, 1].
    xlabel
        The name of the budget, with its norm and unit.
    chance
        The accuracy of a random guess, drawn as a dotted line.

    Examples
    --------
    >>> figure = accuracy_curves({"plain": ([0, 0.1], [0.99, 0.02]), "robust": ([0, 0.1], [0.97, 0.88])},
    ...                          xlabel="ε (ℓ∞, pixels in [0, 1])", chance=0.1)
    >>> [round(float(limit)) for limit in figure.axes[0].get_ylim()]
    [0, 100]
    """
    if not curves:
        raise ValueError("curves is empty; expected at least one curve")
    points = {}
    for name, (budget, accuracy) in curves.items():
        eps = np.asarray(budget, dtype=np.float64)
        if eps.ndim != 1 or not eps.size or not np.isfinite(eps).all() or (np.diff(eps) <= 0).any():
            raise ValueError(f"curves[{name!r}] has budgets {budget!r}; expected at least one, finite and increasing")
        points[name] = eps, 100 * as_fractions(f"curves[{name!r}]", accuracy, len(eps))
    if chance is not None:
        as_fractions("chance", [chance], 1)

    left, wide, tall = 0.7, 3.95, 3.1
    label_room = max(text_width(name, 10) for name in points) + 0.42
    ends = "; ".join(f"{name} from {y[0]:.1f}% to {y[-1]:.1f}%" for name, (_, y) in points.items())
    figure = sheet(left + wide + label_room, tall + 0.75, f"Accuracy against {xlabel}: {ends}.")
    axes = place(figure, left, 0.2, wide, tall)
    _clean_axes(axes, xlabel, "accuracy")
    last = max(float(eps[-1]) for eps, _ in points.values())
    first = min(float(eps[0]) for eps, _ in points.values())
    axes.set_xlim(first, last if last > first else first + 1)
    _percent_axis(axes, 100)
    if chance is not None:
        axes.axhline(100 * chance, color=MUTED, linewidth=1, linestyle=(0, (1, 2.5)), zorder=1)
        axes.annotate(
            f"chance, {chance:.0%}", (0, 100 * chance), xycoords=("axes fraction", "data"),
            xytext=(4, 3), textcoords="offset points", fontsize=9, color=MUTED,
        )  # fmt: skip
    for i, (eps, y) in enumerate(points.values()):
        axes.plot(eps, y, **_line(i), clip_on=False)
    span = last - first or 1.0
    _name_ends(axes, {name: ((x[-1] - first) / span, float(y[-1])) for name, (x, y) in points.items()}, tall)
    return figure


def distance_curves(distances: Mapping[str, npt.ArrayLike], *, xlabel: str, furthest: float | None = None) -> Figure:
    """Draw the share of examples broken within each distance, a staircase for each name.

    Parameters
    ----------
    distances
        For each name, the examples' distances (N,): at least 0, infinity for an example that was not broken. Such examples
        count too, so the curve ends below 100% by their share.
    xlabel
        The name of the distance, with its norm and unit.
    furthest
        End of the axis; by default the largest finite distance.

    Examples
    --------
    >>> figure = distance_curves({"plain": [0.0, 0.1, 0.2, np.inf]}, xlabel="distance")
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [25.0, 50.0, 75.0]
    """
    if not distances:
        raise ValueError("distances is empty; expected those of at least one model")
    found = {name: np.sort(np.asarray(values, dtype=np.float64)) for name, values in distances.items()}
    for name, d in found.items():
        if d.ndim != 1 or not d.size or not (d >= 0).all():
            raise ValueError(f"distances[{name!r}] has shape {d.shape}; expected (N,) numbers of at least 0")
    finite = np.concatenate([d[np.isfinite(d)] for d in found.values()])
    end = float(finite.max(initial=0.0)) or 1.0 if furthest is None else float(furthest)
    if not 0 < end < np.inf:
        raise ValueError(f"furthest is {furthest}; expected a finite number above 0")

    points = {}
    for name, d in found.items():
        steps = np.unique(np.concatenate([[0.0], d[d <= end], [end]]))
        points[name] = steps, 100 * np.searchsorted(d, steps, side="right") / len(d)
    left, wide, tall = 0.7, 3.95, 3.1
    summary = "; ".join(f"{name} {y[-1]:.1f}%" for name, (_, y) in points.items())
    figure = sheet(
        left + wide + max(text_width(name, 10) for name in points) + 0.42,
        tall + 0.75,
        f"Share of examples broken, against {xlabel}; within {end:.3g}: {summary}.",
    )
    axes = place(figure, left, 0.2, wide, tall)
    _clean_axes(axes, xlabel, "examples broken")
    axes.set_xlim(0, end)
    _percent_axis(axes, 100)
    for i, (x, y) in enumerate(points.values()):
        axes.plot(x, y, **_line(i) | {"markevery": max(1, len(x) // 8)}, drawstyle="steps-post", clip_on=False)
    _name_ends(axes, {name: (1.0, float(y[-1])) for name, (_, y) in points.items()}, tall)
    return figure


def learning_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw training loss and validation error against the epoch, one colour a run, the lowest error marked.

    Parameters
    ----------
    runs
        For each name, rows with the keys `epoch`, `train_loss` and `validation_error` (a fraction). Either number may
        be missing or None in a row: the remaining points are joined. The loss is drawn on a logarithmic axis if it is
        positive and its largest value is over 20 times its smallest.

    Examples
    --------
    >>> figure = learning_curves({"plain": [{"epoch": 1, "train_loss": 2.1}, {"epoch": 2, "train_loss": 0.04,
    ...                                                                       "validation_error": 0.02}]})
    >>> [axes.get_yscale() for axes in figure.axes]
    ['log', 'linear']
    """
    if not runs:
        raise ValueError("runs is empty; expected at least one run")
    loss = {name: _series(name, rows, "train_loss") for name, rows in runs.items()}
    error = {name: _series(name, rows, "validation_error") for name, rows in runs.items()}
    for name, (_, y) in error.items():
        as_fractions(f"runs[{name!r}] validation_error", y, len(y))

    from matplotlib.ticker import MaxNLocator

    wide, tall, left, top = 2.42, 2.3, 0.66, 0.38 + 0.23 * len(runs)
    figure = sheet(left + 2 * wide + 0.94, top + tall + 0.56, "")
    panels = place(figure, left, top, wide, tall), place(figure, left + wide + 0.8, top, wide, tall)
    for axes, title in zip(panels, ("training loss", "validation error"), strict=True):
        _clean_axes(axes, "epoch", "")
        axes.set_title(title, fontsize=10, color=INK, loc="left", pad=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    lines, labels = [], []
    for i, name in enumerate(runs):
        for axes, (epochs, y) in zip(panels, (loss[name], (error[name][0], 100 * error[name][1])), strict=True):
            axes.plot(epochs, y, **_line(i), markevery=max(1, len(y) // 8))
        labels.append(name)
        epochs, y = error[name]
        if len(y):
            best = int(y.argmin())
            panels[1].plot(
                epochs[best],
                100 * y[best],
                **_line(i) | {"markersize": 9, "markerfacecolor": WHITE, "markeredgewidth": 1.8},
            )
            labels[-1] += f" (lowest error {y[best]:.2%}, epoch {epochs[best]:g})"
        lines.append(panels[0].plot([], [], **_line(i), label=labels[-1])[0])

    losses = np.concatenate([y for _, y in loss.values()])
    if losses.size and losses.min() > 0 and losses.max() > 20 * losses.min():
        panels[0].set_yscale("log")
    elif losses.size:
        panels[0].set_ylim(bottom=min(0.0, float(losses.min())))
    errors = np.concatenate([y for _, y in error.values()])
    _percent_axis(panels[1], 100 * float(errors.max(initial=0)) * 1.05 or 1.0)
    for axes, values in zip(panels, (losses, errors), strict=True):
        if not values.size:
            axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color=MUTED)
    legend = figure.legend(
        handles=lines,
        loc="upper left",
        bbox_to_anchor=(0, 1),
        frameon=False,
        fontsize=10,
        labelcolor=INK,
    )
    for entry in legend.get_texts():
        entry.set_parse_math(False)
    figure.set_label(f"Training loss and validation error by epoch: {'; '.join(labels)}.")
    return figure


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return the heights of labels, moved until neighbours are `gap` apart and, if they fit, inside [low, high].

    >>> spread([0.0, 90.0, 1.0, 0.0], 5, 0, 100)
    [0.0, 90.0, 10.0, 5.0]
    >>> spread([100.0, 100.0], 5, 0, 100)
    [95.0, 100.0]
    """
    order = np.argsort(heights, kind="stable")
    moved = np.asarray(heights, dtype=np.float64)[order]
    for i in range(1, len(moved)):  # push up from below ...
        moved[i] = max(moved[i], moved[i - 1] + gap)
    ceiling = max(high, low + gap * (len(moved) - 1))
    for i in reversed(range(len(moved))):  # ... and back down from the ceiling
        moved[i] = min(moved[i], ceiling - gap * (len(moved) - 1 - i))
    result = np.empty_like(moved)
    result[order] = moved
    return [float(height) for height in result]


def _series(name: str, rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the epochs whose row holds `key`, and its values."""
    if not rows:
        raise ValueError(f"runs[{name!r}] is empty; expected at least one row")
    for row in rows:
        if row.get("epoch") is None:
            raise ValueError(f"runs[{name!r}] has a row without epoch; expected one in every row, got {dict(row)}")
    kept = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
    epochs, values = np.array(kept, dtype=np.float64).reshape(-1, 2).T
    if not np.isfinite(values).all():
        raise ValueError(f"runs[{name!r}] holds a {key} that is not finite; expected a number, None or no entry")
    return epochs, values


def _name_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], tall: float) -> None:
    """Write each curve's name beside its end (a share of the axis, percent), and join the two by a thin line."""
    heights = spread([y for _, y in ends.values()], 100 * 0.19 / tall, 0.0, 100.0)
    for i, ((name, (end, y)), height) in enumerate(zip(ends.items(), heights, strict=True)):
        axes.plot(
            [end, 1.02, 1.055, 1.07], [y / 100, y / 100, height / 100, height / 100],
            transform=axes.transAxes, clip_on=False, color=_line(i)["color"], linewidth=0.8, zorder=2,
        )  # fmt: skip
        axes.text(
            1.08, height / 100, name, transform=axes.transAxes, fontsize=10, color=INK, va="center", parse_math=False
        )


def _line(i: int) -> dict[str, Any]:
    colour = SERIES[i % len(SERIES)]
    marker = MARKERS[i % len(MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.8, "markeredgewidth": 0, "zorder": 3}


def _clean_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel, fontsize=10, color=INK, labelpad=6, parse_math=False)
    axes.set_ylabel(ylabel, fontsize=10, color=INK, labelpad=6)
    axes.tick_params(which="both", length=0, labelsize=9, labelcolor=MUTED, pad=5)
    axes.grid(True, axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set(visible=side == "bottom", color=MUTED, linewidth=0.8)


def _percent_axis(axes: Axes, top: float) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
