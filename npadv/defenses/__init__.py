"""Defenses, one file each. A defense is a loss for ``fit``, or a function that returns a trained model."""

from npadv.defenses.adversarial_training import adversarial_training

__all__ = ["adversarial_training"]
