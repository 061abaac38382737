"""``npadv train``: one network, one recipe, one folder of results.

The folder receives ``weights.npz``, ``result.json`` (settings, seed, history, test error, versions, machine) and, during the
run, ``checkpoint.npz``. With a defense that trains a teacher first, it also receives ``teacher.npz``. A second run overwrites
nothing in it.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npadv.commands.defenses import DEFENSES, TrainingRun, listing
from npadv.commands.folder import open_folder
from npadv.commands.options import keywords, named_by_flags
from npadv.commands.parser import DATA, Listing, Parser, above_zero, add_common, number, positive
from npadv.commands.training_folder import (
    CHECKPOINT,
    RESULT,
    TEACHER,
    TEACHER_CHECKPOINT,
    WEIGHTS,
    Settings,
    check_folder,
    finished_result,
)
from npadv.data import Dataset, Split, load
from npadv.defenses import adversarial_training
from npadv.environment import environment
from npadv.files import write_json
from npadv.nn import NETWORKS, Module, network
from npadv.progress import interrupts_held
from npadv.recipes import RECIPES, Recipe
from npadv.train import Callback, Loss, Training, classification_loss, evaluate, fit


def add_options(parser: Parser) -> None:
    """Add the options of ``npadv train``."""
    parser.add_argument("network", metavar="NETWORK", help="a network by name; see --list")
    parser.add_argument("--list", action=Listing, lines=networks, help="list the networks and exit")
    parser.add_argument("--data", choices=DATA, help="data set (default: the recipe's)")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over the data (default: the recipe's)")
    parser.add_argument(
        "--step-size", type=above_zero, metavar="S", help="a constant step size in place of the recipe's schedule"
    )
    parser.add_argument(
        "--defense", metavar="NAME", choices=tuple(DEFENSES), help="train with a defense; see --list-defenses"
    )
    parser.add_argument(
        "--list-defenses", action=Listing, lines=listing, help="list the defenses with their options and exit"
    )
    parser.add_argument(
        "--adversarial", type=number, metavar="EPS", help="short for --defense adversarial_training --eps EPS"
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
    parser.extend = add_defense
    parser.set_defaults(run=run)


def add_defense(parser: Parser, words: Sequence[str]) -> None:
    """Add the options of the defense that the command line names."""
    name = _defense_in(words)
    parser.set_defaults(alpha=None)  # for the defenses without an option of this name
    if name in DEFENSES:
        group = parser.add_argument_group(f"options of {name}")
        for option in DEFENSES[name].options:
            option.add_to(group)
    else:
        parser.add_argument(
            "--alpha",
            type=number,
            metavar="A",
            help="with --adversarial, the weight of the clean examples (default: 0.5)",
        )


def _defense_in(words: Sequence[str]) -> str:
    """Return the word after ``--defense``, which may be shortened as every option may.

    >>> _defense_in(["relu_mlp", "--defense", "input_noise"]), _defense_in(["--def=input_noise"]), _defense_in(["--out", "a"])
    ('input_noise', 'input_noise', '')
    """
    name = ""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        if "--defense".startswith(flag) and flag.startswith("--def"):
            name = value if equals else following  # the last one counts, as for every option
    return name


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a network by its recipe, write the folder, and return the contents of ``result.json``."""
    _check_options(arguments)
    rng = np.random.default_rng(arguments.seed)
    model = network(arguments.network, rng=rng).to(arguments.device)
    recipe = RECIPES[arguments.network]
    epochs, eps = arguments.epochs or recipe.epochs, arguments.adversarial
    options = keywords(DEFENSES[arguments.defense].options, arguments) if arguments.defense else None
    alpha = 0.5 if arguments.alpha is None else arguments.alpha
    loss = classification_loss if eps is None else adversarial_training(eps, alpha=alpha)
    settings = Settings(
        network=arguments.network,
        data=arguments.data or recipe.data,
        step_size=arguments.step_size,
        adversarial_eps=eps,
        alpha=None if eps is None else alpha,
        defense=arguments.defense,
        defense_options=options,
        seed=arguments.seed,
    )
    out = arguments.out or Path("runs") / _name(arguments, recipe)
    with open_folder(out, WEIGHTS, RESULT, CHECKPOINT, TEACHER, TEACHER_CHECKPOINT):
        if arguments.resume and (result := finished_result(out, settings, epochs)):
            print(f"{out} is complete, nothing is left to do; {sentence(result, out)}")
            return result
        check_folder(out, Settings(settings, epochs=epochs), resume=arguments.resume)
        dataset = _load_data(arguments.data, recipe)
        trainer = Trainer(arguments, recipe, settings, epochs, dataset, out)

        started = time.perf_counter()
        try:
            images = dataset.train
            if options is not None:
                parts = TrainingRun(images, arguments.seed, trainer.teacher)
                with named_by_flags(DEFENSES[arguments.defense].options):
                    loss, images = DEFENSES[arguments.defense].prepare(options, parts)
            history = trainer.train(model, loss, images, rng=rng, checkpoint=CHECKPOINT, label=arguments.network)
            score = evaluate(model, dataset.test)
        except KeyboardInterrupt:
            left = [out / file for file in (CHECKPOINT, TEACHER_CHECKPOINT, TEACHER) if (out / file).exists()]
            if not left:
                raise KeyboardInterrupt("no epoch is finished; nothing was written") from None
            raise KeyboardInterrupt(f"the run so far is in {left[0]}; the same command with --resume goes on") from None

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
        model.about = {**model.about, "data": dataset.name, **_defended(settings)}
        with interrupts_held():  # a signal waits until the files agree with each other
            model.save(out / WEIGHTS)
            # The result of an attack names the weights by this hash.
            result["weights_sha256"] = hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest()
            write_json(out / RESULT, result)
            (out / CHECKPOINT).unlink()  # last: without it the run is complete
    print(sentence(result, out))
    return result


