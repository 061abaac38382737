"""The one training loop: epochs of minibatches, validation, callbacks, checkpoints.

``fit`` asks a *loss* for a number, differentiates it by the optimizer's parameters and steps. A loss is a function
``loss(model, x, y, *, rng) -> Tensor``; a defense is another such loss, and nothing else changes.

A checkpoint holds everything the next step depends on: weights, the optimizer's memory, the generator's state, the order
of the running epoch and the place in it. Ctrl-C ends the running step, writes one, and only then stops; resuming from it
gives, to the last bit, what would have come without the stop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from npadv.autodiff import Tensor, grad, no_record, value_of
from npadv.backend import like, to_numpy, xp_of
from npadv.capture import CapturedStep
from npadv.checkpoint import Progress, load_checkpoint, save_checkpoint
from npadv.data.dataset import Split, batches
from npadv.functional import check_labels, cross_entropy
from npadv.nn.module import Module
from npadv.ops import DeviceRandom, winograd
from npadv.optim import Optimizer
from npadv.progress import interrupts_held, track

Loss = Callable[..., Tensor]


def classification_loss(model: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Tensor:
    """Return the mean cross-entropy of the model in training: the plain loss of a classifier."""
    loss: Tensor = cross_entropy(model(x, train=True, rng=rng), y)
    return loss


def gradient_update(model: Any, loss: Loss, optimizer: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
    """Take one step down the loss of one batch; return the loss before it. What ``fit`` repeats, unless told otherwise.

    Its convolutions are computed faster, for a digit of precision: see ``ops.winograd``.
    """
    with winograd():
        value = loss(model, x, y, rng=rng)
    optimizer.step(grad(value, optimizer.parameters))
    return value.data


# Scores ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """How a classifier does on a split: mean cross-entropy (nats) and error rate (a fraction)."""

    loss: float
    error: float


def predict(model: Any, images: Any, *, batch_size: int = 500) -> np.ndarray:
    """Return the model's outputs for all images, in inference and in batches, as a NumPy array (N, K)."""
    if len(images) == 0:
        raise ValueError("predict(images): expected at least one image, got an empty batch")
    with no_record():
        chunks = [model(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
    return np.concatenate([to_numpy(value_of(chunk)) for chunk in chunks])


def evaluate(model: Any, split: Split, *, batch_size: int = 500) -> Score:
    """Return the model's score on a split, in inference."""
    reference = _reference(model)
    total, wrong = 0.0, 0
    for x, y in batches(split, batch_size):
        logits = predict(model, like(x, reference), batch_size=batch_size)
        check_labels(y, logits.shape[1])
        total += float(cross_entropy(logits.astype(np.float64), y, reduction="sum"))
        wrong += int((logits.argmax(axis=1) != y).sum())
    return Score(total / len(split), wrong / len(split))


# Callbacks ------------------------------------------------------------------------------------------------------------


@dataclass
class Training:
    """What a callback sees after each epoch; setting ``stop`` ends the run after it."""

    model: Module
    optimizer: Any
    history: list[dict[str, Any]] = field(default_factory=list)
    stop: bool = False


class Callback(Protocol):
    """Called after each epoch. One with a memory also has ``state() -> dict of arrays`` and ``load_state``."""

    def __call__(self, training: Training) -> None:
        """Look at the run so far; set ``training.stop`` to end it."""


class EarlyStopping:
    """Stop after ``patience`` epochs without a new best, and give the model its best weights back.

    Parameters
    ----------
    patience : int
        Epochs to wait.
    monitor : str
        The column of the history to watch; smaller is better.
    """

    def __init__(self, patience: int, monitor: str = "validation_error") -> None:
        if patience < 1:
            raise ValueError(f"EarlyStopping(patience): expected at least 1, got {patience}")
        self.patience, self.monitor = patience, monitor
        self.best, self.best_epoch = float("inf"), 0
        self.weights: dict[str, np.ndarray] = {}

    def __call__(self, training: Training) -> None:
        """Compare the newest epoch with the best."""
        row = training.history[-1]
        if row.get(self.monitor) is None:
            raise ValueError(
                f"EarlyStopping(monitor): the history has no {self.monitor!r}; give fit a validation split"
            )
        if row[self.monitor] < self.best:
            self.best, self.best_epoch, self.weights = row[self.monitor], row["epoch"], training.model.state()
        training.stop |= row["epoch"] - self.best_epoch >= self.patience

    def finish(self, training: Training) -> None:
        """Restore the best weights, whether the run was stopped or came to its last epoch."""
        if self.weights:
            training.model.load_state(self.weights)

    def state(self) -> dict[str, np.ndarray]:
        """Return what a resumed run needs."""
        return {"best": np.array([self.best, self.best_epoch]), **{f"weights.{k}": v for k, v in self.weights.items()}}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Restore what ``state`` returned."""
        if "best" not in state:
            raise ValueError("EarlyStopping: the run was begun without it")
        self.best, self.best_epoch = float(state["best"][0]), int(state["best"][1])
        self.weights = {k.removeprefix("weights."): v for k, v in state.items() if k.startswith("weights.")}


# The loop -------------------------------------------------------------------------------------------------------------


def fit(
    model: Module,
    loss: Loss,
    data: Split,
    *,
    optimizer: Any,
    epochs: int,
    rng: np.random.Generator,
    batch_size: int = 100,
    validation: Split | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    update: Callable[..., Any] = gradient_update,
    capture: bool = False,
    label: str = "training",
    progress: bool | None = None,
) -> list[dict[str, Any]]:
    """Train a model; return the history, one row (a dict) for each epoch.

    Parameters
    ----------
    model : Module
        Trained in place.
    loss : callable
        ``loss(model, x, y, *, rng)`` returns the scalar Tensor to minimise.
    data, validation : Split
        Images and labels; the validation split, if any, is scored after each epoch.
    optimizer : Optimizer
        Holds the parameters to change.
    epochs : int
        How many passes over the data in total, resumed ones included.
    rng : numpy.random.Generator
        Shuffles the data and draws the losses' random numbers.
    callbacks : sequence of callable
        Called as ``callback(training)`` after each epoch; see :class:`EarlyStopping`.
    checkpoint : path, optional
        Written after each epoch and on Ctrl-C.
    resume : bool
        Continue from the checkpoint if there is one. Without it, an existing checkpoint is an error and not overwritten.
    update : callable
        One step, ``update(model, loss, optimizer, x, y, *, rng)``; games between networks have their own.
    capture : bool
        Record a step as a CUDA graph and replay it, which saves the time that Python takes to launch each kernel. For a
        model on a GPU; batches of each shape have a graph. Random numbers are those of a :class:`~npadv.ops.DeviceRandom`
        seeded by ``rng``, handed to the update in its place: dropout draws from it, and other draws are an error. What
        else Python computes in a step, an eps that a loss changes, say, stays as it was when recorded: see
        :mod:`npadv.capture`.
    progress : bool, optional
        Draw progress bars; by default only on a terminal.

    Returns
    -------
    list of dict
        Keys epoch, train_loss, validation_loss, validation_error (None without a validation split), step_size, seconds.

    Raises
    ------
    ValueError
        An argument is not as above; a checkpoint is of another run; a label is none of the model's classes.
    RuntimeError
        With ``capture``, the step cannot be recorded; the message says what stands in the way.
    FloatingPointError
        The training loss is no longer finite.
    KeyboardInterrupt
        After Ctrl-C, with the checkpoint written.
    """
    if epochs < 0:
        raise ValueError(f"fit(epochs): expected at least 0, got {epochs}")
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"fit(rng): expected a numpy.random.Generator, got {type(rng).__name__}")
    if batch_size < 1 or len(data) < 1:
        raise ValueError(f"fit(batch_size, data): expected at least 1 example each, got {batch_size} and {len(data)}")
    training = Training(model, optimizer)
    place = Progress(batch_size=batch_size, examples=len(data), capture=capture)
    step: Callable[[Any, Any], Any] = partial(_step, update, model, loss, optimizer, rng)
    masks = None
    if capture:
        step, masks = _captured(update, model, loss, optimizer, rng)
    if checkpoint is not None and Path(checkpoint).exists():
        if not resume:
            raise FileExistsError(
                f"{os.fspath(checkpoint)}: exists; pass resume=True to continue that run, or remove it"
            )
        place = load_checkpoint(checkpoint, place, training, callbacks, rng, masks)

    def save() -> None:
        if checkpoint is not None:
            save_checkpoint(checkpoint, place, training, callbacks, rng, masks)

    with interrupts_held() as interrupted:
        while place.epoch < epochs and not training.stop:
            if place.order is None:
                place.order = rng.permutation(len(data))
            bar = partial(track, label=f"{label} {place.epoch + 1}/{epochs}", show=progress)
            _run_epoch(step, data, place, _reference(model), bar, interrupted)
            if not interrupted():  # else the epoch's end, too, is left to the run that resumes
                training.history.append(_row(training, place, validation))
                place.epoch, place.batch, place.order, place.total, place.seconds = place.epoch + 1, 0, None, 0.0, 0.0
                optimizer.epoch = place.epoch
                for callback in callbacks:
                    callback(training)
            save()
            if interrupted():
                raise KeyboardInterrupt
    for callback in callbacks:
        if hasattr(callback, "finish"):
            callback.finish(training)
    return training.history


def _step(update: Any, model: Any, loss: Any, optimizer: Any, rng: np.random.Generator, x: Any, y: Any) -> Any:
    """Take a step, where the model is."""
    reference = _reference(model)
    return update(model, loss, optimizer, like(x, reference), like(y, reference), rng=rng)


def _captured(
    update: Any, model: Any, loss: Any, optimizer: Any, rng: np.random.Generator
) -> tuple[CapturedStep, DeviceRandom]:
    """Return a step that is recorded and replayed, and the random state that its masks come from."""
    reference = _reference(model)
    masks = DeviceRandom(int(rng.integers(2**64, dtype=np.uint64)), reference)

    def step(x: Any, y: Any) -> Any:
        value = update(model, loss, optimizer, x, y, rng=masks)
        masks.advance()
        return value

    return CapturedStep(step, reference), masks


def _run_epoch(
    step: Callable[[Any, Any], Any],
    data: Split,
    place: Progress,
    reference: Any,
    bar: Callable[..., Iterator[Any]],
    interrupted: Callable[[], bool],
) -> None:
    """Run what is left of an epoch, or what an interrupt lets run; ``place`` says how far it came."""
    started = time.perf_counter()
    count = -(-len(data) // place.batch_size)
    rest = _remaining(data, place) if place.batch < count else ()
    total = xp_of(reference).asarray(place.total)  # summed where the losses are: reading each would wait for a GPU
    for x, y in bar(rest, total=count, initial=place.batch):
        total = total + step(x, y).astype(np.float64) * len(x)
        place.batch += 1
        if interrupted():
            break
    place.total = float(total)
    place.seconds += time.perf_counter() - started
    if not np.isfinite(place.total):
        raise FloatingPointError(
            f"fit: the training loss is {place.total} in epoch {place.epoch + 1}; try a smaller step size"
        )


def _remaining(data: Split, place: Progress) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return the batches of the running epoch that are still to come."""
    assert place.order is not None
    return batches(data, place.batch_size, order=place.order[place.batch * place.batch_size :])


def _row(training: Training, place: Progress, validation: Split | None) -> dict[str, Any]:
    score = None if validation is None else evaluate(training.model, validation)
    optimizer = training.optimizer
    return {
        "epoch": place.epoch + 1,
        "train_loss": place.total / place.examples,
        "validation_loss": score and score.loss,
        "validation_error": score and score.error,
        "step_size": optimizer.now(optimizer.step_size) if isinstance(optimizer, Optimizer) else None,
        "seconds": place.seconds,
    }


def _reference(model: Any) -> Any:
    """Return some array of the model's, which tells where its inputs must be."""
    tensors = model.named_tensors() if isinstance(model, Module) else iter(())
    return next((tensor.data for _, tensor in tensors), np.zeros(0))
