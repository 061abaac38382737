"""DeepFool: a step just across the nearest boundary of the linearised model, repeated until the model agrees.

This is ``linearized`` with many steps; its file has the equations and the three amendments.

Reference: Moosavi-Dezfooli, Fawzi and Frossard 2016, "DeepFool: a simple and accurate method to fool deep neural networks".
"""

from __future__ import annotations

from typing import Any

from npadv.attacks.linearized import LinearizedResult, linearized
from npadv.attacks.result import Bounds, Model
from npadv.backend import Array


def deepfool(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    norm: str = "l2",
    steps: int = 50,
    overshoot: float = 0.02,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> LinearizedResult:
    """Step across the nearest boundary of the linearised model, again and again until the model agrees.

    Parameters
    ----------
    model, x, y, targeted, bounds : see npadv.attacks
    norm : {"l2", "linf", "l1"}
        The norm in which the perturbation is to be small.
    steps : int
        The most steps; an example whose class has changed takes no more.
    overshoot : float
        The sum of the steps is made longer by this fraction, so that it ends across the boundary and not on it.

    Returns
    -------
    LinearizedResult
        As from ``linearized`` with ``steps``.

    Examples
    --------
    >>> import numpy as np
    >>> centres = np.array([[0.5, 0.5], [0.8, 0.5], [0.5, 0.9]])
    >>> result = deepfool(lambda x: x @ centres.T - (centres**2).sum(axis=1) / 2, np.array([[0.5, 0.5]]))
    >>> bool(result.success[0]), result.x_adv.round(2)  # the nearest boundary lies 0.15 to the right
    (True, array([[0.65, 0.5 ]]))
    """
    return linearized(model, x, y, norm=norm, steps=steps, overshoot=overshoot, targeted=targeted, bounds=bounds)
