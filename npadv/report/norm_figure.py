"""Perturbations of one l2 norm with different effects: two grids of image, perturbation and sum ([WG] figure 1.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from npadv.report.figures import (
    as_images,
    check_length,
    check_range,
    place,
    sheet,
    show_image,
    show_perturbation,
    show_scale,
    write,
)
from npadv.report.palette import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL, GAP, CAPTION = 0.98, 0.08, 0.24


def norm_grid(
    clean: npt.ArrayLike,
    perturbation: npt.ArrayLike,
    *,
    rows: Sequence[str],
    columns: Sequence[str] = ("unconfined", "the same l2 norm, least max norm"),
    captions: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Draw, for each of two kinds of perturbation, rows of the image, the perturbation, and their sum.

    Parameters
    ----------
    clean
        One image (H, W) or (C, H, W) in [0, 1].
    perturbation
        (2, R, ...) perturbations of the image, in [-1, 1]. Their norms are computed here and written below them; sums
        outside [0, 1] are drawn black or white. All perturbations share one signed scale.
    rows
        (R,) names of the rows.
    columns
        Headings of the two grids.
    captions
        (2, R) texts under each sum, for instance the class that a model predicts.

    Examples
    --------
    >>> figure = norm_grid(np.zeros((8, 8)), np.full((2, 3, 8, 8), 0.5), rows=["a", "b", "c"])
    >>> len(figure.axes)  # 2 grids of 3 rows of 3 images, and the scale
    19
    """
    x = as_images("clean", np.asarray(clean)[None])[0]
    eta = np.asarray(perturbation, dtype=np.float64)
    if eta.ndim < 2 or eta.shape[0] != 2 or eta.shape[2:] != np.shape(clean):
        raise ValueError(
            f"perturbation has shape {eta.shape}; expected (2, R, ...), ... being clean's {np.shape(clean)}"
        )
    check_length("rows", rows, eta.shape[1])
    check_length("columns", columns, 2)
    if captions is not None and [len(words) for words in captions] != [len(rows)] * 2:
        raise ValueError(
            f"captions are {[len(words) for words in captions]} words; expected {len(rows)} for each of 2 grids"
        )
    changes = [as_images("perturbation", part, low=-1.0, high=1.0) for part in eta]
    sums = np.stack([x + part for part in changes])
    check_range("clean + perturbation", sums, -1.0, 2.0)

    scale = float(np.abs(eta).max()) or 1.0
    tall = CELL * x.shape[0] / x.shape[1]
    left, top, between = 0.02, 0.5, 0.22
    block, band = 3 * (CELL + GAP) + between, tall + CAPTION + GAP
    flat = eta.reshape(2, len(rows), -1)
    l2, linf = np.linalg.norm(flat, axis=2), np.abs(flat).max(axis=2)
    figure = sheet(
        left + 2 * block - between + 0.52,
        top + len(rows) * band,
        f"Six perturbations of one image, of l2 norms {l2.min():.3g} to {l2.max():.3g}; the max norms of the first three are "
        f"{linf[0].min():.3g} to {linf[0].max():.3g}, of the others {linf[1].min():.3g} to {linf[1].max():.3g}."
        if len(rows) == 3
        else f"{2 * len(rows)} perturbations of one image, of l2 norms {l2.min():.3g} to {l2.max():.3g}.",
    )
    for g, heading in enumerate(columns):
        start = left + g * block
        write(figure, start, 0.08, heading, size=10, weight="bold", va="top", fit=block - between)
        for c, title in enumerate(("image", "perturbation", "sum")):
            write(figure, start + c * (CELL + GAP), top - 0.06, title, size=8, colour=MUTED, va="bottom")
        for r, row in enumerate(rows):
            down = top + r * band
            places = [place(figure, start + c * (CELL + GAP), down, CELL, tall) for c in range(3)]
            show_image(places[0], x)
            show_perturbation(places[1], changes[g][r], scale)
            show_image(places[2], np.clip(sums[g, r], 0, 1))
            style: dict[str, Any] = {"size": 8, "va": "top", "fit": CELL + GAP / 2}
            below = down + tall + 0.05
            if g == 0:
                write(figure, start, below, row, colour=INK, **style)
            norms = rf"$\ell_2$ {l2[g, r]:.2f}, $\ell_\infty$ {linf[g, r]:.2f}"
            write(figure, start + CELL + GAP, below, norms, colour=MUTED, **(style | {"fit": np.inf}), parse_math=True)
            if captions is not None:
                write(figure, start + 2 * (CELL + GAP), below, captions[g][r], colour=INK, **style)
    show_scale(place(figure, left + 2 * block - between + 0.02, top, 0.1, tall), scale, x.shape[-1])
    return figure
