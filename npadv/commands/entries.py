"""What an entry of the catalogue can be: an attack that is called as it is, or one that needs something more."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from npadv.attacks import AttackResult, fgsm, transfer_attack
from npadv.attacks.result import predict
from npadv.backend import Array
from npadv.commands.models import Model
from npadv.commands.options import Option, options_of, summary
from npadv.data import Dataset, Split
from npadv.nn import NETWORKS, network
from npadv.recipes import RECIPES

ELSEWHERE = ("bounds", "loss", "rng", "targeted")
"""Parameters that no option stands for: images have their box, --seed makes the generator, --target is --targeted."""

QUERIES = "queries.npz"
"""All that a black box was asked, with its answers: what a resumed run need not ask again."""


class Work(NamedTuple):
    """What a run has to offer to an attack that needs more than a batch and its labels."""

    model: Model
    dataset: Dataset
    out: Path
    seed: int
    device: str
    resume: bool
    progress: bool | None


class OneBatch(Protocol):
    """Attacks a batch: ``y`` are its labels, or the targets."""

    def __call__(self, x: Array, y: Array, *, targeted: bool, rng: np.random.Generator) -> AttackResult:
        """Return what became of it."""


@dataclass(frozen=True)
class Entry:
    """One attack, by the name it has on the command line.

    Attributes
    ----------
    attack : callable
        From the model and a batch to an ``AttackResult``.
    paper : str
        Where it is described.
    norm : str
        What ``distance`` measures; empty if the option ``norm`` says it.
    examples : int
        How many are attacked unless told: fewer where one takes seconds.
    preset : mapping
        Defaults in which a well-known special case differs from the function's own.
    what : str
        One sentence; by default the first of the function's docstring.
    success : str
        What it is that succeeds, where it is neither an error nor a target that is reached.
    without : tuple of str
        Parameters of the function that are no options.
    more : tuple of Option
        Options that the function does not have.
    """

    attack: Callable[..., Any]
    paper: str
    norm: str = ""
    examples: int = 1000
    preset: Mapping[str, Any] = field(default_factory=dict)
    what: str = ""
    success: str = ""
    without: tuple[str, ...] = ()
    more: tuple[Option, ...] = ()

    @property
    def summary(self) -> str:
        """What the attack does, in one sentence without its full stop."""
        return self.what or summary(self.attack)

    @property
    def options(self) -> list[Option]:
        """The attack's own options."""
        return [*self.more, *options_of(self.attack, without=(*ELSEWHERE, *self.without), preset=self.preset)]

    @property
    def has_targets(self) -> bool:
        """Whether the attack can be asked for a class."""
        return self._takes("targeted")

    def measure(self, options: Mapping[str, Any]) -> str:
        """Return what the distances of a run with these options are measured in."""
        return self.norm or str(options["norm"])

    def available(self, test: Split, options: Mapping[str, Any]) -> Split:
        """Return the test images that may be attacked."""
        return test

    def begin(self, work: Work, options: Mapping[str, Any]) -> tuple[OneBatch, dict[str, Any]]:
        """Do what comes before the first batch; return what attacks a batch, and facts for the result."""

        def one_batch(x: Array, y: Array, *, targeted: bool, rng: np.random.Generator) -> AttackResult:
            given: dict[str, Any] = dict(options)
            if self._takes("targeted"):
                given["targeted"] = targeted
            if self._takes("rng"):
                given["rng"] = rng
            result: AttackResult = self.attack(work.model, x, *([y] if self._takes("y") else []), **given)
            return result

        return one_batch, {}

    def _takes(self, name: str) -> bool:
        return name in inspect.signature(self.attack).parameters


@dataclass(frozen=True)
class Feature(Entry):
    """Feature adversaries: each example's guide is drawn from the training images of another class."""

    def begin(self, work: Work, options: Mapping[str, Any]) -> tuple[OneBatch, dict[str, Any]]:
        """Cut the network at ``--layer``."""
        count, depth, train = len(work.model.network), options["layer"], work.dataset.train
        if not 1 <= depth <= count:
            raise ValueError(f"layer: expected 1 to {count}, the layers of {work.model.name}, got {depth}")
        rest = {name: value for name, value in options.items() if name != "layer"}

        def one_batch(x: Array, y: Array, *, targeted: bool, rng: np.random.Generator) -> AttackResult:
            own = np.array([rng.choice(np.flatnonzero(train.labels != int(label))) for label in y])
            guide = work.model.on_device(train.images[own])
            result: AttackResult = self.attack(work.model, x, guide, layer=work.model.network[:depth], **rest)
            return result

        return one_batch, {"layer": repr(work.model.network[depth - 1])}


@dataclass(frozen=True)
class Substitute(Entry):
    """The black box: train a student on the model's labels, and show the model what FGSM makes of the student."""

    @property
    def has_targets(self) -> bool:
        """Whether the attack can be asked for a class."""
        return True

    def available(self, test: Split, options: Mapping[str, Any]) -> Split:
        """Return all but the seeds."""
        seeds = options["seeds"]
        if not 1 <= seeds < len(test):
            raise ValueError(f"seeds: expected 1 to {len(test) - 1}, some of the test images, got {seeds}")
        return test[:-seeds]

    def begin(self, work: Work, options: Mapping[str, Any]) -> tuple[OneBatch, dict[str, Any]]:
        """Train the student; every label that was asked for is kept in ``queries.npz``."""
        own = dict(options)
        name, seeds, eps = own.pop("student"), own.pop("seeds"), own.pop("eps")
        rng = np.random.default_rng(work.seed)
        student = network(name, rng=rng).to(work.device)
        result = self.attack(
            partial(predict, work.model),
            student,
            work.model.on_device(work.dataset.test.images[-seeds:]),
            optimizer=RECIPES[name].optimizer(student),
            rng=rng,
            checkpoint=work.out / QUERIES,
            resume=work.resume,
            progress=work.progress,
            **own,
        )

        def one_batch(x: Array, y: Array, *, targeted: bool, rng: np.random.Generator) -> AttackResult:
            return transfer_attack(student, partial(predict, work.model), fgsm, x, y, targeted=targeted, eps=eps)

        return one_batch, {"labels_asked_for": result.queries, "agreement": result.history[-1]["agreement"]}


def feature_options() -> tuple[Option, ...]:
    """Return what ``feature`` is given beside its own options."""
    return (Option("layer", int, inspect.Parameter.empty, (), "The layer to imitate: the first N of the network's."),)


def substitute_options() -> tuple[Option, ...]:
    """Return what ``substitute`` is given beside its own options."""
    return (
        Option("eps", float, inspect.Parameter.empty, (), "Radius of FGSM on the student, in units of x."),
        Option("student", str, "small_convnet", tuple(NETWORKS), "The network that is trained on the model's labels."),
        Option("seeds", int, 100, (), "Images that the attacker begins with: the last of the test images."),
    )
