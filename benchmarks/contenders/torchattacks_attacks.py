"""torchattacks' attacks on a PyTorch model, with npadv's names and settings. Pixels are in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
import torchattacks

from benchmarks.contenders import victims

Attack = Callable[[], torch.Tensor]


def start(*, threads: int) -> dict[str, str]:
    """Set the number of threads; return the versions."""
    torch.set_num_threads(threads)
    return {"torchattacks": version("torchattacks"), "torch": torch.__version__}


def _ready(attack: Any, x: Any, y: Any, *, targeted: bool = False) -> Attack:
    if targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    return lambda: attack(x, y).detach()


def fgsm(model: Any, x: Any, y: Any, *, eps: float, targeted: bool = False) -> Attack:
    """One step."""
    return _ready(torchattacks.FGSM(model, eps=eps), x, y, targeted=targeted)


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
) -> Attack:
    """Projected gradient descent, in linf or l2."""
    if momentum:
        attack = torchattacks.MIFGSM(model, eps=eps, alpha=step, steps=steps, decay=momentum)
    else:
        kind = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
        attack = kind(model, eps=eps, alpha=step, steps=steps, random_start=random_start)
    return _ready(attack, x, y, targeted=targeted)


def linearized(model: Any, x: Any, y: Any, *, norm: str, steps: int, overshoot: float = 0.02) -> Attack:
    """DeepFool in l2, one image after another."""
    if norm != "l2":
        raise NotImplementedError(f"torchattacks has DeepFool in l2 only, not in {norm}")
    return _ready(torchattacks.DeepFool(model, steps=steps, overshoot=overshoot), x, y)


def carlini_wagner(
    model: Any,
    x: Any,
    y: Any,
    *,
    weight: float = 1.0,
    searches: int = 1,
    steps: int,
    step: float,
    confidence: float = 0.0,
    targeted: bool = False,
) -> Attack:
    """Carlini and Wagner's attack with a fixed c, since torchattacks does not search for it."""
    return _ready(torchattacks.CW(model, c=weight, kappa=confidence, steps=steps, lr=step), x, y, targeted=targeted)


def jsma(model: Any, x: Any, y: Any, *, theta: float, pixels: int, targeted: bool = True) -> Attack:
    """Apply the saliency map to pairs of pixels, one image after another. Each pixel changes at most once."""
    # The attack changes its input, so it gets a copy.
    attack = torchattacks.JSMA(model, theta=theta, gamma=pixels / x[0].size)
    attack.set_mode_targeted_by_label(quiet=True)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    return lambda: attack(x.clone(), y).detach()


ATTACKS: dict[str, Callable[..., Attack]] = {
    attack.__name__: attack for attack in (fgsm, pgd, linearized, carlini_wagner, jsma)
}
TASKS = {"attack": victims.task(ATTACKS, victims.torch_victim)}
