"""Adapters between the command line and the attacks: how an attack is called with a batch and its options.

Most attacks need the model, the batch and its labels: :class:`Adapter`. Some need more: guide images (:class:`Feature`), or a
student network (:class:`Substitute`).
"""

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
"""Parameters without an option: images have fixed bounds, --seed makes the generator, --target makes the attack targeted."""

QUERIES = "queries.npz"
"""The file of a black-box attack's queries and their labels: a resumed run does not ask for these labels again."""


class RunContext(NamedTuple):
    """The parts of a run that an attack may need beside a batch and its labels."""

    model: Model
    dataset: Dataset
    out: Path
    seed: int
    device: str
    resume: bool
    progress: bool | None


class BatchAttack(Protocol):
    """Attacks a batch; ``y`` holds its labels, or the targets."""

    def __call__(self, x: Array, y: Array, *, targeted: bool, rng: np.random.Generator) -> AttackResult:
        """Return the attack's result."""


@dataclass(frozen=True)
class Adapter:
    """One attack of the command line.

    Attributes
    ----------
    attack : callable
        From the model and a batch to an ``AttackResult``.
    paper : str
        The papers that describe it.
    norm : str
        The norm of ``AttackResult.distance``; empty if the option ``norm`` chooses it.
    examples : int
        Default number of examples: fewer for attacks that take seconds an example.
    preset : mapping
        Defaults of a well-known special case that differ from the function's own.
    description : str
        One sentence that describes the attack; by default the first of the function's docstring.
    success : str
        How a success is named, if it is neither a misclassification nor a reached target.
    without : tuple of str
        Parameters of the function that have no option.
    more : tuple of Option
        Options that are no parameters of the function.
    """

    attack: Callable[..., Any]
    paper: str
    norm: str = ""
    examples: int = 1000
    preset: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    success: str = ""
    without: tuple[str, ...] = ()
    more: tuple[Option, ...] = ()

    @property
    def summary(self) -> str:
        """One sentence that describes the attack, without its full stop."""
        return self.description or summary(self.attack)

    @property
    def options(self) -> list[Option]:
        """The attack's own options."""
        return [*self.more, *options_of(self.attack, without=(*ELSEWHERE, *self.without), preset=self.preset)]

    @property
    def has_targets(self) -> bool:
        """Whether the attack can have a target class."""
        return self._takes("targeted")

    def measure(self, options: Mapping[str, Any]) -> str:
        """Return the norm of the distances of a run with these options."""
        return self.norm or str(options["norm"])

    def available(self, test: Split, options: Mapping[str, Any]) -> Split:
        """Return the test images that may be attacked."""
        return test

    def begin(self, context: RunContext, options: Mapping[str, Any]) -> tuple[BatchAttack, dict[str, Any]]:
        """Prepare the first batch; return a function that attacks a batch, and facts for the result."""

        def attack_batch(x: Array, y: Array, *, targeted: bool, rng: np.random.Generator) -> AttackResult:
            given: dict[str, Any] = dict(options)
            if self._takes("targeted"):
                given["targeted"] = targeted
            if self._takes("rng"):
                given["rng"] = rng
            result: AttackResult = self.attack(context.model, x, *([y] if self._takes("y") else []), **given)
            return result

        return attack_batch, {}

    def _takes(self, name: str) -> bool:
        return name in inspect.signature(self.attack).parameters


@dataclass(frozen=True)
class Feature(Adapter):
    """Feature adversaries: each example's guide is drawn from the training images of another class."""

    def begin(self, context: RunContext, options: Mapping[str, Any]) -> tuple[BatchAttack, dict[str, Any]]:
        """Cut the network at ``--layer``."""
        count, depth, train = len(context.model.network), options["layer"], context.dataset.train
        if not 1 <= depth <= count:
            raise ValueError(f"layer: expected 1 to {count}, the layers of {context.model.name}, got {depth}")
        rest = {name: value for name, value in options.items() if name != "layer"}

        def attack_batch(x: Array, y: Array, *, targeted: bool, rng: np.random.Generator) -> AttackResult:
            own = np.array([rng.choice(np.flatnonzero(train.labels != int(label))) for label in y])
            guide = context.model.on_device(train.images[own])
            result: AttackResult = self.attack(context.model, x, guide, layer=context.model.network[:depth], **rest)
            return result

        return attack_batch, {"layer": repr(context.model.network[depth - 1])}


@dataclass(frozen=True)
class Substitute(Adapter):
    """The black-box attack: train a student on the model's labels, and give the model the FGSM examples of the student."""

    @property
    def has_targets(self) -> bool:
        """Whether the attack can have a target class."""
        return True

    def available(self, test: Split, options: Mapping[str, Any]) -> Split:
        """Return all but the seeds."""
        seeds = options["seeds"]
        if not 1 <= seeds < len(test):
            raise ValueError(f"seeds: expected 1 to {len(test) - 1}, some of the test images, got {seeds}")
        return test[:-seeds]

    def begin(self, context: RunContext, options: Mapping[str, Any]) -> tuple[BatchAttack, dict[str, Any]]:
        """Train the student. The queries and their labels are stored in ``queries.npz``."""
        own = dict(options)
        name, seeds, eps = own.pop("student"), own.pop("seeds"), own.pop("eps")
        rng = np.random.default_rng(context.seed)
        student = network(name, rng=rng).to(context.device)
        result = self.attack(
            partial(predict, context.model),
            student,
            context.model.on_device(context.dataset.test.images[-seeds:]),
            optimizer=RECIPES[name].optimizer(student),
            rng=rng,
            checkpoint=context.out / QUERIES,
            resume=context.resume,
            progress=context.progress,
            **own,
        )

        def attack_batch(x: Array, y: Array, *, targeted: bool, rng: np.random.Generator) -> AttackResult:
            return transfer_attack(student, partial(predict, context.model), fgsm, x, y, targeted=targeted, eps=eps)

        return attack_batch, {"labels_asked_for": result.queries, "agreement": result.history[-1]["agreement"]}


def feature_options() -> tuple[Option, ...]:
    """Return the options of ``feature`` that are no parameters of the function."""
    return (
        Option(
            "layer",
            int,
            inspect.Parameter.empty,
            (),
            "The layer to imitate: the output of the network's first N layers.",
        ),
    )


def substitute_options() -> tuple[Option, ...]:
    """Return the options of ``substitute`` that are no parameters of the function."""
    return (
        Option("eps", float, inspect.Parameter.empty, (), "Radius of FGSM on the student, in units of x."),
        Option("student", str, "small_convnet", tuple(NETWORKS), "The network that is trained on the model's labels."),
        Option("seeds", int, 100, (), "Number of images that the attacker begins with: the last of the test images."),
    )
