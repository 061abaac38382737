"""Draws the results: every ratio on one logarithmic axis with its bar, and a step's time against batch and width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.table import convolution_means
from npadv.report.figures import place, png, sheet, write
from npadv.report.palette import BLUE, INK, MUTED, RULE, SERIES, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 9.0  # inches of 100 pixels
ROW_HEIGHT = 0.27  # inches
MARKERS = {
    "torch": ("o", BLUE, "PyTorch"),
    "torch tuned": ("D", SERIES[2], "PyTorch, tuned"),
    "plain step": ("s", INK, "npadv's plain step"),
}
TICKS = (0.125, 0.25, 0.5, 1, 2, 4, 8)


def picture(results: Mapping[str, Any]) -> bytes:
    """Return the PNG of a file of results, 900 CSS pixels wide (1800 image pixels)."""
    rows = drawn_rows(results["rows"])
    if not rows:
        raise ValueError("draw: expected results with at least one finished row, got none")
    plot = ROW_HEIGHT * len(rows)
    series = [s for s in results.get("scaling", []) if s["side"] == "npadv"]
    height = 0.85 + plot + 0.7 + (2.45 if series else 0.0)
    figure = sheet(WIDTH, height, "npadv's time over PyTorch's, by workload; below 1 npadv is faster")
    threads = results["settings"]["threads"]
    write(figure, 0.15, 0.3, "npadv's time over PyTorch's, on a CPU", size=13, weight="bold")
    machine, versions = results["machine"]["processor"], results["versions"]
    note = f"left of 1: npadv is faster. float32, {threads} threads, {machine}, PyTorch {versions.get('torch', '?')}"
    write(figure, 0.15, 0.55, note, size=9, colour=MUTED, fit=WIDTH - 0.3)
    _ratios(place(figure, 3.35, 0.85, WIDTH - 3.6, plot), rows)
    if series:
        top = 0.85 + plot + 1.2
        write(figure, 0.15, top - 0.2, "npadv's time for a training step of 784-w-w-10", size=10, weight="bold")
        half = (WIDTH - 1.6) / 2
        _growth(place(figure, 0.75, top, half, 1.45), [s for s in series if s["grows"] == "batch"], "batch (w = 1200)")
        _growth(
            place(figure, 0.75 + half + 0.65, top, half, 1.45),
            [s for s in series if s["grows"] == "width"],
            "width w (batch 128)",
        )
    return png(figure)


def drawn_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows to draw: the single convolutions as one row, without the peers and the skipped workloads."""
    drawn = [row for row in rows if "ratios" in row and row["key"][0] not in "gp"]
    layers = [row for row in rows if "ratios" in row and row["key"][0] == "g"]
    if layers:
        ratios: dict[str, Any] = {}
        for name, mean in convolution_means(layers).items():
            points = [row["ratios"][name]["median"] for row in layers]
            ratios[name] = {"median": mean, "points": points} | {
                key: layers[0]["ratios"][name][key] for key in ("at_most",) if key in layers[0]["ratios"][name]
            }
        drawn.append({"key": "g", "title": f"{len(layers)} single convolutions, and their mean", "ratios": ratios})
    return drawn


def _ratios(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw a line for each row: a marker for each baseline, a whisker for its quartiles, a red mark at its bar."""
    axes.set_xscale("log")
    values = [
        v for row in rows for ratio in row["ratios"].values() for v in (ratio["median"], *ratio.get("points", []))
    ]
    axes.set_xlim(min(0.2, min(values) / 1.15), max(2.6, max(values) * 1.15))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(1, color=INK, linewidth=1.0, zorder=1)
    seen: dict[str, Any] = {}
    for i, row in enumerate(rows):
        baselines = list(row["ratios"])
        for j, (name, ratio) in enumerate(row["ratios"].items()):
            marker, colour, _ = MARKERS[name]
            y = i + (j - (len(baselines) - 1) / 2) * 0.36
            if "points" in ratio:
                axes.plot(
                    ratio["points"], [y] * len(ratio["points"]), "|", color=colour, alpha=0.55, markersize=6, zorder=2
                )
            else:
                axes.plot([ratio["low"], ratio["high"]], [y, y], color=colour, linewidth=1.4, zorder=2)
            (seen[name],) = axes.plot(
                [ratio["median"]],
                [y],
                marker,
                color=colour,
                markersize=6,
                markeredgecolor="white",
                zorder=3,
                linestyle="",
            )
            if "at_most" in ratio:
                half = 0.42 if len(baselines) == 1 else 0.19
                (seen["bar"],) = axes.plot([ratio["at_most"]] * 2, [y - half, y + half], color=VERMILION, linewidth=1.8)
    axes.set_yticks(range(len(rows)), [row["title"] for row in rows], fontsize=9, color=INK)
    axes.tick_params(axis="y", length=0)
    _logarithmic(axes, TICKS)
    labels = {name: label for name, (_, _, label) in MARKERS.items()} | {"bar": "at most"}
    seen = {name: seen[name] for name in labels if name in seen}
    axes.legend(
        list(seen.values()),
        [labels[name] for name in seen],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.22 / (ROW_HEIGHT * len(rows))),
        ncols=len(seen),
        fontsize=9,
        frameon=False,
        handletextpad=0.4,
    )


def _growth(axes: Axes, series: list[dict[str, Any]], label: str) -> None:
    """Draw step times against a size on logarithmic axes, a line for each number of threads."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    for line, colour, marker in zip(series, SERIES, "os^D", strict=False):
        milliseconds = [1000 * t for t in line["seconds"]]
        threads = (
            f"{line['threads']} thread{'s' if line['threads'] > 1 else ''}, within {line['from_linear']:.0%} of a line"
        )
        axes.plot(line["sizes"], milliseconds, color=colour, marker=marker, markersize=4, linewidth=1.6, label=threads)
    axes.set_xlabel(label, fontsize=9, color=MUTED, labelpad=2)
    axes.set_ylabel("ms", fontsize=9, color=MUTED, labelpad=2)
    _logarithmic(axes, series[0]["sizes"])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.tick_params(axis="y", labelsize=8, labelcolor=MUTED, color=RULE, which="both")
    axes.minorticks_off()
    axes.grid(True, axis="y", color=RULE, linewidth=0.6)
    axes.legend(loc="upper left", fontsize=8, frameon=False)


def _logarithmic(axes: Axes, ticks: Any) -> None:
    """Label a logarithmic x axis with plain numbers at the given ticks, and make its lines light."""
    low, high = axes.get_xlim()
    inside = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(inside, [f"{tick:g}" for tick in inside], fontsize=8, color=MUTED)
    axes.xaxis.minorticks_off()
    axes.tick_params(axis="x", color=RULE)
    axes.grid(True, axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set(color=RULE, visible=side in ("left", "bottom"))
