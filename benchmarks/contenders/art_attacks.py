"""The attacks of the Adversarial Robustness Toolbox (art) on a PyTorch model, with npadv's names and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import art
import numpy as np
import torch
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier

from benchmarks import problems
from benchmarks.contenders import victims

Attack = Callable[[], np.ndarray]
Bounds = tuple[float, float]
ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}


def start(*, threads: int) -> dict[str, str]:
    """Set the number of threads; return the versions."""
    torch.set_num_threads(threads)
    return {"adversarial-robustness-toolbox": art.__version__, "torch": torch.__version__}


def _classifier(model: Any, x: Any, bounds: Bounds) -> Any:
    return PyTorchClassifier(
        model=model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=x.shape[1:],
        nb_classes=problems.CLASSES,
        clip_values=bounds,
        device_type="cpu",
    )


def fgsm(model: Any, x: Any, y: Any, **settings: Any) -> Attack:
    """One step in the maximum norm."""
    return steepest_ascent(model, x, y, norm="linf", **settings)


def steepest_ascent(
    model: Any, x: Any, y: Any, *, eps: float, norm: str, targeted: bool = False, bounds: Bounds = (0.0, 1.0)
) -> Attack:
    """One step of steepest ascent, then clipping to the box."""
    attack = evasion.FastGradientMethod(
        _classifier(model, x, bounds), norm=ORDERS[norm], eps=eps, targeted=targeted, batch_size=len(x)
    )
    return lambda: attack.generate(x, y)


def pgd(
    model: Any,
    x: Any,
    y: Any,
    *,
    eps: float,
    step: float,
    steps: int,
    norm: str = "linf",
    random_start: bool = False,
    momentum: float = 0.0,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> Attack:
    """Projected gradient descent. The projection onto a ball is a scaling, in l1 as well."""
    attack = evasion.ProjectedGradientDescent(
        _classifier(model, x, bounds),
        norm=ORDERS[norm],
        eps=eps,
        eps_step=step,
        max_iter=steps,
        num_random_init=int(random_start),
        decay=momentum or None,
        targeted=targeted,
        batch_size=len(x),
        verbose=False,
    )
    return lambda: attack.generate(x, y)


def linearized(model: Any, x: Any, y: Any, *, norm: str, steps: int, overshoot: float = 0.02) -> Attack:
    """DeepFool in l2, away from the class that the model predicts; y is not used."""
    if norm != "l2":
        raise NotImplementedError(f"the toolbox has DeepFool in l2 only, not in {norm}")
    attack = evasion.DeepFool(
        _classifier(model, x, (0.0, 1.0)), max_iter=steps, epsilon=overshoot, batch_size=len(x), verbose=False
    )
    return lambda: attack.generate(x)


def carlini_wagner(
    model: Any,
    x: Any,
    y: Any,
    *,
    weight: float = 1.0,
    searches: int,
    steps: int,
    step: float,
    confidence: float = 0.0,
    targeted: bool = False,
) -> Attack:
    """Carlini and Wagner's attack, minimised by gradient descent with a line search instead of Adam."""
    attack = evasion.CarliniL2Method(
        _classifier(model, x, (0.0, 1.0)),
        confidence=confidence,
        targeted=targeted,
        learning_rate=step,
        binary_search_steps=searches,
        max_iter=steps,
        initial_const=weight,
        batch_size=len(x),
        verbose=False,
    )
    return lambda: attack.generate(x, y)


def jsma(model: Any, x: Any, y: Any, *, theta: float, pixels: int, targeted: bool = True) -> Attack:
    """Change the two pixels with the largest derivatives of the target's logit; other classes' derivatives are ignored."""
    attack = evasion.SaliencyMapMethod(
        _classifier(model, x, (0.0, 1.0)),
        theta=theta,
        gamma=(pixels - 2) / x[0].size,  # art stops after it has exceeded this number, and changes two at a time
        batch_size=len(x),
        verbose=False,
    )
    return lambda: attack.generate(x, y)


def virtual_adversarial(model: Any, x: Any, y: Any, *, eps: float, iterations: int, xi: float) -> Attack:
    """Virtual adversarial examples, from differences of the divergence along each pixel. art wants probabilities."""
    probabilities = torch.nn.Sequential(model, torch.nn.Softmax(dim=1))
    attack = evasion.VirtualAdversarialMethod(
        _classifier(probabilities, x, (0.0, 1.0)),
        eps=eps,
        finite_diff=xi,
        max_iter=iterations,
        batch_size=len(x),
        verbose=False,
    )
    return lambda: attack.generate(x)


ATTACKS: dict[str, Callable[..., Attack]] = {
    attack.__name__: attack
    for attack in (fgsm, steepest_ascent, pgd, linearized, carlini_wagner, jsma, virtual_adversarial)
}
TASKS = {"attack": victims.task(ATTACKS, victims.torch_victim)}
