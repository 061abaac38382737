"""What ``npadv evaluate`` measures: named sets, from a first look to a long one, and the radii for each data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Radii:
    """The budgets of the curves in units of pixels, which lie in [0, 1], and those that the table shows.

    ``claimed`` is the one in the maximum norm at which gradients are checked for masking.
    """

    linf: tuple[float, ...]
    l2: tuple[float, ...]
    linf_shown: tuple[float, ...]
    l2_shown: tuple[float, ...]
    claimed: float


# [WG] and Goodfellow et al. 2014 take .25 and .1 for MNIST.
HANDWRITING = Radii(
    linf=(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
    l2=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
    linf_shown=(0.1, 0.25),
    l2_shown=(1.5,),
    claimed=0.1,
)
# The field's 8/255 and 0.5, and what is about half and twice as much.
PHOTOGRAPHS = Radii(
    linf=(0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255),
    l2=(0.0, 0.125, 0.25, 0.5, 1.0, 2.0),
    linf_shown=(2 / 255, 8 / 255),
    l2_shown=(0.5,),
    claimed=8 / 255,
)
RADII: dict[str, Radii] = {"digits": HANDWRITING, "mnist": HANDWRITING, "cifar10": PHOTOGRAPHS}


@dataclass(frozen=True)
class Plan:
    """How much of each measurement there is.

    Attributes
    ----------
    what : str
        One sentence for a reader.
    examples : int
        Test images to attack, the first ones; the clean error is that of all.
    steps : int
        Of projected gradient descent.
    windows, points : int
        Church windows a model, and points to the side of each.
    carlini_wagner : int
        Test images for this slow attack, 0 to leave it out.
    """

    what: str
    examples: int
    steps: int
    windows: int
    points: int
    carlini_wagner: int = 0


SETS: dict[str, Plan] = {
    "quick": Plan("A first look, seconds for a small network", examples=100, steps=10, windows=5, points=31),
    "standard": Plan("Enough for rates to a few percent, minutes", examples=500, steps=40, windows=10, points=61),
    "thorough": Plan(
        "More of all, and distances by Carlini and Wagner's attack: an hour for a convnet on a CPU",
        examples=2000,
        steps=100,
        windows=20,
        points=101,
        carlini_wagner=200,
    ),
}


def listing() -> Iterator[str]:
    """Yield what each set measures, and on which radii."""
    for name, plan in SETS.items():
        slow = f"; Carlini and Wagner on {plan.carlini_wagner}" if plan.carlini_wagner else ""
        yield (
            f"{name:8}  {plan.what}: {plan.examples:,} test images; FGSM, PGD of {plan.steps} steps (linf, l2), DeepFool "
            f"(l2, linf){slow}; transfer; checks for masked gradients; {plan.windows} church windows of {plan.points} x "
            f"{plan.points} points."
        )
    for data, radii in RADII.items():
        linf, l2 = (", ".join(f"{r:.3g}" for r in values) for values in (radii.linf, radii.l2))
        yield f"Radii for {data}: linf {linf}; l2 {l2}; masking at {radii.claimed:.3g}."
