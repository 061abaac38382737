"""Transfer of an attack: craft adversarial examples on one model, and classify them with another.

x_adv = attack(student, x, y),    success: oracle(x_adv) != y
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npadv.attacks.checks import check_flag, check_inputs, check_logits
from npadv.attacks.oracle import Oracle, query
from npadv.attacks.result import AttackResult, Model
from npadv.autodiff import no_record
from npadv.backend import Array, like, to_numpy, xp_of
from npadv.functional import check_labels


def transfer_attack(
    student: Model,
    oracle: Oracle,
    attack: Callable[..., AttackResult],
    x: Array,
    y: Any = None,
    *,
    targeted: bool = False,
    **options: Any,
) -> AttackResult:
    """Craft adversarial examples on a substitute, and classify them with the oracle.

    Parameters
    ----------
    student : callable
        The model to craft on: maps a batch (N, ...) to logits (N, K).
    oracle : callable
        The model to fool: maps a batch (N, ...) to labels (N,).
    attack : callable
        An attack of this package, called as ``attack(student, x, y, targeted=targeted, **options)``.
    x : (N, ...) array
        Examples.
    y : (N,) integers, optional
        The true classes, or the targets; by default the oracle's own labels of x.
    targeted : bool
        Reach the classes y instead of leaving them.
    **options
        Options of the attack.

    Returns
    -------
    AttackResult
        ``success``, ``prediction`` and ``flags["already_wrong"]`` are for the oracle; ``queries`` counts the oracle's, 2 an
        example: one before the attack, one after. ``flags["student_deceived"]`` is the success on the student.

    Raises
    ------
    ValueError
        The oracle does not return labels, a target is missing, or the attack refuses its arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from npadv.attacks import fgsm
    >>> oracle = lambda x: (x.sum(axis=1) > 1).astype(int)
    >>> student = lambda x: x @ np.array([[-1.0, 1.0], [-2.0, 2.0]])
    >>> result = transfer_attack(student, oracle, fgsm, np.array([[0.5, 0.6]]), eps=0.1)
    >>> result.success, result.x_adv
    (array([ True]), array([[0.4, 0.5]]))
    """
    check_flag("targeted", targeted)
    if y is None and targeted:
        raise ValueError("y: a targeted attack needs the target classes, got None")
    check_inputs(x, bounds=options.get("bounds", (0.0, 1.0)))
    with no_record():
        classes = check_logits(student(x[:1]), 1).shape[1]
    before = like(to_numpy(query(oracle, x, classes)), x)
    y = before if y is None else like(check_labels(y, classes, len(x), name="y"), x)
    crafted = attack(student, x, y, targeted=targeted, **options)
    after = like(to_numpy(query(oracle, crafted.x_adv, classes)), x)
    return AttackResult(
        x_adv=crafted.x_adv,
        success=after == y if targeted else after != y,
        distance=crafted.distance,
        queries=xp_of(x).zeros(len(x), dtype=int) + 2,
        prediction=after,
        flags={
            **crafted.flags,
            "already_wrong": before == y if targeted else before != y,
            "student_deceived": crafted.success,
        },
    )
