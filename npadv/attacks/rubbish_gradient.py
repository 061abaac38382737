"""Fooling images by gradient ascent: from an input of no class uphill to one of which the model is certain.

    maximise over x    log p(target | x) - decay * ||x||_2^2        Simonyan et al. 2013, eq. 1, with log p for the score

Without the decay this ends in images that mean little to an eye; with it, in ones that show something of what the model
looks for (Nguyen et al. 2015, on gradient ascent). It is no attack on an example: the start is noise or a blank.

Each step goes a fixed length in the direction of steepest ascent: the gradient of log p is as large as the model's weights
make it while p is small, and vanishes as p comes near 1, so that steps in proportion to it have no natural size.

References: Simonyan, Vedaldi and Zisserman 2013, "Deep inside convolutional networks", section 2; Nguyen, Yosinski and Clune
2015, "Deep neural networks are easily fooled".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npadv import ops
from npadv.attacks.checks import check_count, check_first_logits, check_logits, check_positive
from npadv.attacks.result import Bounds, Model, check_gradient, column, input_gradient
from npadv.attacks.rubbish import RubbishResult, check_input, check_share, log_probabilities, logs, told
from npadv.autodiff import Tensor, no_record, value_of
from npadv.backend import Array, like, xp_of
from npadv.functional import check_labels, cross_entropy
from npadv.norms import check_norm, steepest_ascent_direction
from npadv.progress import track


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
    """Climb from inputs of no class to ones of which the model is certain, by its gradients.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K), recorded by the tape.
    start : (N, ...) array
        Where to begin, within ``bounds``: noise, or a blank for all. It is not modified.
    target : (N,) integers
        The classes to be taken for.
    steps : int
        How many.
    step : float, optional
        The length of each in the norm, in units of x; by default 2.5 times what takes half the box, over ``steps``.
    norm : {"l2", "linf", "l1"}
        In which a step is steepest. [GSS] take one step in "linf" from Gaussian noise, without a box.
    decay : float
        The weight of ||x||_2^2, which is taken off log p(target).
    threshold, sigmoid
        As for ``confident_errors``.
    bounds : (low, high), optional
        The box; None for none.
    progress : bool, optional
        Draw a progress bar; by default only on a terminal.

    Returns
    -------
    RubbishResult
        Of each climb the point where log p(target) - decay ||x||_2^2 was largest; steps + 3 queries an input.
        ``history`` has log p(target) of all points passed. Each input's climb is its own.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    From grey, an image that a linear model is certain of, and one that it would rather have darker:

    >>> weights = np.array([[5.0, -5.0], [5.0, -5.0], [0.0, 0.0]])
    >>> grey = np.full((1, 3), 0.5)
    >>> gradient_rubbish(lambda x: x @ weights, grey, np.array([0])).x.round(2)
    array([[1. , 1. , 0.5]])
    >>> gradient_rubbish(lambda x: x @ weights, grey, np.array([0]), decay=1.0).x.round(2)
    array([[0.17, 0.17, 0.  ]])
    """
    check_norm(norm)
    check_count("steps", steps)
    check_positive("decay", decay, zero=True)
    check_share("threshold", threshold)
    check_input("start", start, bounds)
    xp, n = xp_of(start), len(start)
    with no_record():
        classes = check_first_logits(model(start), n).shape[1]
    target = check_labels(like(value_of(target), start), classes, n, name="target")
    if step is None:
        if bounds is None:
            raise ValueError("step: expected a number where there are no bounds, got None")
        size = start[0].size
        step = 1.25 * (bounds[1] - bounds[0]) * {"linf": 1.0, "l2": math.sqrt(size), "l1": size}[norm] / steps
    check_positive("step", step)

    point, best, rows = start, start, xp.arange(n)
    height, history = xp.zeros(n) - xp.inf, []
    flags: dict[str, Array] = {}
    for t in track(range(steps + 1), total=steps + 1, label="climbing", show=progress):
        inputs = Tensor(point, requires_grad=True)
        output = model(inputs)
        logits = check_logits(output, n)
        logp = logs(logits, sigmoid)[rows, target]
        history.append(logp)
        squares = (point.astype(np.float64) ** 2).reshape(n, -1).sum(axis=1)
        higher = logp - decay * squares > height
        best, height = xp.where(column(higher, start), point, best), xp.where(higher, logp - decay * squares, height)
        if t == steps:
            break
        one = xp.eye(classes, dtype=logits.dtype)[target]
        # The negative of log p(target), summed over the inputs, so that the climb of each is its own.
        loss = ops.sum(ops.softplus(-output) * one) if sigmoid else cross_entropy(output, target, reduction="sum")
        g, seen = check_gradient(input_gradient(loss, inputs))
        flags = flags or seen
        flags["non_finite_gradient"] = flags["non_finite_gradient"] | seen["non_finite_gradient"]
        g = -g - start.dtype.type(2 * decay) * point
        if bounds is not None:  # else pixels at their ends would use up the length of a step without moving
            stuck = ((g > 0) & (point >= bounds[1])) | ((g < 0) & (point <= bounds[0]))
            g = xp.where(stuck, xp.zeros_like(g), g)
        point = point + start.dtype.type(step) * steepest_ascent_direction(g, norm)
        point = point if bounds is None else xp.clip(point, *bounds)
    logp = log_probabilities(model, best, sigmoid=sigmoid)
    more = {"target": target, "history": xp.stack(history), "flags": flags}
    return told(best, logp, threshold=threshold, queries=n * (steps + 3), **more)
