"""Church windows: the classes in a plane through an example ([WG] figures 1.2 to 1.4).

The pixel of a window at column h and row v has the class

    argmax f(x + h u1 + v u2),    -eps <= h <= eps from left to right,    -eps <= v <= eps from top to bottom.

The directions u1 and u2 are orthogonal and have the same length; the example is in the middle. In figure 1.2, u1 is the
direction of the fast gradient sign method, and u2 is drawn uniformly from the directions orthogonal to it. In figure 1.3
both are random. In figure 1.4, u2 is the component of the gradient that is orthogonal to its sign.

Length. The captions call u1 and u2 unit vectors and eps = .25 a large perturbation. With l2 length 1, though, they would
change an image of thousands of pixels invisibly. So by default, a direction of length 1 has root mean square 1 over the
pixels. A direction of signs (none of them 0) then has max norm 1, h is the eps of the fast gradient sign method, and a
random direction is as long as an adversarial one. ``unit`` offers the other readings.

Box. The images of the paper are whitened and have no box; its windows show every point of the plane, and so do these. With
``bounds``, points with a pixel outside the box are marked; with ``clip`` as well, each point is clipped to the box first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks.checks import (
    check_choice,
    check_count,
    check_first_logits,
    check_flag,
    check_inputs,
    check_positive,
)
from npadv.attacks.result import Bounds, Model, check_gradient, column, input_gradient, records
from npadv.autodiff import Tensor
from npadv.backend import Array, is_array, like, to_numpy, xp_of
from npadv.evaluation.batchwise import ANYWHERE, check_examples, classify, in_batches
from npadv.functional import cross_entropy
from npadv.norms import norm

DIRECTIONS = ("sign", "gradient", "random")
UNITS = ("rms", "l2", "linf", "given")


@records
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
    model, x, y, progress : see npadv.evaluation
    first, second : {"sign", "gradient", "random"}, or array
        The directions: the sign of the loss's gradient, the gradient, or a random one, drawn uniformly; or an array with one
        direction for each example, (N, ...), or one for all. The second is reduced to its component orthogonal to the first.
    eps : float
        Half the side of the square, in the unit below.
    points : int
        The number of points on each side; with an odd number the example itself is in the middle.
    unit : {"rms", "l2", "linf", "given"}
        The size that is 1 for each direction: the root mean square of its elements, its l2 norm, or its max norm. "given"
        uses both directions as they are, neither scaled nor made orthogonal.
    bounds : (low, high), optional
        The box; points outside it are marked. By default there is none.
    clip : bool
        Whether to classify, instead of a point outside the box, the nearest point of the box.
    rng : numpy.random.Generator
        Draws the random directions, example by example; needed only for these.
    batch_size : int
        The number of points to classify at a time, which bounds the memory.

    Returns
    -------
    ChurchWindows

    Examples
    --------
    The boundary is the vertical line at 0.6, which is 0.1 to the right of the example, in the plane and in the window:

    >>> model = lambda x: (x - np.array([0.6, 0.6])) @ np.array([[-1.0, 1.0], [0.0, 0.0]])
    >>> x, y = np.array([[0.5, 0.5]]), np.array([0])
    >>> windows = church_windows(model, x, y, first=np.array([1.0, 0.0]), second=np.array([1.0, 1.0]), unit="l2",
    ...                          eps=0.2, points=4)
    >>> windows.classes[0, 0].tolist(), windows.h.round(2)
    ([0, 0, 0, 1], array([-0.2 , -0.07,  0.07,  0.2 ]))
    >>> windows.directions[0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    eps, box = check_inputs(x, eps=check_positive("eps", eps), bounds=ANYWHERE if bounds is None else bounds)
    bounds = None if bounds is None else box
    labels = check_examples(model, x, y)
    check_flag("clip", clip)
    if clip and bounds is None:
        raise ValueError("clip: expected bounds to clip to, got bounds=None")
    check_choice("unit", unit, UNITS)
    check_count("points", points, 2)
    check_count("batch_size", batch_size)
    directions_of = _Directions(model, x, labels, first, second, unit, rng)
    side = np.linspace(-eps, eps, points)
    h, v = np.tile(side, points), np.repeat(side, points)  # the coordinates of all points of a window, row by row
    examples = max(1, batch_size // len(h))  # a batch holds whole windows, or parts of one

    def measure(part: slice) -> tuple[np.ndarray, ...]:
        directions, degenerate = directions_of(part)
        classes = np.empty((len(degenerate), len(h)), dtype=np.int32)
        outside = np.zeros(classes.shape, dtype=bool)
        for start in range(0, classes.size, batch_size):
            which, point = np.divmod(np.arange(start, min(start + batch_size, classes.size)), len(h))
            there, (u1, u2) = like(which, x), directions
            across, down = (_coordinates(values[point], x) for values in (h, v))
            moved = x[part][there] + across * u1[there] + down * u2[there]
            if bounds is not None:
                out = ((moved < bounds[0]) | (moved > bounds[1])).reshape(len(which), -1).any(axis=1)
                outside[which, point] = to_numpy(out)
            classes[which, point] = classify(model, xp_of(x).clip(moved, *bounds) if clip and bounds else moved)
        together = np.moveaxis(to_numpy(xp_of(x).stack(directions)), 1, -1)
        return classes.T, labels[part], outside.T, degenerate, together

    def make_result(
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

    return in_batches(measure, make_result, len(x), batch_size=examples, label="church windows", progress=progress)


@dataclass(frozen=True, eq=False)
class ChurchWindows:
    """The classes in a plane around each of N examples, at V x H points.

    Attributes
    ----------
    classes : (N, V, H)
        The class at x + h u1 + v u2; row 0 is v = -eps, column 0 is h = -eps.
    labels : (N,)
        The true classes. A window is white where the model's class is the true one.
    h, v : (H,), (V,)
        The coordinates, from -eps to eps.
    outside : (N, V, H) bool
        Whether the point has a pixel outside ``bounds``; false everywhere without bounds.
    degenerate : (N,) bool
        Whether the directions span no plane: one is zero, for example where the gradient is, or both are parallel.
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


