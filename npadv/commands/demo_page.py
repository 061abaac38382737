"""The page of ``npadv demo``: its table, its pictures and its words, from the trained networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.attacks import fgsm, lbfgs
from npadv.backend import to_numpy
from npadv.commands.models import Classifier
from npadv.data import Dataset, Split
from npadv.norms import norm
from npadv.report import (
    Attacked,
    Section,
    Table,
    accuracy_curves,
    compare_attacks,
    examples,
    image_grid,
    learning_curves,
)

SHOWN_EPS = 0.1  # of the examples on the page
TABLE_EPS = (0.05, 0.1, 0.2)
SHOWN = 10
CHOSEN_FROM = 1000  # test images


@dataclass(frozen=True)
class Trained:
    """A trained network and the measurements on it."""

    model: Classifier
    history: list[dict[str, Any]]
    seconds: float
    test_error: float
    accuracy: dict[float, float]  # under FGSM, at each eps


def page_of(
    nets: Mapping[str, Trained], dataset: Dataset, samples: np.ndarray, *, seed: int, train_eps: float
) -> dict[str, Any]:
    """Return the arguments of ``write_page``, all but the facts."""
    test = dataset.test[:CHOSEN_FROM]
    return {
        "title": "Adversarial examples, from scratch",
        "summary": summary_of(nets, dataset),
        "table": results_table(nets),
        "sections": [
            fgsm_section(nets["maxout"].model, test, seed),
            curve_section(nets, train_eps),
            lbfgs_section(nets["convnet"].model, test),
            learning_section(nets, dataset),
            gan_section(samples),
        ],
    }


def summary_of(nets: Mapping[str, Trained], dataset: Dataset) -> str:
    """Return the page's first paragraph."""
    errors = {name: f"{1 - net.accuracy[SHOWN_EPS]:.0%}" for name, net in nets.items()}
    return (
        f"Two networks learned to read digits from {len(dataset.train):,} examples ({dataset.name}). A change of each pixel by "
        f"at most {SHOWN_EPS:g}, computed from their own gradients, makes the maxout and the convnet network wrong on "
        f"{errors['maxout']} and {errors['convnet']} of test images. Trained adversarially, they are wrong on "
        f"{errors['maxout adversarial']} and {errors['convnet adversarial']}."
    )


def results_table(nets: Mapping[str, Trained]) -> Table:
    """Return the table that is printed and stands at the top of the page."""
    rows = [
        [
            name,
            f"{net.test_error:.1%}",
            *(f"{1 - net.accuracy[eps]:.1%}" for eps in TABLE_EPS),
            f"{net.seconds:.1f} s",
        ]
        for name, net in nets.items()
    ]
    return Table(
        ["network", "test error", *(f"FGSM {eps:g}" for eps in TABLE_EPS), "training"],
        rows,
        caption="Error rates on test images; FGSM at the given eps, crafted on each network itself.",
    )


# Sections -------------------------------------------------------------------------------------------------------------


def fgsm_section(model: Classifier, test: Split, seed: int) -> Section:
    """Show ten images that the network classifies correctly, and their FGSM examples."""
    result = fgsm(model, model.on_device(test.images), model.on_device(test.labels), eps=SHOWN_EPS)
    turned = np.flatnonzero(to_numpy(result.success & ~result.flags["already_wrong"]))
    if len(turned) < SHOWN:  # the attack rarely succeeds on this network: show the first images instead
        turned = np.arange(min(SHOWN, len(test)))
    picked = np.sort(np.random.default_rng(seed).choice(turned, size=min(SHOWN, len(turned)), replace=False))
    x, x_adv = test.images[picked], to_numpy(result.x_adv)[picked]
    before, after = model.probabilities(x), model.probabilities(x_adv)
    figure = examples(
        x,
        x_adv - x,
        x_adv,
        true=test.labels[picked],
        before=before.argmax(axis=1),
        after=after.argmax(axis=1),
        confidence_before=before.max(axis=1),
        confidence_after=after.max(axis=1),
    )
    return Section(
        "The fast gradient sign",
        f"Each pixel moves by at most {SHOWN_EPS:g}, where black is 0 and white is 1, in the direction that raises the loss of "
        "the maxout network: x + eps sign(grad J). Above, images that the network classifies correctly; in the middle, the "
        "perturbation; below, their sum, with the class that the network now predicts and its probability.",
        figure,
        f"FGSM on the plainly trained maxout network, eps = {SHOWN_EPS:g}.",
    )


def curve_section(nets: Mapping[str, Trained], train_eps: float) -> Section:
    """Show accuracy against eps for every network."""
    curves = {name: (list(net.accuracy), list(net.accuracy.values())) for name, net in nets.items()}
    return Section(
        "Accuracy against eps",
        "Every network is attacked with its own gradients. Adversarial training, "
        f"at eps = {train_eps:g}, trains the same network from the same initial weights on half clean and half FGSM "
        "examples.",
        accuracy_curves(curves, xlabel="eps of FGSM", chance=0.1),
        "Accuracy on test images under FGSM.",
    )


def lbfgs_section(model: Classifier, test: Split) -> Section:
    """Show one image attacked by FGSM, and by L-BFGS towards the class that FGSM reached."""
    x, y = model.on_device(test.images), model.on_device(test.labels)
    quick = fgsm(model, x, y, eps=SHOWN_EPS)
    fooled = np.flatnonzero(to_numpy(quick.success & ~quick.flags["already_wrong"]))
    i = int(fooled[0]) if len(fooled) else 0
    one = slice(i, i + 1)
    target = quick.prediction[one] if len(fooled) else (y[one] + 1) % 10
    exact = lbfgs(model, x[one], target, targeted=True)
    before = model.probabilities(test.images[one])[0]
    attacked, lengths = {}, []
    for name, x_adv in (("FGSM", quick.x_adv[one]), ("L-BFGS", exact.x_adv)):
        p = model.probabilities(to_numpy(x_adv))[0]
        attacked[name] = Attacked(to_numpy(x_adv)[0], int(p.argmax()), float(p.max()))
        lengths.append(float(norm(x_adv - x[one], "l2")[0]))
    return Section(
        "One step, and the smallest step",
        f"FGSM spends its whole budget at once, an l2 distance of {lengths[0]:.2f}. Box-constrained L-BFGS searches for the "
        f"smallest change that reaches the same class, and needs {lengths[1]:.2f}.",
        compare_attacks(
            test.images[i],
            attacked,
            true=int(test.labels[i]),
            before=int(before.argmax()),
            confidence_before=float(before.max()),
        ),
        "The same image, attacked twice, on the plainly trained convnet.",
    )


def learning_section(nets: Mapping[str, Trained], dataset: Dataset) -> Section:
    """Show the training loss and the validation error of each epoch."""
    held_out = len(dataset.validation) if dataset.validation is not None else 0
    return Section(
        "Learning",
        "The adversarial loss is harder to lower, and an epoch of it takes longer: each step first computes a perturbation.",
        learning_curves({name: net.history for name, net in nets.items()}),
        f"Training loss, and error on {held_out} held-out images after each epoch.",
    )


def gan_section(samples: np.ndarray) -> Section:
    """Show samples of the generator."""
    return Section(
        "A game between two networks",
        "A generator turns noise into images; a discriminator tells them from real ones; each learns from the other. The "
        "losses are the non-saturating ones of Goodfellow et al. 2014.",
        image_grid(samples, columns=10),
        "Forty samples of the generator, not chosen.",
    )
