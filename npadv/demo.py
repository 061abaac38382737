"""``npadv demo``: one slice through the whole library on real digits, from training to a page one can read.

Two networks are trained plainly and adversarially, attacked with the fast gradient sign at growing eps, one image also with
L-BFGS; a small GAN learns to draw digits. All numbers are measured here and now; the page only draws them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npadv import nn
from npadv.attacks import fgsm, lbfgs
from npadv.backend import like, to_numpy
from npadv.data import Dataset, load
from npadv.defenses import adversarial_training
from npadv.environment import environment
from npadv.files import write_json
from npadv.functional import softmax
from npadv.gan import GAN, Players, play
from npadv.nn.initializers import glorot_uniform
from npadv.norms import norm
from npadv.optim import Adam
from npadv.recipes import RECIPES
from npadv.report import (
    Attacked,
    Section,
    Table,
    accuracy_curves,
    check_installed,
    compare_attacks,
    examples,
    format_table,
    image_grid,
    learning_curves,
    write_page,
)
from npadv.train import classification_loss, evaluate, fit, predict

TRAIN_EPS = 0.1  # of adversarial training
SHOWN_EPS = 0.1  # of the examples on the page
GRID = (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25)
HELD_OUT = 200  # training images for the learning curves, so that nothing is read off the test images while training
ATTACKED = 1000  # test images at most, so that MNIST's curves take seconds too
LATENT = 16


@dataclass(frozen=True)
class Plan:
    """How long each network trains, in epochs of batches of 50: MNIST has forty times the examples of the digits."""

    maxout: int
    convnet: int
    gan: int


PLANS = {"digits": Plan(maxout=40, convnet=12, gan=60), "mnist": Plan(maxout=4, convnet=2, gan=4)}


@dataclass(frozen=True)
class Trained:
    """A trained network and what was measured on it."""

    model: nn.Sequential
    history: list[dict[str, Any]]
    seconds: float
    test_error: float
    accuracy: tuple[float, ...]  # at each eps of GRID


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


NETWORKS = {"maxout": "small_maxout", "convnet": "small_convnet"}  # of nn.networks


def demo(
    *,
    data: str = "digits",
    device: str = "cpu",
    seed: int = 0,
    out: Path = Path("npadv-demo"),
    progress: bool | None = None,
) -> dict[str, Any]:
    """Run everything, write ``index.html``, ``results.json`` and the weights to ``out``, print the table.

    Returns what ``results.json`` holds. The page is written last and in one step: an interrupted run leaves none, or the
    one that was there before.
    """
    check_installed()
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    dataset, plan = load(data).hold_out(HELD_OUT), PLANS[data]
    nets = {
        f"{kind} {how}".strip(): train_one(
            kind, how, dataset, epochs=getattr(plan, kind), device=device, seed=seed, progress=progress
        )
        for kind in NETWORKS
        for how in ("", "adversarial")
    }
    gan, samples = train_gan(dataset, epochs=plan.gan, device=device, seed=seed, progress=progress)
    table = results_table(nets)
    sections = [
        fgsm_section(nets["maxout"].model, dataset, seed),
        curve_section(nets),
        lbfgs_section(nets["convnet"].model, dataset),
        learning_section(nets),
        gan_section(samples),
    ]
    seconds = time.perf_counter() - started
    results = results_of(nets, data=data, seed=seed, seconds=seconds, device=device)
    for name, net in nets.items():
        net.model.about = {**net.model.about, "data": dataset.name}
        net.model.save(out / f"{name.replace(' ', '-')}.npz")
    gan.save(out / "gan.npz")
    write_json(out / "results.json", results)
    page = write_page(
        out / "index.html",
        title="Adversarial examples, from scratch",
        summary=summary_of(nets, dataset),
        sections=sections,
        table=table,
        facts=facts_of(results),
    )
    print(format_table(table))
    print(f"\n{page} written in {seconds:.0f} s")
    return results


# Measuring ------------------------------------------------------------------------------------------------------------


def train_one(
    kind: str, how: str, dataset: Dataset, *, epochs: int, device: str, seed: int, progress: bool | None
) -> Trained:
    """Train one network plainly or adversarially, from the same initial weights, and attack it at every eps of the grid."""
    rng = np.random.default_rng(seed)
    model = nn.network(NETWORKS[kind], rng=rng).to(device)
    started = time.perf_counter()
    history = fit(
        model,
        adversarial_training(TRAIN_EPS) if how else classification_loss,
        dataset.train,
        optimizer=RECIPES[NETWORKS[kind]].optimizer(model),
        epochs=epochs,
        rng=rng,
        batch_size=50,
        validation=dataset.validation,
        label=f"{kind} {how}".strip(),
        progress=progress,
    )
    seconds = time.perf_counter() - started
    attacked = dataset.test[:ATTACKED]
    x, y = on_device(model, attacked.images), on_device(model, attacked.labels)
    accuracy = tuple(1 - float(fgsm(model, x, y, eps=eps).success.mean()) for eps in GRID)
    return Trained(model, history, seconds, evaluate(model, dataset.test).error, accuracy)


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


def on_device(model: nn.Sequential, x: np.ndarray) -> Any:
    """Return an array where the model's weights are."""
    return like(x, model.parameters()[0].data)


