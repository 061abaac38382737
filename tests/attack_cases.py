"""The attacks that all shared tests run through, each with settings that are quick, and the small models they attack."""

import numpy as np

from npadv.attacks import carlini_wagner, feature, jsma, linearized, pgd, steepest_ascent, tangent, virtual_adversarial
from npadv.nn import BatchNorm, Dense, Dropout, Flatten, ReLU, Sequential


def case(attack, **quick):
    return lambda model, x, y=None, **options: attack(model, x, y, **{**quick, **options})


def whole_space(model, x, y=None, **options):
    """Call the tangent attack with a basis of the whole space: the step of steepest ascent in l2, clipped."""
    basis = np.eye(int(np.prod(np.shape(x)[1:]))).reshape(-1, *np.shape(x)[1:])
    return tangent(model, x, y, basis=basis, **{"eps": 0.4, **options})


def virtual(model, x, y=None, *, targeted=False, **options):
    """Call the attack without labels as if it took labels."""
    return virtual_adversarial(model, x, rng=np.random.default_rng(0), **{"eps": 0.4, "iterations": 3, **options})


def guided(model, x, y=None, *, targeted=False, bounds=(0.0, 1.0), **options):
    """Call the attack towards guide images as if it took labels. The guides are the negatives of the examples."""
    guide = np.clip(x.dtype.type(bounds[0] + bounds[1]) - x, *bounds)
    return feature(model, x, guide, layer=model, **{"eps": 0.4, "bounds": bounds, "max_iterations": 20, **options})


BUDGETED = {
    "pgd linf": (case(pgd, eps=0.2, steps=4), "linf"),
    "pgd l2": (case(pgd, eps=0.4, steps=4, norm="l2"), "l2"),
    "pgd l1": (case(pgd, eps=0.6, steps=4, norm="l1"), "l1"),
    "pgd momentum": (case(pgd, eps=0.2, steps=4, momentum=0.9), "linf"),
    "pgd gradient": (case(pgd, eps=0.2, steps=4, direction="gradient", step=0.5), "linf"),
    "steepest linf": (case(steepest_ascent, eps=0.2), "linf"),
    "steepest l2": (case(steepest_ascent, eps=0.4, norm="l2"), "l2"),
    "steepest l1": (case(steepest_ascent, eps=0.6, norm="l1"), "l1"),
    "tangent": (whole_space, "l2"),
    "one pixel": (case(steepest_ascent, eps=0.6, norm="l1", pixels=1), "l1"),
}
"""Attacks within a radius eps: the attack, and the norm of the radius."""

MINIMAL = {
    "linearized l2": case(linearized, steps=10),
    "linearized linf": case(linearized, steps=10, norm="linf"),
    "linearized l1": case(linearized, steps=10, norm="l1"),
    "carlini wagner": case(carlini_wagner, searches=3, steps=30, step=0.1),
    "jsma": case(jsma, theta=0.5, pixels=4),
    "jsma single dark": case(jsma, theta=0.3, pixels=4, pairs=False, increase=False),
}
"""Attacks that look for the smallest perturbation."""

UNLABELLED = {
    "virtual": (virtual, "l2"),
    "virtual xi": (lambda *a, **o: virtual(*a, **{"xi": 1e-2, **o}), "l2"),
    "feature": (guided, "linf"),
    "feature batched": (case(guided, solver="batched"), "linf"),
}

CASES = {name: attack for name, (attack, _) in BUDGETED.items()} | MINIMAL


def linear(seed, features, classes):
    """Return weights, biases and the model x W + b."""
    rng = np.random.default_rng(seed)
    w, b = rng.normal(0, 2, (features, classes)), rng.normal(0, 0.3, classes)
    return w, b, lambda x: x @ w + b


def network(rng, classes=3):
    """Return a small network with dropout and batch normalisation that has seen some data."""
    model = Sequential(
        Flatten(), Dense(4, 16, rng=rng), BatchNorm(16), ReLU(), Dropout(0.5), Dense(16, classes, rng=rng)
    )
    model(rng.random((50, 1, 2, 2), np.float32), train=True, rng=rng)
    return model


def excess(x_adv, x, eps, norm):
    """Return how far beyond eps each example was moved, minus the effect of rounding each pixel by one ulp."""
    ulp = np.spacing(max(np.abs(x_adv).max(), np.abs(x).max(), x.dtype.type(eps)))
    d = np.abs(x_adv.astype(np.float64) - x.astype(np.float64)).reshape(len(x), -1)
    size, rounding = {
        "linf": (d.max(axis=1), ulp),
        "l2": (np.sqrt((d**2).sum(axis=1)), ulp * np.sqrt(d.shape[1])),
        "l1": (d.sum(axis=1), ulp * d.shape[1]),
    }[norm]
    return size - float(x.dtype.type(eps)) - rounding
