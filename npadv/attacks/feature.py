"""Feature adversaries: images near one example that have the internal representation of another.

    minimise over eta    ||phi_k(x + eta) - phi_k(guide)||_2^2                                  Sabour et al. 2016, eq. 1
    subject to           ||eta||_inf <= eps,    low <= x + eta <= high                          eq. 2, and the box

phi_k(x) is the output of layer k, the representation of x. Other attacks aim at a class; this one aims at a whole
representation. A network that computes its class from layer k alone then gives the result the class of the guide.

The maximum norm's ball and the box intersect in a smaller box, with its own ends for each pixel. So this is a problem for
L-BFGS with box constraints, as in the paper, and both solvers of ``lbfgs.py`` solve it. Their objective is divided by its
value at x: the minimum is the same, ``tolerance`` means the same at every layer, and the gradient has a size that suits
float32. The square root of the objective is the ratio that the paper reports: the distance to the guide's representation
after the attack, over the distance before.

References: Sabour, Cao, Faghri and Fleet 2016, "Adversarial manipulation of deep representations", section 2; [WG] 1.2.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks.box_optimization import Box, BoxProblem, Evaluation, ProblemData, Solution, rowdot
from npadv.attacks.checks import check_batch, check_choice, check_count, check_in_box, check_inputs, check_positive
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
    records,
)
from npadv.autodiff import Tensor, no_record, value_of
from npadv.backend import Array, is_array, like, to_numpy, xp_of
from npadv.norms import norm


class RepresentationDistance(BoxProblem["FeatureJob"]):
    """||phi(x + eta) - phi(guide)||^2, divided by its value at eta = 0, within the ball and the box."""

    def evaluate(self, points: Array, jobs: Sequence[FeatureJob], data: ProblemData) -> Evaluation:
        """Evaluate the objective at B points, one for each example; ``reached`` is not used."""
        guides, unit = data[3], data[4][:, None]
        inputs = self.inputs(points)
        output = self.layer(inputs)
        difference = (_representation(output, len(points)).astype(np.float64).reshape(len(points), -1) - guides) / unit
        g = self.differentiate(output, inputs, jobs, difference.astype(output.dtype).reshape(output.shape))
        return Evaluation(rowdot(difference, difference), 2 * g / unit, xp_of(points).zeros(len(points), dtype=int))

    def __init__(
        self,
        layer: Model,
        x: Array,
        guides: Array,
        distance_before: Array,
        eps: float,
        bounds: Bounds,
        *,
        tolerance: float,
        max_iterations: int,
    ) -> None:
        super().__init__(x, tolerance=tolerance, max_iterations=max_iterations)
        self.layer, self.distance_before = layer, distance_before
        self.least_decrease /= 10  # the nearer a sum of squares is to 0, the smaller its rounding error
        xp, radius = xp_of(x), x.dtype.type(eps)
        self.guides = xp.broadcast_to(guides.reshape(len(guides), -1), (len(x), guides[0].size))
        # The ends in the precision of the examples, so that a solution rounded to it stays within the ball and the box.
        self.low, self.high = (
            xp.clip(end, *map(x.dtype.type, bounds)).reshape(len(x), -1) for end in (x - radius, x + radius)
        )

    def data(self, jobs: Sequence[FeatureJob]) -> ProblemData:
        """Return the examples (B, D), both ends of their boxes (B, D), phi(guide) (B, R), and the distances at x (B,)."""
        which = like(np.array([job.example for job in jobs]), self.x)
        low, high = (end[which].astype(np.float64) for end in (self.low, self.high))
        return self.centres(jobs), low, high, self.guides[which], self.distance_before[which]

    def box(self, data: ProblemData) -> Box:
        """Return the ends of the boxes (B, D)."""
        return data[1:3]

    def finish(self, job: FeatureJob, solution: Solution) -> None:
        """Store the solution in the job, which has only this problem."""
        job.solution, job.left = solution, 0


@dataclass
class FeatureJob:
    """One example's problem and, later, its solution."""

    example: int
    left: int = 1
    solution: Solution | None = None


