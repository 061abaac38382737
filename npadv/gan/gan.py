"""Generative adversarial networks, minimal: two losses and the order of their updates (Goodfellow et al. 2014).

A generator G turns noise z into images. A discriminator D(x) is the probability that image x is real, given as a logit. D
minimises

    J_D = -E_x log D(x) - E_z log(1 - D(G(z)))                             eq. 1, as a loss

and G either maximises J_D (*minimax*: J_G = -J_D, whose gradient vanishes while D wins) or minimises

    J_G = -E_z log D(G(z))                                                 *non-saturating*

which has the same fixed point, and large gradients while D wins. With logits l, -log sigmoid(l) = softplus(-l), so that
``binary_cross_entropy`` computes both terms without overflow.

``play`` is ``fit`` with another step for each batch: k updates of D, then one of G. It measures no quality of the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from npadv.autodiff import Tensor, grad, no_record, value_of
from npadv.backend import like, to_numpy
from npadv.data.dataset import Split
from npadv.functional import binary_cross_entropy
from npadv.nn.module import Module
from npadv.ops import winograd
from npadv.optim import Optimizer
from npadv.train import fit

GENERATOR_LOSSES = ("non_saturating", "minimax")


class GAN(Module):
    """A generator, a discriminator, and the noise between them.

    Parameters
    ----------
    generator : Module
        (N, latent) to images.
    discriminator : Module
        Images to logits (N, 1): positive means real.
    latent : int
        Dimension of the noise, standard normal.
    """

    def __init__(self, generator: Module, discriminator: Module, latent: int) -> None:
        self.generator, self.discriminator, self.latent = generator, discriminator, latent

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the discriminator's logits."""
        return self.discriminator(x, train=train, rng=rng)

    def noise(self, n: int, rng: np.random.Generator) -> Any:
        """Draw n points of noise, on the device and in the precision of the generator."""
        reference = self.generator.parameters()[0].data
        return like(rng.standard_normal((n, self.latent)).astype(reference.dtype), reference)

    def sample(self, n: int, *, rng: np.random.Generator) -> np.ndarray:
        """Return n generated images, on the host."""
        with no_record():
            return to_numpy(value_of(self.generator(self.noise(n, rng))))


def discriminator_loss(gan: GAN, x: Any, *, rng: np.random.Generator) -> Tensor:
    """Return J_D on a batch of real images and as many generated ones; no gradient flows to the generator."""
    with no_record():
        fake = value_of(gan.generator(gan.noise(len(x), rng), train=True, rng=rng))
    real_loss = binary_cross_entropy(gan.discriminator(x, train=True, rng=rng), 1.0)
    fake_loss = binary_cross_entropy(gan.discriminator(fake, train=True, rng=rng), 0.0)
    total: Tensor = real_loss + fake_loss
    return total


def generator_loss(gan: GAN, n: int, *, rng: np.random.Generator, kind: str = "non_saturating") -> Tensor:
    """Return J_G on n generated images. For ``"minimax"``, the first term of J_D is left out: it does not depend on G."""
    if kind not in GENERATOR_LOSSES:
        raise ValueError(f"kind: expected one of {', '.join(GENERATOR_LOSSES)}, got {kind!r}")
    logits = gan.discriminator(gan.generator(gan.noise(n, rng), train=True, rng=rng), train=True, rng=rng)
    loss: Tensor = binary_cross_entropy(logits, 1.0) if kind == "non_saturating" else -binary_cross_entropy(logits, 0.0)
    return loss


class Players:
    """The two optimizers of a game, with one state for checkpoints of ``fit``."""

    def __init__(self, *, generator: Optimizer, discriminator: Optimizer) -> None:
        self.generator, self.discriminator = generator, discriminator

    @property
    def epoch(self) -> int:
        """Whole epochs finished."""
        return self.generator.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.generator.epoch = self.discriminator.epoch = epoch

    def state(self) -> dict[str, np.ndarray]:
        """Return both states."""
        return {
            f"{player}/{name}": a for player, optimizer in vars(self).items() for name, a in optimizer.state().items()
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore both states."""
        for player, optimizer in vars(self).items():
            prefix = f"{player}/"
            optimizer.load_state({k.removeprefix(prefix): a for k, a in state.items() if k.startswith(prefix)})


def play(
    gan: GAN,
    data: Split,
    *,
    players: Players,
    rng: np.random.Generator,
    kind: str = "non_saturating",
    discriminator_steps: int = 1,
    callbacks: Sequence[Any] = (),
    **fit_options: Any,
) -> list[dict[str, Any]]:
    """Train both networks against each other; return the history, whose ``train_loss`` is J_D.

    For each batch of real images, D takes ``discriminator_steps`` steps and G takes one (Algorithm 1). Images lie in [0, 1],
    so the generator should end with a Sigmoid. Further options (``epochs``, ``batch_size``, ``checkpoint``, ...) are those of
    ``fit``.

    >>> from npadv import nn, optim
    >>> rng = np.random.default_rng(0)
    >>> generator = nn.Sequential(nn.Dense(3, 4, rng=rng), nn.Sigmoid(), nn.Reshape(1, 2, 2))
    >>> discriminator = nn.Sequential(nn.Flatten(), nn.Dense(4, 1, rng=rng))
    >>> game = GAN(generator, discriminator, latent=3)
    >>> players = Players(
    ...     generator=optim.Adam(generator.parameters()), discriminator=optim.Adam(discriminator.parameters())
    ... )
    >>> images = Split(np.ones((8, 1, 2, 2), np.float32), np.zeros(8, int))
    >>> [row["epoch"] for row in play(game, images, players=players, rng=rng, epochs=2, batch_size=4)]
    [1, 2]
    >>> game.sample(5, rng=rng).shape
    (5, 1, 2, 2)
    """
    if kind not in GENERATOR_LOSSES:
        raise ValueError(f"kind: expected one of {', '.join(GENERATOR_LOSSES)}, got {kind!r}")
    if discriminator_steps < 1:
        raise ValueError(f"discriminator_steps: expected at least 1, got {discriminator_steps}")

    def update(gan: Any, loss: Any, players: Players, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
        with winograd():
            for _ in range(discriminator_steps):
                d_loss = discriminator_loss(gan, x, rng=rng)
                players.discriminator.step(grad(d_loss, players.discriminator.parameters))
            g_loss = generator_loss(gan, len(x), rng=rng, kind=kind)
            players.generator.step(grad(g_loss, players.generator.parameters))
        return d_loss.data

    return fit(
        gan, discriminator_loss, data, optimizer=players, rng=rng, callbacks=callbacks, update=update, **fit_options
    )
