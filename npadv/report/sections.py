"""The page's sections on robustness: each figure with the text that explains it.

The input is plain numbers, as for the figures; the texts hold for any numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from npadv.report.church_windows import church_grid
from npadv.report.curves import accuracy_curves, distance_curves
from npadv.report.heatmap import heat_table
from npadv.report.norm_figure import norm_grid
from npadv.report.page import Section
from npadv.report.text import Table, checks_table


def transfer_section(
    values: npt.ArrayLike,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    attack: str,
    counted: str = "all examples",
    **options: Any,
) -> Section:
    """Return the section of a transfer matrix; ``options`` are those of ``heat_table``.

    >>> transfer_section([[1.0]], rows=["net"], columns=["net"], attack="FGSM, ε = 0.25").caption
    'FGSM, ε = 0.25; of all examples.'
    """
    return Section(
        "What fools one network fools another",
        "Each row is the model on which adversarial examples were crafted, each column the model that classifies them; "
        "the number is that model's error. A frame marks a model attacked through its own gradient. Below each rate is its "
        "95% interval; more examples make it narrower.",
        heat_table(values, rows=rows, columns=columns, **options),
        f"{attack}; of {counted}.",
    )


def robustness_section(
    curves: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]], *, attack: str, xlabel: str, chance: float | None = None
) -> Section:
    """Return the section of accuracy against the budget, as ``accuracy_curves`` draws it.

    >>> robustness_section({"net": ([0, 0.1], [1, 0.5])}, attack="FGSM", xlabel="ε").caption
    'FGSM, on each network by its own gradient.'
    """
    return Section(
        "Accuracy against the size of the perturbation",
        "Each network is attacked separately at each size. The curve is an upper bound of its robustness: a stronger attack "
        "can only lower it.",
        accuracy_curves(curves, xlabel=xlabel, chance=chance),
        f"{attack}, on each network by its own gradient.",
    )


def distances_section(distances: Mapping[str, npt.ArrayLike], *, attack: str, xlabel: str) -> Section:
    """Return the section of the distances' distributions, as ``distance_curves`` draws them, with their medians.

    >>> distances_section({"net": [0.0, 0.2, np.inf]}, attack="DeepFool", xlabel="l2").table.cells
    [['net', '3', '33.3%', '0.2', '33.3%']]
    """
    rows = []
    for name, values in distances.items():
        d = np.sort(np.asarray(values, dtype=np.float64))
        middle = float(d[(len(d) - 1) // 2])
        shares = [f"{share:.1%}" for share in ((d == 0).mean(), np.isinf(d).mean())]
        rows.append([name, len(d), shares[0], f"{middle:.3g}" if np.isfinite(middle) else "–", shares[1]])
    figure = distance_curves(distances, xlabel=xlabel)
    headings = ["model", "examples", "wrong already", "median distance", "not broken"]
    return Section(
        "How far an example is from being misclassified",
        "The height of a curve is the share of examples for which the attack found something misclassified within the "
        "distance. The curve starts at the error without an attack; its distance from 100% is the share that was not broken.",
        figure,
        f"{attack}.",
        table=Table(headings, rows),
    )


def church_section(
    classes: npt.ArrayLike, true: npt.ArrayLike, *, eps: float, across: str, down: str, **options: Any
) -> Section:
    """Return the section of church windows; ``options`` are those of ``church_grid``.

    >>> church_section(np.zeros((1, 5, 5), int), [0], eps=0.25, across="random", down="random").title
    'The classes around an example: random and random'
    """
    return Section(
        f"The classes around an example: {across} and {down}",
        "Each window is a plane through the input space with an example in its middle. Its horizontal and its vertical "
        "direction are orthogonal. The true class is white; each other class has a colour and, in regions with room for it, "
        "its name; lines separate the classes.",
        church_grid(classes, true, eps=eps, across=across, down=down, **options),
        f"From −{eps:g} to +{eps:g} along each direction.",
    )


def norms_section(
    clean: npt.ArrayLike,
    perturbation: npt.ArrayLike,
    *,
    rows: Sequence[str],
    captions: Sequence[Sequence[str]] | None = None,
) -> Section:
    """Return the section that compares the l2 and the maximum norm, as ``norm_grid`` draws it.

    >>> norms_section(np.zeros((4, 4)), np.full((2, 1, 4, 4), 0.5), rows=["a"]).title
    'One l2 norm, different outcomes'
    """
    return Section(
        "One l2 norm, different outcomes",
        "All perturbations have the same l2 norm. Those on the left are concentrated on few pixels: one turns the image into "
        "another digit, one changes it but leaves its digit, one erases the digit. Those on the right are their signs, random "
        "where the perturbation is zero, scaled to the same norm; the digit stays readable under each of them.",
        norm_grid(clean, perturbation, rows=rows, captions=captions),
        "Sums outside [0, 1] are drawn black or white.",
    )


def masking_section(checks: Iterable[tuple[str, bool, str]], *, caption: str = "") -> Section:
    """Return the section of the checks for masked gradients, as ``checks_table`` sets them.

    >>> masking_section([("zero_gradients", True, "31% are zero")]).prose.split(". ")[0]
    '1 of 1 checks is suspicious'
    """
    found = list(checks)
    bad = sum(suspicious for _, suspicious, _ in found)
    return Section(
        "Can the measurement be believed?",
        f"{bad or 'None'} of {len(found)} checks {'is' if bad < 2 else 'are'} suspicious. The gradient of a network can be "
        "useless to an attack although the network is not robust. Each check searches for one sign of this; no check can prove "
        "that the gradient is useful.",
        table=checks_table(found, caption=caption),
    )
