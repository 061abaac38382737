"""Training on noisy inputs: a defense that does not work, to compare the others with.

    J~(theta, x, y) = J(theta, x + sigma * n, y),    n_i standard normal

Noise of the same size as an adversarial perturbation moves the logits far less: in d dimensions w^T n grows like sqrt(d), the
worst perturbation's w^T eta like d. So random directions rarely change the class ([WG] fig. 1.3), and training on them hardly
changes the network.

References: Goodfellow, Shlens and Szegedy 2014, section 6: trained on random perturbations of .25, their network still fails on
86% to 90% of the fast gradient sign examples; Warde-Farley and Goodfellow [WG], section 1.2.7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.autodiff import Tensor
from npadv.backend import like
from npadv.functional import cross_entropy


def input_noise(*, sigma: float) -> Callable[..., Tensor]:
    """Return a loss for ``fit``: the mean cross-entropy on noisy inputs. It hardly defends.

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise, in units of the input.

    Returns
    -------
    callable
        ``loss(model, x, y, *, rng)`` with x (N, ...) and y (N,) returns a scalar, in nats. The noisy inputs are not clipped.

    Raises
    ------
    ValueError
        ``sigma`` is not a finite number of at least 0.

    Examples
    --------
    >>> linear = lambda x, **mode: Tensor(x)
    >>> loss = input_noise(sigma=0.0)
    >>> round(loss(linear, np.zeros((1, 4)), np.array([2]), rng=np.random.default_rng(0)).item(), 4)  # log 4
    1.3863
    """
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"sigma: expected a finite number of at least 0, got {sigma!r}")

    def loss(model: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
        noise = like(rng.standard_normal(x.shape).astype(x.dtype), x)
        return cross_entropy(model(x + x.dtype.type(sigma) * noise, train=True, rng=rng), y)

    return loss
