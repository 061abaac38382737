"""Games between two networks, one file per game."""

from npadv.gan.gan import GAN, Players, discriminator_loss, generator_loss, play

__all__ = ["GAN", "Players", "discriminator_loss", "generator_loss", "play"]
