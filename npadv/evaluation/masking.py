"""Checks for masked gradients: signs that a network resists the attack and not the perturbation.

A network can make its gradient useless (zero, wrong, or as rough as noise) and be no more robust for it: an attack that
follows the gradient then fails where adversarial examples are near. Whoever measures robustness has to rule this out, and
there are symptoms that a network with an honest gradient does not show. Here are those that show in what attacks break;
``masking_loss.py`` looks at the gradient and at the loss, ``masking_checks.py`` runs them all.

A verdict is given on the examples that the model classifies rightly, by counts: of two attacks, on how many examples each
alone succeeds, and whether a coin would do the same (sign test, 1%); of a share, whether the lower end of its 95% interval
is above what is tolerated. So few examples prove little, and a check that is not suspicious has not proved robustness.

References: Athalye, Carlini and Wagner 2018, "Obfuscated gradients give a false sense of security", section 3.1, whose list
the checks follow; Carlini et al. 2019, "On evaluating adversarial robustness", sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_inputs
from npadv.attacks.result import Bounds, Model
from npadv.backend import Array, like, to_numpy
from npadv.evaluation.batchwise import (
    Attack,
    check_budgets,
    check_examples,
    check_models,
    classify,
    craft,
    in_batches,
)
from npadv.evaluation.rates import clearly_more, wilson

FAILURES_TOLERATED = 0.01
"""Share of examples that an attack without a budget may miss."""

SLIPS_TOLERATED = 0.05
"""Share of examples on which an attack with more to spend may do worse."""


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes
    ----------
    name : str
        Of the check, the function's.
    suspicious : bool
        Whether the symptom is there.
    numbers : mapping of str to float
        What the verdict rests on: counts of examples, and shares of those that were classified rightly.
    explanation : str
        The verdict in a sentence.
    """

    name: str
    suspicious: bool
    numbers: Mapping[str, float]
    explanation: str


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
    """Check whether an attack of one step breaks examples that one of many steps, within the same budget, does not.

    Parameters
    ----------
    model, x, y, batch_size, progress
        As in ``robustness_curve``: one model, examples (N, ...), their true classes (N,), and how to go about it.
    one_step, many_steps : callable
        Attacks ``attack(model, x, y)``, as ``fgsm`` and ``pgd`` with one eps.

    Returns
    -------
    Check
        Suspicious if the one step is clearly better: the gradient at x leads farther than those on the way.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it. So for all checks.
    Interrupted
        On Ctrl-C, with the check of the examples that were finished. So for all checks.

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

    def verdict(one: np.ndarray, many: np.ndarray) -> Check:
        told = f"one step breaks {_percent(one)}, many steps {_percent(many)}"
        numbers = _paired("one_step", one, "many_steps", many)
        suspicious = clearly_more(numbers["only_one_step"], numbers["only_many_steps"])
        return Check("one_step_beats_many", suspicious, numbers, told)

    return _judge(
        model, x, y, [_attacked(model, one_step), _attacked(model, many_steps)], verdict, batch_size, progress
    )


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
    model, x, y, batch_size, progress
        As in ``one_step_beats_many``.
    sources : mapping of names to callables
        Other models of the same task, at best of the same architecture and trained plainly. An example counts as broken if
        what was crafted on any of them breaks it.
    attack : callable
        ``attack(model, x, y)``, the same for all.

    Returns
    -------
    Check
        Suspicious if transfer is clearly better: the model's own gradient knows less of it than a stranger's.
    """
    named = check_models("sources", sources)

    def verdict(white: np.ndarray, *others: np.ndarray) -> Check:
        transfer = np.any(others, axis=0)
        told = f"what was crafted elsewhere breaks {_percent(transfer)}, the white-box attack {_percent(white)}"
        numbers = _paired("transfer", transfer, "white_box", white)
        suspicious = clearly_more(numbers["only_transfer"], numbers["only_white_box"])
        return Check("transfer_beats_white_box", suspicious, numbers, told)

    ways = [_attacked(model, attack, crafter) for crafter in (model, *named.values())]
    return _judge(model, x, y, ways, verdict, batch_size, progress)


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
    """Check whether random signs of size eps break examples that the attack within eps does not.

    Parameters
    ----------
    model, x, y, batch_size, progress
        As in ``one_step_beats_many``.
    attack : callable
        ``attack(model, x, y)``, within max norm ``eps``.
    eps : float
        Size of the noise: every pixel is moved by plus or minus eps, then clipped.
    draws : int
        How many each example gets; one that any of them breaks counts as broken.
    bounds : (low, high)
        The box.
    rng : numpy.random.Generator
        Draws the signs, example by example.

    Returns
    -------
    Check
        Suspicious if noise breaks what the attack does not, and the attack is not clearly better.
    """
    check_inputs(x, eps=eps, bounds=bounds)
    check_count("draws", draws)
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")
    generators = rng.spawn(draws)  # one for each draw, so that what an example gets does not depend on the batch

    def noise(batch: Array, labels: np.ndarray) -> np.ndarray:
        host, hit = to_numpy(batch), np.zeros(len(labels), dtype=bool)
        for generator in generators:
            signs = np.where(generator.random(host.shape, dtype=np.float32) < 0.5, -1, 1).astype(host.dtype)
            moved = np.clip(host + host.dtype.type(eps) * signs, *bounds).astype(host.dtype)
            hit |= classify(model, like(moved, batch)) != labels
        return hit

    def verdict(by_noise: np.ndarray, by_attack: np.ndarray) -> Check:
        told = f"noise breaks {_percent(by_noise)}, the attack {_percent(by_attack)}"
        numbers = _paired("noise", by_noise, "attack", by_attack)
        found, missed = numbers["only_noise"], numbers["only_attack"]
        return Check("noise_as_good", found > 0 and not clearly_more(missed, found), numbers, told)

    return _judge(model, x, y, [noise, _attacked(model, attack)], verdict, batch_size, progress)


