"""One file per attack; each takes any callable model and returns an ``AttackResult``."""

from npadv.attacks.carlini_wagner import carlini_wagner
from npadv.attacks.fgsm import fgsm
from npadv.attacks.jsma import JSMAResult, jsma
from npadv.attacks.lbfgs import LBFGSResult, lbfgs
from npadv.attacks.linearized import LinearizedResult, linearized
from npadv.attacks.pgd import pgd
from npadv.attacks.result import AttackResult, LossResult
from npadv.attacks.steepest_ascent import steepest_ascent
from npadv.attacks.substitute import SubstituteResult, substitute, transfer_attack
from npadv.attacks.tangent import TangentResult, tangent
from npadv.attacks.virtual_adversarial import VirtualResult, virtual_adversarial

__all__ = [
    "AttackResult",
    "JSMAResult",
    "LBFGSResult",
    "LinearizedResult",
    "LossResult",
    "SubstituteResult",
    "TangentResult",
    "VirtualResult",
    "carlini_wagner",
    "fgsm",
    "jsma",
    "lbfgs",
    "linearized",
    "pgd",
    "steepest_ascent",
    "substitute",
    "tangent",
    "transfer_attack",
    "virtual_adversarial",
]
