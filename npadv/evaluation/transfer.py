"""Transfer of adversarial examples: those crafted on one model often fool another ([WG] 1.2.1).

    error[c, t] = share of examples with f_t(x_adv crafted on model c) != y

The diagonal, where both models are the same, is the white-box attack. The literature counts in different ways. [WG] table
1.1 counts all examples, also those that the target misclassifies without an attack. [SYN] 5.1 counts only examples that
succeeded on the crafting model: it classified them correctly before the attack and wrongly after it. ``TransferMatrix.errors``
offers both, for the same examples.
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
    """Craft adversarial examples on each of the crafting models, and classify them with each of the targets.

    Parameters
    ----------
    crafters : mapping of names to callables
        Models that map a batch (N, ...) to logits (N, K), recorded by the tape.
    targets : mapping of names to callables
        Models that map a batch to logits (N, K), or to classes (N,) of integers. They need no gradient.
    x, y, batch_size, progress : see npadv.evaluation
    attack : callable
        ``attack(model, x, y)`` returns an AttackResult: an untargeted attack of ``npadv.attacks`` with its settings, such as
        ``functools.partial(fgsm, eps=0.25)``.

    Returns
    -------
    TransferMatrix

    Examples
    --------
    Two linear models of the first pixel, one with larger logits, and one of the second pixel:

    >>> from functools import partial
    >>> from npadv.attacks import fgsm
    >>> first, second = np.array([[5.0, -5.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [5.0, -5.0]])
    >>> models = {"small": lambda x: (x - 0.5) @ first, "large": lambda x: (x - 0.5) @ (3 * first),
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


CRITERIA = ("crafter_fooled", "crafter_right", "target_right")


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """The classes that T targets give N examples, before and after the attack crafted on each of C crafting models.

    Attributes
    ----------
    crafters, targets : tuple of str
        The models' names.
    labels : (N,)
        The true classes.
    before : (T, N)
        The class each target gives each example.
    after : (C, T, N)
        The class each target gives the adversarial example that was crafted on each crafting model.
    crafter_before, crafter_after : (C, N)
        The class each crafting model gives the example, and the adversarial example crafted on it.
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
        """Return the error of each target on the adversarial examples crafted on each model: (C, T).

        Parameters
        ----------
        where : {"crafter_fooled", "crafter_right", "target_right"}
            Count only the examples that meet all of these criteria; by default all examples, as in [WG] table 1.1.
            "crafter_fooled": the crafting model misclassifies the adversarial example. "crafter_right": it classifies the
            original correctly. Both together are the criterion of [SYN] 5.1. "target_right": the target classifies the
            original correctly.
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
