"""The one training loop: epochs of minibatches, validation, callbacks, checkpoints.

For each batch, ``fit`` calls a *loss*, differentiates it with respect to the optimizer's parameters and takes a step. A loss is
a function ``loss(model, x, y, *, rng) -> Tensor``. A defense is another loss for the same loop.

A checkpoint (``checkpoint.py``) holds all state that the next step depends on. After Ctrl-C, the running step is finished and a
checkpoint is written before ``fit`` stops. A resumed run gives, to the last bit, the result of a run without interruption.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from npadv.autodiff import Tensor, grad
from npadv.backend import like
from npadv.callbacks import Callback, EarlyStopping, Training
from npadv.captured_training import captured_step
from npadv.checkpoint import Checkpoint, Progress
from npadv.data.dataset import Split, batches
from npadv.functional import cross_entropy
from npadv.nn.module import Module
from npadv.ops import winograd
from npadv.optim import Optimizer
from npadv.progress import interrupts_held, track
from npadv.scores import Score, evaluate, predict, reference_array

__all__ = [
    "Callback",
    "EarlyStopping",
    "Loss",
    "Score",
    "Training",
    "classification_loss",
    "evaluate",
    "fit",
    "gradient_update",
    "predict",
]

Loss = Callable[..., Tensor]


def classification_loss(model: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Tensor:
    """Return the mean cross-entropy of the model in training: the usual loss of a classifier."""
    loss: Tensor = cross_entropy(model(x, train=True, rng=rng), y)
    return loss


def gradient_update(model: Any, loss: Loss, optimizer: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
    """Take one step that decreases the loss of one batch; return the loss before the step. ``fit`` uses it by default.

    Convolutions are computed faster, with one digit less of precision: see ``ops.winograd``.
    """
    with winograd():
        value = loss(model, x, y, rng=rng)
    optimizer.step(grad(value, optimizer.parameters))
    return value.data


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
        Number of passes over the data in total, those before a resume included.
    rng : numpy.random.Generator
        Shuffles the data and draws the losses' random numbers.
    batch_size : int
        Examples in a step; the last batch of an epoch may be smaller.
    callbacks : sequence of callable
        Called as ``callback(training)`` after each epoch; see :class:`EarlyStopping`.
    checkpoint : path, optional
        Written after each epoch and on Ctrl-C.
    resume : bool
        Continue from the checkpoint if there is one. Without it, an existing checkpoint is an error and not overwritten.
    update : callable
        One step, ``update(model, loss, optimizer, x, y, *, rng)``, which returns the loss. Games between networks use
        another one.
    capture : bool
        Record a step as a CUDA graph and replay it, which saves the time that Python takes to launch each kernel. The
        model must be on a GPU; there is one graph for each shape of batch. In place of ``rng``, the update receives a
        :class:`~npadv.ops.DeviceRandom` that is seeded by ``rng``: dropout draws from it, and other draws are an error.
        All other numbers that Python computes in a step, such as an eps that a loss changes, keep their values from the
        recorded step: see :mod:`npadv.capture`.
    label : str
        The text before the epoch in a progress bar.
    progress : bool, optional
        Draw progress bars; by default only on a terminal.

    Returns
    -------
    list of dict
        Keys epoch, train_loss, validation_loss, validation_error (None without a validation split), step_size, seconds.

    Raises
    ------
    ValueError
        An argument is not as above; a checkpoint is of another run; a label is outside the model's classes.
    RuntimeError
        With ``capture``, the step cannot be recorded; the message gives the reason.
    FloatingPointError
        The training loss is no longer finite.
    KeyboardInterrupt
        After Ctrl-C, with the checkpoint written.

    Examples
    --------
    >>> from npadv import nn, optim
    >>> rng = np.random.default_rng(0)
    >>> data = Split(rng.random((200, 1, 2, 2)), rng.integers(2, size=200))
    >>> data.images[data.labels == 1] *= 0.1  # class 1 is darker
    >>> model = nn.network("softmax_regression", rng=rng, inputs=4)
    >>> optimizer = optim.SGD(model.parameters(), 0.5)
    >>> history = fit(model, classification_loss, data, optimizer=optimizer, epochs=5, rng=rng, batch_size=20)
    >>> history[-1]["train_loss"] < history[0]["train_loss"], evaluate(model, data).error < 0.1
    (True, True)
    """
    _check(data, epochs, rng, batch_size)
    training = Training(model, optimizer)
    step: Callable[[Any, Any], Any] = partial(_step, update, model, loss, optimizer, rng)
    masks = None
    if capture:
        step, masks = captured_step(update, model, loss, optimizer, rng)
    file = Checkpoint(checkpoint, training, callbacks, rng, masks)
    run = file.begin(Progress(batch_size=batch_size, examples=len(data), capture=capture), resume=resume)
    with interrupts_held() as interrupted:
        while run.epoch < epochs and not training.stop:
            if run.order is None:
                run.order = rng.permutation(len(data))
            bar = partial(track, label=f"{label} {run.epoch + 1}/{epochs}", show=progress)
            _run_epoch(step, data, run, bar, interrupted)
            if not interrupted():  # after Ctrl-C, the resumed run ends the epoch
                _end_epoch(training, run, validation, callbacks)
            file.write(run)
            if interrupted():
                raise KeyboardInterrupt
    for callback in callbacks:
        if hasattr(callback, "finish"):
            callback.finish(training)
    return training.history


