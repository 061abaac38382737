"""``npadv train``: one network, one recipe, one folder of results.

The folder receives ``weights.npz``, ``result.json`` (settings, seed, history, test error, versions, machine) and, during the
run, ``checkpoint.npz``. A second run overwrites nothing in it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npadv.commands.parser import DATA, Listing, Parser, add_common, number, positive
from npadv.data import Dataset, load
from npadv.defenses import adversarial_training
from npadv.environment import environment
from npadv.files import from_json, write_json
from npadv.nn import NETWORKS, network
from npadv.recipes import RECIPES, Recipe
from npadv.train import Callback, Training, classification_loss, evaluate, fit


def add_options(parser: Parser) -> None:
    """Add the options of ``npadv train``."""
    parser.add_argument("network", metavar="NETWORK", help="a network by name; see --list")
    parser.add_argument("--list", action=Listing, lines=networks, help="list the networks and exit")
    parser.add_argument("--data", choices=DATA, help="data set (default: the recipe's)")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over the data (default: the recipe's)")
    parser.add_argument(
        "--step-size", type=number, metavar="S", help="a constant step size in place of the recipe's schedule"
    )
    parser.add_argument("--adversarial", type=number, metavar="EPS", help="train adversarially, with FGSM at this eps")
    parser.add_argument(
        "--alpha", type=number, metavar="A", help="with --adversarial, the weight of the clean examples (default: 0.5)"
    )
    parser.add_argument(
        "--capture",
        action="store_true",
        help="with --device cuda, record the training step as a CUDA graph and replay it",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in the folder")
    add_common(parser, out="runs/NETWORK-SEED", out_help="folder for weights.npz, result.json and checkpoint.npz")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a network by its recipe, write the folder, and return the contents of ``result.json``."""
    _check_options(arguments)
    rng = np.random.default_rng(arguments.seed)
    model = network(arguments.network, rng=rng).to(arguments.device)
    out = arguments.out or Path("runs") / f"{arguments.network}-{arguments.seed}"
    checkpoint = out / "checkpoint.npz"
    _check_folder(out, resume=arguments.resume)
    recipe = RECIPES[arguments.network]
    dataset = _load_data(arguments.data, recipe)
    optimizer = recipe.optimizer(model)
    if arguments.step_size is not None:
        optimizer.step_size = arguments.step_size
    epochs, eps = arguments.epochs or recipe.epochs, arguments.adversarial
    alpha = 0.5 if arguments.alpha is None else arguments.alpha
    settings = Settings(
        network=arguments.network,
        data=dataset.name,
        step_size=arguments.step_size,
        adversarial_eps=eps,
        alpha=None if eps is None else alpha,
        seed=arguments.seed,
    )

    started = time.perf_counter()
    history = fit(
        model,
        classification_loss if eps is None else adversarial_training(eps, alpha=alpha),
        dataset.train,
        optimizer=optimizer,
        epochs=epochs,
        rng=rng,
        batch_size=recipe.batch_size,
        validation=dataset.validation,
        callbacks=[_print_epoch(epochs), settings],
        checkpoint=checkpoint,
        resume=arguments.resume,
        capture=arguments.capture,
        label=arguments.network,
        progress=False if arguments.quiet else None,
    )
    score = evaluate(model, dataset.test)

    model.about = {**model.about, "data": dataset.name}
    model.save(out / "weights.npz")
    result = {
        **settings,
        "train_examples": len(dataset.train),
        "test_examples": len(dataset.test),
        "epochs": epochs,
        "capture": arguments.capture,
        "test_error": score.error,
        "test_loss": score.loss,
        "train_seconds": sum(row["seconds"] for row in history),
        "wall_seconds_of_last_run": time.perf_counter() - started,
        "history": history,
        **environment(arguments.device),
        # The result of an attack names the weights by this hash.
        "weights_sha256": hashlib.sha256((out / "weights.npz").read_bytes()).hexdigest(),
    }
    write_json(out / "result.json", result)
    checkpoint.unlink()  # the run is complete: its weights and history are in the other two files
    print(
        f"{arguments.network} on {dataset.name}: test error {score.error:.2%} after {epochs} epochs "
        f"(seed {arguments.seed}); results in {out}"
    )
    return result


class Settings(dict[str, Any]):
    """The options a run was started with. The checkpoint stores them, so that no run resumes with other options.

    ``fit`` stores and restores the state of each callback, so the settings are a callback that does nothing else.
    """

    def __call__(self, training: Training) -> None:
        """Do nothing after an epoch."""

    def state(self) -> dict[str, np.ndarray]:
        """Return the settings, as JSON."""
        return {"json": np.array(json.dumps(self))}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Raise a ValueError unless the checkpoint's run was started with the same settings."""
        before = from_json(str(state["json"]), "settings") if "json" in state else {}
        if not isinstance(before, dict):
            raise ValueError(f"settings: expected options by name, got {before!r:.40}")
        for name, value in self.items():
            if before.get(name) != value:
                raise ValueError(f"was written with {name}={before.get(name)!r}, this run has {value!r}")


def networks() -> Iterator[str]:
    """Yield a line for each network: its name and its docstring's first sentence."""
    width = max(map(len, NETWORKS))
    for name, build in NETWORKS.items():
        summary = (build.__doc__ or "").partition("\n")[0].removeprefix("Return ").rstrip(".")
        yield f"{name:{width}}  {summary}"


def _load_data(name: str | None, recipe: Recipe) -> Dataset:
    """Load the data set, with the recipe's validation split if it is the recipe's own data set."""
    dataset = load(name or recipe.data)
    own = name in (None, recipe.data)
    return dataset.hold_out(recipe.hold_out) if own and recipe.hold_out else dataset


def _print_epoch(epochs: int) -> Callback:
    """Return a callback that prints a line after each epoch."""

    def print_epoch(training: Training) -> None:
        row = training.history[-1]
        error = row["validation_error"]
        held_out = "" if error is None else f"  validation error {error:7.2%}"
        print(
            f"epoch {row['epoch']:3}/{epochs}  train loss {row['train_loss']:.4f}{held_out}  {row['seconds']:.1f} s",
            flush=True,
        )

    return print_epoch


def _check_options(arguments: argparse.Namespace) -> None:
    if arguments.alpha is not None and arguments.adversarial is None:
        raise ValueError("--alpha: expected together with --adversarial EPS")
    if arguments.capture and arguments.device != "cuda":
        raise ValueError("--capture: expected together with --device cuda")


def _check_folder(out: Path, *, resume: bool) -> None:
    """Raise an error if the folder holds another run, or one that can only be resumed."""
    checkpoint = out / "checkpoint.npz"
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out}: expected a folder for the results, got a file")
    if checkpoint.exists() and not resume:
        raise FileExistsError(f"{checkpoint}: an unfinished run is there; continue it with --resume, or remove it")
    for path in (out / "weights.npz", out / "result.json"):
        if path.exists() and not checkpoint.exists():
            raise FileExistsError(f"{path}: exists; choose another --out, or remove it to train again")
