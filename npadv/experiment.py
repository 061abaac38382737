"""What ``npadv train`` does: one network, one recipe, one folder of results.

The folder receives ``weights.npz``, ``result.json`` (settings, seed, history, test error, versions, machine) and, while it
runs, ``checkpoint.npz``. Nothing in it is overwritten by a second run.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from npadv.data import load
from npadv.defenses import adversarial_training
from npadv.environment import environment
from npadv.files import write_json
from npadv.nn import network
from npadv.recipes import RECIPES
from npadv.train import Training, classification_loss, evaluate, fit


def train_network(
    name: str,
    *,
    out: Path,
    data: str | None = None,
    epochs: int | None = None,
    step_size: float | None = None,
    adversarial: float | None = None,
    alpha: float = 0.5,
    device: str = "cpu",
    seed: int = 0,
    resume: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Train a network by its recipe, print a line for each epoch and return what ``result.json`` holds.

    Parameters
    ----------
    name : str
        A key of ``nn.NETWORKS``.
    out : Path
        The folder of results.
    data, epochs, step_size : optional
        In place of the recipe's.
    adversarial : float, optional
        Train adversarially with this eps, clean examples weighted by ``alpha``.
    """
    rng = np.random.default_rng(seed)
    model = network(name, rng=rng).to(device)
    recipe = RECIPES[name]
    result_path, checkpoint = out / "result.json", out / "checkpoint.npz"
    if result_path.exists():
        raise FileExistsError(f"{result_path}: exists; choose another --out, or remove it to train again")
    if checkpoint.exists() and not resume:
        raise FileExistsError(f"{checkpoint}: an unfinished run is there; continue it with --resume, or remove it")
    dataset = load(data or recipe.data)
    if recipe.hold_out and (data or recipe.data) == recipe.data:
        dataset = dataset.hold_out(recipe.hold_out)
    optimizer = recipe.optimizer(model)
    if step_size is not None:
        optimizer.step_size = step_size
    loss = classification_loss if adversarial is None else adversarial_training(adversarial, alpha=alpha)
    epochs = recipe.epochs if epochs is None else epochs

    def report(training: Training) -> None:
        row = training.history[-1]
        error = row["validation_error"]
        held_out = "" if error is None else f"  validation error {error:7.2%}"
        print(
            f"epoch {row['epoch']:3}/{epochs}  train loss {row['train_loss']:.4f}{held_out}  {row['seconds']:.1f} s",
            flush=True,
        )

    started = time.perf_counter()
    history = fit(
        model,
        loss,
        dataset.train,
        optimizer=optimizer,
        epochs=epochs,
        rng=rng,
        batch_size=recipe.batch_size,
        validation=dataset.validation,
        callbacks=[report],
        checkpoint=checkpoint,
        resume=resume,
        label=name,
        progress=progress,
    )
    score = evaluate(model, dataset.test)
    result = {
        "network": name,
        "data": dataset.name,
        "train_examples": len(dataset.train),
        "test_examples": len(dataset.test),
        "epochs": epochs,
        "step_size": step_size,
        "adversarial_eps": adversarial,
        "alpha": None if adversarial is None else alpha,
        "seed": seed,
        "test_error": score.error,
        "test_loss": score.loss,
        "train_seconds": sum(row["seconds"] for row in history),
        "wall_seconds_of_last_run": time.perf_counter() - started,
        "history": history,
        **environment(device),
    }
    model.save(out / "weights.npz")
    write_json(result_path, result)
    checkpoint.unlink()  # the run is complete: its weights and history are in the other two files
    print(
        f"{name} on {dataset.name}: test error {score.error:.2%} after {epochs} epochs (seed {seed}); results in {out}"
    )
    return result
