"""Feature adversaries: an image next to one example that a layer takes for another.

    minimise over eta    ||phi_k(x + eta) - phi_k(guide)||_2^2                                  Sabour et al. 2016, eq. 1
    subject to           ||eta||_inf <= eps,    low <= x + eta <= high                          eq. 2, and the box

phi_k is what layer k makes of an image. Where other attacks ask for a class, this one asks for a whole internal
representation: whatever is computed from layer k alone then takes the image for the guide, the class included.

Of the maximum norm's ball and the box, the intersection is a box again, with ends of its own for each pixel, so that the
problem is one for L-BFGS with box constraints, as in the paper: ``box.py``, and the two solvers of ``lbfgs.py``. They are
given the objective divided by its value at x, so that ``tolerance`` means the same at every layer and a gradient that
suits float32; the minimum is the same. Its root is the number the paper reports: how far from the guide the result is, over
how far the example was.

References: Sabour, Cao, Faghri and Fleet 2016, "Adversarial manipulation of deep representations", section 2; [WG] 1.2.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks.box import Answer, Box, BoxProblem, Given, Solution, rowdot
from npadv.attacks.checks import check_batch, check_count, check_in_box, check_inputs, check_positive
from npadv.attacks.lbfgs import SOLVERS
from npadv.attacks.result import (
    AttackResult,
    Bounds,
    Model,
    check_gradient,
    first_predictions,
    input_gradient,
    make_result,
    predict,
)
from npadv.autodiff import Tensor, no_record, value_of
from npadv.backend import Array, is_array, like, to_numpy, xp_of
from npadv.norms import norm


@dataclass(frozen=True)
class FeatureResult(AttackResult):
    """An attack's result, how near it came to the guides' representations, and how it was found.

    Success is being classified as the model classifies the guide.

    Attributes
    ----------
    feature_distance_before, feature_distance : (N,) float64
        ||phi(x) - phi(guide)||_2, and the same of ``x_adv``.
    ratio : (N,) float64
        The second over the first; 0 where both are 0.
    iterations : (N,) int
        Of the solver; 0 where there was nothing for it to do.
    residual : (N,) float64
        What is left of the Karush-Kuhn-Tucker conditions of the objective, divided by its value at x: the largest
        element, in units of x, of a step against the gradient, projected back.
    messages : tuple of N strings
        Why the solver stopped.
    """

    feature_distance_before: Array
    feature_distance: Array
    ratio: Array
    iterations: Array
    residual: Array
    messages: tuple[str, ...]


def feature(
    model: Model,
    x: Array,
    guide: Array,
    *,
    layer: Model,
    eps: float,
    bounds: Bounds = (0.0, 1.0),
    solver: str = "scipy",
    max_iterations: int = 200,
    tolerance: float = 1e-5,
    at_once: int = 256,
) -> FeatureResult:
    """Find, within eps of each example, the image whose representation is nearest to that of a guide.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K). It is only asked for classes.
    x : (N, ...) array
        The source images, within ``bounds``.
    guide : (...) or (1, ...) or (N, ...) array
        The image to be taken for: one for all, or one for each; within ``bounds``, where x is.
    layer : callable
        Maps a batch to its representations, an array (N, ...) of any shape, recorded by the tape: of a ``Sequential``,
        ``model[:k]``. What it does to an image may not depend on the batch.
    eps : float
        The most that a pixel may change, in units of x. The paper takes 10 of 255.
    bounds : (low, high)
        The box.
    solver : {"scipy", "batched"}
        SciPy's L-BFGS-B, or npadv's own over the whole batch: see ``lbfgs``.
    max_iterations : int
        Of the solver.
    tolerance : float
        The residual at which it is content: see ``FeatureResult.residual``.
    at_once : int
        How many problems to solve side by side. The batched solver keeps some 20 numbers for each pixel of each.

    Returns
    -------
    FeatureResult
        ``distance`` is in the maximum norm. ``queries`` counts the model and the layer alike: 3, and one for each of the
        solver's evaluations; the guide's are not counted. No result is farther from its guide's representation than x was.
        ``flags["not_converged"]``: the solver came to ``max_iterations``, or found no step that lowers the objective;
        ``flags["zero_gradient"]``: at x the distance does not answer to the pixels (dead units), and x is returned;
        ``flags["non_finite_gradient"]``: some gradient on the way was not finite, and 0 was taken for it;
        ``flags["already_wrong"]``: x was classified as the guide before.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    A layer that computes the sum and the difference of two pixels: a guide within reach is reached, one beyond is not.

    >>> hidden = lambda x: x @ np.array([[1.0, 1.0], [1.0, -1.0]])
    >>> model = lambda x: hidden(x) @ np.array([[9.0, 0.0], [0.0, 9.0]])
    >>> x, guide = np.array([[0.5, 0.5]]), np.array([0.6, 0.1])
    >>> feature(model, x, guide, layer=hidden, eps=0.5).x_adv.round(6)
    array([[0.6, 0.1]])
    >>> result = feature(model, x, guide, layer=hidden, eps=0.2)
    >>> result.x_adv.round(6), result.ratio.round(3)  # the second pixel is at its end, 0.2 short of the guide's
    (array([[0.6, 0.3]]), array([0.485]))
    """
    check_inputs(x, eps=eps, bounds=bounds)
    guide = _checked_guide(guide, x, bounds)
    if solver not in SOLVERS:
        raise ValueError(f"solver: expected one of {', '.join(SOLVERS)}, got {solver!r}")
    check_positive("tolerance", tolerance, zero=True)
    check_count("max_iterations", max_iterations)
    check_count("at_once", at_once)
    xp, n = xp_of(x), len(x)
    y = xp.zeros(n, dtype=int) + predict(model, guide)  # one for all or one for each
    _, y, before = first_predictions(model, x, y, targeted=True)
    with no_record():
        target = _representation(layer(guide), len(guide))
    apart, flags = _start(layer, x, target)

    problem = Imitation(layer, x, target, apart, eps, bounds, tolerance=tolerance, max_iterations=max_iterations)
    same, stuck = (to_numpy(a) for a in (apart == 0, flags["zero_gradient"]))
    tasks = [Imitated(i) for i in np.flatnonzero(~same & ~stuck).tolist()]
    if tasks:
        SOLVERS[solver](problem, tasks, at_once)

    x_adv, ratio = x.copy(), np.where(same, 0.0, 1.0)
    not_converged, residual, (iterations, evaluations) = np.zeros(n, bool), np.zeros(n), np.zeros((2, n), int)
    messages = ["nothing to do: x represents the guide" if done else "stopped: zero gradient" for done in same]
    for task in tasks:
        i, solution = task.example, task.solution
        assert solution is not None
        not_converged[i], residual[i], messages[i] = not solution.converged, solution.residual, solution.message
        iterations[i], evaluations[i] = solution.iterations, solution.evaluations
        if solution.objective < 1:  # at x it is 1, up to rounding
            ratio[i] = np.sqrt(solution.objective)
            x_adv[i] = like(problem.cast(solution.point).reshape(x.shape[1:]), x)
    flags = {
        "zero_gradient": like(stuck & ~same, x),
        "non_finite_gradient": flags["non_finite_gradient"] | like(problem.not_finite, x),
        "not_converged": like(not_converged, x),
    }
    result = make_result(
        model,
        x,
        x_adv,
        y,
        kind="linf",
        targeted=True,
        queries=2 + like(evaluations, x),  # 2: the model and the layer at x
        before=before,
        flags=flags,
    )
    return FeatureResult(
        **vars(result),
        feature_distance_before=apart,
        feature_distance=like(ratio, x) * apart,
        ratio=like(ratio, x),
        iterations=like(iterations, x),
        residual=like(residual, x),
        messages=tuple(messages),
    )


@dataclass
class Imitated:
    """One example's problem, and its solution."""

    example: int
    left: int = 1
    solution: Solution | None = None