def _step(update: Any, model: Any, loss: Any, optimizer: Any, rng: np.random.Generator, x: Any, y: Any) -> Any:
    """Take a step on the model's device."""
    reference = reference_array(model)
    return update(model, loss, optimizer, like(x, reference), like(y, reference), rng=rng)


def _run_epoch(
    step: Callable[[Any, Any], Any],
    data: Split,
    run: Progress,
    bar: Callable[..., Iterator[Any]],
    interrupted: Callable[[], bool],
) -> None:
    """Take the remaining steps of an epoch, until Ctrl-C; ``run`` counts them."""
    started = time.perf_counter()
    total: Any = run.total  # becomes an array on the losses' device: reading each loss would wait for the GPU
    for x, y in bar(_remaining(data, run), total=-(-len(data) // run.batch_size), initial=run.batch):
        total = total + step(x, y).astype(np.float64) * len(x)
        run.batch += 1
        if interrupted():
            break
    run.total = float(total)
    run.seconds += time.perf_counter() - started
    if not np.isfinite(run.total):
        raise FloatingPointError(
            f"fit: the training loss is {run.total} in epoch {run.epoch + 1}; try a smaller step size"
        )


def _remaining(data: Split, run: Progress) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return the batches of the running epoch that are still to come."""
    assert run.order is not None
    return batches(data, run.batch_size, order=run.order[run.batch * run.batch_size :])


def _end_epoch(training: Training, run: Progress, validation: Split | None, callbacks: Sequence[Callback]) -> None:
    """Add a row to the history, begin the next epoch and call the callbacks."""
    score = None if validation is None else evaluate(training.model, validation)
    optimizer = training.optimizer
    training.history.append(
        {
            "epoch": run.epoch + 1,
            "train_loss": run.total / run.examples,
            "validation_loss": score and score.loss,
            "validation_error": score and score.error,
            "step_size": optimizer.now(optimizer.step_size) if isinstance(optimizer, Optimizer) else None,
            "seconds": run.seconds,
        }
    )
    run.epoch, run.batch, run.order, run.total, run.seconds = run.epoch + 1, 0, None, 0.0, 0.0
    optimizer.epoch = run.epoch
    for callback in callbacks:
        callback(training)


def _check(data: Split, epochs: int, rng: Any, batch_size: int) -> None:
    """Raise a ValueError for arguments that ``fit`` cannot use."""
    if epochs < 0:
        raise ValueError(f"fit(epochs): expected at least 0, got {epochs}")
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"fit(rng): expected a numpy.random.Generator, got {type(rng).__name__}")
    if batch_size < 1 or len(data) < 1:
        raise ValueError(f"fit(batch_size, data): expected at least 1 example each, got {batch_size} and {len(data)}")
