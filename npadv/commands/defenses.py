"""The registry of the command line's defenses: ``npadv train NETWORK --defense NAME``.

The options of a defense and their defaults are those of its function (``options.py``). A class here states what a signature
cannot: that more steps are projected gradient descent, that some images lose their labels, that a teacher is trained first. To
add a defense, add it to ``DEFENSES``; one whose arguments cannot be typed on a command line belongs in ``NOT_HERE``, with the
reason. ``tests/test_cli_train_defense.py`` fails until each public defense is in one of the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from npadv import defenses
from npadv.attacks import pgd
from npadv.commands.options import Option, options_of, summary
from npadv.data import Split
from npadv.train import Loss

REQUIRED = {"eps": inspect.Parameter.empty}
ELSEWHERE = ("ascent", "attack", "bounds", "build", "train", "unlabelled")
"""Parameters without an option: images have fixed bounds, and the others cannot be typed."""


class TrainingRun(NamedTuple):
    """The parts of a run that a defense may need: the images, a seed, and a function that trains another network."""

    images: Split
    seed: int
    train_teacher: Callable[[Loss, Split], Any]


@dataclass(frozen=True)
class Defense:
    """One defense of the command line.

    Attributes
    ----------
    function : callable
        From its options to a loss for ``fit``.
    paper : str
        The papers that describe it.
    preset : mapping
        Defaults that differ from the function's own.
    more : tuple of Option
        Options that are no parameters of the function.
    """

    function: Callable[..., Any]
    paper: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    more: tuple[Option, ...] = ()

    @property
    def summary(self) -> str:
        """One sentence that describes the defense, without its full stop."""
        text = summary(self.function).removeprefix("Return a loss for ``fit``: ")
        return text[0].upper() + text[1:]

    @property
    def options(self) -> list[Option]:
        """The defense's own options."""
        own = options_of(self.function, without=ELSEWHERE, preset=self.preset, positional=("eps",))
        return [*own, *self.more]

    def prepare(self, options: Mapping[str, Any], run: TrainingRun) -> tuple[Loss, Split]:
        """Return the loss, and the images to train on."""
        return self.function(**options), run.images


@dataclass(frozen=True)
class InnerAttack(Defense):
    """A defense whose inner step may be replaced by projected gradient descent."""

    more: tuple[Option, ...] = (
        Option("steps", int, 1, (), "Steps of the inner attack: with more than one, projected gradient descent."),
    )

    def prepare(self, options: Mapping[str, Any], run: TrainingRun) -> tuple[Loss, Split]:
        """Return the loss, with one step as in the papers or with several, and the images."""
        steps, own = options["steps"], {name: value for name, value in options.items() if name != "steps"}
        if steps < 1:
            raise ValueError(f"steps: expected an integer of at least 1, got {steps}")
        loss = self.function(**own)  # which checks the options
        if steps > 1:
            attack = partial(pgd, steps=steps, eps=own.pop("eps"), norm=own.pop("norm"))
            loss = self.function(attack=attack, **own)
        return loss, run.images


@dataclass(frozen=True)
class SemiSupervised(Defense):
    """A defense that can do without most of the labels."""

    more: tuple[Option, ...] = (
        Option(
            "labels", int, None, (), "Use the labels of N images only, as many of each class; the rest is unlabelled."
        ),
    )

    def prepare(self, options: Mapping[str, Any], run: TrainingRun) -> tuple[Loss, Split]:
        """Return the loss; and the labelled images, repeated, so that an epoch has as many steps as with all labels."""
        count, own = options["labels"], {name: value for name, value in options.items() if name != "labels"}
        if count is None:
            return self.function(**own), run.images
        if not 1 <= count <= len(run.images):
            raise ValueError(f"labels: expected 1 to {len(run.images)}, the images of the training set, got {count}")
        labelled = balanced(run.images.labels, count, np.random.default_rng(run.seed))
        loss = self.function(**own, unlabelled=run.images.images)
        return loss, run.images[np.resize(labelled, len(run.images))]


@dataclass(frozen=True)
class Distilled(Defense):
    """Defensive distillation: a teacher of the same network is trained first.

    Both losses are multiplied by the temperature T. Their gradients in the logits are smaller by T than in plain training, for
    which the recipes' step sizes were made.
    """

    def prepare(self, options: Mapping[str, Any], run: TrainingRun) -> tuple[Loss, Split]:
        """Train the teacher; return the student's loss and the images."""
        factor = options["temperature"]
        teacher = run.train_teacher(multiplied(defenses.at_temperature(**options), factor), run.images)
        return multiplied(defenses.distillation(teacher, **options), factor), run.images


def multiplied(loss: Loss, factor: float) -> Loss:
    """Return a loss times a factor."""
    return lambda model, x, y, *, rng: factor * loss(model, x, y, rng=rng)


def balanced(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of ``count`` examples drawn at random, as many of each class as possible.

    >>> labels = np.array([0, 0, 0, 0, 1, 1, 1])
    >>> labels[balanced(labels, 4, np.random.default_rng(0))]
    array([0, 1, 0, 1])
    """
    order = rng.permutation(len(labels))
    rank = np.empty(len(labels), int)  # of an example among those of its class
    for label in np.unique(labels):
        own = order[labels[order] == label]
        rank[own] = np.arange(len(own))
    return np.lexsort((labels, rank))[:count]


DEFENSES: dict[str, Defense] = {
    "adversarial_training": InnerAttack(
        defenses.adversarial_training, "[WG] 1.3, [SYN] eq. 3; Goodfellow et al. 2014", REQUIRED
    ),
    "robust_optimization": InnerAttack(defenses.robust_optimization, "[SYN] 4, Algorithm 1", REQUIRED),
    "virtual_adversarial_training": SemiSupervised(
        defenses.virtual_adversarial_training, "[WG] 1.3.1; Miyato et al. 2015"
    ),
    "defensive_distillation": Distilled(defenses.defensive_distillation, "[WG] 1.2.7; Papernot et al. 2016"),
    "label_smoothing": Defense(defenses.label_smoothing, "[WG] 1.2.7; Szegedy et al. 2015"),
    "input_noise": Defense(defenses.input_noise, "[WG] 1.2.7; Goodfellow et al. 2014"),
    "weight_decay": Defense(defenses.weight_decay, "[WG] 1.2.7; Goodfellow et al. 2014"),
}

NOT_HERE: dict[str, str] = {
    "distillation": "plain distillation is defensive_distillation --temperature 1; from a teacher of your own, in Python",
    "at_temperature": "the teacher's half of defensive_distillation",
}


def listing() -> Iterator[tuple[str, str]]:
    """Yield the name of each defense, its summary, paper and options, or why it can be called from Python only."""
    for name, defense in DEFENSES.items():
        flags = " ".join(option.flag for option in defense.options)
        yield name, f"{defense.summary}. {defense.paper}. {flags}"
    for name, reason in NOT_HERE.items():
        yield name, f"Not here: {reason}."