class _Directions:
    """The two directions of each example, computed for one batch after another."""

    def __init__(
        self, model: Model, x: Array, labels: np.ndarray, first: Any, second: Any, unit: str, rng: Any
    ) -> None:
        self.model, self.x, self.labels, self.unit, self.rng = model, x, labels, unit, rng
        self.wanted = [_checked(name, value, x, rng) for name, value in (("first", first), ("second", second))]

    def __call__(self, part: slice) -> tuple[tuple[Array, Array], np.ndarray]:
        """Return u1 and u2 of a batch, both (B, ...), and (B,) whether they span no plane."""
        raw = self._raw(part)
        u1, u2 = (_normalized(u) for u in raw)
        if self.unit == "given":
            sizes = [to_numpy(norm(u, "l2")) for u in (u1, _orthogonal_part(u2, u1))]
            return raw, (sizes[0] == 0) | (sizes[1] == 0)
        u2 = _normalized(_orthogonal_part(u2, u1))
        degenerate = (norm(u1, "l2") == 0) | (norm(u2, "l2") == 0)
        return (_scaled(u1, self.unit), _scaled(u2, self.unit)), to_numpy(degenerate)

    def _raw(self, part: slice) -> tuple[Array, Array]:
        """Return the directions as they are given, computed or drawn."""
        batch, names = self.x[part], [value for value in self.wanted if isinstance(value, str)]
        xp, shape = xp_of(batch), batch.shape
        computed = {}
        if {"sign", "gradient"} & set(names):
            inputs = Tensor(batch, requires_grad=True)
            logits = self.model(inputs)
            check_first_logits(logits, len(batch))
            loss = cross_entropy(logits, like(self.labels[part], batch), reduction="sum")
            computed["gradient"], _ = check_gradient(input_gradient(loss, inputs))
            computed["sign"] = xp.sign(computed["gradient"])
        drawn: list[Array] = []
        if "random" in names:  # example by example, so that an example's direction does not depend on the batch
            numbers = self.rng.standard_normal((shape[0], names.count("random"), *shape[1:]))
            drawn = [like(numbers[:, i].astype(batch.dtype), batch) for i in range(numbers.shape[1])]
        found = []
        for value in self.wanted:
            if not isinstance(value, str):
                found.append(value[part] if value.shape == self.x.shape else xp.zeros_like(batch) + value)
            else:
                found.append(drawn.pop(0) if value == "random" else computed[value])
        return found[0], found[1]


def _scaled(u: Array, unit: str) -> Array:
    """Return vectors of l2 length 1, scaled to size 1 in the unit."""
    if unit == "l2":
        return u
    if unit == "rms":
        return u * u.dtype.type(math.sqrt(u[0].size))
    largest = norm(u, "linf")
    return u / column(xp_of(u).where(largest > 0, largest, xp_of(u).ones_like(largest)), u)


def _normalized(u: Array) -> Array:
    """Return each of N vectors scaled to l2 length 1; a zero vector stays zero."""
    size = norm(u, "l2")
    return u / column(xp_of(u).where(size > 0, size, xp_of(u).ones_like(size)), u)


def _orthogonal_part(u: Array, axis: Array) -> Array:
    """Return unit vectors u minus their components along unit vectors ``axis``; 0 where only rounding error is left."""
    xp = xp_of(u)
    for _ in range(2):  # where little is left, the first product's rounding error is large in comparison
        u = u - column((u * axis).reshape(len(u), -1).sum(axis=1), u) * axis
    left = norm(u, "l2") > 64 * np.finfo(u.dtype).eps
    return xp.where(column(left, u), u, xp.zeros_like(u))


def _coordinates(values: np.ndarray, x: Array) -> Array:
    """Return one number for each example, in a shape that broadcasts with x."""
    return column(like(values.astype(x.dtype), x), x)


# Checks ---------------------------------------------------------------------------------------------------------------


def _checked(name: str, value: Any, x: Array, rng: Any) -> Any:
    """Return a direction's name, or its array with the device and the dtype of x."""
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
