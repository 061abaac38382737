"""Attacks: functions that perturb examples so that a model misclassifies them. One file per attack.

    result = pgd(model, x, y, eps=0.1)
    result.x_adv, result.success.mean()

An attack is one function with keyword-only options. It returns an ``AttackResult``. It never changes ``x``, and the result
for an example does not depend on the rest of its batch. These descriptions hold for every attack unless its own differ:

Parameters
----------
model : callable
    Maps a batch (N, ...) to logits (N, K), computed by npadv's operations, so that the tape records it.
x : (N, ...) array
    The examples, within ``bounds``: floating point, on the CPU or a GPU.
y : (N,) integers, optional
    The true classes; with ``targeted`` the classes to reach. By default the model's own predictions, so that no label leaks.
targeted : bool
    Reach the classes y instead of leaving them.
bounds : (low, high)
    The box: the least and the largest value of a pixel; (-inf, inf) for none.

Returns
-------
AttackResult
    ``x_adv`` and, for each example, ``success``, ``distance``, ``queries``, ``prediction`` and ``flags``.

Raises
------
ValueError
    An argument is not as described. The message names the argument, its value and what was expected.
"""

from npadv.attacks.carlini_wagner import carlini_wagner
from npadv.attacks.deepfool import deepfool
from npadv.attacks.docstrings import complete_docstring
from npadv.attacks.feature import FeatureResult, feature
from npadv.attacks.fgsm import fgsm
from npadv.attacks.jsma import JSMAResult, jsma
from npadv.attacks.lbfgs import LBFGSResult, lbfgs
from npadv.attacks.linearized import LinearizedResult, linearized
from npadv.attacks.one_pixel import one_pixel
from npadv.attacks.pgd import pgd
from npadv.attacks.result import AttackResult, LossResult
from npadv.attacks.rubbish import RubbishResult, confident_errors, gaussian_rubbish
from npadv.attacks.rubbish_evolution import EvolutionInterrupted, evolved_rubbish
from npadv.attacks.rubbish_gradient import gradient_rubbish
from npadv.attacks.steepest_ascent import steepest_ascent
from npadv.attacks.substitute import SubstituteResult, substitute
from npadv.attacks.tangent import TangentResult, tangent
from npadv.attacks.transfer import transfer_attack
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
    "deepfool",
    "evolved_rubbish",
    "feature",
    "fgsm",
    "gaussian_rubbish",
    "gradient_rubbish",
    "jsma",
    "lbfgs",
    "linearized",
    "one_pixel",
    "pgd",
    "steepest_ascent",
    "substitute",
    "tangent",
    "transfer_attack",
    "virtual_adversarial",
]

for _name in __all__:
    complete_docstring(globals()[_name], __doc__)