def probabilities(model: nn.Sequential, x: Any) -> np.ndarray:
    """Return the model's class probabilities on the host: (N, 10)."""
    p: np.ndarray = softmax(predict(model, x).astype(np.float64))
    return p


# Drawing --------------------------------------------------------------------------------------------------------------


def results_table(nets: dict[str, Trained]) -> Table:
    """Return the table that is printed and heads the page."""
    shown = (0.05, 0.1, 0.2)
    rows = [
        [
            name,
            f"{net.test_error:.1%}",
            *(f"{1 - net.accuracy[GRID.index(eps)]:.1%}" for eps in shown),
            f"{net.seconds:.1f} s",
        ]
        for name, net in nets.items()
    ]
    columns = ["network", "test error", *(f"FGSM {eps:g}" for eps in shown), "training"]
    return Table(
        columns, rows, caption="Error rates on test images; FGSM at the given eps, crafted on each network itself."
    )


def fgsm_section(model: nn.Sequential, dataset: Dataset, seed: int) -> Section:
    """Show ten images the network had right and what FGSM made of them."""
    chosen = dataset.test[:ATTACKED]
    x, y = on_device(model, chosen.images), on_device(model, chosen.labels)
    result = fgsm(model, x, y, eps=SHOWN_EPS)
    right = np.flatnonzero(to_numpy(result.success & ~result.flags["already_wrong"]))
    if len(right) < 10:  # a network that cannot be fooled is shown as it is
        right = np.arange(min(10, len(chosen)))
    picked = np.sort(np.random.default_rng(seed).choice(right, size=min(10, len(right)), replace=False))
    x_adv = to_numpy(result.x_adv)[picked]
    before, after = (probabilities(model, on_device(model, images)) for images in (chosen.images[picked], x_adv))
    figure = examples(
        chosen.images[picked],
        x_adv - chosen.images[picked],
        x_adv,
        true=chosen.labels[picked],
        before=before.argmax(axis=1),
        after=after.argmax(axis=1),
        confidence_before=before.max(axis=1),
        confidence_after=after.max(axis=1),
    )
    return Section(
        "The fast gradient sign",
        f"Each pixel moves by at most {SHOWN_EPS:g} of the way from black to white, in the direction that raises the loss of "
        "the maxout network: x + eps sign(grad J). Above, images it had right; in the middle, what was added; below, the "
        "sum, with the class the network now sees and how sure it is.",
        figure,
        f"FGSM on the plainly trained maxout network, eps = {SHOWN_EPS:g}.",
    )


def curve_section(nets: dict[str, Trained]) -> Section:
    """Show accuracy against eps for every network."""
    return Section(
        "Accuracy against eps",
        "Every network is attacked with gradients of its own. Adversarial training, "
        f"at eps = {TRAIN_EPS:g}, is the same network from the same initial weights, trained on half clean and half FGSM "
        "examples.",
        accuracy_curves({name: (GRID, net.accuracy) for name, net in nets.items()}, xlabel="eps of FGSM", chance=0.1),
        "Accuracy on test images under FGSM.",
    )


