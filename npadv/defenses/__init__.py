"""Defenses, one file each. A defense is a loss for ``fit``, or a function that returns a trained model."""

from npadv.defenses.adversarial_training import adversarial_training
from npadv.defenses.distillation import at_temperature, defensive_distillation, distillation
from npadv.defenses.input_noise import input_noise
from npadv.defenses.label_smoothing import label_smoothing
from npadv.defenses.robust_optimization import robust_optimization
from npadv.defenses.virtual_adversarial_training import virtual_adversarial_training
from npadv.defenses.weight_decay import weight_decay

__all__ = [
    "adversarial_training",
    "at_temperature",
    "defensive_distillation",
    "distillation",
    "input_noise",
    "label_smoothing",
    "robust_optimization",
    "virtual_adversarial_training",
    "weight_decay",
]
