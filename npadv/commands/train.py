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

from npadv.commands.folder import open_folder
from npadv.commands.parser import DATA, Listing, Parser, above_zero, add_common, number, positive
from npadv.commands.results import read_result
from npadv.data import Dataset, load
from npadv.defenses import adversarial_training
from npadv.environment import environment
from npadv.files import from_json, write_json
from npadv.nn import NETWORKS, network
from npadv.progress import interrupts_held
from npadv.recipes import RECIPES, Recipe
from npadv.train import Callback, Training, classification_loss, evaluate, fit

WEIGHTS, RESULT, CHECKPOINT = "weights.npz", "result.json", "checkpoint.npz"


def add_options(parser: Parser) -> None:
    """Add the options of ``npadv train``."""
    parser.add_argument("network", metavar="NETWORK", help="a network by name; see --list")
    parser.add_argument("--list", action=Listing, lines=networks, help="list the networks and exit")
    parser.add_argument("--data", choices=DATA, help="data set (default: the recipe's)")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over the data (default: the recipe's)")
    parser.add_argument(
        "--step-size", type=above_zero, metavar="S", help="a constant step size in place of the recipe's schedule"
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
    add_common(
        parser,
        out="runs/NETWORK-SEED, with the changed options between them",
        out_help="folder for weights.npz, result.json and checkpoint.npz",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a network by its recipe, write the folder, and return the contents of ``result.json``."""
    _check_options(arguments)
    rng = np.random.default_rng(arguments.seed)
    model = network(arguments.network, rng=rng).to(arguments.device)
    recipe = RECIPES[arguments.network]
    epochs, eps = arguments.epochs or recipe.epochs, arguments.adversarial
    alpha = 0.5 if arguments.alpha is None else arguments.alpha
    loss = classification_loss if eps is None else adversarial_training(eps, alpha=alpha)
    settings = Settings(
        network=arguments.network,
        data=arguments.data or recipe.data,
        step_size=arguments.step_size,
        adversarial_eps=eps,
        alpha=None if eps is None else alpha,
        seed=arguments.seed,
    )
    out = arguments.out or Path("runs") / _name(arguments, recipe)
    with open_folder(out, WEIGHTS, RESULT, CHECKPOINT):
        if arguments.resume and (result := _finished(out, settings, epochs)):
            print(f"{out} is complete, nothing is left to do; {sentence(result, out)}")
            return result
        _check_folder(out, resume=arguments.resume)
        dataset = _load_data(arguments.data, recipe)
        optimizer = recipe.optimizer(model)
        if arguments.step_size is not None:
            optimizer.step_size = arguments.step_size

        started = time.perf_counter()
        try:
            history = fit(
                model,
                loss,
                dataset.train,
                optimizer=optimizer,
                epochs=epochs,
                rng=rng,
                batch_size=recipe.batch_size,
                validation=dataset.validation,
                callbacks=[_print_epoch(epochs), settings],
                checkpoint=out / CHECKPOINT,
                resume=arguments.resume,
                capture=arguments.capture,
                label=arguments.network,
                progress=False if arguments.quiet else None,
            )
            score = evaluate(model, dataset.test)
        except KeyboardInterrupt:
            if not (out / CHECKPOINT).exists():
                raise KeyboardInterrupt("no epoch is finished; nothing was written") from None
            raise KeyboardInterrupt(
                f"the run so far is in {out / CHECKPOINT}; the same command with --resume goes on"
            ) from None

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
        }
        model.about = {**model.about, "data": dataset.name}
        with interrupts_held():  # a signal waits until the files agree with each other
            model.save(out / WEIGHTS)
            # The result of an attack names the weights by this hash.
            result["weights_sha256"] = hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest()
            write_json(out / RESULT, result)
            (out / CHECKPOINT).unlink()  # last: without it the run is complete
    print(sentence(result, out))
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


def sentence(result: Mapping[str, Any], out: Path) -> str:
    """Return a result in one line."""
    epochs = result["epochs"]
    return (
        f"{result['network']} on {result['data']}: test error {result['test_error']:.2%} after {epochs} "
        f"epoch{'s' if epochs > 1 else ''} (seed {result['seed']}); results in {out}"
    )


def networks() -> Iterator[tuple[str, str]]:
    """Yield the name of each network and its docstring's first sentence."""
    for name, build in NETWORKS.items():
        summary = (build.__doc__ or "").partition("\n")[0].removeprefix("Return ").rstrip(".")
        yield name, summary.replace("``", "")


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


def _name(arguments: argparse.Namespace, recipe: Recipe) -> str:
    """Return the folder's default name, in which every option that changes the recipe stands."""
    changes = {
        "data": None if arguments.data == recipe.data else arguments.data,
        "step": arguments.step_size,
        "adversarial": arguments.adversarial,
        "alpha": arguments.alpha,
    }
    words = [arguments.network, *(f"{name}-{value}" for name, value in changes.items() if value is not None)]
    return "-".join([*words, str(arguments.seed)])


def _check_folder(out: Path, *, resume: bool) -> None:
    """Raise an error if the folder holds another run, or one that can only be resumed."""
    if (out / CHECKPOINT).exists():
        if not resume:
            raise FileExistsError(
                f"{out / CHECKPOINT}: an unfinished run is there; continue it with --resume, or remove it"
            )
        return
    for path in (out / WEIGHTS, out / RESULT):
        if path.exists():
            raise FileExistsError(f"{path}: exists; choose another --out, or remove it to train again")


def _finished(out: Path, settings: Settings, epochs: int) -> dict[str, Any] | None:
    """Return the result in the folder if it is that of a finished run; raise an error if that run had other settings."""
    path = out / RESULT
    if (out / CHECKPOINT).exists() or not path.exists() or not (out / WEIGHTS).exists():
        return None
    result = read_result(path)
    for name, value in {**settings, "epochs": epochs}.items():
        if result.get(name) != value:
            raise ValueError(f"{path}: was written with {name}={result.get(name)!r:.70}, this run has {value!r}")
    error = result.get("test_error")
    if not isinstance(error, float) or not 0 <= error <= 1:
        raise ValueError(f"{path}: test_error: expected a rate, got {error!r:.40}")
    return result
