"""Grids of images: examples before and after an attack, one image under several attacks, a plain grid.

A wrong prediction has three marks, so that no reader depends on colour: a cross before the class, a bold caption, and a
thick frame. Perturbations in one figure share one signed scale, which is drawn beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from npadv.report.figures import (
    WRONG,
    as_fractions,
    as_images,
    check_length,
    place,
    sheet,
    show_image,
    show_perturbation,
    show_scale,
    text_width,
    write,
)
from npadv.report.palette import INK, MUTED, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 1.06  # the width of an image, in inches
GAP = 0.14
BAR = 0.1  # the width of the perturbations' scale


def examples(
    clean: npt.ArrayLike,
    perturbation: npt.ArrayLike,
    adversarial: npt.ArrayLike,
    *,
    true: Sequence[Any] | np.ndarray,
    before: Sequence[Any] | np.ndarray,
    after: Sequence[Any] | np.ndarray,
    confidence_before: npt.ArrayLike,
    confidence_after: npt.ArrayLike,
    titles: Sequence[str] | None = None,
    columns: int = 5,
) -> Figure:
    """Draw clean image, signed perturbation and adversarial image of each example, one under the other.

    Parameters
    ----------
    clean, adversarial
        Images (N, H, W) or (N, C, H, W), C 1 or 3, in [0, 1].
    perturbation
        adversarial - clean, of the same shape; any other perturbation raises an error.
    true, before, after
        (N,) classes, numbers or names: the true one, and those predicted before and after the attack.
    confidence_before, confidence_after
        (N,) probabilities of the predicted classes, in [0, 1].
    titles
        (N,) headings; by default the true class.
    columns
        Number of examples side by side in one band.

    Raises
    ------
    ValueError
        If lengths or shapes differ, values leave their range, or the three images do not add up.

    Examples
    --------
    >>> x = np.full((2, 1, 8, 8), 0.5)
    >>> d = np.full_like(x, 0.1)
    >>> figure = examples(x, d, x + d, true=[3, 5], before=[3, 5], after=[8, 5],
    ...                   confidence_before=[0.99, 0.98], confidence_after=[0.97, 0.61])
    >>> len(figure.axes)  # three images an example, and the perturbations' scale
    7
    """
    x, x_adv = as_images("clean", clean), as_images("adversarial", adversarial)
    d = as_images("perturbation", perturbation, low=-1.0, high=1.0)
    count, height, width, channels = x.shape
    for name, images in (("perturbation", d), ("adversarial", x_adv)):
        if images.shape != x.shape:
            raise ValueError(f"{name} is {images.shape} as (N, H, W, C); expected clean's {x.shape}")
    if (gap := float(np.abs(x + d - x_adv).max())) > 1e-4:
        raise ValueError(f"perturbation is up to {gap:.3g} away from adversarial - clean; expected their difference")
    for name, classes in (("true", true), ("before", before), ("after", after)):
        check_length(name, classes, count)
    sure_before = as_fractions("confidence_before", confidence_before, count)
    sure_after = as_fractions("confidence_after", confidence_after, count)
    if titles is None:
        titles = [f"true: {label}" for label in true]
    check_length("titles", titles, count)
    columns = min(_positive("columns", columns), count)

    scale = float(np.abs(d).max()) or 1.0
    tall = CELL * height / width
    lines = 2 if max(len(str(label)) for label in (*before, *after)) > 5 else 1  # long names put confidence below
    caption = 0.07 + 0.17 * lines
    left, top = 0.94, 0.3
    rows = (0.0, tall + caption + GAP, 2 * tall + caption + 2 * GAP)  # the tops of a band's three images
    band = top + rows[2] + tall + caption + 0.12
    bands = math.ceil(count / columns)
    fooled = sum(a != t for a, t in zip(after, true, strict=True))
    figure = sheet(
        left + columns * (CELL + GAP) + 0.5,
        bands * band,
        f"{count} images, each clean, with its perturbation (at most {scale:.3g} a pixel), and adversarial. "
        f"{fooled} of {count} adversarial images are misclassified.",
    )
    centred: dict[str, Any] = {"ha": "center", "fit": CELL + GAP / 2}
    for i in range(count):
        across, down = left + (i % columns) * (CELL + GAP), (i // columns) * band + top
        write(figure, across + CELL / 2, down - 0.1, titles[i], va="bottom", weight="bold", **centred)
        for row, image, label, sure in ((0, x, before, sure_before), (2, x_adv, after, sure_after)):
            wrong = bool(label[i] != true[i])
            show_image(place(figure, across, down + rows[row], CELL, tall), image[i], wrong=wrong)
            text = _prediction(label[i], sure[i], wrong=wrong, lines=lines)
            colour, weight = (VERMILION, "bold") if wrong else (MUTED, "normal")
            below = down + rows[row] + tall + 0.07
            write(figure, across + CELL / 2, below, text, colour=colour, weight=weight, va="top", **centred)
        show_perturbation(place(figure, across, down + rows[1], CELL, tall), d[i], scale)
    for down in (b * band + top for b in range(bands)):
        for name, offset in zip(("clean", "perturbation", "adversarial"), rows, strict=True):
            write(figure, left - 0.12, down + offset + tall / 2, name, colour=MUTED, ha="right", va="center")
    bar = left + columns * (CELL + GAP) - GAP + 0.1
    show_scale(place(figure, bar, top + rows[1], BAR, tall), scale, channels)
    return figure


@dataclass(frozen=True)
class Attacked:
    """The adversarial image of one attack, the class predicted for it, and the probability of that class."""

    adversarial: npt.ArrayLike
    predicted: Any
    confidence: float


def compare_attacks(
    clean: npt.ArrayLike,
    attacks: Mapping[str, Attacked],
    *,
    true: Any,
    before: Any,
    confidence_before: float,
) -> Figure:
    """Draw one image under several attacks, one attack a row: perturbation, adversarial image, distances.

    Parameters
    ----------
    clean
        One image (H, W) or (C, H, W) in [0, 1].
    attacks
        The adversarial image of each attack, by the attack's name. Perturbations and distances are computed here from the
        two images, so that the numbers are those of the drawn images.
    true, before, confidence_before
        The true class, the class predicted for the clean image, and its probability.

    Examples
    --------
    >>> x = np.full((8, 8), 0.5)
    >>> figure = compare_attacks(x, {"FGSM": Attacked(x + 0.25, 8, 0.97), "L-BFGS": Attacked(x + 0.01, 8, 0.51)},
    ...                          true=3, before=3, confidence_before=0.99)
    >>> len(figure.axes)  # the clean image, two for each attack, and the scale
    6
    """
    if not attacks:
        raise ValueError("attacks is empty; expected at least one attack")
    x = as_images("clean", np.asarray(clean)[None])[0]
    made = {
        name: as_images(f"attacks[{name!r}].adversarial", np.asarray(a.adversarial)[None])[0]
        for name, a in attacks.items()
    }
    for name, x_adv in made.items():
        if x_adv.shape != x.shape:
            raise ValueError(f"attacks[{name!r}].adversarial is {x_adv.shape} as (H, W, C); expected clean's {x.shape}")
        as_fractions(f"attacks[{name!r}].confidence", [attacks[name].confidence], 1)
    as_fractions("confidence_before", [confidence_before], 1)

    changes = {name: x_adv - x for name, x_adv in made.items()}
    scale = max(float(np.abs(d).max()) for d in changes.values()) or 1.0
    cell, gap, top, left = 1.32, 0.2, 0.32, 0.02
    tall = cell * x.shape[0] / x.shape[1]
    second, bar, third = left + cell + gap, left + 2 * (cell + gap) - 0.08, left + 2 * (cell + gap) + 0.56
    text_left = third + cell + 0.18
    row = tall + gap
    distances = {n: (float(np.linalg.norm(d.ravel())), float(np.abs(d).max())) for n, d in changes.items()}
    outcomes = "; ".join(
        f"{n}: predicted {attacks[n].predicted} at {attacks[n].confidence:.1%}, l2 {l2:.3g}, l-infinity {linf:.3g}"
        for n, (l2, linf) in distances.items()
    )
    figure = sheet(
        text_left + max(1.4, *(text_width(name, 11) + 0.1 for name in attacks)),
        top + len(attacks) * row - gap + 0.1,
        f"One image of class {true} under {len(attacks)} attacks. {outcomes}.",
    )
    for across, heading in ((left, "clean"), (second, "perturbation"), (third, "adversarial")):
        write(figure, across, top - 0.12, heading, colour=MUTED, va="bottom")
    wrong = bool(before != true)
    show_image(place(figure, left, top, cell, tall), x, wrong=wrong)
    for i, (name, (l2, linf)) in enumerate(distances.items()):
        down, outcome = top + i * row, attacks[name]
        show_perturbation(place(figure, second, down, cell, tall), changes[name], scale)
        fooled = bool(outcome.predicted != true)
        show_image(place(figure, third, down, cell, tall), made[name], wrong=fooled)
        write(figure, text_left, down, name, size=11, weight="bold", va="top")
        _outcome(figure, text_left, down + 0.28, outcome.predicted, outcome.confidence, wrong=fooled)
        norms = rf"$\ell_2$  {l2:.3g}" + "\n" + rf"$\ell_\infty$  {linf:.3g}"
        write(figure, text_left, down + 0.62, norms, size=10, va="top", linespacing=1.5, parse_math=True)
    _outcome(figure, left, top + tall + 0.1, before, confidence_before, wrong=wrong)
    show_scale(place(figure, bar, top, BAR, tall), scale, x.shape[-1])
    return figure


def image_grid(images: npt.ArrayLike, *, columns: int, captions: Sequence[str] | None = None) -> Figure:
    """Draw images (N, H, W) or (N, C, H, W) in [0, 1] as a grid, row by row.

    >>> len(image_grid(np.zeros((7, 8, 8)), columns=4).axes)
    7
    """
    x = as_images("images", images)
    count, height, width, _ = x.shape
    columns = min(_positive("columns", columns), count)
    if captions is not None:
        check_length("captions", captions, count)
    rows = math.ceil(count / columns)
    gap, caption = 0.05, 0.0 if captions is None else 0.24
    cell = min(1.4, (7.6 - gap) / columns - gap)
    tall = cell * height / width
    figure = sheet(
        gap + columns * (cell + gap),
        gap + rows * (tall + caption + gap),
        f"{count} images in {rows} rows of {columns}.",
    )
    for i in range(count):
        across, down = gap + (i % columns) * (cell + gap), gap + (i // columns) * (tall + caption + gap)
        show_image(place(figure, across, down, cell, tall), x[i])
        if captions is not None:
            below = down + tall + 0.04
            write(figure, across + cell / 2, below, captions[i], fit=cell, colour=MUTED, ha="center", va="top")
    return figure


def _prediction(label: Any, confidence: float, *, wrong: bool, lines: int = 1) -> str:
    """Return the caption of a prediction.

    >>> _prediction(8, 0.9712, wrong=True)
    '✗ 8  97.1%'
    """
    return (f"{WRONG} " if wrong else "") + f"{label}" + ("  " if lines == 1 else "\n") + f"{confidence:.1%}"


def _outcome(figure: Figure, left: float, top: float, label: Any, confidence: float, *, wrong: bool) -> None:
    text = _prediction(label, confidence, wrong=wrong, lines=1)
    write(
        figure,
        left,
        top,
        text,
        size=11,
        colour=VERMILION if wrong else INK,
        weight="bold" if wrong else "normal",
        va="top",
    )


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} is {value}; expected at least 1")
    return value
