"""Church windows: the classes in a plane through an example, seen from above ([WG] figures 1.2 to 1.4).

At column h and row v of a window stands the class of

    f(x + h u1 + v u2),    -eps <= h <= eps from left to right,    -eps <= v <= eps from top to bottom,

with u1 and u2 orthogonal and of one length; the example itself is in the middle. In figure 1.2, u1 is the direction of the
fast gradient sign method and u2 one drawn uniformly from those orthogonal to it; in 1.3 both are random; in 1.4, u2 is the
component of the gradient that is orthogonal to its sign.

The length. The captions call u1 and u2 unit vectors and eps = .25 a large perturbation. Of length 1 in l2 they would move
an image of thousands of pixels by nothing that one could see; so the unit here is, by default, a change of 1 in the root mean
square of the pixels. A direction of signs (none of them 0) then has max norm 1, h is the eps of the fast gradient sign
method, and a random direction is as long as an adversarial one. ``unit`` offers the other readings.

The box. The paper's images were whitened and have no box; its windows look at every point of the plane, and so do these.
With ``bounds`` given, points with a pixel outside are marked; with ``clip`` too, each is brought back into the box first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_first_logits, check_inputs, check_positive
from npadv.attacks.result import Bounds, Model, check_gradient, column, input_gradient
from npadv.autodiff import Tensor
from npadv.backend import Array, is_array, like, to_numpy, xp_of
from npadv.evaluation.batchwise import ANYWHERE, check_examples, classify, in_batches
from npadv.functional import cross_entropy
from npadv.norms import norm

DIRECTIONS = ("sign", "gradient", "random")
UNITS = ("rms", "l2", "linf", "given")


@dataclass(frozen=True, eq=False)
class ChurchWindows:
    """The classes in a plane around each of N examples, at V x H points.

    Attributes
    ----------
    classes : (N, V, H)
        The class at x + h u1 + v u2; row 0 is v = -eps, column 0 is h = -eps.
    labels : (N,)
        The true classes, which are drawn white.
    h, v : (H,), (V,)
        The coordinates, from -eps to eps.
    outside : (N, V, H) bool
        Whether the point has a pixel outside of ``bounds``; all false without bounds.
    degenerate : (N,) bool
        The plane is a line or a point: a direction is zero, as where the gradient is, or along the other one.
    directions : (N, 2, ...)
        u1 and u2 of each example.
    """

    classes: np.ndarray
    labels: np.ndarray
    h: np.ndarray
    v: np.ndarray
    outside: np.ndarray
    degenerate: np.ndarray
    directions: np.ndarray


def church_windows(
    model: Model,
    x: Array,
    y: Any,
    *,
    first: Any = "sign",
    second: Any = "random",
    eps: float = 0.25,
    points: int = 101,
    unit: str = "rms",
    bounds: Bounds | None = None,
    clip: bool = False,
    rng: np.random.Generator | None = None,
    batch_size: int = 500,
    progress: bool | None = None,
) -> ChurchWindows:
    """Classify a square of points around each example, in the plane of two directions.

    Parameters
    ----------
    model : callable
        From a batch (N, ...) to logits (N, K), recorded by the tape if a direction asks for the gradient.
    x : (N, ...) array
        Examples.
    y : (N,) integers
        The true classes.
    first, second : {"sign", "gradient", "random"}, or array
        The directions: the sign of the loss's gradient, the gradient, one drawn uniformly; or of your own, one for each
        example (N, ...) or one for all. Of the second, the component orthogonal to the first is taken.
    eps : float
        Half the side of the square, in ``unit``.
    points : int
        To a side; an odd number puts the example itself in the middle.
    unit : {"rms", "l2", "linf", "given"}
        What is 1 of each direction: the root mean square of its elements, its l2 norm, its max norm. "given" leaves both
        as they are, neither scaled nor made orthogonal.
    bounds : (low, high), optional
        A box, outside of which points are marked.
    clip : bool
        Whether to classify the nearest point of the box instead of one outside.
    rng : numpy.random.Generator
        Draws random directions, example by example; needed for them alone.
    batch_size : int
        Points at a time, which bounds the memory.
    progress : bool, optional
        Draw a bar; by default on a terminal.

    Returns
    -------
    ChurchWindows

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.
    Interrupted
        On Ctrl-C, with the windows of the examples that were finished.

    Examples
    --------
    The boundary is the vertical line through 0.6, 0.1 to the right of the example, and upright in the window too:

    >>> model = lambda x: (x - np.array([0.6, 0.6])) @ np.array([[-1.0, 1.0], [0.0, 0.0]])
    >>> x, y = np.array([[0.5, 0.5]]), np.array([0])
    >>> windows = church_windows(model, x, y, first=np.array([1.0, 0.0]), second=np.array([1.0, 1.0]), unit="l2",
    ...                          eps=0.2, points=4)
    >>> windows.classes[0, 0].tolist(), windows.h.round(2)
    ([0, 0, 0, 1], array([-0.2 , -0.07,  0.07,  0.2 ]))
    >>> windows.directions[0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    check_inputs(x, bounds=ANYWHERE if bounds is None else bounds)
    labels = check_examples(model, x, y)
    if clip and bounds is None:
        raise ValueError("clip: expected bounds to clip to, got bounds=None")
    if unit not in UNITS:
        raise ValueError(f"unit: expected one of {', '.join(UNITS)}, got {unit!r}")
    check_positive("eps", eps)
    check_count("points", points, 2)
    check_count("batch_size", batch_size)
    plane = _Plane(model, x, labels, first, second, unit, rng)
    side = np.linspace(-eps, eps, points)
    h, v = np.tile(side, points), np.repeat(side, points)  # of all points of a window, row by row
    examples = max(1, batch_size // len(h))  # whole windows at a time, or parts of one

    def measure(part: slice) -> tuple[np.ndarray, ...]:
        directions, degenerate = plane(part)
        classes = np.empty((len(degenerate), len(h)), dtype=np.int32)
        outside = np.zeros(classes.shape, dtype=bool)
        for start in range(0, classes.size, batch_size):
            which, point = np.divmod(np.arange(start, min(start + batch_size, classes.size)), len(h))
            there, (u1, u2) = like(which, x), directions
            across, down = (_numbers(values[point], x) for values in (h, v))
            moved = x[part][there] + across * u1[there] + down * u2[there]
            if bounds is not None:
                out = ((moved < bounds[0]) | (moved > bounds[1])).reshape(len(which), -1).any(axis=1)
                outside[which, point] = to_numpy(out)
            classes[which, point] = classify(model, xp_of(x).clip(moved, *bounds) if clip and bounds else moved)
        together = np.moveaxis(to_numpy(xp_of(x).stack(directions)), 1, -1)
        return classes.T, labels[part], outside.T, degenerate, together

    def conclude(
        classes: np.ndarray, labels: np.ndarray, outside: np.ndarray, degenerate: np.ndarray, directions: np.ndarray
    ) -> ChurchWindows:
        square = (len(labels), points, points)
        return ChurchWindows(
            classes=classes.T.reshape(square),
            labels=labels,
            h=side,
            v=side.copy(),
            outside=outside.T.reshape(square),
            degenerate=degenerate,
            directions=np.moveaxis(directions, -1, 0),
        )

    return in_batches(measure, conclude, len(x), batch_size=examples, label="church windows", progress=progress)


class _Plane:
    """The two directions of each example, one part of the examples after the other."""

    def __init__(
        self, model: Model, x: Array, labels: np.ndarray, first: Any, second: Any, unit: str, rng: Any
    ) -> None:
        self.model, self.x, self.labels, self.unit, self.rng = model, x, labels, unit, rng
        self.wanted = [_checked(name, value, x, rng) for name, value in (("first", first), ("second", second))]

    def __call__(self, part: slice) -> tuple[tuple[Array, Array], np.ndarray]:
        """Return u1 and u2 of a part, both (B, ...), and (B,) whether they span no plane."""
        batch, names = self.x[part], [value for value in self.wanted if isinstance(value, str)]
        xp, shape = xp_of(batch), batch.shape
        ways = {}
        if {"sign", "gradient"} & set(names):
            inputs = Tensor(batch, requires_grad=True)
            logits = self.model(inputs)
            check_first_logits(logits, len(batch))
            loss = cross_entropy(logits, like(self.labels[part], batch), reduction="sum")
            ways["gradient"], _ = check_gradient(input_gradient(loss, inputs))
            ways["sign"] = xp.sign(ways["gradient"])
        if "random" in names:  # example by example, so that what is drawn for one does not depend on the batch
            drawn = self.rng.standard_normal((shape[0], names.count("random"), *shape[1:]))
            queue = [like(drawn[:, i].astype(batch.dtype), batch) for i in range(drawn.shape[1])]
        found = []
        for value in self.wanted:
            if not isinstance(value, str):
                found.append(value[part] if value.shape == self.x.shape else xp.zeros_like(batch) + value)
            else:
                found.append(queue.pop(0) if value == "random" else ways[value])
        u1, u2 = (_normal(u) for u in found)
        if self.unit == "given":
            size = [to_numpy(norm(u, "l2")) for u in (u1, _rest(u2, u1))]
            return (found[0], found[1]), (size[0] == 0) | (size[1] == 0)
        u2 = _normal(_rest(u2, u1))
        flat = (norm(u1, "l2") == 0) | (norm(u2, "l2") == 0)
        return (_scaled(u1, self.unit), _scaled(u2, self.unit)), to_numpy(flat)


def _checked(name: str, value: Any, x: Array, rng: Any) -> Any:
    """Return a direction's name, or an array on x's device in its precision."""
    if isinstance(value, str):
        if value not in DIRECTIONS:
            raise ValueError(f"{name}: expected one of {', '.join(DIRECTIONS)}, or an array, got {value!r}")
        if value == "random" and not isinstance(rng, np.random.Generator):
            raise ValueError(f"rng: expected a numpy.random.Generator for a random direction, got {type(rng).__name__}")
        return value
    if not is_array(value) or value.shape not in (x.shape, x.shape[1:]) or value.dtype.kind not in "fiu":
        raise ValueError(
            f"{name}: expected a name or an array of shape {x.shape} or {x.shape[1:]}, "
            f"got {getattr(value, 'shape', type(value).__name__)}"
        )
    value = like(value, x).astype(x.dtype)
    if not bool(xp_of(value).isfinite(value).all()):
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return value


def _scaled(u: Array, unit: str) -> Array:
    """Return vectors of l2 length 1 at the length that is 1 in the unit."""
    if unit == "l2":
        return u
    if unit == "rms":
        return u * u.dtype.type(math.sqrt(u[0].size))
    largest = norm(u, "linf")
    return u / column(xp_of(u).where(largest > 0, largest, xp_of(u).ones_like(largest)), u)


def _normal(u: Array) -> Array:
    """Return each of N vectors at l2 length 1, or 0 if it is."""
    size = norm(u, "l2")
    return u / column(xp_of(u).where(size > 0, size, xp_of(u).ones_like(size)), u)


def _rest(u: Array, axis: Array) -> Array:
    """Return what is left of unit vectors u without their component along unit vectors: 0 if that is only rounding."""
    xp = xp_of(u)
    for _ in range(2):  # once leaves the rounding of the first product, a large one where little is left
        u = u - column((u * axis).reshape(len(u), -1).sum(axis=1), u) * axis
    left = norm(u, "l2") > 64 * np.finfo(u.dtype).eps
    return xp.where(column(left, u), u, xp.zeros_like(u))


def _numbers(values: np.ndarray, x: Array) -> Array:
    return column(like(values.astype(x.dtype), x), x)
