"""Fooling images by gradient ascent: from an input of no class to one that a model classifies with high confidence.

    maximise over x    log p(target | x) - decay * ||x||_2^2        Simonyan et al. 2013, eq. 1, with log p as the score

Without the decay, the result looks like noise to a person; with it, the result shows some of the features that the model
has learned (Nguyen et al. 2015, on gradient ascent). This does not perturb an example: the start is noise or a blank image.

Each step has a fixed length in the direction of steepest ascent. A step in proportion to the gradient would have no natural
size: the gradient of log p is as large as the model's weights while p is small, and vanishes as p approaches 1.

References: Simonyan, Vedaldi and Zisserman 2013, "Deep inside convolutional networks", section 2; Nguyen, Yosinski and Clune
2015, "Deep neural networks are easily fooled".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from npadv import ops
from npadv.attacks.checks import check_count, check_first_logits, check_flag, check_logits, check_positive, check_share
from npadv.attacks.result import Bounds, Flags, Model, add_flags, check_gradient, column, input_gradient, records
from npadv.attacks.rubbish import (
    RubbishResult,
    check_input,
    log_probs,
    make_rubbish_result,
    model_log_probs,
)
from npadv.autodiff import Tensor, no_record, value_of
from npadv.backend import Array, like, xp_of
from npadv.functional import check_labels, cross_entropy
from npadv.norms import check_norm, steepest_ascent_direction
from npadv.progress import track


def climb(
    start: Array,
    objective: Callable[[Array], tuple[Array, Callable[[], Array]]],
    *,
    step: float,
    steps: int,
    norm: str,
    bounds: Bounds | None,
    progress: bool | None,
) -> Array:
    """Take steps of steepest ascent from each of N inputs; return for each the point of its climb with the largest objective.

    ``objective`` maps points to their values (N,) and to a function that returns the gradients.
    """
    xp = xp_of(start)
    point, best, largest = start, start, xp.zeros(len(start)) - xp.inf
    for t in track(range(steps + 1), total=steps + 1, label="climbing", show=progress):
        values, gradient = objective(point)
        higher = values > largest
        best, largest = xp.where(column(higher, start), point, best), xp.where(higher, values, largest)
        if t < steps:
            g = _within(gradient(), point, bounds)
            point = point + start.dtype.type(step) * steepest_ascent_direction(g, norm)
            point = point if bounds is None else xp.clip(point, *bounds)
    return best


@records
def gradient_rubbish(
    model: Model,
    start: Array,
    target: Any,
    *,
    steps: int = 100,
    step: float | None = None,
    norm: str = "l2",
    decay: float = 0.0,
    threshold: float = 0.5,
    sigmoid: bool = False,
    bounds: Bounds | None = (0.0, 1.0),
    progress: bool | None = None,
) -> RubbishResult:
    """Climb by a model's gradients from inputs of no class to inputs that it classifies with high confidence.

    Parameters
    ----------
    model : see npadv.attacks
    start : (N, ...) array
        The first points, within ``bounds``: noise, or blank images. They are not modified.
    target : (N,) integers
        The classes to reach.
    steps : int
        The number of steps.
    step : float, optional
        The length of each step in the norm, in units of x. By default, ``steps`` steps are 2.5 times as long as half the
        box's diagonal in this norm.
    norm : {"l2", "linf", "l1"}
        The norm in which a step is steepest. [GSS] take one step in "linf" from Gaussian noise, without a box.
    decay : float
        The weight of ||x||_2^2, which is subtracted from log p(target).
    threshold, sigmoid
        As for ``confident_errors``.
    bounds : (low, high), optional
        The box; None for none.
    progress : bool, optional
        Draw a progress bar; by default only on a terminal.

    Returns
    -------
    RubbishResult
        For each input the point of its climb where log p(target) - decay ||x||_2^2 was largest; steps + 3 queries an input.
        ``history`` has log p(target) at all points of the climb. An input's climb does not depend on the others.

    Examples
    --------
    From grey, towards the class whose logit grows with the first two pixels; and with a decay, which darkens all pixels:

    >>> weights = np.array([[5.0, -5.0], [5.0, -5.0], [0.0, 0.0]])
    >>> grey = np.full((1, 3), 0.5)
    >>> gradient_rubbish(lambda x: x @ weights, grey, np.array([0])).x.round(2)
    array([[1. , 1. , 0.5]])
    >>> gradient_rubbish(lambda x: x @ weights, grey, np.array([0]), decay=1.0).x.round(2)
    array([[0.17, 0.17, 0.  ]])
    """
    check_norm(norm)
    check_count("steps", steps)
    decay, threshold = check_positive("decay", decay, zero=True), check_share("threshold", threshold)
    check_flag("sigmoid", sigmoid)
    bounds = check_input("start", start, bounds)
    xp, n = xp_of(start), len(start)
    with no_record():
        classes = check_first_logits(model(start), n).shape[1]
    target = check_labels(like(value_of(target), start), classes, n, name="target")
    if step is None:
        if bounds is None:
            raise ValueError("step: expected a number where there are no bounds, got None")
        size = start[0].size
        step = 1.25 * (bounds[1] - bounds[0]) * {"linf": 1.0, "l2": math.sqrt(size), "l1": size}[norm] / steps
    step = check_positive("step", step)

    history: list[Array] = []
    flags: Flags | None = None

    def objective(point: Array) -> tuple[Array, Callable[[], Array]]:
        """Return log p(target) - decay ||x||^2 of each point, and the function that returns its gradient."""
        inputs = Tensor(point, requires_grad=True)
        output = model(inputs)
        logits = check_logits(output, n)
        log_p = log_probs(logits, sigmoid=sigmoid)[xp.arange(n), target]
        history.append(log_p)
        squares = (point.astype(np.float64) ** 2).reshape(n, -1).sum(axis=1)

        def gradient() -> Array:
            nonlocal flags
            # The negative of log p(target), summed over the inputs, so that each climb is independent of the others.
            chosen = xp.eye(classes, dtype=logits.dtype)[target]
            loss = (
                ops.sum(ops.softplus(-output) * chosen) if sigmoid else cross_entropy(output, target, reduction="sum")
            )
            g, seen = check_gradient(input_gradient(loss, inputs))
            flags = add_flags(flags, seen)
            return -g - start.dtype.type(2 * decay) * point

        return log_p - decay * squares, gradient

    best = climb(start, objective, step=step, steps=steps, norm=norm, bounds=bounds, progress=progress)
    log_p = model_log_probs(model, best, sigmoid=sigmoid)
    more = {"target": target, "history": xp.stack(history), "flags": flags}
    return make_rubbish_result(best, log_p, threshold=threshold, queries=n * (steps + 3), **more)


def _within(g: Array, point: Array, bounds: Bounds | None) -> Array:
    """Return a direction without the pixels that would leave the box: they would use up a step's length without moving."""
    if bounds is None:
        return g
    xp = xp_of(g)
    leaving = ((g > 0) & (point >= bounds[1])) | ((g < 0) & (point <= bounds[0]))
    return xp.where(leaving, xp.zeros_like(g), g)
