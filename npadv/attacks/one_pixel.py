"""The one-pixel attack: move the single pixel that raises the linearised loss most, as far as it can go.

This is ``steepest_ascent`` in l1 with one pixel; its file has the equation.

Reference: Shaham, Yamada and Negahban, "Understanding Adversarial Training" [SYN], section 5.1 and figure 1.
"""

from __future__ import annotations

from typing import Any

from npadv.attacks.result import AttackResult, Bounds, Model
from npadv.attacks.steepest_ascent import steepest_ascent
from npadv.backend import Array


def one_pixel(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    eps: float = 1.0,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> AttackResult:
    """Move the one pixel that raises the linearised loss most, as far as it can go.

    Parameters
    ----------
    model, x, y, targeted, bounds : see npadv.attacks
    eps : float
        The most that the pixel may move, in units of x.

    Returns
    -------
    AttackResult
        ``distance`` is in l1; 3 queries an example.

    Examples
    --------
    >>> import numpy as np
    >>> weights = np.array([[-2.0, 2.0], [-1.0, 1.0]])
    >>> one_pixel(lambda x: x @ weights, np.array([[0.9, 0.3]]), np.array([0])).x_adv  # the first has room for 0.1 only
    array([[0.9, 1. ]])
    """
    return steepest_ascent(model, x, y, eps=eps, norm="l1", pixels=1, targeted=targeted, bounds=bounds)
