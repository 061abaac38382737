"""One file per attack; each takes any callable model and returns an ``AttackResult``."""

from npadv.attacks.fgsm import fgsm
from npadv.attacks.lbfgs import LBFGSResult, lbfgs
from npadv.attacks.pgd import pgd
from npadv.attacks.result import AttackResult

__all__ = ["AttackResult", "LBFGSResult", "fgsm", "lbfgs", "pgd"]