def lbfgs_section(model: nn.Sequential, dataset: Dataset) -> Section:
    """Show one image attacked by FGSM, and by L-BFGS towards the class FGSM reached."""
    chosen = dataset.test[:ATTACKED]
    x, y = on_device(model, chosen.images), on_device(model, chosen.labels)
    quick = fgsm(model, x, y, eps=SHOWN_EPS)
    fooled = np.flatnonzero(to_numpy(quick.success & ~quick.flags["already_wrong"]))
    i = int(fooled[0]) if len(fooled) else 0
    one = slice(i, i + 1)
    target = quick.prediction[one] if len(fooled) else (y[one] + 1) % 10
    exact = lbfgs(model, x[one], target, targeted=True)
    before = probabilities(model, x[one])[0]
    attacked = {}
    for name, result_image in (("FGSM", quick.x_adv[one]), ("L-BFGS", exact.x_adv)):
        p = probabilities(model, result_image)[0]
        attacked[name] = Attacked(to_numpy(result_image)[0], int(p.argmax()), float(p.max()))
    lengths = [float(norm(image - x[one], "l2")[0]) for image in (quick.x_adv[one], exact.x_adv)]
    return Section(
        "One step, and the smallest step",
        f"FGSM spends its whole budget at once, an l2 distance of {lengths[0]:.2f}. Box-constrained L-BFGS looks for the "
        f"smallest change that reaches the same class, and needs {lengths[1]:.2f}.",
        compare_attacks(
            chosen.images[i],
            attacked,
            true=int(chosen.labels[i]),
            before=int(before.argmax()),
            confidence_before=float(before.max()),
        ),
        "The same image, attacked twice, on the plainly trained convnet.",
    )


def learning_section(nets: dict[str, Trained]) -> Section:
    """Show how the networks learned."""
    return Section(
        "Learning",
        "The adversarial loss is the harder one to lower, and an epoch of it costs more: it looks for a perturbation first.",
        learning_curves({name: net.history for name, net in nets.items()}),
        f"Training loss, and error on {HELD_OUT} held-out images after each epoch.",
    )


def gan_section(samples: np.ndarray) -> Section:
    """Show what the generator draws."""
    return Section(
        "A game between two networks",
        "A generator turns noise into images; a discriminator tells them from real ones; each learns from the other. The "
        "losses are the non-saturating ones of Goodfellow et al. 2014.",
        image_grid(samples, columns=10),
        "Forty samples of the generator, not chosen.",
    )


def summary_of(nets: dict[str, Trained], dataset: Dataset) -> str:
    """Return the page's first paragraph."""
    at = GRID.index(SHOWN_EPS)
    plain, robust = ([nets[f"{kind}{how}"] for kind in NETWORKS] for how in ("", " adversarial"))
    fooled = " and ".join(f"{1 - net.accuracy[at]:.0%}" for net in plain)
    kept = " and ".join(f"{1 - net.accuracy[at]:.0%}" for net in robust)
    return (
        f"Two networks learned to read digits from {len(dataset.train):,} examples ({dataset.name}). A change of each pixel by "
        f"at most {SHOWN_EPS:g}, computed from their own gradients, makes the {' and the '.join(NETWORKS)} network wrong on "
        f"{fooled} of test images. Trained adversarially, they are wrong on {kept}."
    )


def results_of(nets: dict[str, Trained], *, data: str, seed: int, seconds: float, device: str) -> dict[str, Any]:
    """Return all numbers, for ``results.json``."""
    return {
        "data": data,
        "seed": seed,
        "seconds": seconds,
        "train_eps": TRAIN_EPS,
        "eps": list(GRID),
        "networks": {
            name: {
                "test_error": net.test_error,
                "accuracy_under_fgsm": list(net.accuracy),
                "seconds": net.seconds,
                "history": net.history,
            }
            for name, net in nets.items()
        },
        **environment(device),
    }


def facts_of(results: dict[str, Any]) -> dict[str, str]:
    """Return what stands at the page's foot."""
    machine = results["machine"]
    return {
        "data": results["data"],
        "seed": str(results["seed"]),
        "time": f"{results['seconds']:.0f} s",
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['system']}",
        "device": results["device"].get("card", results["device"]["name"]),
    }
