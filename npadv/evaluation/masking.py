"""Checks for masked gradients: symptoms of a network that resists the attack and not the perturbation.

A network can have a useless gradient (zero, wrong, or as rough as noise) without being more robust: attacks that follow the
gradient then fail although adversarial examples are near. A measurement of robustness has to rule this out. A network whose
gradient is sound does not show the symptoms that the checks look for:

- ``masking_attacks.py`` compares two attacks: a stronger attack should break more examples;
- ``masking_budget.py`` compares budgets: a larger budget should break more examples;
- ``masking_loss.py`` measures the gradient and the loss;
- ``masking_checks.py`` runs all checks.

This file has what they share: how a check counts, and when it is suspicious. Only examples that the model classifies
correctly count. Of two attacks, the first is better if a sign test at 1% says so, on the examples that only one of them
breaks. A share is too large if the lower end of its 95% interval is above the tolerated share. So few examples prove
little, and a check that is not suspicious does not prove robustness.

References: Athalye, Carlini and Wagner 2018, "Obfuscated gradients give a false sense of security", section 3.1, whose list
the checks follow; Carlini et al. 2019, "On evaluating adversarial robustness", sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks.result import Model
from npadv.backend import Array
from npadv.evaluation.batchwise import Attack, check_examples, classify, craft, in_batches
from npadv.evaluation.rates import wilson

SLIPS_TOLERATED = 0.05
"""The share of examples on which an attack with more steps or a larger budget may do worse."""

Breaker = Callable[[Array, np.ndarray], np.ndarray]
"""Maps examples and their labels to whether each example is broken: (B,) bool."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes
    ----------
    name : str
        The name of the check's function.
    suspicious : bool
        Whether the symptom is there.
    numbers : mapping of str to float
        The numbers that decide: counts of examples, and shares of those that are classified correctly.
    explanation : str
        The outcome in a sentence.
    """

    name: str
    suspicious: bool
    numbers: Mapping[str, float]
    explanation: str


def run_check(
    model: Model,
    x: Array,
    y: Any,
    breakers: Sequence[Breaker],
    make_check: Callable[..., Check],
    batch_size: int,
    progress: bool | None,
) -> Check:
    """Return the check made of what each breaker breaks among the R examples that are classified correctly: (R,) bool each."""
    labels = check_examples(model, x, y)

    def measure(part: slice) -> tuple[np.ndarray, ...]:
        batch, own = x[part], labels[part]
        return classify(model, batch) == own, *(breaker(batch, own) for breaker in breakers)

    def make_result(correct: np.ndarray, *hits: np.ndarray) -> Check:
        return make_check(*(hit[correct] for hit in hits))

    return in_batches(measure, make_result, len(x), batch_size=batch_size, label="masking", progress=progress)


def broken_by(attack: Attack, model: Model, source: Model | None = None) -> Breaker:
    """Return the breaker of an attack on the model, or of its transfer from a source model to the model."""

    def breaker(batch: Array, labels: np.ndarray) -> np.ndarray:
        x_adv, prediction, _ = craft(attack, source or model, batch, labels)
        if source is not None and source is not model:
            prediction = classify(model, x_adv)
        hit: np.ndarray = prediction != labels
        return hit

    return breaker


def paired_numbers(first: str, by_first: np.ndarray, second: str, by_second: np.ndarray) -> dict[str, Any]:
    """Return the numbers of a comparison: the share that each breaks, and how many examples only it breaks."""
    return {
        "examples": len(by_first),
        first: mean(by_first),
        second: mean(by_second),
        f"only_{first}": int((by_first & ~by_second).sum()),
        f"only_{second}": int((by_second & ~by_first).sum()),
    }


def clearly_above(hits: np.ndarray, tolerated: float) -> bool:
    """Return whether the lower end of the 95% interval for the share of hits is above the tolerated share."""
    return len(hits) > 0 and float(wilson(int(hits.sum()), len(hits))[0]) > tolerated


def mean(values: np.ndarray) -> float:
    """Return the mean; NaN for an empty array."""
    return float(values.mean()) if len(values) else float("nan")


def percent(hits: np.ndarray) -> str:
    """Return the share of hits as a text."""
    return f"{mean(hits):.1%}"
