"""The fast gradient sign method: one step of eps along the sign of the loss's gradient in the input.

    x_adv = clip(x + eps * sign(grad_x J(x, y)), low, high)        [SYN] eq. 2, [WG] eq. 1.3

If J were linear in x this would be the worst perturbation with ||x_adv - x||_inf <= eps, and it would raise J by
eps * ||grad||_1: a sum over all pixels, which is why changes too small to see add up to one that decides the class.

References: Goodfellow, Shlens and Szegedy 2014, who found it; Warde-Farley and Goodfellow, "Adversarial Perturbations of
Deep Neural Networks" [WG], section 1.2.
"""

from __future__ import annotations

from typing import Any

from npadv.attacks.result import (
    AttackResult,
    Bounds,
    Model,
    check_first_logits,
    check_gradient,
    check_inputs,
    check_targets,
    conclude,
    input_gradient,
)
from npadv.autodiff import Tensor
from npadv.backend import Array
from npadv.functional import cross_entropy
from npadv.norms import sign_step


def fgsm(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    eps: float,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> AttackResult:
    """Perturb every pixel by eps in the direction that raises the loss, and stay in the box.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K), recorded by the tape.
    x : (N, ...) array
        Examples within ``bounds``.
    y : (N,) integers, optional
        The true classes, or the targets; by default the model's own predictions, so that no label leaks.
    eps : float
        Size of the step in the maximum norm, in units of x.
    targeted : bool
        Raise log p(y) instead: y are the classes to reach.
    bounds : (low, high)
        The box.

    Returns
    -------
    AttackResult
        ``distance`` is in the maximum norm; 2 queries an example.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    A linear model, whose loss rises by eps times the l1 norm of its gradient:

    >>> import numpy as np
    >>> weights = np.array([[1.0, -1.0], [-2.0, 2.0]])
    >>> result = fgsm(lambda x: x @ weights, np.array([[0.5, 0.2]]), np.array([0]), eps=0.1)
    >>> result.x_adv, bool(result.success[0])
    (array([[0.4, 0.3]]), True)
    """
    check_inputs(x, eps=eps, bounds=bounds)
    inputs = Tensor(x, requires_grad=True)
    output = model(inputs)
    logits = check_first_logits(output, len(x))
    y = check_targets(y, logits, targeted=targeted)

    # Summed over the batch, so that an example's gradient does not depend on its company.
    loss = cross_entropy(output, y, reduction="sum")
    g, flags = check_gradient(input_gradient(loss, inputs))
    x_adv = sign_step(x, -g if targeted else g, eps, bounds)

    before = logits.argmax(axis=1)
    return conclude(model, x, x_adv, y, kind="linf", targeted=targeted, queries=1, before=before, flags=flags)
