"""Checks for masked gradients that measure the gradient itself, and the loss that an attack reaches.

    grad_x J(x, y) != 0,    J(x after many steps, y) > J(x after few steps, y) > J(x, y)

A zero gradient, and steps that do not raise the loss, are the causes of the symptoms in ``masking_attacks.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_first_logits, check_logits
from npadv.attacks.result import Model, check_gradient, input_gradient, records
from npadv.autodiff import Tensor, no_record
from npadv.backend import Array, like, to_numpy
from npadv.evaluation.batchwise import Attack, check_examples, craft, in_batches
from npadv.evaluation.masking import SLIPS_TOLERATED, Check, clearly_above, mean
from npadv.functional import cross_entropy

ZERO_TOLERATED = 0.01
"""The share of examples whose gradient may be zero: a very confident network has some."""

NOISE = 1e-3
"""If many steps gain less than few do by no more than this share, they count as equally good."""


@records
def zero_gradients(model: Model, x: Array, y: Any, *, batch_size: int = 500, progress: bool | None = None) -> Check:
    """Check whether the gradient of the cross-entropy at the examples is zero or has non-finite elements.

    Parameters
    ----------
    model, x, y, batch_size, progress : see npadv.evaluation

    Returns
    -------
    Check
        Suspicious if this is so for clearly more than 1% of the examples, classified correctly or not. The gradient of a
        softmax is exactly zero in float32 where its logits differ by 104, and in float64 where they differ by 746.

    Examples
    --------
    >>> x, y = np.random.default_rng(0).random((100, 2), np.float32), np.zeros(100, dtype=int)
    >>> weights = np.array([[1.0, -1.0], [1.0, -1.0]], np.float32)
    >>> zero_gradients(lambda x: x @ weights, x, y).suspicious
    False
    >>> zero_gradients(lambda x: x @ (1000 * weights), x, y).suspicious
    True
    """
    labels = check_examples(model, x, y)

    def measure(part: slice) -> tuple[np.ndarray, np.ndarray]:
        inputs = Tensor(x[part], requires_grad=True)
        logits = model(inputs)
        check_first_logits(logits, len(inputs.data))
        loss = cross_entropy(logits, like(labels[part], x), reduction="sum")
        _, flags = check_gradient(input_gradient(loss, inputs))
        return to_numpy(flags["zero_gradient"]), to_numpy(flags["non_finite_gradient"])

    def make_result(zero: np.ndarray, invalid: np.ndarray) -> Check:
        zero &= ~invalid  # check_gradient replaces NaN by zero
        return Check(
            "zero_gradients",
            clearly_above(zero | invalid, ZERO_TOLERATED),
            {"examples": len(zero), "zero": mean(zero), "non_finite": mean(invalid)},
            f"the gradient is zero at {mean(zero):.1%} of {len(zero)} examples, and not finite at {mean(invalid):.1%}",
        )

    return in_batches(measure, make_result, len(x), batch_size=batch_size, label="gradients", progress=progress)


def more_steps_do_not_help(
    model: Model,
    x: Array,
    y: Any,
    *,
    attack: Attack,
    steps: Sequence[int] = (1, 10, 40),
    batch_size: int = 500,
    progress: bool | None = None,
) -> Check:
    """Check whether an attack with more steps raises the loss less than one with fewer, or not at all.

    The check compares losses, not classes: where one step is optimal, as on a linear model, more steps cannot break more
    examples, but they reach the same loss.

    Parameters
    ----------
    model, x, y, batch_size, progress : see npadv.evaluation
    attack : callable
        ``attack(model, x, y, steps=steps)``, such as ``pgd`` with its eps.
    steps : (S,) increasing integers, at least 2
        The numbers of steps to compare.

    Returns
    -------
    Check
        Suspicious if, for clearly more than 5% of the examples, the loss after the most steps is below that after the
        fewest (*slipped*), or not above that of the example itself (*stuck*). The cross-entropy is the softplus of the
        other classes' lead over y, log sum_{k != y} exp(z_k - z_y). The check compares leads: they still differ where the
        cross-entropy of a confident prediction rounds to zero.

    Examples
    --------
    >>> from functools import partial
    >>> from npadv.attacks import pgd
    >>> x, y = np.random.default_rng(0).random((100, 2)), np.zeros(100, dtype=int)
    >>> more_steps_do_not_help(lambda x: (x - 0.1) @ np.eye(2), x, y, attack=partial(pgd, eps=0.1)).suspicious
    False
    """
    if isinstance(steps, str) or not isinstance(steps, Iterable):
        raise ValueError(f"steps: expected at least 2 increasing integers, got {steps!r}")
    counts = list(steps)
    for value in counts:
        check_count("steps", value)
    if len(counts) < 2 or sorted(set(counts)) != counts:
        raise ValueError(f"steps: expected at least 2 increasing integers, got {steps!r}")
    labels = check_examples(model, x, y)

    def measure(part: slice) -> tuple[np.ndarray, np.ndarray]:
        batch, own = x[part], labels[part]
        points = [batch, *(craft(attack, model, batch, own, steps=int(value))[0] for value in counts)]
        with no_record():
            logits = [check_logits(model(point), len(own)) for point in points]
        leads = np.stack([_lead(to_numpy(z).astype(np.float64), own) for z in logits])
        return leads, to_numpy(logits[0].argmax(axis=1)) == own

    def make_result(leads: np.ndarray, correct: np.ndarray) -> Check:
        leads = leads[:, correct]
        rises = leads[1:] - leads[0]
        stuck, slipped = rises[-1] <= 0, rises[-1] < (1 - NOISE) * rises[0]
        clean, *after = np.logaddexp(0, leads)
        means = ", ".join(f"{mean(loss):.3g} after {count}" for count, loss in zip(counts, after, strict=True))
        numbers = {"examples": len(clean), "stuck": mean(stuck), "slipped": mean(slipped), "loss": mean(clean)}
        return Check(
            "more_steps_do_not_help",
            clearly_above(stuck | slipped, SLIPS_TOLERATED),
            numbers | {f"loss after {count}": mean(loss) for count, loss in zip(counts, after, strict=True)},
            f"mean loss {mean(clean):.3g}, {means} steps; stuck at {mean(stuck):.1%}, "
            f"worse than with {counts[0]} at {mean(slipped):.1%} of {len(clean)} examples",
        )

    return in_batches(measure, make_result, len(x), batch_size=batch_size, label="steps", progress=progress)


def _lead(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return log sum_{k != y} exp(z_k - z_y): (N, K) to (N,).

    >>> np.logaddexp(0, _lead(np.zeros((1, 4)), np.array([2]))).round(4)  # the cross-entropy, log 4
    array([1.3863])
    """
    rows = np.arange(len(y))
    others = logits - logits[rows, y][:, None]
    others[rows, y] = -np.inf
    lead: np.ndarray = np.logaddexp.reduce(others, axis=1)
    return lead
