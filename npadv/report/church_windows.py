"""Church windows: for each example a plane through it, each point coloured by its class ([WG] figures 1.2 to 1.4).

The true class is white, a black line separates the classes, and each region that is large enough holds its class's name,
so that no reader depends on colour. Points marked as outside the box are hatched.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from npadv.report.figures import check_length, place, sheet, text_width, write
from npadv.report.palette import INK, MUTED, RULE, WHITE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Ten classes: as distinct as ten colours can be under the common kinds of colour blindness (after Tol, "muted").
CLASSES = (
    "#4a3c9e", "#88ccee", "#44aa99", "#117733", "#a8a84a", "#ddcc77", "#cc6677", "#93275f", "#b968b0", "#b5b9bf",
)  # fmt: skip
GRAIN = 160  # least number of image pixels along a side, so that the hatching is finer than the points
NAMED = 0.055  # least radius of a region that holds a name, over the side of the window


def church_grid(
    classes: npt.ArrayLike,
    true: npt.ArrayLike,
    *,
    eps: float,
    columns: int = 10,
    across: str = "",
    down: str = "",
    names: Sequence[str] | None = None,
    outside: npt.ArrayLike | None = None,
) -> Figure:
    """Draw windows side by side, the true class of each in white.

    Parameters
    ----------
    classes
        (N, V, H) integers: the class at each point, rows from top to bottom.
    true
        (N,) the true classes.
    eps
        Half the side of each window, which the axes of the first one show.
    columns
        Number of windows side by side.
    across, down
        Names of the horizontal and the vertical direction.
    names
        Names of the classes; by default their numbers.
    outside
        (N, V, H) bool: points to hatch, for instance those outside the box.

    Examples
    --------
    >>> classes = np.zeros((3, 9, 9), int)
    >>> classes[:, :, 6:] = 2
    >>> figure = church_grid(classes, [0, 2, 1], eps=0.25)
    >>> figure.get_label()
    '3 church windows of side 0.5: the true class covers 33% of the points, and the middle of 1 window.'
    """
    seen = np.asarray(classes)
    if seen.ndim != 3 or not seen.size or seen.dtype.kind not in "iu" or seen.min() < 0:
        raise ValueError(f"classes is {seen.shape} of {seen.dtype}; expected (N, V, H) integers of at least 0")
    count, tall, wide = seen.shape
    labels = np.asarray(true)
    check_length("true", labels, count)
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"true holds {labels}; expected integers of at least 0")
    if not eps > 0:
        raise ValueError(f"eps is {eps}; expected more than 0")
    if columns < 1:
        raise ValueError(f"columns is {columns}; expected at least 1")
    shut = np.zeros(seen.shape, dtype=bool) if outside is None else np.asarray(outside, dtype=bool)
    if shut.shape != seen.shape:
        raise ValueError(f"outside has shape {shut.shape}; expected classes' {seen.shape}")
    last = int(max(seen.max(), labels.max()))
    if names is not None and len(names) <= last:
        raise ValueError(f"names has {len(names)} entries; expected {last + 1}, one for each class")
    named = [str(k) for k in range(last + 1)] if names is None else list(names)

    columns = min(columns, count)
    rows = math.ceil(count / columns)
    side, gap = (7.6 - 0.4) / max(columns, 4) - 0.06, 0.06
    left, top = 0.4, 0.3
    colours = _colours(last + 1)
    wrong = sorted({int(k) for k in np.unique(seen[seen != labels[:, None, None]])})
    centre = int((seen[:, tall // 2, wide // 2] == labels).sum())
    share = float((seen == labels[:, None, None]).mean())
    key = [("the true class", WHITE), *((named[k], colours[k]) for k in wrong)]
    # The width of each entry of the key, and the line on which it is written.
    room = [text_width(name) + 0.4 for name, _ in key]
    lines = np.cumsum(room) // (max(columns, 4) * (side + gap))
    foot = 0.14 + 0.24 * (int(lines[-1]) + 1)
    figure = sheet(
        left + max(columns, 4) * (side + gap),
        top + rows * (side + gap) + foot,
        f"{count} church window{'s' * (count > 1)} of side {2 * eps:g}: the true class covers {share:.0%} of the points, "
        f"and the middle of {centre} window{'s' * (centre != 1)}.",
    )
    for i in range(count):
        x, y = left + (i % columns) * (side + gap), top + (i // columns) * (side + gap)
        axes = place(figure, x, y, side, side)
        _window(axes, seen[i], int(labels[i]), shut[i], colours, named if side > 0.5 else [], 6.0 if side < 1 else 9.0)
    _edges(figure, left, top, side, eps, across, down)

    for line in range(int(lines[-1]) + 1):
        x, y = left, top + rows * (side + gap) + 0.12 + 0.24 * line
        for j in np.flatnonzero(lines == line):
            _swatch(figure, x, y, key[j][1])
            write(figure, x + 0.2, y + 0.07, key[j][0], colour=MUTED, va="center")
            x += room[j]
    return figure


def _window(
    axes: Axes,
    classes: np.ndarray,
    true: int,
    outside: np.ndarray,
    colours: Sequence[str],
    names: Sequence[str],
    size: float,
) -> None:
    """Draw one window: colours, hatching, lines between classes, names."""
    from matplotlib.collections import LineCollection

    tall, wide = classes.shape
    table = np.array([_rgb(WHITE if k == true else colour) for k, colour in enumerate(colours)])
    fine = max(1, math.ceil(GRAIN / max(tall, wide)))
    image = table[classes].repeat(fine, axis=0).repeat(fine, axis=1)
    if outside.any():
        i, j = np.indices(image.shape[:2])
        stripe = ((i + j) // 4 % 3 == 0) & outside.repeat(fine, axis=0).repeat(fine, axis=1)
        image[stripe] = 0.35 * image[stripe] + 0.65 * np.array(_rgb(MUTED))
    axes.imshow(image, extent=(0, wide, tall, 0), aspect="auto", interpolation="nearest")
    axes.add_collection(LineCollection(_boundaries(classes), colors="black", linewidths=0.7, capstyle="round"))
    axes.set_xlim(0, wide)
    axes.set_ylim(tall, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=INK, linewidth=0.6)
    for k in np.unique(classes) if names and all(len(name) <= 2 for name in names) else ():
        (row, column), radius = _roomiest(classes == k)
        if radius >= NAMED * min(tall, wide):
            ink = WHITE if k != true and _dark(table[k]) else INK
            axes.text(
                column, row, names[k], fontsize=size, color=ink, ha="center", va="center_baseline", parse_math=False
            )


def _boundaries(classes: np.ndarray) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the edges between neighbouring points of different classes, as segments.

    >>> [tuple(map(tuple, segment)) for segment in _boundaries(np.array([[0, 1], [0, 0]]))]
    [((1, 0), (1, 1)), ((1, 1), (2, 1))]
    """
    upright = [((j + 1, i), (j + 1, i + 1)) for i, j in np.argwhere(classes[:, 1:] != classes[:, :-1]).tolist()]
    flat = [((j, i + 1), (j + 1, i + 1)) for i, j in np.argwhere(classes[1:] != classes[:-1]).tolist()]
    return [*upright, *flat]


