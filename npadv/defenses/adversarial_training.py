"""Adversarial training: a loss on the clean inputs and on the worst inputs nearby, which one step approximates.

    J~(theta, x, y) = alpha * J(theta, x, y) + (1 - alpha) * J(theta, x + Delta_x, y)        [SYN] eq. 3, after [GSS]

    Delta_x = argmax <grad_x J(theta, x, y), Delta>  over  ||Delta|| <= eps                    [SYN] eq. 11

For the maximum norm Delta_x = eps * sign(grad_x J), the fast gradient sign step, and with alpha = 1/2 this is the
training of Goodfellow, Shlens and Szegedy 2014 [GSS]. With alpha = 0 it is [SYN]'s Algorithm 1, robust optimisation: the
model is trained on the worst case alone. Delta_x is taken as a constant: the gradient in theta does not flow through it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.autodiff import Tensor, grad
from npadv.backend import xp_of
from npadv.functional import cross_entropy
from npadv.norms import check_norm, steepest_ascent_direction


def adversarial_training(
    eps: float, *, alpha: float = 0.5, norm: str = "linf", bounds: tuple[float, float] | None = (0.0, 1.0)
) -> Callable[..., Tensor]:
    """Return the loss above, for ``fit``.

    Parameters
    ----------
    eps : float
        Radius of the perturbation, in units of the input.
    alpha : float
        Weight of the clean examples, in [0, 1].
    norm : {"l1", "l2", "linf"}
        The norm of the radius.
    bounds : (low, high) or None
        The box to which the perturbed inputs are clipped; None leaves them unclipped, as [SYN] does.

    Returns
    -------
    callable
        ``loss(model, x, y, *, rng)``. The perturbation is computed with the model in inference, as an attacker would compute
        it; both terms of the loss are computed in training.

    Raises
    ------
    ValueError
        ``eps``, ``alpha`` or ``norm`` is not as described.

    Examples
    --------
    >>> from npadv import nn, optim
    >>> from npadv.train import gradient_update
    >>> rng = np.random.default_rng(0)
    >>> model = nn.Dense(2, 2, rng=rng)
    >>> x, y = np.array([[0.2, 0.8], [0.9, 0.1]], np.float32), np.array([0, 1])
    >>> optimizer = optim.SGD(model.parameters(), 1.0)
    >>> losses = [gradient_update(model, adversarial_training(0.1), optimizer, x, y, rng=rng) for _ in range(50)]
    >>> bool(losses[-1] < 0.3 < losses[0])
    True
    """
    check_norm(norm)
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps: expected a finite number of at least 0, got {eps!r}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a weight in [0, 1], got {alpha!r}")
    alpha, bounds = (
        float(alpha),
        bounds and (float(bounds[0]), float(bounds[1])),
    )  # NumPy's floats would change the precision

    def loss(model: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
        inputs = Tensor(x, requires_grad=True)
        g = grad(cross_entropy(model(inputs), y, reduction="sum"), inputs)
        perturbed = x + x.dtype.type(eps) * steepest_ascent_direction(g, norm)
        if bounds is not None:
            perturbed = xp_of(x).clip(perturbed, *bounds)
        worst = cross_entropy(model(perturbed, train=True, rng=rng), y)
        if alpha == 0:
            return worst
        return alpha * cross_entropy(model(x, train=True, rng=rng), y) + (1 - alpha) * worst

    return loss
