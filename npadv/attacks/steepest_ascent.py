"""Steepest ascent: the worst perturbation of a given size, if the loss were linear.

    Delta = argmax <grad_x J(x, y), Delta>    subject to  ||Delta|| <= eps,  low <= x + Delta <= high      [SYN] eq. 11

Without the box, in the maximum norm this is the fast gradient sign step; in l2 it is the gradient's direction; in l1 all of
eps goes to the one pixel with the largest derivative. The gain is eps times the dual norm of the gradient: its l1, l2 and
linf norm, in this order. With the box the solution is not the clipped one: where the box stops one pixel, the others use
what is left of eps (``npadv.norms.maximise_linear``).

Reference: Shaham, Yamada and Negahban, "Understanding Adversarial Training" [SYN], sections 3 and 4.
"""

from __future__ import annotations

from typing import Any

from npadv.attacks.checks import check_count, check_inputs
from npadv.attacks.result import AttackResult, Bounds, Model, first_predictions, loss_gradient, make_result, records
from npadv.backend import Array, is_array, xp_of
from npadv.norms import maximise_linear


@records
def steepest_ascent(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    eps: float | Array,
    norm: str = "linf",
    pixels: int | None = None,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> AttackResult:
    """Take the one step within eps and the box that raises the linearised loss most.

    Parameters
    ----------
    model, x, y, targeted, bounds : see npadv.attacks
    eps : float, or (N,) array
        Size of the step in the norm, in units of x.
    norm : {"linf", "l2", "l1"}
        The norm that measures the step.
    pixels : int, optional
        In l1, move at most this many pixels, each by at most eps / pixels. With 1 this is the one-pixel attack of [SYN] 5.1:
        it moves the pixel that, moved as far as eps and the box allow, raises the linearised loss most.

    Returns
    -------
    AttackResult
        ``distance`` is in ``norm``; 3 queries an example. Where ``flags["zero_gradient"]``, nothing was moved.

    Examples
    --------
    The pixel that matters most is nearly white: the box leaves it 0.1, and the rest of the step goes to the other pixel.

    >>> import numpy as np
    >>> weights = np.array([[-2.0, 2.0], [-1.0, 1.0]])
    >>> steepest_ascent(lambda x: x @ weights, np.array([[0.9, 0.3]]), np.array([0]), eps=0.4, norm="l1").x_adv.round(12)
    array([[1. , 0.6]])
    """
    eps, bounds = check_inputs(x, eps=eps, kind=norm, bounds=bounds, eps_per_example=True)
    if pixels is not None:
        check_count("pixels", pixels)
        if norm != "l1":
            raise ValueError(f"pixels: expected norm='l1' with a number of pixels, got norm={norm!r}")
    _, y, before = first_predictions(model, x, y, targeted=targeted)

    g, flags = loss_gradient(model, x, y)
    g = -g if targeted else g
    radius = eps.reshape(-1, 1) if is_array(eps) else eps
    step = maximise_linear(g, x, radius, norm, bounds) if pixels is None else _few_pixels(g, x, radius, pixels, bounds)
    x_adv = xp_of(x).clip(x + step, *bounds)
    return make_result(model, x, x_adv, y, kind=norm, targeted=targeted, queries=2, before=before, flags=flags)


def _few_pixels(g: Array, x: Array, eps: float | Array, pixels: int, bounds: Bounds) -> Array:
    """Return argmax <g, d> over at most ``pixels`` non-zero d_i, each within eps / pixels and the box."""
    xp = xp_of(g)
    step = maximise_linear(g, x, eps / pixels, "linf", bounds)  # as far as each pixel could go alone
    gains = (g * step).reshape(len(g), -1)
    rank = xp.argsort(xp.argsort(-gains, axis=1, kind="stable"), axis=1)
    return step * (rank < pixels).reshape(g.shape)
