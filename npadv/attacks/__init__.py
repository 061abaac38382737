"""One file per attack; each takes any callable model and returns an ``AttackResult``."""

from npadv.attacks.carlini_wagner import carlini_wagner
from npadv.attacks.feature import FeatureResult, feature
from npadv.attacks.fgsm import fgsm
from npadv.attacks.jsma import JSMAResult, jsma
from npadv.attacks.lbfgs import LBFGSResult, lbfgs
from npadv.attacks.linearized import LinearizedResult, linearized
from npadv.attacks.pgd import pgd
from npadv.attacks.result import AttackResult, LossResult
from npadv.attacks.rubbish import RubbishResult, confident_errors, gaussian_rubbish
from npadv.attacks.rubbish_evolution import EvolutionInterrupted, evolved_rubbish
from npadv.attacks.rubbish_gradient import gradient_rubbish
from npadv.attacks.steepest_ascent import steepest_ascent
from npadv.attacks.substitute import SubstituteResult, substitute, transfer_attack
from npadv.attacks.tangent import TangentResult, tangent
from npadv.attacks.virtual_adversarial import VirtualResult, virtual_adversarial

__all__ = [
    "AttackResult",
    "EvolutionInterrupted",
    "FeatureResult",
    "JSMAResult",
    "LBFGSResult",
    "LinearizedResult",
    "LossResult",
    "RubbishResult",
    "SubstituteResult",
    "TangentResult",
    "VirtualResult",
    "carlini_wagner",
    "confident_errors",
    "evolved_rubbish",
    "feature",
    "fgsm",
    "gaussian_rubbish",
    "gradient_rubbish",
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
