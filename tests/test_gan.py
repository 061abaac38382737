"""The game: its two losses by their formulas, who receives whose gradient, and that playing it moves noise onto data."""

import signal

import numpy as np
import pytest

from npadv import grad
from npadv.data import Split
from npadv.gan import GAN, Players, discriminator_loss, generator_loss, play
from npadv.nn import BatchNorm, Dense, Dropout, Flatten, LeakyReLU, Module, Reshape, Sequential, Sigmoid, Tanh
from npadv.optim import SGD, Adam

MEAN = np.array([0.3, 0.7])


def two_pixels(n):
    images = np.random.default_rng(5).normal(MEAN, 0.05, (n, 1, 1, 2)).clip(0, 1).astype(np.float32)
    return Split(images, np.zeros(n, np.int64))


class Alarm(Module):
    """Ctrl-C in the given training pass, if any."""

    def __init__(self, at=None):
        self.at, self.passes = at, 0

    def forward(self, x, *, train, rng):
        self.passes += train
        if train and self.passes == self.at:
            signal.raise_signal(signal.SIGINT)
        return x


def tiny(seed=0, alarm=None):
    rng = np.random.default_rng(seed)
    generator = Sequential(
        Dense(3, 8, rng=rng), BatchNorm(8), Tanh(), Dense(8, 2, rng=rng), Sigmoid(), Reshape(1, 1, 2), Alarm(alarm)
    )
    discriminator = Sequential(Flatten(), Dense(2, 16, rng=rng), LeakyReLU(0.2), Dropout(0.2), Dense(16, 1, rng=rng))
    return GAN(generator, discriminator, latent=3)


def adams(gan):
    """The discriminator learns ten times as fast: it sees where the samples are before they move on."""
    return Players(
        generator=Adam(gan.generator.parameters(), 0.003, betas=(0.5, 0.99)),
        discriminator=Adam(gan.discriminator.parameters(), 0.03, betas=(0.5, 0.99)),
    )


class Fixed(Module):
    """A discriminator with the logit w . x + b, or a generator that only reshapes."""

    def __init__(self, w, b):
        self.w, self.b = np.asarray(w, np.float64).reshape(-1, 1), b

    def forward(self, x, *, train, rng):
        return x @ self.w + self.b


def fixed_game(b):
    rng = np.random.default_rng(1)
    return GAN(Dense(3, 2, rng=rng).astype(np.float64), Fixed([2.0, -1.0], b), latent=3)


def softplus(x):
    return np.log1p(np.exp(x))


# Losses ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("b", [-2.0, 0.5])
def test_the_losses_are_their_formulas(b):
    gan, x = fixed_game(b), np.random.default_rng(2).random((6, 2))
    noise = np.random.default_rng(3).standard_normal((6, 3))
    real = x @ gan.discriminator.w + b
    fake = (noise @ gan.generator.weight.data + gan.generator.bias.data) @ gan.discriminator.w + b
    probability = 1 / (1 + np.exp(-fake))
    d_loss = discriminator_loss(gan, x, rng=np.random.default_rng(3)).item()
    assert d_loss == pytest.approx(softplus(-real).mean() - np.log(1 - probability).mean(), rel=1e-13)
    saturating, other = (
        generator_loss(gan, 6, rng=np.random.default_rng(3), kind=kind).item() for kind in ("minimax", "non_saturating")
    )
    assert saturating == pytest.approx(np.log(1 - probability).mean(), rel=1e-13)
    assert other == pytest.approx(-np.log(probability).mean(), rel=1e-13)


@pytest.mark.parametrize("b", [-30.0, -3.0, 0.0, 3.0])
def test_the_minimax_gradient_vanishes_where_the_discriminator_wins_and_the_other_does_not(b):
    """Each example hands D(G(z)) times the logit's gradient on in one, 1 - D(G(z)) times in the other."""
    gan = fixed_game(b)
    gan.generator.weight.assign(np.zeros((3, 2)))  # every image is the same
    probability = 1 / (1 + np.exp(-b))
    bias = gan.generator.bias
    minimax, other = (
        grad(generator_loss(gan, 4, rng=np.random.default_rng(0), kind=kind), bias)
        for kind in ("minimax", "non_saturating")
    )
    np.testing.assert_allclose(minimax, -probability * gan.discriminator.w[:, 0], rtol=1e-12)
    np.testing.assert_allclose(other, -(1 - probability) * gan.discriminator.w[:, 0], rtol=1e-12)
    if b == -30:
        assert np.abs(minimax).max() < 1e-12 < 1 < np.abs(other).max()