class Imitation(BoxProblem[Imitated]):
    """The squared distance of representations, divided by what it is at x, over the ball and the box at once."""

    def __init__(
        self,
        layer: Model,
        x: Array,
        guides: Array,
        apart: Array,
        eps: float,
        bounds: Bounds,
        *,
        tolerance: float,
        max_iterations: int,
    ) -> None:
        super().__init__(x, tolerance=tolerance, max_iterations=max_iterations)
        self.layer, self.apart = layer, apart
        self.least_decrease /= 10  # a sum of squares rounds by less the nearer it is to 0, and representations may meet
        xp, radius = xp_of(x), x.dtype.type(eps)
        self.guides = xp.broadcast_to(guides.reshape(len(guides), -1), (len(x), guides[0].size))
        # In the examples' own precision, so that a solution rounded to it is still within both.
        self.near, self.far = (
            xp.clip(end, *map(x.dtype.type, bounds)).reshape(len(x), -1) for end in (x - radius, x + radius)
        )

    def given(self, tasks: Sequence[Imitated]) -> Given:
        """Return the examples and both ends of their boxes (B, D), their guides' representations (B, R), distances (B,)."""
        which = like(np.array([task.example for task in tasks]), self.x)
        near, far = (end[which].astype(np.float64) for end in (self.near, self.far))
        return self.centres(tasks), near, far, self.guides[which], self.apart[which]

    def box(self, given: Given) -> Box:
        """Return the ends of the boxes (B, D)."""
        return given[1:3]

    def evaluate(self, points: Array, tasks: Sequence[Imitated], given: Given) -> Answer:
        """Ask the layer about B points."""
        guides, unit = given[3], given[4][:, None]
        inputs = self.inputs(points)
        output = self.layer(inputs)
        difference = (_representation(output, len(points)).astype(np.float64).reshape(len(points), -1) - guides) / unit
        g = self.differentiate(output, inputs, tasks, difference.astype(output.dtype).reshape(output.shape))
        return Answer(rowdot(difference, difference), 2 * g / unit, xp_of(points).zeros(len(points), dtype=int))

    def conclude(self, task: Imitated, solution: Solution) -> None:
        """Keep the solution."""
        task.solution, task.left = solution, 0


