"""One file per defense; each is a loss for ``fit``, or a recipe that returns a trained model."""

from npadv.defenses.adversarial_training import adversarial_training

__all__ = ["adversarial_training"]
