"""Checks for masked gradients that compare attacks: the stronger attack should break more examples.

    many steps > one step,    white box > transfer,    an attack > noise

If the weaker one of a pair is better, the gradient that the stronger one follows is of little use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_inputs, check_rng
from npadv.attacks.result import Bounds, Model
from npadv.backend import Array, like, to_numpy
from npadv.evaluation.batchwise import Attack, check_models, classify
from npadv.evaluation.masking import Check, broken_by, paired_numbers, percent, run_check
from npadv.evaluation.rates import clearly_more


def one_step_beats_many(
    model: Model,
    x: Array,
    y: Any,
    *,
    one_step: Attack,
    many_steps: Attack,
    batch_size: int = 500,
    progress: bool | None = None,
) -> Check:
    """Check whether an attack of one step breaks more examples than one of many steps with the same budget.

    Parameters
    ----------
    model, x, y, batch_size, progress : see npadv.evaluation
    one_step, many_steps : callable
        Attacks ``attack(model, x, y)``, such as ``fgsm`` and ``pgd`` with the same eps.

    Returns
    -------
    Check
        Suspicious if one step is clearly better: the later gradients are then less useful than the first.

    Examples
    --------
    >>> from functools import partial
    >>> from npadv.attacks import fgsm, pgd
    >>> x, y = np.random.default_rng(0).random((100, 2)), np.zeros(100, dtype=int)
    >>> check = one_step_beats_many(lambda x: (x - 0.1) @ np.eye(2), x, y, one_step=partial(fgsm, eps=0.1),
    ...                             many_steps=partial(pgd, eps=0.1))
    >>> check.suspicious, check.numbers["one_step"] == check.numbers["many_steps"]
    (False, True)
    """

    def make_check(one: np.ndarray, many: np.ndarray) -> Check:
        explanation = f"one step breaks {percent(one)}, many steps {percent(many)}"
        numbers = paired_numbers("one_step", one, "many_steps", many)
        suspicious = clearly_more(numbers["only_one_step"], numbers["only_many_steps"])
        return Check("one_step_beats_many", suspicious, numbers, explanation)

    breakers = [broken_by(one_step, model), broken_by(many_steps, model)]
    return run_check(model, x, y, breakers, make_check, batch_size, progress)


def transfer_beats_white_box(
    model: Model,
    x: Array,
    y: Any,
    *,
    sources: Mapping[str, Model],
    attack: Attack,
    batch_size: int = 500,
    progress: bool | None = None,
) -> Check:
    """Check whether examples crafted on other models break more than those crafted on the model itself.

    Parameters
    ----------
    model, x, y, batch_size, progress : see npadv.evaluation
    sources : mapping of names to callables
        Other models of the same task, best of the same architecture and without a defense. An example counts as broken if
        an adversarial example crafted on any of them breaks it.
    attack : callable
        ``attack(model, x, y)``, the same on all models.

    Returns
    -------
    Check
        Suspicious if transfer is clearly better: another model's gradient is then more useful than the model's own.
    """
    named = check_models("sources", sources)

    def make_check(white: np.ndarray, *others: np.ndarray) -> Check:
        transfer = np.any(others, axis=0)
        explanation = f"transfer from other models breaks {percent(transfer)}, the white-box attack {percent(white)}"
        numbers = paired_numbers("transfer", transfer, "white_box", white)
        suspicious = clearly_more(numbers["only_transfer"], numbers["only_white_box"])
        return Check("transfer_beats_white_box", suspicious, numbers, explanation)

    breakers = [broken_by(attack, model, source) for source in (model, *named.values())]
    return run_check(model, x, y, breakers, make_check, batch_size, progress)


def noise_as_good(
    model: Model,
    x: Array,
    y: Any,
    *,
    attack: Attack,
    eps: float,
    draws: int = 10,
    bounds: Bounds = (0.0, 1.0),
    rng: np.random.Generator,
    batch_size: int = 500,
    progress: bool | None = None,
) -> Check:
    """Check whether noise of size eps breaks examples that the attack within eps does not.

    Parameters
    ----------
    model, x, y, batch_size, progress : see npadv.evaluation
    attack : callable
        ``attack(model, x, y)``, within max norm ``eps``.
    eps : float
        The size of the noise: eps is added to or subtracted from every pixel at random, and the result is clipped.
    draws : int
        The number of random noises for each example, which counts as broken if any of them breaks it.
    bounds : (low, high)
        The box.
    rng : numpy.random.Generator
        Draws the signs, example by example.

    Returns
    -------
    Check
        Suspicious if noise breaks examples that the attack does not, and the attack is not clearly better.
    """
    eps, bounds = check_inputs(x, eps=eps, bounds=bounds)
    check_count("draws", draws)
    check_rng(rng)
    generators = rng.spawn(draws)  # one for each draw, so that an example's noise does not depend on the batch

    def noise(batch: Array, labels: np.ndarray) -> np.ndarray:
        host, hit = to_numpy(batch), np.zeros(len(labels), dtype=bool)
        for generator in generators:
            signs = np.where(generator.random(host.shape, dtype=np.float32) < 0.5, -1, 1).astype(host.dtype)
            moved = np.clip(host + host.dtype.type(eps) * signs, *bounds).astype(host.dtype)
            hit |= classify(model, like(moved, batch)) != labels
        return hit

    def make_check(by_noise: np.ndarray, by_attack: np.ndarray) -> Check:
        explanation = f"noise breaks {percent(by_noise)}, the attack {percent(by_attack)}"
        numbers = paired_numbers("noise", by_noise, "attack", by_attack)
        found, missed = numbers["only_noise"], numbers["only_attack"]
        return Check("noise_as_good", found > 0 and not clearly_more(missed, found), numbers, explanation)

    return run_check(model, x, y, [noise, broken_by(attack, model)], make_check, batch_size, progress)
