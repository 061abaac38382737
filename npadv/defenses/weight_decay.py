"""Weight decay: a defense that does not work, to compare the others with.

    J~(theta, x, y) = J(theta, x, y) + coefficient * R(theta),    R = sum |theta_j|  or  sum theta_j^2 / 2

A small coefficient leaves the network as vulnerable as before. A large one makes it less sensitive, but then it classifies
clean images worse ([WG] 1.2.7). Adversarial training differs: its cost vanishes where the network is right by a large margin.
The cost of weight decay never vanishes.

``optim.SGD(weight_decay=c)`` takes the same steps as this loss with ``norm="l2"``.

References: Goodfellow, Shlens and Szegedy 2014, section 5; Warde-Farley and Goodfellow [WG], section 1.2.7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv import ops
from npadv.autodiff import Tensor
from npadv.functional import cross_entropy

PENALTIES: dict[str, Callable[[Any], Any]] = {
    "l1": lambda p: ops.sum(ops.abs(p)),
    "l2": lambda p: 0.5 * ops.sum(ops.square(p)),
}


def weight_decay(*, coefficient: float, norm: str = "l2") -> Callable[..., Tensor]:
    """Return a loss for ``fit``: the mean cross-entropy, and a penalty on the size of all parameters. It hardly defends.

    Parameters
    ----------
    coefficient : float
        Weight of the penalty, at least 0.
    norm : {"l1", "l2"}
        The sum of the absolute values, or half the sum of the squares.

    Returns
    -------
    callable
        ``loss(model, x, y, *, rng)`` with x (N, ...) and y (N,) returns a scalar.

    Raises
    ------
    ValueError
        ``coefficient`` or ``norm`` is not as described.

    Examples
    --------
    >>> from npadv import nn
    >>> model = nn.Dense(2, 2, rng=np.random.default_rng(0))
    >>> _ = [p.assign(np.ones_like(p.data)) for p in model.parameters()]  # 6 parameters; both classes get the same logit
    >>> loss = weight_decay(coefficient=0.5, norm="l1")(model, np.ones((1, 2), np.float32), np.array([0]), rng=None)
    >>> round(loss.item(), 4)  # log 2 + 0.5 * 6
    3.6931
    """
    if not 0 <= coefficient < float("inf"):
        raise ValueError(f"coefficient: expected a finite number of at least 0, got {coefficient!r}")
    if norm not in PENALTIES:
        raise ValueError(f"norm: expected one of {', '.join(PENALTIES)}, got {norm!r}")
    coefficient = float(coefficient)

    def loss(model: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
        penalty = sum(PENALTIES[norm](p) for p in model.parameters())
        return cross_entropy(model(x, train=True, rng=rng), y) + coefficient * penalty

    return loss
