"""Fooling images by evolution: for every class an image of which the model is certain, found without any gradient.

The algorithm is MAP-Elites as Nguyen et al. run it, with images encoded directly, a number for each pixel. It keeps one
champion for each class, the image to which the model gives the class its largest probability so far. In each generation

    parents     are drawn from the champions, each as likely as any other;
    children    are copies with some pixels mutated, or, with ``crossover``, mixed from two parents pixel by pixel before;
    champions   are replaced by whatever child is better, in whichever classes it is.

What was bred for a 3 may so turn out to be the best 8 yet, which is what keeps classes from getting stuck.

A pixel of value v is mutated by *polynomial mutation* (Deb 2001), with u uniform in [0, 1) and distribution index eta:

    v <- v + (high - low) * delta,    delta = (2 u)^(1 / (eta + 1)) - 1          for u < 1/2,
                                      delta = 1 - (2 (1 - u))^(1 / (eta + 1))    otherwise

which is mostly near 0, the nearer the larger eta is; what leaves the box is brought back to its end.

References: Nguyen, Yosinski and Clune 2015, "Deep neural networks are easily fooled", section 2, whose rate, its halving
and eta are the defaults here; Mouret and Clune 2015, "Illuminating search spaces by mapping elites"; Deb 2001,
"Multi-objective optimization using evolutionary algorithms".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_positive
from npadv.attacks.result import Bounds, Model
from npadv.attacks.rubbish import (
    RubbishResult,
    check_box,
    check_rng,
    check_shape,
    check_share,
    checked_dtype,
    log_probabilities,
    told,
)
from npadv.backend import like, to_device, to_numpy
from npadv.progress import interrupts_held, track


class EvolutionInterrupted(KeyboardInterrupt):
    """Ctrl-C, raised at the end of the running generation.

    Attributes
    ----------
    result : RubbishResult
        What evolved until then: to be used as it is, or to ``resume``.
    """

    def __init__(self, result: RubbishResult) -> None:
        super().__init__()
        self.result = result


def evolved_rubbish(
    model: Model,
    shape: Sequence[int],
    *,
    generations: int = 200,
    population: int = 200,
    mutation_rate: float = 0.1,
    halved_every: int = 1000,
    eta: float = 15.0,
    crossover: float = 0.0,
    threshold: float = 0.5,
    sigmoid: bool = False,
    bounds: Bounds = (0.0, 1.0),
    dtype: Any = np.float32,
    device: str = "cpu",
    rng: np.random.Generator,
    resume: RubbishResult | None = None,
    progress: bool | None = None,
) -> RubbishResult:
    """Evolve, for each class, an image that the model takes for it.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K). Only its outputs are used; it need not be recorded by the tape.
    shape : sequence of int
        Of one image: (C, H, W), or (D,).
    generations : int
        How many in all, resumed ones included; 0 leaves the best of the first population.
    population : int
        Images in each generation, shown to the model as one batch. The first are uniform noise.
    mutation_rate : float
        The chance of each pixel of a child to be mutated.
    halved_every : int
        Generations after which, again and again, this chance is halved.
    eta : float
        The distribution index of the mutation.
    crossover : float
        The share of children with two parents, each pixel from either with equal chance (uniform crossover). None by
        default: MAP-Elites mutates one parent.
    threshold, sigmoid
        As for ``confident_errors``.
    bounds : (low, high)
        The box.
    dtype : dtype
        Of the images.
    device : {"cpu", "cuda"}
        Where the model is; evolution itself runs on the host, with the same random numbers for either.
    rng : numpy.random.Generator
        Draws the first images, the parents and the mutations.
    resume : RubbishResult, optional
        Go on from what this function returned or an interrupt left; with the same generator, in its present state, as if
        there had been no stop.
    progress : bool, optional
        Draw a progress bar; by default only on a terminal.

    Returns
    -------
    RubbishResult
        K champions, ``target`` 0..K-1; ``history`` (generations + 1, K) never falls. ``queries`` is
        (generations + 1) * population + K for all of them together.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.
    EvolutionInterrupted
        After Ctrl-C and the end of the running generation: a KeyboardInterrupt that carries a ``result``.

    Examples
    --------
    Each class of this model wants a pixel of its own, bright, and the others dark:

    >>> model = lambda x: 9 * x
    >>> result = evolved_rubbish(model, (3,), generations=60, population=20, rng=np.random.default_rng(0))
    >>> result.x.round(1)
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]], dtype=float32)
    >>> result.rate, result.queries
    (1.0, 1223)

    A hundred more generations; after Ctrl-C, what there is by then:

    >>> rng = np.random.default_rng(1)
    >>> try:
    ...     result = evolved_rubbish(model, (3,), generations=160, population=20, rng=rng, resume=result)
    ... except KeyboardInterrupt as stop:
    ...     result = stop.result
    >>> len(result.history)
    161
    """
    _check_settings(generations, population, mutation_rate, halved_every, eta, crossover, threshold)
    check_rng(rng)
    check_shape(shape)
    check_box(bounds)
    low, high = (checked_dtype(dtype).type(bound) for bound in bounds)

    def evaluate(images: np.ndarray) -> np.ndarray:
        return to_numpy(log_probabilities(model, to_device(images, device), sigmoid=sigmoid, first=not history))

    history: list[np.ndarray] = []
    if resume is None:
        # Drawn in float64 and clipped, since rounding may lift a number to the other side of the box's end.
        first = rng.uniform(*bounds, (population, *shape)).astype(dtype).clip(low, high)
        logp = evaluate(first)
        champions, fitness = first[logp.argmax(axis=0)], logp.max(axis=0)
        history.append(fitness)
    else:
        champions, history = _resumed(resume, shape, dtype, generations)
        fitness = history[-1]

    with interrupts_held() as interrupted:
        done = len(history) - 1
        for generation in track(
            range(done, generations), total=generations, label="evolving", show=progress, initial=done
        ):
            rate = mutation_rate * 0.5 ** (generation // halved_every)
            children = _crossed(champions, population, crossover, rng)
            _mutate(children, rate, eta, low, high, rng)
            logp = evaluate(children)
            # Compared by log p: of two probabilities that round to 1, this still tells which is larger.
            best, classes = logp.argmax(axis=0), np.arange(len(fitness))
            better = logp[best, classes] > fitness
            champions[better] = children[best[better]]
            fitness = np.where(better, logp[best, classes], fitness)
            history.append(fitness)
            if interrupted():
                break
        x = to_device(champions, device)
        result = told(
            x,
            log_probabilities(model, x, sigmoid=sigmoid),
            threshold=threshold,
            queries=len(history) * population + len(champions),
            target=like(np.arange(len(champions)), x),
            history=like(np.stack(history), x),
        )
        if interrupted():
            raise EvolutionInterrupted(result)
    return result


def _crossed(champions: np.ndarray, population: int, crossover: float, rng: np.random.Generator) -> np.ndarray:
    """Return children before they are mutated: copies of champions, a share of them mixed with another."""
    children: np.ndarray = champions[rng.integers(len(champions), size=population)]
    if crossover:
        others = champions[rng.integers(len(champions), size=population)]
        two = (rng.random(population) < crossover).reshape(-1, *[1] * (children.ndim - 1))
        np.copyto(children, others, where=two & (rng.random(children.shape) < 0.5))
    return children


def _mutate(images: np.ndarray, rate: float, eta: float, low: Any, high: Any, rng: np.random.Generator) -> None:
    """Mutate each pixel with a chance of ``rate``, in place."""
    chosen = rng.random(images.shape) < rate
    u = rng.random(int(chosen.sum()))
    delta = np.where(u < 0.5, (2 * u) ** (1 / (eta + 1)) - 1, 1 - (2 * (1 - u)) ** (1 / (eta + 1)))
    images[chosen] = (images[chosen] + (float(high) - float(low)) * delta).astype(images.dtype).clip(low, high)


def _resumed(result: Any, shape: Sequence[int], dtype: Any, generations: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the champions and the history of an earlier run, for this one to change."""
    if not isinstance(result, RubbishResult) or result.history is None or result.flags:
        raise ValueError(f"resume: expected a result of evolved_rubbish, got {type(result).__name__}")
    if result.x.shape[1:] != tuple(shape) or result.x.dtype != np.dtype(dtype):
        raise ValueError(
            f"resume: expected images of shape {tuple(shape)} in {np.dtype(dtype)}, "
            f"got {result.x.shape[1:]} in {result.x.dtype}"
        )
    if len(result.history) - 1 > generations:
        raise ValueError(
            f"generations: expected at least the {len(result.history) - 1} of the run to resume, got {generations}"
        )
    return to_numpy(result.x).copy(), list(to_numpy(result.history))


def _check_settings(
    generations: int,
    population: int,
    mutation_rate: float,
    halved_every: int,
    eta: float,
    crossover: float,
    threshold: float,
) -> None:
    check_count("generations", generations, least=0)
    check_count("population", population)
    check_count("halved_every", halved_every)
    for name, share in (("mutation_rate", mutation_rate), ("crossover", crossover), ("threshold", threshold)):
        check_share(name, share)
    check_positive("eta", eta, zero=True)
    if not math.isfinite(eta):
        raise ValueError(f"eta: expected a finite number, got {eta!r}")
