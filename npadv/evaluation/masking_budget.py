"""Checks for masked gradients that compare budgets: a larger budget should break more examples, and the whole box all of them.

    share broken within eps_1 <= share broken within eps_2 <= ... <= 1 within the box

A larger ball contains the smaller one, so an attack that breaks fewer examples with the larger budget is misled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from npadv.attacks.result import Model
from npadv.backend import Array
from npadv.evaluation.batchwise import Attack, check_budgets
from npadv.evaluation.masking import SLIPS_TOLERATED, Check, broken_by, clearly_above, mean, percent, run_check

FAILURES_TOLERATED = 0.01
"""The share of examples that an attack with the whole box as its budget may miss."""


def unbounded_falls_short(
    model: Model, x: Array, y: Any, *, attack: Attack, batch_size: int = 500, progress: bool | None = None
) -> Check:
    """Check whether an attack fails although its budget is the whole box.

    Parameters
    ----------
    model, x, y, batch_size, progress : see npadv.evaluation
    attack : callable
        ``attack(model, x, y)`` whose budget is the whole box, such as ``pgd`` with many steps and the box's width as eps.

    Returns
    -------
    Check
        Suspicious if clearly more than 1% of the examples withstand it: the box contains images of all classes.
    """

    def make_check(hit: np.ndarray) -> Check:
        numbers = {"examples": len(hit), "broken": mean(hit)}
        explanation = f"without a budget the attack breaks {percent(hit)} of {len(hit)} examples; all of them could be"
        return Check("unbounded_falls_short", clearly_above(~hit, FAILURES_TOLERATED), numbers, explanation)

    return run_check(model, x, y, [broken_by(attack, model)], make_check, batch_size, progress)


def larger_budget_does_not_help(
    model: Model,
    x: Array,
    y: Any,
    *,
    attack: Attack,
    eps: Sequence[float] | np.ndarray,
    batch_size: int = 500,
    progress: bool | None = None,
) -> Check:
    """Check whether an attack with a larger budget breaks fewer examples, or no more of them.

    Parameters
    ----------
    model, x, y, batch_size, progress : see npadv.evaluation
    attack : callable
        ``attack(model, x, y, eps=eps)``.
    eps : (E,) increasing numbers, at least 2
        The budgets; the largest should be large enough to break every example that can be broken.

    Returns
    -------
    Check
        Suspicious if clearly more than 5% of the examples are broken with a smaller budget and not with the largest, or if
        the largest breaks no more of them than the smallest does, and not all.
    """
    budgets = [float(value) for value in check_budgets(eps)]
    if len(budgets) < 2:
        raise ValueError(f"eps: expected at least 2 budgets to compare, got {eps!r}")

    def make_check(*hits: np.ndarray) -> Check:
        first, last = hits[0], hits[-1]
        slipped = np.any(hits[:-1], axis=0) & ~last
        flat = len(last) > 0 and last.sum() <= first.sum() and not last.all()
        numbers: dict[str, float] = {"examples": len(last), "slipped": mean(slipped)}
        numbers |= {f"broken at {budget:g}": mean(hit) for budget, hit in zip(budgets, hits, strict=True)}
        shares = ", ".join(f"{percent(hit)} at {budget:g}" for budget, hit in zip(budgets, hits, strict=True))
        explanation = f"broken: {shares}; {percent(slipped)} withstand the largest budget and not a smaller one"
        return Check(
            "larger_budget_does_not_help", flat or clearly_above(slipped, SLIPS_TOLERATED), numbers, explanation
        )

    breakers = [broken_by(partial(attack, eps=budget), model) for budget in budgets]
    return run_check(model, x, y, breakers, make_check, batch_size, progress)
