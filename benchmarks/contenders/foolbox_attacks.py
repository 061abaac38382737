"""foolbox's attacks on a PyTorch model, with npadv's names and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import foolbox
import torch
from foolbox import attacks
from foolbox.criteria import Misclassification, TargetedMisclassification

from benchmarks.contenders import victims

Attack = Callable[[], torch.Tensor]
Bounds = tuple[float, float]


def start(*, threads: int) -> dict[str, str]:
    """Set the number of threads; return the versions."""
    torch.set_num_threads(threads)
    return {"foolbox": foolbox.__version__, "torch": torch.__version__}


def _ready(
    attack: Any, model: Any, x: Any, y: Any, eps: float | None, *, targeted: bool = False, bounds: Bounds = (0.0, 1.0)
) -> Attack:
    """Return a function that runs an attack. foolbox evaluates the examples once more to report which succeeded."""
    known = foolbox.PyTorchModel(model, bounds=bounds, device="cpu")
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    criterion = TargetedMisclassification(y) if targeted else Misclassification(y)
    return lambda: attack(known, x, criterion, epsilons=eps)[1]


def fgsm(model: Any, x: Any, y: Any, *, eps: float, **where: Any) -> Attack:
    """One step. foolbox's attack of this name refuses targets, so a targeted step is foolbox's PGD with one step."""
    if where.get("targeted"):
        return pgd(model, x, y, eps=eps, step=eps, steps=1, **where)
    return _ready(attacks.LinfFastGradientAttack(), model, x, y, eps, **where)


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
    **where: Any,
) -> Attack:
    """Projected gradient descent. In l1, foolbox has two; this is the sparse one, which at quantile 1 moves one pixel."""
    settings = {"abs_stepsize": step, "steps": steps, "random_start": random_start}
    if momentum:
        attack = attacks.LinfMomentumIterativeFastGradientMethod(momentum=momentum, **settings)
    elif norm == "l1":
        attack = attacks.SparseL1DescentAttack(quantile=1.0, **settings)
    else:
        attack = {"linf": attacks.LinfPGD, "l2": attacks.L2PGD}[norm](**settings)
    return _ready(attack, model, x, y, eps, **where)


def steepest_ascent(model: Any, x: Any, y: Any, *, eps: float, norm: str, **where: Any) -> Attack:
    """One step. In l1, foolbox follows the normalised gradient, which is not the steepest ascent."""
    single = {
        "l1": attacks.L1FastGradientAttack,
        "l2": attacks.L2FastGradientAttack,
        "linf": attacks.LinfFastGradientAttack,
    }
    return _ready(single[norm](), model, x, y, eps, **where)


def linearized(model: Any, x: Any, y: Any, *, norm: str, steps: int, overshoot: float = 0.02, **where: Any) -> Attack:
    """DeepFool, over all classes."""
    attack = {"l2": attacks.L2DeepFoolAttack, "linf": attacks.LinfDeepFoolAttack}[norm]
    return _ready(attack(steps=steps, overshoot=overshoot), model, x, y, None, **where)


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
    **where: Any,
) -> Attack:
    """Carlini and Wagner's attack, without stopping early."""
    attack = attacks.L2CarliniWagnerAttack(
        binary_search_steps=searches,
        steps=steps,
        stepsize=step,
        confidence=confidence,
        initial_const=weight,
        abort_early=False,
    )
    return _ready(attack, model, x, y, None, **where)


def virtual_adversarial(model: Any, x: Any, y: Any, *, eps: float, iterations: int, xi: float, **where: Any) -> Attack:
    """Virtual adversarial examples by one-sided differences."""
    return _ready(attacks.VirtualAdversarialAttack(steps=iterations, xi=xi), model, x, y, eps, **where)


ATTACKS: dict[str, Callable[..., Attack]] = {
    attack.__name__: attack for attack in (fgsm, pgd, steepest_ascent, linearized, carlini_wagner, virtual_adversarial)
}
TASKS = {"attack": victims.task(ATTACKS, victims.torch_victim)}
