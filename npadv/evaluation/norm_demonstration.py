"""One l2 norm, three outcomes: why perturbations are measured in the maximum norm ([WG] 1.2.5, figure 1.5).

Three perturbations of one digit have the same l2 norm. The first leads to an example of another class. The second leads
towards another example of the same class, and no person would change the label. The third erases ink from the middle of the
digit outwards, until no digit is left. Then each perturbation is replaced by a constant times its sign,

    eta' = eps sign(eta),    +1 or -1 at random where eta = 0,    eps = ||eta||_2 / sqrt(n),

which has the same l2 norm, spread over all n pixels, and none of these changes the class. For 784 pixels and an l2 norm of
4, eps is 0.14; a max norm of 0.25, with which [WG] attack MNIST, is an l2 norm of 7.

As in the paper, the pixels of x + eta' may leave the box: clipped, the perturbations would be shorter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_inputs, check_positive, check_rng
from npadv.attacks.result import Model
from npadv.backend import like, to_numpy
from npadv.evaluation.batchwise import classify
from npadv.functional import check_labels
from npadv.norms import norm

ROWS = ("another class", "the same class", "rubbish")
COLUMNS = ("l2", "linf")


def norm_demonstration(
    images: Any,
    labels: Any,
    *,
    true: int = 3,
    other: int = 7,
    size: float = 4.0,
    rng: np.random.Generator,
    model: Model | None = None,
) -> NormDemonstration:
    """Find two images of different classes at a distance of about ``size``, and perturb one by this distance in six ways.

    Parameters
    ----------
    images : (N, ...) array
        Images in [0, 1], of few bright pixels on black.
    labels : (N,) integers
        Their classes.
    true, other : int
        The class of the image, and the class of the image that it becomes.
    size : float
        The l2 norm wanted. The first perturbation is the difference of two of the images, so its norm is the nearest to
        ``size`` that there is, and the other perturbations get the same norm.
    rng : numpy.random.Generator
        Draws the signs for pixels that a perturbation does not change.
    model : callable, optional
        Classifies the perturbed images.

    Returns
    -------
    NormDemonstration

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.

    Examples
    --------
    >>> images = np.array([[0.0, 0.8, 0.8], [0.0, 0.8, 0.1], [0.0, 0.6, 0.0]])
    >>> found = norm_demonstration(images, np.array([3, 7, 3]), size=0.7, rng=np.random.default_rng(0))
    >>> found.perturbed[0].round(2)  # the other example; towards the same class; erased
    array([[0.  , 0.8 , 0.1 ],
           [0.  , 0.63, 0.12],
           [0.  , 0.8 , 0.1 ]])
    >>> found.l2.round(12)
    array([[0.7, 0.7, 0.7],
           [0.7, 0.7, 0.7]])
    """
    check_inputs(images, bounds=(0.0, 1.0))
    size = check_positive("size", size)
    check_count("true", true, least=0)
    check_count("other", other, least=0)
    check_rng(rng)
    classes = check_labels(to_numpy(labels), np.iinfo(np.int64).max, len(images), name="labels")
    x = to_numpy(images)
    rows = x.reshape(len(x), -1).astype(np.float64)
    if true == other:
        raise ValueError(f"other: expected a class other than true, got {other!r} for both")
    mine, theirs = rows[classes == true], rows[classes == other]
    if len(mine) < 2 or not len(theirs):
        raise ValueError(
            f"images: expected 2 of class {true} and 1 of class {other}, got {len(mine)} and {len(theirs)}"
        )

    if (pair := _pair(mine, theirs, size)) is None:
        raise ValueError(f"images: expected one of class {true} that is nearer to one of class {other} than to black")
    i, j = pair
    start, wanted = mine[i], float(np.linalg.norm(theirs[j] - mine[i]))
    same_class = _towards_same_class(start, mine, wanted)
    erasing = _erasure(start.reshape(x.shape[1:]), wanted).reshape(-1)
    unconfined = np.stack([theirs[j] - start, same_class, erasing])
    signs = np.where(unconfined == 0, rng.choice([-1.0, 1.0], unconfined.shape), np.sign(unconfined))
    confined = signs * np.linalg.norm(unconfined, axis=1, keepdims=True) / np.sqrt(len(start))

    eta = np.stack([unconfined, confined]).reshape(2, len(ROWS), *x.shape[1:])
    perturbed = start.reshape(x.shape[1:]) + eta
    flat = eta.reshape(-1, len(start))
    prediction = None
    if model is not None:
        batch = perturbed.reshape(-1, *x.shape[1:]).astype(x.dtype)
        prediction = classify(model, like(batch, images)).reshape(2, -1)
    return NormDemonstration(
        clean=start.reshape(x.shape[1:]),
        perturbation=eta,
        perturbed=perturbed,
        l2=norm(flat, "l2").reshape(2, -1),
        linf=norm(flat, "linf").reshape(2, -1),
        true=int(true),
        other=int(other),
        prediction=prediction,
    )


@dataclass(frozen=True, eq=False)
class NormDemonstration:
    """An image and six perturbations of it with the same l2 norm: [0] as they are, [1] with the smallest max norm.

    Attributes
    ----------
    clean : (...)
        The image.
    perturbation, perturbed : (2, 3, ...)
        For "l2" and "linf", with the rows "another class", "the same class" and "rubbish".
    l2, linf : (2, 3)
        The perturbations' norms.
    true, other : int
        The image's class, and that of the first row.
    prediction : (2, 3) or None
        The classes that the model gives the perturbed images; None without a model.
    """

    clean: np.ndarray
    perturbation: np.ndarray
    perturbed: np.ndarray
    l2: np.ndarray
    linf: np.ndarray
    true: int
    other: int
    prediction: np.ndarray | None
    rows: tuple[str, ...] = ROWS


def _pair(mine: np.ndarray, theirs: np.ndarray, size: float) -> tuple[int, int] | None:
    """Return the indices of the two images whose distance is nearest to ``size`` and at most the first one's norm.

    The norm is the most that erasing all ink can change.
    """
    best, place = np.inf, None
    squares = (theirs**2).sum(axis=1)
    for start in range(0, len(mine), 256):
        part = mine[start : start + 256]
        distance = np.sqrt(np.maximum((part**2).sum(axis=1)[:, None] + squares - 2 * part @ theirs.T, 0))
        possible = (distance > 1e-6) & (distance <= np.linalg.norm(part, axis=1)[:, None])
        miss = np.where(possible, np.abs(distance - size), np.inf)
        if miss.min() < best:
            best, k = miss.min(), int(miss.argmin())
            place = (start + k // len(theirs), k % len(theirs))
    return place


def _towards_same_class(x: np.ndarray, mine: np.ndarray, size: float) -> np.ndarray:
    """Return a step of l2 norm ``size`` towards the nearest image of the class at least as far away, else past the farthest."""
    distance = np.linalg.norm(mine - x, axis=1)
    if not distance.max() > 0:
        raise ValueError("images: expected different images of the class `true`, got copies of one")
    far = distance >= size
    k = int(np.where(far, distance, np.inf).argmin() if far.any() else distance.argmax())
    step: np.ndarray = (mine[k] - x) * (size / distance[k])
    return step


def _erasure(image: np.ndarray, size: float) -> np.ndarray:
    """Return minus the ink nearest to the ink's centre: as much of it as has l2 norm ``size``.

    The strokes of a digit meet in the middle, so that only ends of strokes are left.
    """
    ink = image.reshape(-1)
    places = np.indices(image.shape, dtype=np.float64)[-2:].reshape(min(image.ndim, 2), -1)
    centre = (places * ink).sum(axis=1, keepdims=True) / ink.sum()
    order = np.argsort(((places - centre) ** 2).sum(axis=0), kind="stable")
    squares = ink[order] ** 2
    left = np.maximum(size**2 - (np.cumsum(squares) - squares), 0)  # of size^2, before each pixel is erased
    eta = np.zeros_like(ink)
    eta[order] = -np.minimum(ink[order], np.sqrt(left))
    return eta.reshape(image.shape)
