"""Adversarial examples travel: what was crafted on one model fools another that it has never seen ([WG] 1.2.1).

The error of every target on what was crafted on every crafting model is a matrix; its diagonal, where a model is both, is
the white-box attack. The field counts it in more than one way. [WG] table 1.1 counts all examples, those too that the
target gets wrong by itself. [SYN] 5.1 counts only what was a success where it was crafted: examples that the crafting
model classified rightly before, and wrongly after. Both are here, over the same examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks.result import Model
from npadv.backend import Array
from npadv.evaluation.batchwise import Attack, check_examples, check_models, classify, craft, in_batches
from npadv.evaluation.rates import Rate

CRITERIA = ("crafter_fooled", "crafter_right", "target_right")


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """What T targets said of N examples, before and after each of C crafting models had its way with them.

    Attributes
    ----------
    crafters, targets : tuple of str
        The models' names.
    labels : (N,)
        The true classes.
    before : (T, N)
        The class each target gives each example.
    after : (C, T, N)
        The class each target gives what was crafted on each crafting model.
    crafter_before, crafter_after : (C, N)
        The same, as the crafting model sees its own.
    distance : (C, N)
        Size of the perturbation, in the attack's norm.
    """

    crafters: tuple[str, ...]
    targets: tuple[str, ...]
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray
    crafter_before: np.ndarray
    crafter_after: np.ndarray
    distance: np.ndarray

    def clean(self) -> Rate:
        """Return the error of each target on the examples themselves: (T,)."""
        wrong = self.before != self.labels
        return Rate(wrong.sum(axis=1), np.full(len(wrong), wrong.shape[1]))

    def errors(self, *where: str) -> Rate:
        """Return the error of each target on what was crafted on each model: (C, T).

        Parameters
        ----------
        where : {"crafter_fooled", "crafter_right", "target_right"}
            Count only the examples that fulfil all of these; by default all examples, as [WG] table 1.1 does.
            "crafter_fooled": the crafting model is wrong about what was crafted; "crafter_right": it was right about the
            example before (both together: the sets of [SYN] 5.1); "target_right": the target was.
        """
        for name in where:
            if name not in CRITERIA:
                raise ValueError(f"where: expected some of {', '.join(CRITERIA)}, got {name!r}")
        wrong = self.after != self.labels
        counted = np.ones_like(wrong)
        if "crafter_fooled" in where:
            counted &= (self.crafter_after != self.labels)[:, None]
        if "crafter_right" in where:
            counted &= (self.crafter_before == self.labels)[:, None]
        if "target_right" in where:
            counted &= self.before == self.labels
        return Rate((wrong & counted).sum(axis=2), counted.sum(axis=2))


def transfer_matrix(
    crafters: Mapping[str, Model],
    targets: Mapping[str, Model],
    x: Array,
    y: Any,
    *,
    attack: Attack,
    batch_size: int = 500,
    progress: bool | None = None,
) -> TransferMatrix:
    """Craft adversarial examples on each of the crafting models and show them to each of the targets.

    Parameters
    ----------
    crafters : mapping of names to callables
        Models from a batch (N, ...) to logits (N, K), recorded by the tape.
    targets : mapping of names to callables
        Models that are only asked: they give scores (N, K), or classes (N,) of integers, and need no gradient.
    x : (N, ...) array
        Examples, within the attack's box.
    y : (N,) integers
        The true classes.
    attack : callable
        ``attack(model, x, y)`` gives an AttackResult: an attack of ``npadv.attacks`` with its settings, untargeted, as
        ``functools.partial(fgsm, eps=0.25)``.
    batch_size : int
        Examples at a time, which bounds the memory.
    progress : bool, optional
        Draw a bar; by default on a terminal.

    Returns
    -------
    TransferMatrix

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.
    Interrupted
        On Ctrl-C, with the matrix of the examples that were finished.

    Examples
    --------
    Two linear models with the same opinion, one louder; and one that looks at the second pixel instead of the first:

    >>> from functools import partial
    >>> from npadv.attacks import fgsm
    >>> first, second = np.array([[5.0, -5.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [5.0, -5.0]])
    >>> models = {"quiet": lambda x: (x - 0.5) @ first, "loud": lambda x: (x - 0.5) @ (3 * first),
    ...           "other": lambda x: (x - 0.5) @ second}
    >>> x = np.array([[0.6, 0.9], [0.8, 0.6]])
    >>> matrix = transfer_matrix(models, models, x, np.array([0, 0]), attack=partial(fgsm, eps=0.2))
    >>> matrix.errors().rate
    array([[0.5, 0.5, 0. ],
           [0.5, 0.5, 0. ],
           [0. , 0. , 0.5]])
    """
    crafters, targets = check_models("crafters", crafters), check_models("targets", targets)
    for model in crafters.values():
        labels = check_examples(model, x, y)

    def measure(part: slice) -> tuple[np.ndarray, ...]:
        batch, own, crafted = x[part], [], []
        for model in crafters.values():
            x_adv, prediction, distance = craft(attack, model, batch, labels[part])
            own.append((classify(model, batch), prediction, distance))
            crafted.append([classify(target, x_adv) for target in targets.values()])
        crafter_before, crafter_after, distances = (np.stack(values) for values in zip(*own, strict=True))
        before = np.stack([classify(target, batch) for target in targets.values()])
        return labels[part], before, np.array(crafted), crafter_before, crafter_after, distances

    return in_batches(
        measure,
        lambda *arrays: TransferMatrix(tuple(crafters), tuple(targets), *arrays),
        len(x),
        batch_size=batch_size,
        label="transfer",
        progress=progress,
    )
