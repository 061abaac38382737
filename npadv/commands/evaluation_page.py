"""The page of ``npadv evaluate``: a table, and a section for each finished measurement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from npadv.commands.presets import Radii
from npadv.commands.runner import Measurements, Pictures
from npadv.data import Dataset
from npadv.report import (
    Section,
    Table,
    church_section,
    distances_section,
    examples,
    masking_section,
    robustness_section,
    transfer_section,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABOUT_CURVES = {
    "FGSM, linf": "One step of eps along the sign of the loss's gradient ([WG] eq. 1.3, [SYN] eq. 2), on each network by its "
    "own gradient. The step may overshoot: where the curve rises, the lower accuracy at the smaller eps holds.",
    "PGD, linf": "Many small steps, each brought back to within eps of the image in the maximum norm ([WG] 1.3; Madry et al. "
    "2018). The curve is an upper bound of the network's robustness: a stronger attack can only lower it.",
    "PGD, l2": "The same within eps in the l2 norm.",
}
ABOUT_DISTANCES = {
    "DeepFool, l2": "For each image, the size of the smallest change that was found to alter its class, by crossing the "
    "nearest boundary of the linearised network again and again (Moosavi-Dezfooli et al. 2016). A curve starts at the error "
    "without an attack; a better search might find smaller changes, and raise the curve.",
    "DeepFool, linf": "The same in the maximum norm.",
    "Carlini and Wagner, l2": "By optimisation of each image (Carlini and Wagner 2017): slower, and mostly smaller changes.",
}


def table_of(found: Measurements, radii: Radii) -> Table:
    """Return the most important numbers, a row for each model."""
    shown = {attack: radii.l2_shown if "l2" in attack else radii.linf_shown for attack in found.curves}
    columns, rows = ["network", "error"], []
    columns += [f"{attack.replace(', linf', '')} {eps:.3g}" for attack, budgets in shown.items() for eps in budgets]
    columns += [f"median {attack.rpartition(', ')[2]}" for attack in found.distances if found.distances[attack]]
    for name, error in found.clean.items():
        row: list[str | None] = [name, f"{error:.1%}"]
        for attack, budgets in shown.items():
            curve = found.curves[attack]
            accuracy = curve.accuracy().rate[curve.models.index(name)]
            row += [f"{1 - accuracy[np.flatnonzero(curve.eps == eps)[0]]:.1%}" for eps in budgets]
        for of_models in found.distances.values():
            if of_models:
                row.append(f"{of_models[name].median:.3g}" if name in of_models else None)
        rows.append(row)
    return Table(
        columns,
        rows,
        caption="Error rates, on all test images and under attacks within the given radii; medians of the smallest changes.",
    )


def summary_of(found: Measurements, radii: Radii, dataset: Dataset) -> str:
    """Return the page's first paragraph."""
    stopped = "This evaluation was stopped before its end, and shows the finished measurements. "
    clean = joined([f"{name} {error:.2%}" for name, error in found.clean.items()])
    text = f"{'' if found.complete else stopped}The error on the {len(dataset.test):,} test images of {dataset.name}: {clean}."
    if (curve := found.curves.get("PGD, linf")) is not None:
        eps = radii.linf_shown[0]
        accuracy = curve.accuracy().rate[:, np.flatnonzero(curve.eps == eps)[0]]
        attacked = joined([f"{name} {1 - share:.1%}" for name, share in zip(curve.models, accuracy, strict=True)])
        text += (
            f" Under projected gradient descent that may change each pixel by {eps:.3g}, where black is 0 and white is 1, on "
            f"the first {curve.correct.shape[-1]:,} of them: {attacked}."
        )
    if found.checks:
        signs = {name: sum(check.suspicious for check in checks) for name, checks in found.checks.items()}
        found_in = [f"{count} in {name}" for name, count in signs.items() if count]
        text += f" Signs of masked gradients: {joined(found_in) or 'none found'}."
    return text


def joined(items: list[str]) -> str:
    """Join names as in a sentence.

    >>> joined(["a"]), joined(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def sections_of(found: Measurements, radii: Radii, dataset: Dataset) -> list[Section]:
    """Return the sections of the finished measurements."""
    return [
        *_curves(found, len(dataset.classes)),
        *_distances(found),
        *_transfer(found, radii),
        *_masking(found, radii),
        *_windows(found, radii, dataset),
        *_pictures(found, radii, dataset),
    ]


def _curves(found: Measurements, classes: int) -> Iterator[Section]:
    for attack, curve in found.curves.items():
        shares = zip(curve.models, curve.accuracy().rate, strict=True)
        section = robustness_section(
            {name: (curve.eps, share) for name, share in shares},
            attack=f"{attack}, {_images(curve.correct.shape[-1])}",
            xlabel="eps",
            chance=1 / classes,
        )
        yield replace(section, title=f"Accuracy under {attack}", prose=ABOUT_CURVES[attack])


def _distances(found: Measurements) -> Iterator[Section]:
    for attack, of_models in found.distances.items():
        if of_models:
            section = distances_section(
                {name: d.distance for name, d in of_models.items()},
                attack=attack,
                xlabel=f"{attack.rpartition(', ')[2]} distance",
            )
            yield replace(section, title=f"How far: {attack}", prose=ABOUT_DISTANCES[attack])


def _transfer(found: Measurements, radii: Radii) -> Iterator[Section]:
    if (matrix := found.transfer) is None:
        return
    errors = matrix.errors()
    yield transfer_section(
        errors.rate,
        rows=matrix.crafters,
        columns=matrix.targets,
        attack=f"FGSM, eps = {radii.linf_shown[-1]:.3g}",
        counted=f"all {_images(len(matrix.labels))}",
        low=errors.low,
        high=errors.high,
        clean=matrix.clean().rate,
    )


def _masking(found: Measurements, radii: Radii) -> Iterator[Section]:
    for name, checks in found.checks.items():
        rows = [(check.name, check.suspicious, check.explanation) for check in checks]
        section = masking_section(rows, caption=f"{name}, within {radii.claimed:.3g} in the maximum norm.")
        yield replace(section, title=f"{section.title} {name}")


def _windows(found: Measurements, radii: Radii, dataset: Dataset) -> Iterator[Section]:
    for i, (name, windows) in enumerate(found.windows.items()):
        section = church_section(
            windows.classes,
            windows.labels,
            eps=radii.linf_shown[-1],
            across="fast gradient sign",
            down="random",
            columns=5,
            names=dataset.classes,
        )
        caption = (
            f"{section.caption} {_images(len(windows.labels))}; points may leave the box of pixels, as in the paper."
        )
        prose = f"{section.prose} ([WG] fig. 1.2.)" if i == 0 else ""
        yield replace(section, title=f"Church windows: {name}", prose=prose, caption=caption)


def _pictures(found: Measurements, radii: Radii, dataset: Dataset) -> Iterator[Section]:
    for name, shown in found.pictures.items():
        yield Section(
            f"Examples: {name}",
            "",
            _figure(shown, np.array(dataset.classes)),
            f"FGSM, eps = {radii.linf_shown[0]:.3g}: first the images that were right and that it turns, then others.",
        )


def _figure(shown: Pictures, names: np.ndarray) -> Figure:
    return examples(
        shown.x,
        shown.x_adv - shown.x,
        shown.x_adv,
        true=names[shown.labels],
        before=names[shown.before.argmax(axis=1)],
        after=names[shown.after.argmax(axis=1)],
        confidence_before=shown.before.max(axis=1),
        confidence_after=shown.after.max(axis=1),
    )


def _images(count: int) -> str:
    return f"{count:,} test images"
