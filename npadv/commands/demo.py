"""``npadv demo``: the whole library on real handwritten digits in one minute, from training to a page.

Two networks are trained plainly and adversarially and attacked with the fast gradient sign method at growing eps; one image
is attacked with L-BFGS too; a small GAN learns to draw digits. Every number is measured in this run, and
``demo_page.py`` draws it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npadv import nn
from npadv.attacks import fgsm
from npadv.commands.demo_page import Trained, page_of, results_table
from npadv.commands.facts import page_facts
from npadv.commands.folder import open_folder
from npadv.commands.models import Classifier
from npadv.commands.parser import DATA, Parser, add_common
from npadv.data import Dataset, load
from npadv.defenses import adversarial_training
from npadv.environment import environment
from npadv.files import write_json
from npadv.gan import GAN, Players, play
from npadv.nn.initializers import glorot_uniform
from npadv.optim import Adam
from npadv.recipes import RECIPES
from npadv.report import check_installed, format_table, write_page
from npadv.train import classification_loss, evaluate, fit

TRAIN_EPS = 0.1  # of adversarial training
EPS = (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25)  # of the attack
HELD_OUT = 200  # training images for the learning curves, so that training never uses the test images
ATTACKED = 1000  # test images at most, so that MNIST's curves take seconds too
LATENT = 16  # dimensions of the GAN's noise
NETWORKS = {"maxout": "small_maxout", "convnet": "small_convnet"}  # names on the page, and in nn.NETWORKS


@dataclass(frozen=True)
class Epochs:
    """How many epochs each network trains, in batches of 50."""

    maxout: int
    convnet: int
    gan: int


# MNIST has forty times as many examples as the digits.
EPOCHS = {"digits": Epochs(maxout=40, convnet=12, gan=60), "mnist": Epochs(maxout=4, convnet=2, gan=4)}


def add_options(parser: Parser) -> None:
    """Add the options of ``npadv demo``."""
    parser.add_argument(
        "--data", choices=DATA[:2], default="digits", help="digits (scikit-learn's 1,797; no download) or mnist"
    )
    add_common(parser, out="npadv-demo", out_help="folder for index.html, results.json and the networks' weights")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, attack, write the folder, print the table, and return the contents of ``results.json``.

    The page is written last and in one step, so an interrupted run leaves the page of the run before it, or none.
    """
    check_installed()
    started = time.perf_counter()
    out = arguments.out or Path("npadv-demo")
    dataset, epochs = load(arguments.data).hold_out(HELD_OUT), EPOCHS[arguments.data]

    files = (
        "index.html",
        "results.json",
        "gan.npz",
        *(f"{kind}{how}.npz" for kind in NETWORKS for how in ("", "-adversarial")),
    )
    with open_folder(out, *files):
        common: dict[str, Any] = {
            "device": arguments.device,
            "seed": arguments.seed,
            "progress": False if arguments.quiet else None,
        }
        nets = {
            f"{kind} {how}".strip(): train_one(kind, how, dataset, epochs=getattr(epochs, kind), **common)
            for kind in NETWORKS
            for how in ("", "adversarial")
        }
        gan, samples = train_gan(dataset, epochs=epochs.gan, **common)
        page = page_of(nets, dataset, samples, seed=arguments.seed, train_eps=TRAIN_EPS)
        results = {
            "data": arguments.data,
            "seed": arguments.seed,
            "seconds": time.perf_counter() - started,
            "train_eps": TRAIN_EPS,
            "eps": list(EPS),
            "networks": {
                name: {
                    "test_error": net.test_error,
                    "accuracy_under_fgsm": list(net.accuracy.values()),
                    "seconds": net.seconds,
                    "history": net.history,
                }
                for name, net in nets.items()
            },
            **environment(arguments.device),
        }

        for name, net in nets.items():
            net.model.network.about = {**net.model.network.about, "data": dataset.name}
            net.model.network.save(out / f"{name.replace(' ', '-')}.npz")
        gan.save(out / "gan.npz")
        write_json(out / "results.json", results)
        write_page(out / "index.html", **page, facts=page_facts(results))
    print(f"{format_table(results_table(nets))}\n\n{out / 'index.html'} written in {results['seconds']:.0f} s")
    return results


def train_one(
    kind: str, how: str, dataset: Dataset, *, epochs: int, device: str, seed: int, progress: bool | None
) -> Trained:
    """Train one network plainly or adversarially, from the same initial weights, and attack it at every eps."""
    rng = np.random.default_rng(seed)
    network = nn.network(NETWORKS[kind], rng=rng).to(device)
    started = time.perf_counter()
    history = fit(
        network,
        adversarial_training(TRAIN_EPS) if how else classification_loss,
        dataset.train,
        optimizer=RECIPES[NETWORKS[kind]].optimizer(network),
        epochs=epochs,
        rng=rng,
        batch_size=50,
        validation=dataset.validation,
        label=f"{kind} {how}".strip(),
        progress=progress,
    )
    seconds = time.perf_counter() - started
    model, attacked = Classifier(network), dataset.test[:ATTACKED]
    x, y = model.on_device(attacked.images), model.on_device(attacked.labels)
    accuracy = {eps: 1 - float(fgsm(model, x, y, eps=eps).success.mean()) for eps in EPS}
    return Trained(model, history, seconds, evaluate(network, dataset.test).error, accuracy)


def train_gan(
    dataset: Dataset, *, epochs: int, device: str, seed: int, progress: bool | None
) -> tuple[GAN, np.ndarray]:
    """Train the GAN and return it with 40 samples."""
    rng = np.random.default_rng(seed)
    gan = small_gan(rng)
    gan.to(device)
    players = Players(
        generator=Adam(gan.generator.parameters(), 1e-3, betas=(0.5, 0.999)),
        discriminator=Adam(gan.discriminator.parameters(), 4e-4, betas=(0.5, 0.999)),
    )
    play(gan, dataset.train, players=players, epochs=epochs, rng=rng, batch_size=50, label="GAN", progress=progress)
    return gan, gan.sample(40, rng=rng)


def small_gan(rng: np.random.Generator) -> GAN:
    """Return a GAN of two dense networks."""
    generator = nn.Sequential(
        nn.Dense(LATENT, 128, rng=rng),
        nn.BatchNorm(128),
        nn.ReLU(),
        nn.Dense(128, 256, rng=rng),
        nn.BatchNorm(256),
        nn.ReLU(),
        nn.Dense(256, 784, rng=rng, init=glorot_uniform),
        nn.Sigmoid(),
        nn.Reshape(1, 28, 28),
    )
    discriminator = nn.Sequential(
        nn.Flatten(),
        nn.Dense(784, 256, rng=rng),
        nn.LeakyReLU(0.2),
        nn.Dropout(0.3),
        nn.Dense(256, 128, rng=rng),
        nn.LeakyReLU(0.2),
        nn.Dropout(0.3),
        nn.Dense(128, 1, rng=rng, init=glorot_uniform),
    )
    return GAN(generator, discriminator, LATENT)