@dataclass(frozen=True)
class Trainer:
    """Trains the networks of a run, all by the same recipe and with the same options."""

    arguments: argparse.Namespace
    recipe: Recipe
    settings: Settings
    epochs: int
    dataset: Dataset
    out: Path

    def train(
        self, model: Module, loss: Loss, images: Split, *, rng: np.random.Generator, checkpoint: str, label: str
    ) -> list[dict[str, Any]]:
        """Train a network, from its checkpoint if there is one; return the history."""
        optimizer = self.recipe.optimizer(model)
        if self.arguments.step_size is not None:
            optimizer.step_size = self.arguments.step_size
        return fit(
            model,
            loss,
            images,
            optimizer=optimizer,
            epochs=self.epochs,
            rng=rng,
            batch_size=self.recipe.batch_size,
            validation=self.dataset.validation,
            callbacks=[_print_epoch(self.epochs), self.settings],
            checkpoint=self.out / checkpoint,
            resume=self.arguments.resume,
            capture=self.arguments.capture,
            label=label,
            progress=False if self.arguments.quiet else None,
        )

    def teacher(self, loss: Loss, images: Split) -> Module:
        """Return a trained teacher: from its file, if the run is resumed after the teacher's training."""
        rng = np.random.default_rng((self.arguments.seed, 1))  # other weights than the student's
        teacher = network(self.arguments.network, rng=rng).to(self.arguments.device)
        path = self.out / TEACHER
        if path.exists():
            (self.out / TEACHER_CHECKPOINT).unlink(missing_ok=True)  # of a run that was killed before it could
            return teacher.load(path)
        print("teacher:", flush=True)
        self.train(teacher, loss, images, rng=rng, checkpoint=TEACHER_CHECKPOINT, label="teacher")
        teacher.about = {
            **teacher.about,
            "data": self.dataset.name,
            "settings": {**self.settings, "epochs": self.epochs},
        }
        with interrupts_held():  # a signal waits until the files agree with each other
            teacher.save(path)
            (self.out / TEACHER_CHECKPOINT).unlink()
        print("student:", flush=True)
        return teacher


def _defended(settings: Settings) -> dict[str, Any]:
    """Return the fact for the file of weights: by which defense they were trained, if by any."""
    if settings["defense"] is not None:
        return {"defense": {"name": settings["defense"], **settings["defense_options"]}}
    if settings["adversarial_eps"] is not None:
        options = {"eps": settings["adversarial_eps"], "alpha": settings["alpha"]}
        return {"defense": {"name": "adversarial_training", **options}}
    return {}


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
    if arguments.defense is not None and arguments.adversarial is not None:
        raise ValueError("--adversarial: expected without --defense: it is short for --defense adversarial_training")
    if arguments.defense is None and arguments.alpha is not None and arguments.adversarial is None:
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
    if arguments.defense:
        options = {option.name: option.default for option in DEFENSES[arguments.defense].options}
        changed = {
            name: getattr(arguments, name) for name, usual in options.items() if getattr(arguments, name) != usual
        }
        del changes["alpha"]  # which is among the defense's own, if it has one
        changes |= {"defense": arguments.defense, **changed}
    words = [arguments.network, *(f"{name}-{value}" for name, value in changes.items() if value is not None)]
    words = [word.replace("/", "_") for word in words]
    return "-".join([*words, str(arguments.seed)])