def unbounded_falls_short(
    model: Model, x: Array, y: Any, *, attack: Attack, batch_size: int = 500, progress: bool | None = None
) -> Check:
    """Check whether an attack that may go anywhere in the box fails.

    Parameters
    ----------
    model, x, y, batch_size, progress
        As in ``one_step_beats_many``.
    attack : callable
        ``attack(model, x, y)`` whose budget is the whole box, as ``pgd`` with an eps of its width and many steps.

    Returns
    -------
    Check
        Suspicious if clearly more than 1% of the examples withstand it: in the box there are images of all classes.
    """

    def verdict(hit: np.ndarray) -> Check:
        numbers = {"examples": len(hit), "broken": mean(hit)}
        told = f"without a budget the attack breaks {_percent(hit)} of {len(hit)} examples; all of them could be"
        return Check("unbounded_falls_short", clearly_above(~hit, FAILURES_TOLERATED), numbers, told)

    return _judge(model, x, y, [_attacked(model, attack)], verdict, batch_size, progress)


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
    """Check whether an attack with more to spend breaks fewer examples, or never more of them.

    Parameters
    ----------
    model, x, y, batch_size, progress
        As in ``one_step_beats_many``.
    attack : callable
        ``attack(model, x, y, eps=eps)``.
    eps : (E,) increasing numbers, at least 2
        The budgets; the largest should be so large that it breaks whatever can be broken.

    Returns
    -------
    Check
        Suspicious if clearly more than 5% of the examples are broken with a smaller budget and not with the largest, or if
        the largest breaks no more of them than the smallest does, and not all.
    """
    budgets = [float(value) for value in check_budgets(eps)]
    if len(budgets) < 2:
        raise ValueError(f"eps: expected at least 2 budgets to compare, got {eps!r}")

    def verdict(*hits: np.ndarray) -> Check:
        first, last = hits[0], hits[-1]
        slipped = np.any(hits[:-1], axis=0) & ~last
        flat = len(last) > 0 and last.sum() <= first.sum() and not last.all()
        numbers: dict[str, float] = {"examples": len(last), "slipped": mean(slipped)}
        numbers |= {f"broken at {budget:g}": mean(hit) for budget, hit in zip(budgets, hits, strict=True)}
        shares = ", ".join(f"{_percent(hit)} at {budget:g}" for budget, hit in zip(budgets, hits, strict=True))
        told = f"broken: {shares}; {_percent(slipped)} withstand the largest budget and not a smaller one"
        return Check("larger_budget_does_not_help", flat or clearly_above(slipped, SLIPS_TOLERATED), numbers, told)

    ways = [_attacked(model, partial(attack, eps=budget)) for budget in budgets]
    return _judge(model, x, y, ways, verdict, batch_size, progress)


# What the checks share ------------------------------------------------------------------------------------------------

Way = Callable[[Array, np.ndarray], np.ndarray]
"""From examples and their labels to which of them it breaks: (B,) bool."""


def _attacked(model: Model, attack: Attack, crafter: Model | None = None) -> Way:
    """Return the way of an attack on the model, or on a crafter whose examples the model is then shown."""

    def way(batch: Array, labels: np.ndarray) -> np.ndarray:
        x_adv, prediction, _ = craft(attack, crafter or model, batch, labels)
        if crafter is not None and crafter is not model:
            prediction = classify(model, x_adv)
        hit: np.ndarray = prediction != labels
        return hit

    return way


def _judge(
    model: Model,
    x: Array,
    y: Any,
    ways: Sequence[Way],
    verdict: Callable[..., Check],
    batch_size: int,
    progress: bool | None,
) -> Check:
    """Return the verdict on what each way breaks of the examples that are classified rightly: arrays (R,) of bool."""
    labels = check_examples(model, x, y)

    def measure(part: slice) -> tuple[np.ndarray, ...]:
        batch, own = x[part], labels[part]
        return classify(model, batch) == own, *(way(batch, own) for way in ways)

    def conclude(right: np.ndarray, *hits: np.ndarray) -> Check:
        return verdict(*(hit[right] for hit in hits))

    return in_batches(measure, conclude, len(x), batch_size=batch_size, label="masking", progress=progress)


def _paired(first: str, by_first: np.ndarray, second: str, by_second: np.ndarray) -> dict[str, Any]:
    """Return the numbers of a comparison: the share each breaks, and how many examples it alone does."""
    return {
        "examples": len(by_first),
        first: mean(by_first),
        second: mean(by_second),
        f"only_{first}": int((by_first & ~by_second).sum()),
        f"only_{second}": int((by_second & ~by_first).sum()),
    }


def clearly_above(hits: np.ndarray, tolerated: float) -> bool:
    """Tell whether the share of hits is above what is tolerated, beyond what chance does among as many."""
    return len(hits) > 0 and float(wilson(int(hits.sum()), len(hits))[0]) > tolerated


def mean(values: np.ndarray) -> float:
    """Return the mean, and NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def _percent(hits: np.ndarray) -> str:
    return f"{mean(hits):.1%}"
