"""Label smoothing: the targets are less certain than the labels, so the model need not become certain.

    J~(theta, x, y) = - sum_j t_j log p_j(x),    t_j = right if j = y, else wrong

Three recipes give the weights of the right class and of each wrong one, of k classes. The numbers are for eps = .1, k = 10:

    =============  =======================  =======================  =========================================
    targets        right                    wrong                    reference
    =============  =======================  =======================  =========================================
    published      1 - eps           .9     eps / k           .01    [WG] 1.2.7; they sum to 1 - eps / k = .99
    .91/.01        1 - eps + eps/k   .91    eps / k           .01    Szegedy et al. 2015, section 7
    eps/(k-1)      1 - eps           .9     eps / (k - 1)     .0111  the share eps, spread over the wrong classes
    =============  =======================  =======================  =========================================

[WG] explains the effect by the linearity hypothesis. Certain targets ask for infinite logits, and so for large weights. With
smooth targets the weights stay smaller, and so does the response to a perturbation. The defense is weak: the published
network still fails on 33.0% of the fast gradient sign examples.

References: Warde-Farley and Goodfellow, "Adversarial Perturbations of Deep Neural Networks" [WG], section 1.2.7; Szegedy et al.
2015, "Rethinking the Inception architecture for computer vision".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.autodiff import Tensor
from npadv.backend import Array
from npadv.functional import cross_entropy, one_hot

# From eps and the number of classes to the weights of the right class and of a wrong one.
TARGETS: dict[str, Callable[[float, int], tuple[float, float]]] = {
    "published": lambda eps, k: (1 - eps, eps / k),
    ".91/.01": lambda eps, k: (1 - eps + eps / k, eps / k),
    "eps/(k-1)": lambda eps, k: (1 - eps, eps / (k - 1)),
}


def label_smoothing(*, targets: str = "published", eps: float = 0.1) -> Callable[..., Tensor]:
    """Return a loss for ``fit``: the mean cross-entropy with smooth targets.

    Parameters
    ----------
    targets : {"published", ".91/.01", "eps/(k-1)"}
        Which of the three recipes above gives the weights of the classes.
    eps : float
        Weight that is taken from the right class, in [0, 1).

    Returns
    -------
    callable
        ``loss(model, x, y, *, rng)`` with x (N, ...) and y (N,) returns a scalar, in nats.

    Raises
    ------
    ValueError
        ``targets`` or ``eps`` is not as described.

    Examples
    --------
    >>> smooth_targets(np.array([1]), 10, "published", 0.1).round(2)
    array([[0.01, 0.9 , 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01]],
          dtype=float32)
    >>> loss = label_smoothing(targets=".91/.01")
    >>> round(loss(lambda x, **mode: Tensor(x), np.zeros((1, 10)), np.array([3]), rng=None).item(), 4)  # log 10
    2.3026
    """
    if targets not in TARGETS:
        raise ValueError(f"targets: expected one of {', '.join(TARGETS)}, got {targets!r}")
    if not 0 <= eps < 1:
        raise ValueError(f"eps: expected a weight in [0, 1), got {eps!r}")

    def loss(model: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
        logits = model(x, train=True, rng=rng)
        return cross_entropy(logits, smooth_targets(y, logits.shape[1], targets, float(eps), logits.dtype))

    return loss


def smooth_targets(y: Any, classes: int, targets: str, eps: float, dtype: Any = np.float32) -> Array:
    """Return the weight of each class for labels y (N,): an array (N, classes)."""
    right, wrong = TARGETS[targets](eps, classes)
    weights: Array = wrong + (right - wrong) * one_hot(y, classes, dtype)
    return weights
