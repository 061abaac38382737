"""Helpers that every figure uses: a blank figure measured in inches, functions that draw an image, and input checks.

Figures are made with matplotlib's objects, never with pyplot: there is no global state, no window opens, and a figure is
freed with its last reference. matplotlib itself is imported by the first call of ``sheet``.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from npadv.report.palette import BLUE, INK, MUTED, RULE, VERMILION, WHITE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: CSS pixels to an inch of figure: a figure 7.6 inches wide fills the page's column of 760 pixels.
PIXELS_PER_INCH = 100
WRONG = "✗"


@contextmanager
def needed(package: str) -> Iterator[None]:
    """Replace the error for a missing package by one sentence that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{package} is missing; to draw, run: pip install "npadv[demo]"', name=package
        ) from error


def check_installed(*packages: str) -> None:
    """Raise ModuleNotFoundError, in one sentence, if a package for drawing is missing. Call it before a long run.

    By default it checks for matplotlib and Jinja2, which pages need; pictures need matplotlib alone.
    """
    for package in packages or ("matplotlib", "jinja2"):
        with needed(package):
            importlib.import_module(package)


def sheet(width: float, height: float, description: str) -> Figure:
    """Return a blank white figure, `width` by `height` inches; `description` becomes its alt text."""
    with needed("matplotlib"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=PIXELS_PER_INCH, facecolor=WHITE)
    FigureCanvasAgg(figure)
    # place() gives every position, so no layout engine may move the axes.
    figure.set_layout_engine("none")
    figure.set_label(description)
    return figure


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at a position given in inches from the figure's top left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down), facecolor=WHITE)


def write(
    figure: Figure,
    left: float,
    top: float,
    text: str,
    *,
    size: float = 9,
    colour: str = INK,
    fit: float = np.inf,
    **style: Any,
) -> None:
    """Write `text` at a position given in inches from the figure's top left corner, smaller if it is wider than `fit`."""
    size *= min(1.0, fit / max(text_width(line, size) for line in text.split("\n")))
    across, down = figure.get_size_inches()
    style = {"parse_math": False} | style  # the name of a class may contain "$", which is not TeX here
    figure.text(left / across, 1 - top / down, text, fontsize=size, color=colour, **style)


def text_width(text: str, size: float = 9) -> float:
    """Return the width of one line of bold text in inches.

    >>> 0.5 < text_width("adversarial") < 1.0
    True
    >>> text_width("$5, $6") > text_width("5, 6")  # a dollar sign is a character, not TeX
    True
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 1e-3
    path = TextPath((0, 0), text.replace("$", r"\$"), prop=FontProperties(weight="bold", size=size), usetex=False)
    return float(path.get_extents().width) / 72


def show_image(axes: Axes, image: np.ndarray, *, wrong: bool = False) -> None:
    """Show one image (H, W, C) in [0, 1], framed by a hairline, or by a thick frame if its prediction is wrong."""
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1, aspect="auto")
    _frame(axes, wrong=wrong)


def show_perturbation(axes: Axes, perturbation: np.ndarray, scale: float) -> None:
    """Show one signed image (H, W, C) on the scale from -`scale` to `scale`.

    One channel is drawn from blue (darker) through white (0) to vermilion (brighter). Three channels keep their colours,
    with 0 drawn as mid-grey: on one colour map, the mean of the channels would hide changes that cancel.
    """
    if perturbation.shape[-1] == 1:
        axes.imshow(perturbation[..., 0], cmap=_signed(1), vmin=-scale, vmax=scale, aspect="auto")
    else:
        axes.imshow(0.5 + perturbation / (2 * scale), aspect="auto")
    _frame(axes)


def show_scale(axes: Axes, scale: float, channels: int) -> None:
    """Fill narrow axes with the colour scale of :func:`show_perturbation`."""
    ramp = np.linspace(-scale, scale, 256)[:, None]
    axes.imshow(ramp, cmap=_signed(channels), extent=(0, 1, -scale, scale), origin="lower", aspect="auto")
    _frame(axes)
    axes.yaxis.tick_right()
    axes.set_yticks([-scale, 0, scale], [f"−{scale:.3g}", "0", f"+{scale:.3g}"])
    axes.tick_params(axis="y", length=0, pad=3, labelsize=8, labelcolor=MUTED)


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG, at two image pixels to a CSS pixel."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * PIXELS_PER_INCH, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def _signed(channels: int) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", [BLUE, WHITE, VERMILION]) if channels == 1 else "gray"


def _frame(axes: Axes, *, wrong: bool = False) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=VERMILION if wrong else RULE, linewidth=2.2 if wrong else 0.8)


def as_images(name: str, value: Any, *, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Return (N, H, W) or (N, C, H, W) as float64 (N, H, W, C), or raise a ValueError that names the fault.

    >>> as_images("images", np.zeros((2, 3, 8, 8))).shape
    (2, 8, 8, 3)
    """
    x = np.asarray(value, dtype=np.float64)
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"{name} has shape {np.shape(value)}; expected (N, H, W), (N, 1, H, W) or (N, 3, H, W)")
    if x.size == 0:
        raise ValueError(f"{name} is empty (shape {np.shape(value)}); expected at least one image")
    check_range(name, x, low, high)
    return np.moveaxis(x, 1, -1)


def as_fractions(name: str, value: Any, length: int) -> np.ndarray:
    """Return `length` numbers in [0, 1] as a float64 vector, or raise a ValueError that names the fault."""
    x = np.asarray(value, dtype=np.float64)
    check_length(name, x, length)
    check_range(name, x, 0.0, 1.0)
    return x


def check_length(name: str, value: Sequence[Any] | np.ndarray, length: int) -> None:
    """Raise a ValueError unless `value` is a sequence of `length` entries."""
    if np.ndim(value) != 1 or len(value) != length:
        raise ValueError(f"{name} has shape {np.shape(value)}; expected ({length},)")


def check_range(name: str, x: np.ndarray, low: float, high: float) -> None:
    """Raise a ValueError unless every number is in [low, high]; NaN is in no interval."""
    inside = (x >= low) & (x <= high)
    if not inside.all():
        raise ValueError(f"{name} holds {x[~inside].flat[0]:.6g}; expected values in [{low:g}, {high:g}]")
