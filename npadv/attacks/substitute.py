"""The black-box attack through a substitute: learn from the target's labels, attack what was learned, and transfer.

The target, an *oracle*, gives labels and nothing else, and every label costs a query. A substitute is trained on points
that the oracle has labelled; where to ask next, the substitute's own Jacobian says (Papernot et al. 2017, algorithm 1):

    S_{r+1} = S_r  u  {x + lambda_r sgn(J_F(x)[O(x)]) : x in S_r},    lambda_r = lambda (-1)^floor(r / tau)

where O(x) is the oracle's label and J_F(x)[k] the gradient in x of F_k, the substitute's probability of class k. What is
crafted on the substitute then often deceives the oracle, too: that is ``transfer_attack``.

Each round doubles the points. Two refinements, studied by Papernot, McDaniel and Goodfellow 2016, save queries: a step
size that changes sign every ``period`` rounds (tau), and reservoir sampling: after the first ``reservoir_after`` rounds
(sigma) only ``reservoir`` points (kappa), drawn without preference from S_r, take a step. That asks for
n 2^sigma + kappa (rounds - sigma) labels. Where the budget has less, as many points are drawn as it has.

The sign of the Jacobian is that of the log-odds' gradient, d log(F_k / (1 - F_k)) / dx = dF_k/dx / (F_k (1 - F_k)), which is
taken instead: F_k itself is flat in floating point wherever the substitute is sure.

References: Papernot, McDaniel, Goodfellow, Jha, Celik and Swami 2017, "Practical black-box attacks against machine
learning"; Papernot, McDaniel and Goodfellow 2016, "Transferability in machine learning: from phenomena to black-box attacks
using adversarial samples".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv import ops
from npadv.attacks.checks import check_count, check_first_logits, check_inputs, check_logits, check_positive
from npadv.attacks.oracle import Archive, Labelled, Oracle, ask
from npadv.attacks.result import AttackResult, Bounds, Model, check_gradient, input_gradient, predict
from npadv.autodiff import Tensor, no_record, value_of
from npadv.backend import Array, like, to_numpy, xp_of
from npadv.functional import check_labels
from npadv.norms import sign_step
from npadv.train import Loss, classification_loss, fit


@dataclass(frozen=True)
class SubstituteResult:
    """A substitute, and what it was learned from.

    Attributes
    ----------
    student : Module
        The substitute, trained in place.
    x : (Q, ...)
        The points that the student has learned from, each once, the seeds first.
    labels : (Q,) int
        The oracle's labels of them.
    queries : int
        How many labels were asked for: Q, and what a resumed run's archive holds beyond that.
    history : list of dict
        For each training of the student: round (0 on the seeds alone), step (with which the round's points were made; None
        on the seeds), queries (so far), train_loss (of the last epoch), agreement (share of the points asked so far that
        the student, when trained, gives the oracle's label), held_out_agreement (None without held-out points).
    """

    student: Any
    x: Array
    labels: Array
    queries: int
    history: list[dict[str, Any]]


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
        Maps a batch (N, ...) to labels (N,), integers that are classes of the student's. It is never asked twice about the
        same point.
    student : Module
        An untrained network, which learns in place. It goes on learning from round to round; it does not begin anew.
    seeds : (n, ...) array
        Examples within ``bounds`` to begin with, a few of each class.
    optimizer : Optimizer
        Holds the student's parameters. Its epochs are counted anew in each round.
    rng : numpy.random.Generator
        Shuffles, draws the masks of dropout, and samples.
    budget : int
        The most labels to ask for, at least one for each seed; those of a resumed run's archive are among them.
    rounds : int
        How often points are added; the student is trained once more than that.
    step : float
        lambda, the size of a step in each pixel.
    period : int, optional
        tau: the sign of the step changes after every so many rounds. By default it stays positive.
    reservoir : int, optional
        kappa: points that take a step in each round after the first ``reservoir_after``. By default all do.
    reservoir_after : int
        sigma: rounds in which all points take a step.
    epochs, batch_size, loss, progress
        Of each training: see :func:`npadv.train.fit`.
    bounds : (low, high)
        The box, in which new points are put.
    held_out : (points, labels), optional
        Points, and the oracle's labels of them, to measure agreement on. They are the evaluation's, not the attacker's: not
        asked here, not learned from, not counted.
    at_once : int
        Points the oracle is asked about in a call, and the student's gradient is taken of.
    checkpoint : path, optional
        An archive of all points asked and their labels, written after each call of the oracle.
    resume : bool
        Begin with what the archive holds, if there is one: what was asked is not asked again. With arguments, student,
        optimizer and generator as they were before, the run takes the same way and ends where it would have.

    Returns
    -------
    SubstituteResult

    Raises
    ------
    ValueError
        An argument is not as described, the oracle gives something other than labels, or the archive is another run's.
    FileExistsError
        There is an archive, and ``resume`` is false.
    KeyboardInterrupt
        After Ctrl-C. A call of the oracle is waited for and its labels are archived first; a second Ctrl-C is immediate.

    Examples
    --------
    An oracle that tells whether a point lies within a circle, and a small network as its student:

    >>> from npadv import nn
    >>> from npadv.attacks import fgsm
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
    _check_points("seeds", seeds, bounds)
    _check_settings(
        rng, budget, rounds, step, period, reservoir,
        reservoir_after=reservoir_after, epochs=epochs, batch_size=batch_size, at_once=at_once,
    )  # fmt: skip
    with no_record():
        classes = check_first_logits(student(seeds[:at_once]), len(seeds[:at_once])).shape[1]
    held = _check_held_out(held_out, seeds, classes, bounds)
    archive = Archive(oracle, seeds, classes, budget, at_once, checkpoint)
    archive.open(resume)
    archive.add(seeds)

    history: list[dict[str, Any]] = []
    signed: float | None = None
    for r in range(rounds + 1):
        data: Any = archive.data()
        options: dict[str, Any] = {"label": f"round {r}/{rounds}, epoch", "progress": progress}
        rows = fit(student, loss, data, optimizer=optimizer, epochs=epochs, rng=rng, batch_size=batch_size, **options)
        history.append(
            {
                "round": r,
                "step": signed,
                "queries": len(data),
                "train_loss": rows[-1]["train_loss"],
                "agreement": _agreement(student, data, seeds, at_once),
                "held_out_agreement": None if held is None else _agreement(student, held, seeds, at_once),
            }
        )
        if r == rounds or archive.left() == 0:
            break
        signed = step * (-1) ** (r // period if period else 0)
        chosen = _drawn(len(data), archive.left(), reservoir if r >= reservoir_after else None, rng)
        for i in range(0, len(chosen), at_once):
            some = chosen[i : i + at_once]
            archive.add(augment(student, like(data.images[some], seeds), data.labels[some], signed, bounds))
    return SubstituteResult(student, like(data.images, seeds), like(data.labels, seeds), archive.queries, history)


def _drawn(n: int, left: int, reservoir: int | None, rng: np.random.Generator) -> np.ndarray:
    """Return which of n points take a step: all, or, where the reservoir or the budget is smaller, as many, drawn."""
    wanted = min(n, left, n if reservoir is None else reservoir)
    return np.arange(n) if wanted == n else np.sort(rng.choice(n, wanted, replace=False))


def augment(model: Model, x: Array, labels: Any, step: float, bounds: Bounds = (0.0, 1.0)) -> Array:
    """Return x + step * sgn(dF_k/dx), within the box, F_k being the model's probability of the label k of each example.

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


def transfer_attack(
    student: Model,
    oracle: Oracle,
    attack: Callable[..., AttackResult],
    x: Array,
    y: Any = None,
    *,
    targeted: bool = False,
    **options: Any,
) -> AttackResult:
    """Craft adversarial examples on a substitute, and ask the oracle what it takes them for.

    Parameters
    ----------
    student : callable
        The model to craft on: maps a batch (N, ...) to logits (N, K).
    oracle : callable
        The model to deceive: maps a batch (N, ...) to labels (N,).
    attack : callable
        Any of this package's, called as ``attack(student, x, y, targeted=targeted, **options)``.
    x : (N, ...) array
        Examples.
    y : (N,) integers, optional
        The true classes, or the targets; by default the oracle's own labels of x.
    targeted : bool
        Reach the classes y instead of leaving them.
    **options
        Options of the attack.

    Returns
    -------
    AttackResult
        ``success`` and ``prediction`` are the oracle's, and so is ``flags["already_wrong"]``; ``queries`` are those of the
        oracle, 2 an example: one before the attack, one after. ``flags["student_deceived"]`` is the success on the student.

    Raises
    ------
    ValueError
        The oracle gives something other than labels, a target is missing, or the attack refuses its arguments.

    Examples
    --------
    >>> from npadv.attacks import fgsm
    >>> oracle = lambda x: (x.sum(axis=1) > 1).astype(int)
    >>> student = lambda x: x @ np.array([[-1.0, 1.0], [-2.0, 2.0]])
    >>> result = transfer_attack(student, oracle, fgsm, np.array([[0.5, 0.6]]), eps=0.1)
    >>> result.success, result.x_adv
    (array([ True]), array([[0.4, 0.5]]))
    """
    if y is None and targeted:
        raise ValueError("y: a targeted attack needs the target classes, got None")
    check_inputs(x, bounds=options.get("bounds", (0.0, 1.0)))
    with no_record():
        classes = check_logits(student(x[:1]), 1).shape[1]
    before = like(to_numpy(ask(oracle, x, classes)), x)
    y = before if y is None else like(check_labels(y, classes, len(x), name="y"), x)
    crafted = attack(student, x, y, targeted=targeted, **options)
    after = like(to_numpy(ask(oracle, crafted.x_adv, classes)), x)
    return AttackResult(
        x_adv=crafted.x_adv,
        success=after == y if targeted else after != y,
        distance=crafted.distance,
        queries=xp_of(x).zeros(len(x), dtype=int) + 2,
        prediction=after,
        flags={
            **crafted.flags,
            "already_wrong": before == y if targeted else before != y,
            "student_deceived": crafted.success,
        },
    )


# Measures and checks -------------------------------------------------------------------------------------------------


def _agreement(student: Model, data: Labelled, reference: Array, at_once: int) -> float:
    parts = (slice(i, i + at_once) for i in range(0, len(data), at_once))
    same = (to_numpy(predict(student, like(data.images[p], reference))) == data.labels[p] for p in parts)
    return float(np.concatenate(list(same)).mean())


def _check_points(name: str, x: Any, bounds: Bounds) -> None:
    try:
        check_inputs(x, bounds=bounds)
    except ValueError as error:
        message = str(error)
        raise ValueError(name + message[1:] if message.startswith("x:") else message) from error


def _check_settings(
    rng: Any, budget: int, rounds: int, step: float, period: int | None, reservoir: int | None, **counts: int
) -> None:
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")
    check_count("budget", budget)
    check_count("rounds", rounds, least=0)
    check_positive("step", step)
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
