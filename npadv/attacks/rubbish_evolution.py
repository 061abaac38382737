"""Fooling images by evolution: for each class an image that a model classifies with high confidence, without gradients.

The algorithm is MAP-Elites in the form of Nguyen et al., with images encoded directly, as one number for each pixel. It
keeps one *champion* for each class k, the image x with the largest p(k | x) so far. In each generation

    parents     are drawn uniformly from the champions;
    children    are copies of them with some pixels mutated (with ``crossover``, first mixed from two parents);
    champions   are replaced by any child with a larger probability, in every class where there is one.

A child of the champion for 3 may become the champion for 8: this keeps the search for a class from getting stuck.

A pixel of value v is mutated by *polynomial mutation* (Deb 2001), with u uniform in [0, 1) and distribution index eta:

    v <- v + (high - low) * delta,    delta = (2 u)^(1 / (eta + 1)) - 1          for u < 1/2,
                                      delta = 1 - (2 (1 - u))^(1 / (eta + 1))    otherwise

The larger eta is, the nearer delta is to 0. Values outside the box are clipped to it.

References: Nguyen, Yosinski and Clune 2015, "Deep neural networks are easily fooled", section 2, whose mutation rate, its
halving and eta are the defaults here; Mouret and Clune 2015, "Illuminating search spaces by mapping elites"; Deb 2001,
"Multi-objective optimization using evolutionary algorithms".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npadv.attacks.checks import check_count, check_flag, check_positive, check_rng, check_share
from npadv.attacks.result import Bounds, Model
from npadv.attacks.rubbish import (
    RubbishResult,
    check_finite_box,
    check_shape,
    checked_dtype,
    make_rubbish_result,
    model_log_probs,
)
from npadv.backend import like, to_device, to_numpy
from npadv.progress import interrupts_held, track


def evolve(
    champions: np.ndarray,
    fitness: np.ndarray,
    evaluate: Callable[[np.ndarray], np.ndarray],
    *,
    population: int,
    crossover: float,
    mutation_rate: float,
    eta: float,
    box: tuple[Any, Any],
    rng: np.random.Generator,
) -> np.ndarray:
    """Run one generation: replace champions in place, and return their fitness (K,), which is log p(k | champion k).

    ``evaluate`` returns the log-probabilities (N, K) of N images.
    """
    children = cross(champions, population, crossover, rng)
    mutate(children, mutation_rate, eta, *box, rng)
    log_p = evaluate(children)  # unlike p, it still differs between two images whose probabilities round to 1
    best, classes = log_p.argmax(axis=0), np.arange(len(fitness))
    better = log_p[best, classes] > fitness
    champions[better] = children[best[better]]
    return np.where(better, log_p[best, classes], fitness)


def cross(champions: np.ndarray, population: int, crossover: float, rng: np.random.Generator) -> np.ndarray:
    """Return copies of random champions; a share of ``crossover`` takes each pixel from one of two parents at random."""
    children: np.ndarray = champions[rng.integers(len(champions), size=population)]
    if crossover:
        others = champions[rng.integers(len(champions), size=population)]
        two = (rng.random(population) < crossover).reshape(-1, *[1] * (children.ndim - 1))
        np.copyto(children, others, where=two & (rng.random(children.shape) < 0.5))
    return children


def mutate(images: np.ndarray, rate: float, eta: float, low: Any, high: Any, rng: np.random.Generator) -> None:
    """Mutate each pixel with probability ``rate``, in place."""
    chosen = rng.random(images.shape) < rate
    u = rng.random(int(chosen.sum()))
    delta = np.where(u < 0.5, (2 * u) ** (1 / (eta + 1)) - 1, 1 - (2 * (1 - u)) ** (1 / (eta + 1)))
    images[chosen] = (images[chosen] + (float(high) - float(low)) * delta).astype(images.dtype).clip(low, high)


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
    """Evolve, for each class, an image that the model gives this class with high confidence.

    Parameters
    ----------
    model : callable
        Maps a batch (N, ...) to logits (N, K). Only its outputs are used; the tape need not record it.
    shape : sequence of int
        The shape of one image: (C, H, W), or (D,).
    generations : int
        The number of generations in all, those of a resumed run included. With 0, the champions are those of the first
        population.
    population : int
        The number of images in each generation, evaluated as one batch. The first images are uniform noise.
    mutation_rate : float
        The probability with which each pixel of a child is mutated.
    halved_every : int
        The mutation rate is halved each time this many generations have passed.
    eta : float
        The distribution index of the mutation.
    crossover : float
        The share of children with two parents, each pixel from either with equal probability (uniform crossover). By
        default every child has one parent, as in MAP-Elites.
    threshold, sigmoid
        As for ``confident_errors``.
    bounds : (low, high)
        The box.
    dtype : dtype
        The dtype of the images.
    device : {"cpu", "cuda"}
        The model's device. Evolution itself runs on the host, with the same random numbers for both.
    rng : numpy.random.Generator
        Draws the first images, the parents and the mutations.
    resume : RubbishResult, optional
        A result of this function, or of its interrupt, to continue from. With the same generator in its present state, the
        result is that of a run without a stop.
    progress : bool, optional
        Draw a progress bar; by default only on a terminal.

    Returns
    -------
    RubbishResult
        The K champions, with ``target`` 0..K-1. ``history`` (generations + 1, K) never falls. ``queries`` is
        (generations + 1) * population + K, for all of them together.

    Raises
    ------
    ValueError
        An argument is not as described; the message names it.
    EvolutionInterrupted
        After Ctrl-C, at the end of the running generation: a KeyboardInterrupt that carries a ``result``.

    Examples
    --------
    The logit of class k grows with pixel k, so its best image has this pixel bright and the others dark:

    >>> model = lambda x: 9 * x
    >>> result = evolved_rubbish(model, (3,), generations=60, population=20, rng=np.random.default_rng(0))
    >>> result.x.round(1)
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]], dtype=float32)
    >>> result.rate, result.queries
    (1.0, 1223)

    A hundred more generations; after Ctrl-C, the champions so far:

    >>> rng = np.random.default_rng(1)
    >>> try:
    ...     result = evolved_rubbish(model, (3,), generations=160, population=20, rng=rng, resume=result)
    ... except KeyboardInterrupt as stop:
    ...     result = stop.result
    >>> len(result.history)
    161
    """
    check_rng(rng)
    check_shape(shape)
    check_count("generations", generations, least=0)
    check_count("population", population)
    check_count("halved_every", halved_every)
    mutation_rate, crossover = check_share("mutation_rate", mutation_rate), check_share("crossover", crossover)
    threshold, eta = check_share("threshold", threshold), check_positive("eta", eta, zero=True)
    check_flag("sigmoid", sigmoid)
    bounds = check_finite_box(bounds)
    low, high = (checked_dtype(dtype).type(bound) for bound in bounds)

    def evaluate(images: np.ndarray) -> np.ndarray:
        return to_numpy(model_log_probs(model, to_device(images, device), sigmoid=sigmoid, first=not history))

    history: list[np.ndarray] = []
    if resume is None:
        # Drawn in float64 and then rounded, a number may lie beyond the end of the box, so it is clipped.
        first = rng.uniform(*bounds, (population, *shape)).astype(dtype).clip(low, high)
        log_p = evaluate(first)
        champions, fitness = first[log_p.argmax(axis=0)], log_p.max(axis=0)
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
            fitness = evolve(
                champions,
                fitness,
                evaluate,
                population=population,
                crossover=crossover,
                mutation_rate=rate,
                eta=eta,
                box=(low, high),
                rng=rng,
            )
            history.append(fitness)
            if interrupted():
                break
        x = to_device(champions, device)
        result = make_rubbish_result(
            x,
            model_log_probs(model, x, sigmoid=sigmoid),
            threshold=threshold,
            queries=len(history) * population + len(champions),
            target=like(np.arange(len(champions)), x),
            history=like(np.stack(history), x),
        )
        if interrupted():
            raise EvolutionInterrupted(result)
    return result


class EvolutionInterrupted(KeyboardInterrupt):
    """Ctrl-C, raised at the end of the running generation.

    Attributes
    ----------
    result : RubbishResult
        The champions so far, to be used or to be passed as ``resume``.
    """

    def __init__(self, result: RubbishResult) -> None:
        super().__init__()
        self.result = result


# Checks ---------------------------------------------------------------------------------------------------------------


def _resumed(result: Any, shape: Sequence[int], dtype: Any, generations: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return copies of the champions and the history of an earlier run."""
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
