"""The black-box attack through a substitute: train a student on the target's labels, attack the student, and transfer.

The target, an *oracle*, returns labels and nothing else, and every label costs a query. The substitute is a *student*
trained on points that the oracle has labelled. Its own Jacobian says where the next points are (Papernot et al. 2017,
algorithm 1):

    S_{r+1} = S_r  u  {x + lambda_r sgn(J_F(x)[O(x)]) : x in S_r},    lambda_r = lambda (-1)^floor(r / tau)

O(x) is the oracle's label, and J_F(x)[k] the gradient in x of F_k, the student's probability of class k. Examples crafted
on the student often fool the oracle as well: see ``transfer.py``.

Each round doubles the points. Two refinements of Papernot, McDaniel and Goodfellow 2016 save queries: the step changes its
sign every ``period`` rounds (tau); and reservoir sampling: after the first ``reservoir_after`` rounds (sigma), only
``reservoir`` points (kappa), drawn uniformly from S_r, take a step. This needs n 2^sigma + kappa (rounds - sigma) labels.
Where the budget has fewer left, only as many points are drawn.

References: Papernot, McDaniel, Goodfellow, Jha, Celik and Swami 2017, "Practical black-box attacks against machine
learning"; Papernot, McDaniel and Goodfellow 2016, "Transferability in machine learning: from phenomena to black-box attacks
using adversarial samples".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv import ops
from npadv.attacks.checks import check_count, check_first_logits, check_flag, check_inputs, check_positive, check_rng
from npadv.attacks.oracle import Labelled, Oracle, QueryLog
from npadv.attacks.result import Bounds, Model, check_gradient, input_gradient, predict, records
from npadv.autodiff import Tensor, no_record, value_of
from npadv.backend import Array, like, to_numpy, xp_of
from npadv.functional import check_labels
from npadv.norms import sign_step
from npadv.train import Loss, classification_loss, fit


def augment(model: Model, x: Array, labels: Any, step: float, bounds: Bounds = (0.0, 1.0)) -> Array:
    """Return x + step * sgn(dF_k/dx), within the box, where F_k is the model's probability of each example's label k.

    The log-odds of F_k are differentiated instead: d log(F_k / (1 - F_k)) / dx = dF_k/dx / (F_k (1 - F_k)) has the same
    sign, and F_k itself rounds to a constant where the model is certain.

    >>> weights = np.array([[1.0, -1.0], [-2.0, 2.0]])
    >>> augment(lambda x: x @ weights, np.array([[0.5, 0.2]]), np.array([1]), 0.1)  # class 1: less of the first pixel
    array([[0.4, 0.3]])
    """
    xp = xp_of(x)
    inputs = Tensor(x, requires_grad=True)
    logits = model(inputs)
    values = value_of(logits)
    chosen = like(labels, x)[:, None] == xp.arange(values.shape[1])
    nothing = xp.zeros_like(values)
    own = ops.sum(ops.where(chosen, logits, nothing), axis=1)
    others = ops.logsumexp(ops.where(chosen, nothing - float("inf"), logits), axis=1)
    g, _ = check_gradient(input_gradient(ops.sum(own - others), inputs))
    return sign_step(x, g if step > 0 else -g, abs(step), bounds)


@records
def substitute(
    oracle: Oracle,
    student: Any,
    seeds: Array,
    *,
    optimizer: Any,
    rng: np.random.Generator,
    budget: int,
    rounds: int = 6,
    step: float = 0.1,
    period: int | None = None,
    reservoir: int | None = None,
    reservoir_after: int = 3,
    epochs: int = 10,
    batch_size: int = 100,
    loss: Loss = classification_loss,
    bounds: Bounds = (0.0, 1.0),
    held_out: tuple[Array, Any] | None = None,
    at_once: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> SubstituteResult:
    """Train a student to give the labels of an oracle, in no more queries than a budget allows.

    Parameters
    ----------
    oracle : callable
        Maps a batch (N, ...) to labels (N,), integers that are classes of the student's. No point is queried twice.
    student : Module
        An untrained network, trained in place. Each round continues its training.
    seeds : (n, ...) array
        The first examples, within ``bounds``: a few of each class.
    optimizer : Optimizer
        Holds the student's parameters. Its epochs are counted anew in each round.
    rng : numpy.random.Generator
        Shuffles the points, draws dropout's masks, and samples the reservoir.
    budget : int
        The most labels to query, at least one for each seed; the labels of a resumed run's query log count.
    rounds : int
        How often points are added; the student is trained once more than that.
    step : float
        lambda, the size of a step in each pixel.
    period : int, optional
        tau: the step changes its sign after every so many rounds. By default it stays positive.
    reservoir : int, optional
        kappa: the number of points that take a step in each round after the first ``reservoir_after``. By default all do.
    reservoir_after : int
        sigma: the number of rounds in which all points take a step.
    epochs, batch_size, loss, progress
        For each training: see :func:`npadv.train.fit`.
    bounds : (low, high)
        The box. New points are clipped to it.
    held_out : (points, labels), optional
        Points to measure agreement on, and the oracle's labels of them. They serve the evaluation, not the attack: they are
        not queried, not trained on and not counted.
    at_once : int
        The number of points in a call of the oracle, and in a batch for the student's gradient.
    checkpoint : path, optional
        The query log: a file of all points queried and their labels, written after each call of the oracle.
    resume : bool
        Begin with the labels in the query log, if there is one; its points are not queried again. With the same arguments,
        student, optimizer and generator, the run takes the same steps and ends with the same result.

    Returns
    -------
    SubstituteResult

    Raises
    ------
    ValueError
        An argument is not as described, the oracle does not return labels, or the query log is another run's.
    FileExistsError
        The query log exists, and ``resume`` is false.
    KeyboardInterrupt
        After Ctrl-C. A running call of the oracle ends first and its labels are saved; a second Ctrl-C is immediate.

    Examples
    --------
    The oracle says whether a point lies within a circle; the student is a small network:

    >>> from npadv import nn
    >>> from npadv.attacks import fgsm, transfer_attack
    >>> from npadv.optim import SGD
    >>> rng = np.random.default_rng(0)
    >>> oracle = lambda x: ((x**2).sum(axis=1) < 0.7).astype(int)
    >>> student = nn.Sequential(nn.Dense(2, 20, rng=rng), nn.ReLU(), nn.Dense(20, 2, rng=rng))
    >>> optimizer = SGD(student.parameters(), 0.5)
    >>> result = substitute(oracle, student, rng.random((20, 2)), optimizer=optimizer, rng=rng, budget=50, epochs=50)
    >>> result.queries <= 50, result.history[-1]["agreement"] > 0.9
    (True, True)
    >>> transfer_attack(student, oracle, fgsm, np.array([[0.5, 0.6]]), eps=0.1).success
    array([ True])
    """
    bounds = _check_points("seeds", seeds, bounds)
    step = check_positive("step", step)
    check_flag("resume", resume)
    _check_settings(
        rng, budget, rounds, period, reservoir,
        reservoir_after=reservoir_after, epochs=epochs, batch_size=batch_size, at_once=at_once,
    )  # fmt: skip
    with no_record():
        classes = check_first_logits(student(seeds[:at_once]), len(seeds[:at_once])).shape[1]
    held = _check_held_out(held_out, seeds, classes, bounds)
    log = QueryLog(oracle, seeds, classes, budget, at_once, checkpoint)
    log.open(resume)
    log.add(seeds)

    history: list[dict[str, Any]] = []
    signed_step: float | None = None
    for r in range(rounds + 1):
        data: Any = log.data()
        options: dict[str, Any] = {"label": f"round {r}/{rounds}, epoch", "progress": progress}
        rows = fit(student, loss, data, optimizer=optimizer, epochs=epochs, rng=rng, batch_size=batch_size, **options)
        history.append(
            {
                "round": r,
                "step": signed_step,
                "queries": len(data),
                "train_loss": rows[-1]["train_loss"],
                "agreement": _agreement(student, data, seeds, at_once),
                "held_out_agreement": None if held is None else _agreement(student, held, seeds, at_once),
            }
        )
        if r == rounds or log.left() == 0:
            break
        signed_step = step * (-1) ** (r // period if period else 0)
        chosen = _sample(len(data), log.left(), reservoir if r >= reservoir_after else None, rng)
        for i in range(0, len(chosen), at_once):
            part = chosen[i : i + at_once]
            log.add(augment(student, like(data.images[part], seeds), data.labels[part], signed_step, bounds))
    return SubstituteResult(student, like(data.images, seeds), like(data.labels, seeds), log.queries, history)


@dataclass(frozen=True)
class SubstituteResult:
    """A substitute, and the labelled points it was trained on.

    Attributes
    ----------
    student : Module
        The substitute, trained in place.
    x : (Q, ...)
        The points it was trained on, without repetitions, the seeds first.
    labels : (Q,) int
        The oracle's labels of them.
    queries : int
        The number of labels queried: Q, and those of a resumed run's query log that this run did not use.
    history : list of dict
        One for each training of the student: round (0 on the seeds alone), step (with which the round's points were made;
        None for the seeds), queries (so far), train_loss (of the last epoch), agreement (the share of points so far to
        which the trained student gives the oracle's label), held_out_agreement (None without held-out points).
    """

    student: Any
    x: Array
    labels: Array
    queries: int
    history: list[dict[str, Any]]


def _sample(n: int, left: int, reservoir: int | None, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of the points that take a step: all n, or a sample as large as the reservoir and the budget allow."""
    wanted = min(n, left, n if reservoir is None else reservoir)
    return np.arange(n) if wanted == n else np.sort(rng.choice(n, wanted, replace=False))


def _agreement(student: Model, data: Labelled, reference: Array, at_once: int) -> float:
    """Return the share of points to which the student, on the device of ``reference``, gives the oracle's label."""
    parts = (slice(i, i + at_once) for i in range(0, len(data), at_once))
    same = (to_numpy(predict(student, like(data.images[p], reference))) == data.labels[p] for p in parts)
    return float(np.concatenate(list(same)).mean())


# Checks ---------------------------------------------------------------------------------------------------------------


def _check_points(name: str, x: Any, bounds: Any) -> Bounds:
    """Check points as an attack checks its examples; return the box."""
    try:
        return check_inputs(x, bounds=bounds)[1]
    except ValueError as error:  # it names x
        message = str(error)
        raise ValueError(name + message[1:] if message.startswith("x:") else message) from error


def _check_settings(
    rng: Any, budget: int, rounds: int, period: int | None, reservoir: int | None, **counts: int
) -> None:
    check_rng(rng)
    check_count("budget", budget)
    check_count("rounds", rounds, least=0)
    for name, value in (("period", period), ("reservoir", reservoir)):
        if value is not None:
            check_count(name, value)
    for name, value in counts.items():
        check_count(name, value, least=0 if name == "reservoir_after" else 1)


def _check_held_out(held_out: Any, seeds: Array, classes: int, bounds: Bounds) -> Labelled | None:
    if held_out is None:
        return None
    if not isinstance(held_out, tuple) or len(held_out) != 2:
        raise ValueError(f"held_out: expected (points, labels), got {type(held_out).__name__}")
    x, labels = held_out
    _check_points("held_out", x, bounds)
    if x.shape[1:] != seeds.shape[1:]:
        raise ValueError(f"held_out: expected points of the seeds' shape {seeds.shape[1:]}, got {x.shape[1:]}")
    return Labelled(to_numpy(x), to_numpy(check_labels(labels, classes, len(x), name="held_out labels")))