def _roomiest(region: np.ndarray) -> tuple[tuple[float, float], float]:
    """Return the point of a region that is farthest from its edge, and its distance from the edge, in points."""
    from scipy.ndimage import distance_transform_edt

    room = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(room.argmax()), room.shape)
    return (float(row) + 0.5, float(column) + 0.5), float(room.max())


def _edges(figure: Figure, left: float, top: float, side: float, eps: float, across: str, down: str) -> None:
    """Write the range at the first window, and beside it the names of the directions."""
    style: dict[str, Any] = {"size": 7.5 if side > 1 else 6.5, "colour": MUTED}
    for share, text, where in ((0.0, f"−{eps:g}", "left"), (1.0, f"+{eps:g}", "right")):
        write(figure, left + share * side, top - 0.04, text, ha=where, va="bottom", **style)
        write(
            figure, left - 0.04, top + share * side, text, ha="right", va="bottom" if share else "top",
            rotation=90, **style,
        )  # fmt: skip
    named = [f"{arrow} {name}" for arrow, name in (("→", across), ("↓", down)) if name]
    if named:
        room = figure.get_size_inches()[0] - left - side - 0.16
        write(figure, left + side + 0.12, top - 0.04, "    ".join(named), ha="left", va="bottom", fit=room, **style)


def _swatch(figure: Figure, left: float, top: float, colour: str) -> None:
    axes = place(figure, left, top, 0.14, 0.14)
    axes.set_facecolor(colour)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=INK if colour == WHITE else RULE, linewidth=0.6)


def _colours(count: int) -> list[str]:
    """Return a colour for each class: ten fixed ones, or evenly spaced hues for more classes."""
    if count <= len(CLASSES):
        return list(CLASSES[:count])
    hues = [colorsys.hls_to_rgb(k / count, 0.45 + 0.2 * (k % 2), 0.55) for k in range(count)]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in hue) for hue in hues]


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _dark(rgb: np.ndarray) -> bool:
    return float(rgb @ [0.299, 0.587, 0.114]) < 0.55