def test_the_discriminators_loss_sends_nothing_to_the_generator():
    gan = tiny()
    loss = discriminator_loss(gan, two_pixels(8).images, rng=np.random.default_rng(0))
    for g in grad(loss, gan.generator.parameters(), unused="zeros"):
        np.testing.assert_array_equal(g, 0)
    assert all(np.abs(g).max() > 0 for g in grad(loss, gan.discriminator.parameters()))


def test_each_player_moves_its_own_network_alone():
    for idle, moving in (("generator", "discriminator"), ("discriminator", "generator")):
        gan = tiny()
        step_sizes = {idle: 0.0, moving: 0.1}
        networks = {"generator": gan.generator, "discriminator": gan.discriminator}
        before = {name: [p.data.copy() for p in net.parameters()] for name, net in networks.items()}
        players = Players(**{name: SGD(net.parameters(), step_sizes[name]) for name, net in networks.items()})
        play(gan, two_pixels(8), players=players, rng=np.random.default_rng(0), epochs=1, batch_size=4)
        moved = {
            name: any((p.data != old).any() for p, old in zip(net.parameters(), before[name], strict=True))
            for name, net in networks.items()
        }
        assert moved == {idle: False, moving: True}


# The network of networks ----------------------------------------------------------------------------------------------


def test_samples_are_decided_by_the_generator_of_random_numbers_and_leave_no_trace():
    gan = tiny()
    state = gan.state()
    first, same, other = (gan.sample(5, rng=np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.shape == (5, 1, 1, 2)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    np.testing.assert_equal(gan.state(), state)


def test_it_is_one_module_with_both_networks_in_it(tmp_path):
    gan, other = tiny(0), tiny(1)
    assert {name.partition(".")[0] for name, _ in gan.named_parameters()} == {"generator", "discriminator"}
    gan.save(tmp_path / "gan.npz")
    np.testing.assert_equal(other.load(tmp_path / "gan.npz").state(), gan.state())
    assert gan(two_pixels(3).images).shape == (3, 1)


# Play -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["non_saturating", "minimax"])
def test_playing_moves_the_samples_onto_the_data(kind):
    gan = tiny()

    def distance():
        return np.abs(gan.sample(1000, rng=np.random.default_rng(9)).mean(axis=(0, 1, 2)) - MEAN).max()

    before = distance()
    history = play(
        gan, two_pixels(400), players=adams(gan), rng=np.random.default_rng(0), kind=kind, epochs=100, batch_size=50
    )
    assert distance() < 0.05 < 0.15 < before
    assert abs(history[-1]["train_loss"] - 2 * np.log(2)) < 0.1  # J_D at the fixed point, where D can only guess


def test_the_discriminator_takes_its_steps_for_each_of_the_generators():
    gan = tiny()
    players = adams(gan)
    play(
        gan,
        two_pixels(12),
        players=players,
        rng=np.random.default_rng(0),
        discriminator_steps=3,
        epochs=2,
        batch_size=4,
    )
    assert (players.discriminator.updates, players.generator.updates) == (18, 6)
    assert players.epoch == players.generator.epoch == players.discriminator.epoch == 2


def game(path, *, resume=False, alarm=None):
    gan, rng = tiny(alarm=alarm), np.random.default_rng(7)
    players = adams(gan)
    history = play(
        gan, two_pixels(11), players=players, rng=rng, epochs=2, batch_size=4, checkpoint=path, resume=resume
    )
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in history]
    return rows, gan.state(), players.state(), rng.bit_generator.state


def test_a_game_stopped_at_any_pass_and_resumed_is_the_same_to_the_bit(tmp_path):
    expected = game(tmp_path / "whole.npz")
    for alarm in range(1, 13):  # two passes of the generator a step, three steps an epoch
        path = tmp_path / f"{alarm}.npz"
        with pytest.raises(KeyboardInterrupt):
            game(path, alarm=alarm)
        np.testing.assert_equal(game(path, resume=True), expected)


def test_bad_settings_are_named():
    gan = tiny()
    options = {"players": adams(gan), "rng": np.random.default_rng(0), "epochs": 1}
    with pytest.raises(ValueError, match="kind: expected one of non_saturating, minimax, got 'wasserstein'"):
        play(gan, two_pixels(4), kind="wasserstein", **options)
    with pytest.raises(ValueError, match="kind: expected one of non_saturating, minimax, got 'max'"):
        generator_loss(gan, 4, rng=np.random.default_rng(0), kind="max")
    with pytest.raises(ValueError, match="discriminator_steps: expected at least 1, got 0"):
        play(gan, two_pixels(4), discriminator_steps=0, **options)
