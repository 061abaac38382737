"""All checks for masked gradients, with the fast gradient sign method and projected gradient descent as the attacks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_inputs, check_positive
from npadv.attacks.fgsm import fgsm
from npadv.attacks.pgd import pgd
from npadv.attacks.result import Bounds, Model
from npadv.backend import Array
from npadv.evaluation.batchwise import Interrupted
from npadv.evaluation.masking import Check
from npadv.evaluation.masking_attacks import noise_as_good, one_step_beats_many, transfer_beats_white_box
from npadv.evaluation.masking_budget import larger_budget_does_not_help, unbounded_falls_short
from npadv.evaluation.masking_loss import more_steps_do_not_help, zero_gradients


def masking_checks(
    model: Model,
    x: Array,
    y: Any,
    *,
    eps: float,
    steps: int = 40,
    sources: Mapping[str, Model] | None = None,
    draws: int = 10,
    bounds: Bounds = (0.0, 1.0),
    rng: np.random.Generator,
    batch_size: int = 500,
    progress: bool | None = None,
) -> tuple[Check, ...]:
    """Run all checks on one model with budget eps in the maximum norm.

    Some hundred examples are enough for them. After Ctrl-C, the interrupt's result is the tuple of the checks so far, the
    last of which used only some of the examples.

    Parameters
    ----------
    model, x, y, batch_size, progress : see npadv.evaluation
    eps : float
        The budget for which robustness is claimed, between 0 and the width of the box. Checks of larger budgets use twice
        this and the whole box.
    steps : int
        The steps of projected gradient descent, at least 2.
    sources : mapping of names to callables, optional
        Models to craft on for ``transfer_beats_white_box``, which is left out without them.
    draws : int
        The number of random noises for each example.
    bounds : (low, high)
        The box, finite.
    rng : numpy.random.Generator
        Draws the noise.

    Returns
    -------
    tuple of Check
        In the order of Athalye, Carlini and Wagner's list; the checks of the gradient itself come first.

    Examples
    --------
    >>> model = lambda x: (x - 0.5) @ np.array([[1.0, -1.0], [2.0, -2.0]])
    >>> x = np.random.default_rng(0).random((100, 2))
    >>> y = np.asarray(model(x)).argmax(axis=1)
    >>> checks = masking_checks(model, x, y, eps=0.1, rng=np.random.default_rng(1))
    >>> [check.name for check in checks if check.suspicious]
    []
    """
    eps, bounds = check_inputs(x, eps=eps, bounds=bounds)
    low, high = bounds
    width = high - low
    if not width < float("inf"):
        raise ValueError(f"bounds: expected a finite box, got {bounds!r}")
    check_positive("eps", eps)
    if eps >= width:
        raise ValueError(f"eps: expected less than the width {width:g} of the box, got {eps!r}")
    check_count("steps", steps, 2)
    many = partial(pgd, steps=steps, bounds=bounds)
    within: Any = partial(many, eps=eps)
    one = partial(fgsm, eps=eps, bounds=bounds)
    budgets = [eps, *([2 * eps] if 2 * eps < width else []), width]
    options = {"batch_size": batch_size, "progress": progress}
    calls: list[Any] = [
        partial(zero_gradients),
        partial(more_steps_do_not_help, attack=partial(pgd, eps=eps, bounds=bounds), steps=_ladder(steps)),
        partial(one_step_beats_many, one_step=one, many_steps=within),
        *([partial(transfer_beats_white_box, sources=sources, attack=within)] if sources is not None else []),
        partial(unbounded_falls_short, attack=partial(many, eps=width)),
        partial(noise_as_good, attack=within, eps=eps, draws=draws, bounds=bounds, rng=rng),
        partial(larger_budget_does_not_help, attack=many, eps=budgets),
    ]
    found: list[Check] = []
    try:
        for call in calls:
            found.append(call(model, x, y, **options))
    except Interrupted as stop:
        raise Interrupted((*found, stop.result)) from stop
    except KeyboardInterrupt as stop:
        if not found:
            raise
        raise Interrupted(tuple(found)) from stop
    return tuple(found)


def _ladder(steps: int) -> list[int]:
    """Return one step, a quarter of all, and all of them.

    >>> _ladder(40), _ladder(2)
    ([1, 10, 40], [1, 2])
    """
    return sorted({1, max(1, steps // 4), steps})
