"""CONTRIBUTING.md is true: its examples run and do what they say, and its paths, floors and commands exist."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from kernel_cases import needs_compiler

from npadv import Tensor, grad, nn
from npadv.data import Split
from npadv.functional import cross_entropy
from npadv.gan import GAN, Players
from npadv.optim import SGD
from npadv.testing import check_grads
from npadv.train import fit

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
EXAMPLES = dict(re.findall(r"<!-- (\w+) -->\n```python\n(.*?)```", TEXT, re.DOTALL))


def names_in(example):
    """Run an example and return the names that it defines."""
    names = {}
    exec(EXAMPLES[example], names)
    return names


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_there_is_an_example_for_each_kind_of_addition():
    assert list(EXAMPLES) == ["operation", "attack", "defense", "game", "kernel"]
    assert TEXT.count("```python") == len(EXAMPLES)
    assert TEXT.count("While writing: ") == len(EXAMPLES)


def test_the_operation_has_a_right_rule():
    check_grads(names_in("operation")["softsign"], [np.array([0.5, -2.0])])


def test_the_attack_stays_within_its_radius_and_the_box(rng):
    x = rng.random((4, 6)).astype(np.float32)
    result = names_in("attack")["random_signs"](nn.Dense(6, 3, rng=rng), x, eps=0.25, rng=rng)
    assert result.x_adv.dtype == np.float32
    assert result.distance.max() <= np.float32(0.25)
    assert 0 <= result.x_adv.min() <= result.x_adv.max() <= 1
    assert (np.abs(result.x_adv - x) > 0.2).any()


def test_the_defense_trains_on_noisy_images(rng):
    model, x, y = nn.Dense(6, 3, rng=rng), rng.random((4, 6)).astype(np.float32), np.array([0, 1, 2, 0])
    loss = names_in("defense")["noise_training"](0.1)(model, x, y, rng=np.random.default_rng(1))
    noise = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    assert loss.item() == pytest.approx(cross_entropy(model(x + np.float32(0.1) * noise), y).item(), rel=1e-6)
    assert loss.dtype == np.float32


@pytest.fixture
def two_pixel_game(rng):
    generator = nn.Sequential(nn.Dense(2, 2, rng=rng), nn.Reshape(1, 1, 2))
    gan = GAN(generator, nn.Sequential(nn.Flatten(), nn.Dense(2, 1, rng=rng)), latent=2)
    optimizers = {name: SGD(getattr(gan, name).parameters(), 0.01) for name in ("generator", "discriminator")}
    return gan, Players(**optimizers)


def test_the_critic_scores_real_images_higher(two_pixel_game, rng):
    gan, _ = two_pixel_game
    x = rng.random((2, 1, 1, 2)).astype(np.float32)
    loss = names_in("game")["critic_loss"](gan, x, rng=np.random.default_rng(1))
    fake = gan.generator(gan.noise(2, np.random.default_rng(1)))
    expected = gan.discriminator(fake).data.mean() - gan.discriminator(x).data.mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_game_can_be_played(two_pixel_game, rng):
    gan, players = two_pixel_game
    game, data = names_in("game"), Split(rng.random((8, 1, 1, 2)).astype(np.float32), np.zeros(8, np.int64))
    options = {"optimizer": players, "update": game["update"], "epochs": 2, "batch_size": 4, "progress": False}
    before = [p.data.copy() for p in gan.parameters()]
    history = fit(gan, game["critic_loss"], data, rng=rng, **options)
    assert len(history) == 2
    assert all((p.data != b).any() for p, b in zip(gan.generator.parameters(), before, strict=False))


def test_the_critics_loss_leaves_the_generator_alone(two_pixel_game, rng):
    gan, _ = two_pixel_game
    x = rng.random((2, 1, 1, 2)).astype(np.float32)
    loss = names_in("game")["critic_loss"](gan, x, rng=rng)
    with pytest.raises(ValueError, match="depend"):
        grad(loss, gan.generator.parameters())
    assert isinstance(loss, Tensor)


@needs_compiler
def test_the_kernel_runs(monkeypatch):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    names_in("kernel")  # which ends with an assertion


# Paths and floors ---------------------------------------------------------------------------------------------------------


def test_every_path_exists():
    paths = re.findall(r"`?((?:npadv|tests|kernels|benchmarks|\.ci)/[\w./*-]*)`?", TEXT)
    missing = [path for path in paths if "NAME" not in path and path != "npadv/kernels" and not any(ROOT.glob(path))]
    assert paths
    assert missing == []


def test_every_test_to_run_while_writing_exists():
    commands = re.findall(r"pytest (tests/\w+\.py) -k \"?(\w+)", TEXT)
    assert len(commands) == 5
    for path, word in commands:
        if word not in ("softsign", "random"):  # these stand for the reader's own entry
            assert re.search(rf"def test_\w*{word}", (ROOT / path).read_text("utf-8")), (path, word)


def test_the_house_has_the_floors_that_import_linter_checks():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    checked = [name for floor in contracts[0]["layers"] for name in floor.replace("|", " ").split()]
    house = TEXT.partition("## The house")[2].partition("\n\nBeside")[0]
    drawn = [
        name.strip("/").removesuffix(".py")
        for line in house.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+(?:\.py|/))`", line.split("|")[1])
    ]
    assert sorted(drawn) == sorted(set(checked) - {"__main__"})
