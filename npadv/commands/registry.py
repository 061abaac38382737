"""The registry of the command line's attacks.

An adapter states what a signature cannot: the paper, the norm of the distance, and the arguments beside the model, the
examples and their labels. Its options and their defaults are those of the function (``options.py``). To add an attack, add
an adapter to ``ATTACKS``. An attack whose arguments cannot be typed on a command line belongs in ``NOT_HERE``, with the
reason. ``tests/test_cli_attack.py`` fails until each public attack is in one of the two.
"""

from __future__ import annotations

from collections.abc import Iterator

from npadv import attacks
from npadv.commands.adapters import Adapter, Feature, Substitute, feature_options, substitute_options
from npadv.commands.rubbish import RUBBISH, Rubbish

ATTACKS: dict[str, Adapter] = {
    "fgsm": Adapter(attacks.fgsm, "[WG] eq. 1.3, [SYN] eq. 2; Goodfellow et al. 2014", norm="linf"),
    "steepest_ascent": Adapter(attacks.steepest_ascent, "[SYN] eq. 11"),
    "one_pixel": Adapter(  # attacks.one_pixel, with the other options of steepest_ascent
        attacks.steepest_ascent,
        "[SYN] 5.1, fig. 1",
        preset={"norm": "l1", "pixels": 1, "eps": 1.0},
        description="Move the one pixel that raises the linearised loss most, as far as it can go",
    ),
    "pgd": Adapter(attacks.pgd, "[WG] 1.3; Madry et al. 2018"),
    "lbfgs": Adapter(attacks.lbfgs, "[WG] 1.2, [SYN] eq. 1; Szegedy et al. 2013", norm="l2", examples=100),
    "linearized": Adapter(attacks.linearized, "[WG] 1.2.4; Huang et al. 2015"),
    "deepfool": Adapter(attacks.deepfool, "Moosavi-Dezfooli et al. 2016"),
    "virtual_adversarial": Adapter(attacks.virtual_adversarial, "[WG] 1.2; Miyato et al. 2015", norm="l2"),
    "jsma": Adapter(attacks.jsma, "[WG] 1.2.4; Papernot et al. 2016", norm="pixels", examples=100),
    "carlini_wagner": Adapter(attacks.carlini_wagner, "Carlini and Wagner 2017", norm="l2", examples=100),
    "feature": Feature(
        attacks.feature,
        "[WG] 1.2.4; Sabour et al. 2016",
        norm="linf",
        examples=100,
        without=("layer",),
        more=feature_options(),
        description="Find, within eps of each example, the image that a layer takes for a training image of another class",
        success="taken for the guide",
    ),
    "substitute": Substitute(
        attacks.substitute,
        "[WG] 1.2.1; Papernot et al. 2017",
        norm="linf",
        without=("optimizer", "held_out", "checkpoint", "resume", "progress"),
        more=substitute_options(),
        description="Attack a black box: train a student on the model's labels, then give it the student's examples",
    ),
}

NOT_HERE: dict[str, str] = {
    "tangent": "[SYN] eq. 13 needs a basis of the data's tangent plane at every image, and the paper leaves open which: "
    "in Python, npadv.attacks.tangent",
    "transfer_attack": "part of substitute; between networks from files, npadv evaluate",
    "confident_errors": "part of the three kinds of rubbish",
}


def listing() -> Iterator[tuple[str, str]]:
    """Yield the name of each attack, and its summary and paper, or why it can be called from Python only."""
    attacks: dict[str, Adapter | Rubbish] = {**ATTACKS, **RUBBISH}
    for name, attack in attacks.items():
        yield name, f"{attack.summary}. {attack.paper}."
    for name, reason in NOT_HERE.items():
        yield name, f"Not here: {reason}."
