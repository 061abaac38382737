"""What ``npadv train`` does: one network, one recipe, one folder of results.

The folder receives ``weights.npz``, ``result.json`` (settings, seed, history, test error, versions, machine) and, while it
runs, ``checkpoint.npz``. Nothing in it is overwritten by a second run.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
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


class Settings(dict[str, Any]):
    """What a run was started with, kept in its checkpoint as a callback's memory: it cannot be resumed as another run."""

    def __call__(self, training: Training) -> None:
        """Do nothing after an epoch."""

    def state(self) -> dict[str, np.ndarray]:
        """Return the settings, as JSON."""
        return {"json": np.array(json.dumps(self))}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Raise a ValueError unless the checkpoint's run was started with the same settings."""
        before = json.loads(str(state["json"])) if "json" in state else {}
        for name, value in self.items():
            if before.get(name) != value:
                raise ValueError(f"was written with {name}={before.get(name)!r}, this run has {value!r}")


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
    capture: bool = False,
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
    capture : bool
        Record the training step as a CUDA graph and replay it: see ``fit``.
    """
    rng = np.random.default_rng(seed)
    model = network(name, rng=rng).to(device)
    recipe = RECIPES[name]
    weights, result_path, checkpoint = (out / file for file in ("weights.npz", "result.json", "checkpoint.npz"))
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out}: expected a folder for the results, got a file")
    if checkpoint.exists() and not resume:
        raise FileExistsError(f"{checkpoint}: an unfinished run is there; continue it with --resume, or remove it")
    for path in (weights, result_path):
        if path.exists() and not checkpoint.exists():
            raise FileExistsError(f"{path}: exists; choose another --out, or remove it to train again")
    dataset = load(data or recipe.data)
    if recipe.hold_out and (data or recipe.data) == recipe.data:
        dataset = dataset.hold_out(recipe.hold_out)
    optimizer = recipe.optimizer(model)
    if step_size is not None:
        optimizer.step_size = step_size
    loss = classification_loss if adversarial is None else adversarial_training(adversarial, alpha=alpha)
    epochs = recipe.epochs if epochs is None else epochs
    settings = Settings(
        network=name,
        data=dataset.name,
        step_size=step_size,
        adversarial_eps=adversarial,
        alpha=None if adversarial is None else alpha,
        seed=seed,
    )

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
        callbacks=[report, settings],
        checkpoint=checkpoint,
        resume=resume,
        capture=capture,
        label=name,
        progress=progress,
    )
    score = evaluate(model, dataset.test)
    result = {
        **settings,
        "train_examples": len(dataset.train),
        "test_examples": len(dataset.test),
        "epochs": epochs,
        "capture": capture,
        "test_error": score.error,
        "test_loss": score.loss,
        "train_seconds": sum(row["seconds"] for row in history),
        "wall_seconds_of_last_run": time.perf_counter() - started,
        "history": history,
        **environment(device),
    }
    model.about = {**model.about, "data": dataset.name}
    model.save(weights)
    result["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()  # by which an attack's result names it
    write_json(result_path, result)
    checkpoint.unlink()  # the run is complete: its weights and history are in the other two files
    print(
        f"{name} on {dataset.name}: test error {score.error:.2%} after {epochs} epochs (seed {seed}); results in {out}"
    )
    return result