def _start(layer: Model, x: Array, target: Array) -> tuple[Array, dict[str, Array]]:
    """Return how far x's representations are from the guides', (N,), and the flags of the way towards them."""
    inputs = Tensor(x, requires_grad=True)
    output = layer(inputs)
    own = _representation(output, len(x))
    if own.shape[1:] != target.shape[1:]:
        raise ValueError(
            f"layer: expected the same shape for all, got {own.shape[1:]} for x and {target.shape[1:]} for guide"
        )
    difference = own.astype(np.float64).reshape(len(x), -1) - target.reshape(len(target), -1)
    apart = norm(difference, "l2")
    unit = xp_of(x).where(apart > 0, apart, 1.0)[:, None]
    cotangent = (difference / unit).astype(own.dtype).reshape(own.shape)
    g = input_gradient(output, inputs, cotangent, expected="layer: expected a representation")
    return apart, check_gradient(g)[1]


def _representation(output: Any, n: int) -> Array:
    """Return a layer's output as an array (N, ...), or raise a ValueError that says what it is instead."""
    values = value_of(output)
    if not is_array(values) or values.ndim < 1 or len(values) != n or values.size == 0 or values.dtype.kind != "f":
        kind = f"shape {values.shape}, {values.dtype}" if is_array(values) else type(values).__name__
        raise ValueError(f"layer: expected floating-point representations (N, ...) = ({n}, ...), got {kind}")
    if not bool(xp_of(values).isfinite(values).all()):
        raise ValueError("layer: expected finite representations, got NaN or infinity")
    return values


def _checked_guide(guide: Any, x: Array, bounds: Bounds) -> Array:
    """Return the guide as a batch (1, ...) or (N, ...) in x's dtype."""
    if is_array(guide) and guide.shape == x.shape[1:]:
        guide = guide[None]
    check_batch("guide", guide)
    if guide.shape[1:] != x.shape[1:] or len(guide) not in (1, len(x)):
        raise ValueError(
            f"guide: expected shape {x.shape[1:]}, {(1, *x.shape[1:])} or {x.shape}: one image for all or one for each, "
            f"got {guide.shape}"
        )
    if xp_of(guide) is not xp_of(x):
        raise ValueError(f"guide: expected a {xp_of(x).__name__} array like x, got one of {xp_of(guide).__name__}")
    guide = guide.astype(x.dtype)
    check_in_box("guide", guide, bounds)
    return guide