@records
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
        Maps a batch (N, ...) to logits (N, K). Its gradient is not used.
    x, bounds : see npadv.attacks
    guide : (...) or (1, ...) or (N, ...) array
        The image whose representation is imitated: one for all examples, or one for each; within ``bounds``, on x's device.
    layer : callable
        Maps a batch to its representations, an array (N, ...) of any shape, recorded by the tape: ``model[:k]`` for a
        ``Sequential``. The representation of an image must not depend on the rest of the batch.
    eps : float
        The most that a pixel may change, in units of x. The paper takes 10 of 255.
    solver : {"scipy", "batched"}
        SciPy's L-BFGS-B, or npadv's own over the whole batch: see ``lbfgs``.
    max_iterations : int
        The most iterations of the solver.
    tolerance : float
        The residual at which the solver stops: see ``FeatureResult.residual``.
    at_once : int
        The number of problems to solve side by side. The batched solver keeps some 20 numbers for each pixel of each.

    Returns
    -------
    FeatureResult
        ``distance`` is in the maximum norm. ``queries`` counts evaluations of the model and of the layer: 3, and one for
        each evaluation of the solver; those of the guide are not counted. ``x_adv`` is never farther from the guide's
        representation than x. ``flags["not_converged"]``: the solver reached ``max_iterations`` or found no step that
        lowers the objective. ``flags["zero_gradient"]``: the distance has no gradient at x (dead units), and x is
        returned. ``flags["non_finite_gradient"]``: some gradient had a non-finite element, and 0 was used for it.
        ``flags["already_wrong"]``: x already had the guide's class.

    Examples
    --------
    A layer that computes the sum and the difference of two pixels. A guide within eps is reached, one beyond is not:

    >>> hidden = lambda x: x @ np.array([[1.0, 1.0], [1.0, -1.0]])
    >>> model = lambda x: hidden(x) @ np.array([[9.0, 0.0], [0.0, 9.0]])
    >>> x, guide = np.array([[0.5, 0.5]]), np.array([0.6, 0.1])
    >>> feature(model, x, guide, layer=hidden, eps=0.5).x_adv.round(6)
    array([[0.6, 0.1]])
    >>> result = feature(model, x, guide, layer=hidden, eps=0.2)
    >>> result.x_adv.round(6), result.ratio.round(3)  # the second pixel is at the end of its range, 0.2 from the guide's
    (array([[0.6, 0.3]]), array([0.485]))
    """
    eps, bounds = check_inputs(x, eps=eps, bounds=bounds)
    guide = _checked_guide(guide, x, bounds)
    check_choice("solver", solver, SOLVERS)
    tolerance = check_positive("tolerance", tolerance, zero=True)
    check_count("max_iterations", max_iterations)
    check_count("at_once", at_once)
    xp, n = xp_of(x), len(x)
    y = xp.zeros(n, dtype=int) + predict(model, guide)  # one for all or one for each
    _, y, before = first_predictions(model, x, y, targeted=True)
    with no_record():
        target = _representation(layer(guide), len(guide))
    distance_before, flags = _start(layer, x, target)

    problem = RepresentationDistance(
        layer, x, target, distance_before, eps, bounds, tolerance=tolerance, max_iterations=max_iterations
    )
    same, stuck = (to_numpy(a) for a in (distance_before == 0, flags["zero_gradient"]))
    jobs = [FeatureJob(i) for i in np.flatnonzero(~same & ~stuck).tolist()]
    if jobs:
        SOLVERS[solver](problem, jobs, at_once)

    x_adv, ratio = x.copy(), np.where(same, 0.0, 1.0)
    not_converged, residual, (iterations, evaluations) = np.zeros(n, bool), np.zeros(n), np.zeros((2, n), int)
    messages = ["nothing to do: x represents the guide" if done else "stopped: zero gradient" for done in same]
    for job in jobs:
        i, solution = job.example, job.solution
        assert solution is not None
        not_converged[i], residual[i], messages[i] = not solution.converged, solution.residual, solution.message
        iterations[i], evaluations[i] = solution.iterations, solution.evaluations
        point = like(problem.cast(solution.point).reshape(x.shape[1:]), x)
        if solution.objective < 1 and bool((point != x[i]).any()):  # at x the objective is 1, up to rounding
            ratio[i], x_adv[i] = np.sqrt(solution.objective), point
    result = make_result(
        model,
        x,
        x_adv,
        y,
        kind="linf",
        targeted=True,
        queries=2 + like(evaluations, x),  # 2: the model and the layer at x
        before=before,
        flags={
            "zero_gradient": like(stuck & ~same, x),
            "non_finite_gradient": flags["non_finite_gradient"] | like(problem.not_finite, x),
            "not_converged": like(not_converged, x),
        },
    )
    return FeatureResult(
        **vars(result),
        feature_distance_before=distance_before,
        feature_distance=like(ratio, x) * distance_before,
        ratio=like(ratio, x),
        iterations=like(iterations, x),
        residual=like(residual, x),
        messages=tuple(messages),
    )


@dataclass(frozen=True)
class FeatureResult(AttackResult):
    """An attack's result, its distances to the guides' representations, and the solver's report.

    Success means that the model gives ``x_adv`` the class that it gives the guide.

    Attributes
    ----------
    feature_distance_before, feature_distance : (N,) float64
        ||phi(x) - phi(guide)||_2 and ||phi(x_adv) - phi(guide)||_2.
    ratio : (N,) float64
        The second over the first; 0 where both are 0.
    iterations : (N,) int
        The solver's iterations; 0 where it had nothing to do.
    residual : (N,) float64
        The residual of the Karush-Kuhn-Tucker conditions for the objective divided by its value at x: the largest element,
        in units of x, of a projected step against the gradient.
    messages : tuple of N strings
        Why the solver stopped.
    """

    feature_distance_before: Array
    feature_distance: Array
    ratio: Array
    iterations: Array
    residual: Array
    messages: tuple[str, ...]


def _start(layer: Model, x: Array, target: Array) -> tuple[Array, dict[str, Array]]:
    """Return the distances from x's representations to the guides', (N,), and the flags of their gradients at x."""
    inputs = Tensor(x, requires_grad=True)
    output = layer(inputs)
    own = _representation(output, len(x))
    if own.shape[1:] != target.shape[1:]:
        raise ValueError(
            f"layer: expected the same shape for all, got {own.shape[1:]} for x and {target.shape[1:]} for guide"
        )
    difference = own.astype(np.float64).reshape(len(x), -1) - target.reshape(len(target), -1)
    distance = norm(difference, "l2")
    unit = xp_of(x).where(distance > 0, distance, 1.0)[:, None]
    cotangent = (difference / unit).astype(own.dtype).reshape(own.shape)
    g = input_gradient(output, inputs, cotangent, expected="layer: expected a representation")
    return distance, check_gradient(g)[1]


# Checks ---------------------------------------------------------------------------------------------------------------


def _representation(output: Any, n: int) -> Array:
    """Return a layer's output as an array (N, ...); raise a ValueError if it is no such array."""
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
