"""The presets of ``npadv evaluate --set``, from a quick one to a thorough one, and the radii for each data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Radii:
    """The perturbation sizes of the curves, in units of pixels in [0, 1].

    ``linf_shown`` and ``l2_shown`` are those in the table; ``claimed`` is the size in the maximum norm at which the checks for
    masked gradients run.
    """

    linf: tuple[float, ...]
    l2: tuple[float, ...]
    linf_shown: tuple[float, ...]
    l2_shown: tuple[float, ...]
    claimed: float


# [WG] and Goodfellow et al. 2014 use .25 and .1 on MNIST.
HANDWRITING = Radii(
    linf=(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
    l2=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
    linf_shown=(0.1, 0.25),
    l2_shown=(1.5,),
    claimed=0.1,
)
# 8/255 and 0.5 are the field's common choices; the others are fractions and multiples of them.
PHOTOGRAPHS = Radii(
    linf=(0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255),
    l2=(0.0, 0.125, 0.25, 0.5, 1.0, 2.0),
    linf_shown=(2 / 255, 8 / 255),
    l2_shown=(0.5,),
    claimed=8 / 255,
)
RADII: dict[str, Radii] = {"digits": HANDWRITING, "mnist": HANDWRITING, "cifar10": PHOTOGRAPHS}


@dataclass(frozen=True)
class Preset:
    """The extent of each measurement.

    Attributes
    ----------
    what : str
        One sentence that describes the preset.
    examples : int
        Number of test images to attack, the first ones; the clean error is measured on all.
    steps : int
        Steps of projected gradient descent.
    windows, points : int
        Church windows for each model, and points along each side of one.
    carlini_wagner : int
        Test images for the slow attack of Carlini and Wagner; 0 leaves it out.
    """

    what: str
    examples: int
    steps: int
    windows: int
    points: int
    carlini_wagner: int = 0


PRESETS: dict[str, Preset] = {
    "quick": Preset("A first look, seconds for a small network", examples=100, steps=10, windows=5, points=31),
    "standard": Preset("Enough for rates to a few percent, minutes", examples=500, steps=40, windows=10, points=61),
    "thorough": Preset(
        "More of everything, and distances by Carlini and Wagner's attack: an hour for a convnet on a CPU",
        examples=2000,
        steps=100,
        windows=20,
        points=101,
        carlini_wagner=200,
    ),
}


def listing() -> Iterator[tuple[str, str]]:
    """Yield the name of each preset and its measurements, then the radii for each data set."""
    for name, preset in PRESETS.items():
        slow = f"; Carlini and Wagner on {preset.carlini_wagner}" if preset.carlini_wagner else ""
        yield (
            name,
            f"{preset.what}: {preset.examples:,} test images; FGSM, PGD of {preset.steps} steps (linf, l2), DeepFool "
            f"(l2, linf){slow}; transfer; checks for masked gradients; {preset.windows} church windows of {preset.points} x "
            f"{preset.points} points.",
        )
    for data, radii in RADII.items():
        linf, l2 = (", ".join(f"{r:.3g}" for r in values) for values in (radii.linf, radii.l2))
        yield data, f"Radii: linf {linf}; l2 {l2}; masking at {radii.claimed:.3g}."
