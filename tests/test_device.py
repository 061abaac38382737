"""The swap: the same code on device arrays, through a stand-in for CuPy that refuses to mix host and device."""

import importlib.util
import re
import shutil
import subprocess
import sys

import fake_cupy
import numpy as np
import pytest

from npadv import Tensor, grad, nn, ops
from npadv.attacks import (
    carlini_wagner,
    confident_errors,
    evolved_rubbish,
    feature,
    fgsm,
    gaussian_rubbish,
    gradient_rubbish,
    jsma,
    lbfgs,
    linearized,
    pgd,
    steepest_ascent,
    substitute,
    tangent,
    transfer_attack,
    virtual_adversarial,
)
from npadv.attacks.result import predict
from npadv.backend import to_numpy
from npadv.capture import CapturedStep
from npadv.cli import main
from npadv.data import Split
from npadv.defenses import adversarial_training
from npadv.fast import ENABLED
from npadv.functional import cross_entropy, kl_divergence
from npadv.gan import GAN, Players, play
from npadv.norms import NORMS, norm, project, steepest_ascent_direction
from npadv.optim import SGD, Adam
from npadv.train import classification_loss, evaluate, fit, gradient_update

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="g++, which runs the kernels here, is not installed"
)


needs_fast = pytest.mark.skipif(not ENABLED, reason="NPADV_FAST=off: kernels are fast versions")


@pytest.fixture
def counts():
    with fake_cupy.installed() as counts:
        yield counts


@pytest.fixture
def split(rng):
    images = rng.random((24, 1, 8, 8), np.float32)
    return Split(images, (images[:, 0, :4].mean(axis=(1, 2)) > images[:, 0, 4:].mean(axis=(1, 2))).astype(np.int64))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def convnet():
    rng = np.random.default_rng(1)
    return nn.Sequential(
        nn.Standardize(0.5, 0.3),
        nn.Conv2D(1, 4, 3, padding=1, rng=rng),
        nn.BatchNorm(4),
        nn.ReLU(),
        nn.MaxPool2D(2),
        nn.MaxoutConv2D(4, 3, 2, 3, rng=rng),
        nn.AvgPool2D(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Maxout(3, 6, 2, rng=rng, max_norm=1.5),
        nn.Dense(6, 2, rng=rng),
    ).astype(np.float64)


def on(device, x):
    return sys.modules["cupy"].asarray(x) if device == "cuda" else x


def both(run):
    """What a run gives on the host and on the device, brought back."""
    return run("cpu"), run("cuda")


@pytest.mark.parametrize("loss", [classification_loss, adversarial_training(0.1), adversarial_training(0.5, norm="l2")])
@pytest.mark.parametrize("rule", [lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=1e-3), lambda p: Adam(p, 0.01)])
def test_training_on_the_device_is_training(counts, split, loss, rule):
    def run(device):
        model = convnet().to(device)
        options = {"epochs": 2, "batch_size": 10, "rng": np.random.default_rng(2), "validation": split}
        history = fit(model, loss, split, optimizer=rule(model.parameters()), **options)
        return history, model.state(), evaluate(model, split)

    (history, weights, score), (device_history, device_weights, device_score) = both(run)
    for name, tensor in weights.items():
        # The images are float32, and so is the direction of a step in l2, whose squares the kernel adds in an order of its own.
        np.testing.assert_allclose(device_weights[name], tensor, rtol=1e-6, atol=1e-6)
    assert device_score.error == score.error
    assert device_score.loss == pytest.approx(score.loss, rel=1e-6)
    assert [row["train_loss"] for row in device_history] == pytest.approx([row["train_loss"] for row in history])
    assert (counts["launches"] > 0) == ENABLED  # the plain versions launch no kernel of npadv


@needs_fast
def test_a_layer_with_a_kernel_is_computed_by_it(counts, split):
    model = convnet().to("cuda")
    fit(
        model,
        classification_loss,
        split,
        optimizer=SGD(model.parameters(), 0.1),
        epochs=1,
        rng=np.random.default_rng(0),
    )
    launched = {kernel for kernel, *_ in fake_cupy.LAUNCHES}
    forward = {"conv2d_forward", "max_pool_forward", "maxout_forward", "cross_entropy_forward"}
    backward = {"conv2d_weight_grad", "max_pool_backward", "maxout_backward", "cross_entropy_backward"}
    assert {re.sub("_parts$", "", kernel) for kernel in launched} >= forward | backward | {"max_norm_columns"}


@needs_fast
def test_the_step_of_the_gpu_benchmark_is_captured_in_two_hundred_launches(counts, rng):
    """[SYN]'s convnet in adversarial training, with padding and a cropped convolution."""
    images, labels = rng.random((2, 1, 28, 28), np.float32), rng.integers(0, 10, 2)

    def run(device):
        model = nn.network("syn_convnet", rng=np.random.default_rng(0)).to(device)
        optimizer, loss = SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-3), adversarial_training(0.1)

        def step(x, y):
            return gradient_update(model, loss, optimizer, x, y, rng=rng)  # rng is not used

        x, y = on(device, images), on(device, labels)
        taken = step if device == "cpu" else CapturedStep(step, x)
        return [float(to_numpy(taken(x, y))) for _ in range(4)], taken

    (host, _), (device, captured) = both(run)
    np.testing.assert_allclose(device, host, rtol=1e-5)
    (record,) = captured.records.values()
    assert len(record.graph.actions) < 200


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "operation",
    [
        lambda x: ops.maxout(x, pieces=2, axis=1),
        lambda x: ops.max_pool2d(x, 2, stride=1, padding=1, ceil_mode=True),
        lambda x: cross_entropy(x.reshape(4, -1), np.array([0, 1, 2, 5], np.uint8), reduction="none"),
    ],
)
def test_first_and_second_derivatives_on_the_device_are_those_of_the_host_in_every_dtype(counts, rng, operation, dtype):
    x, weights = rng.integers(-3, 4, (2, 4, 5, 3)).astype(dtype), rng.random((2, 4, 5, 3)).astype(dtype)

    def run(device):
        leaf, w = Tensor(on(device, x), requires_grad=True), on(device, weights)
        y = operation(leaf)
        (g,) = grad(ops.sum(y * y), [leaf], create_graph=True)
        return [to_numpy(a) for a in (y.data, g.data, grad(ops.sum(g * w), leaf))]

    host, device = both(run)
    for a, b in zip(host, device, strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(b, a, rtol=100 * np.finfo(dtype).eps, atol=100 * np.finfo(dtype).eps)


def test_attacks_on_the_device_are_the_attacks(counts, split):
    def run(device):
        model, x, y = convnet().to(device), on(device, split.images.astype(np.float64)), on(device, split.labels)
        results = [fgsm(model, x, y, eps=0.1), fgsm(model, x, y, eps=0.1, targeted=True), fgsm(model, x, eps=0.1)]
        results.append(lbfgs(model, x[:2], y[:2], searches=3, max_iterations=5))
        assert all(type(result.x_adv) is type(x) for result in results)
        return [
            to_numpy(value) for r in results for value in (r.x_adv, r.success, r.distance, r.queries, *r.flags.values())
        ]

    for host, device in zip(*both(run), strict=True):
        np.testing.assert_allclose(device, host, rtol=1e-6, atol=1e-8)
    assert (counts["launches"] > 0) == ENABLED  # the plain versions launch no kernel of npadv


ON_DEVICE = {
    "fgsm loss": lambda model, x, y: fgsm(model, x, x, eps=0.1, loss=lambda output, x: (output * output).sum(axis=1)),
    **{f"pgd {k}": lambda model, x, y, k=k: pgd(model, x, y, eps=0.3, steps=3, norm=k, momentum=0.5) for k in NORMS},
    "pgd restarts": lambda model, x, y: pgd(
        model, x, y, eps=0.1, steps=2, random_start=True, restarts=2, rng=np.random.default_rng(0)
    ),
    **{f"steepest {k}": lambda model, x, y, k=k: steepest_ascent(model, x, y, eps=0.3, norm=k) for k in NORMS},
    "one pixel": lambda model, x, y: steepest_ascent(model, x, y, eps=0.3, norm="l1", pixels=1),
    **{f"linearized {k}": lambda model, x, y, k=k: linearized(model, x, y, norm=k, steps=3) for k in NORMS},
    "virtual": lambda model, x, y: virtual_adversarial(model, x, eps=0.3, iterations=2, rng=np.random.default_rng(0)),
    "virtual xi": lambda model, x, y: virtual_adversarial(
        model, x, eps=0.3, iterations=1, xi=1e-4, rng=np.random.default_rng(0)
    ),
    "jsma": lambda model, x, y: jsma(model, x, y, pixels=4),
    "carlini wagner": lambda model, x, y: carlini_wagner(model, x, y, searches=2, steps=5, step=0.2),
    "tangent": lambda model, x, y: tangent(model, x, y, basis=x[:2], eps=0.3),
    "feature": lambda model, x, y: feature(model, x, x[3], layer=model[:7], eps=0.2, max_iterations=5),
    "feature batched": lambda model, x, y: feature(
        model, x, x[[1, 0, 3, 2]], layer=model[:9], eps=0.2, solver="batched", max_iterations=5
    ),
}


@pytest.mark.filterwarnings("ignore:virtual_adversarial")  # a kink between x + xi d and x - xi d
@pytest.mark.parametrize("name", ON_DEVICE)
def test_an_attack_on_the_device_is_the_attack(counts, split, name):
    def run(device):
        model, x, y = (
            convnet().to(device),
            on(device, split.images[:4].astype(np.float64)),
            on(device, split.labels[:4]),
        )
        result = ON_DEVICE[name](model, x, y)
        values = {key: value for key, value in vars(result).items() if key != "flags"} | dict(result.flags)
        messages = values.pop("messages", ())  # what a solver says is said on the host
        assert all(isinstance(message, str) for message in messages)
        assert {type(value) for value in values.values()} == {type(x)}
        assert result.x_adv.dtype == x.dtype
        return {key: to_numpy(value) for key, value in values.items()}

    host, device = both(run)
    for key, value in host.items():
        np.testing.assert_allclose(device[key], value, rtol=1e-6, atol=1e-8, err_msg=key)


@pytest.mark.parametrize("kind", [nn.NearestNeighbour, nn.SmoothedNearestNeighbour])
def test_neighbours_on_the_device_are_the_neighbours(counts, split, rng, kind):
    def run(device):
        model = kind(split.images, split.labels, classes=3).to(device)
        x = on(device, rng.random((5, 1, 8, 8), np.float32) if device == "cpu" else x_host)
        logits = model(x)
        results = [fgsm(model, x, eps=0.2), pgd(model, x, eps=0.2, steps=2)]
        assert {type(value) for value in (logits, *(r.x_adv for r in results))} == {type(x)}
        return [to_numpy(value) for value in (x, logits, *(r.x_adv for r in results))]

    x_host, *host = run("cpu")
    _, *device = run("cuda")
    for a, b in zip(host, device, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-7)
    made_there = kind(on("cuda", split.images), on("cuda", split.labels), classes=3)
    np.testing.assert_array_equal(to_numpy(made_there(on("cuda", x_host))), device[0])


def test_a_substitute_on_the_device_is_the_substitute(counts, split, tmp_path):
    def run(device):
        target, student = (
            convnet().to(device),
            nn.Sequential(nn.Flatten(), nn.Dense(64, 2, rng=np.random.default_rng(5))),
        )
        student.astype(np.float64).to(device)
        seeds = on(device, split.images[:6].astype(np.float64))

        def oracle(x):
            assert type(x) is type(seeds)
            return predict(target, x)

        options = {
            "optimizer": SGD(student.parameters(), 0.1),
            "rng": np.random.default_rng(0),
            "epochs": 2,
            "rounds": 2,
        }
        path = tmp_path / f"{device}.npz"
        result = substitute(
            oracle, student, seeds, budget=20, reservoir=5, held_out=(seeds, oracle(seeds)), checkpoint=path, **options
        )
        transferred = transfer_attack(student, oracle, fgsm, seeds, eps=0.2)
        values = (
            result.x,
            result.labels,
            transferred.x_adv,
            transferred.success,
            transferred.prediction,
            transferred.queries,
        )
        assert {type(value) for value in values} == {type(seeds)}
        return [to_numpy(value) for value in values], result.history

    (host, history), (device, device_history) = both(run)
    for a, b in zip(host, device, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6)
    assert [row["agreement"] for row in device_history] == [row["agreement"] for row in history]


RUBBISH = {
    "errors": lambda model, x, **where: confident_errors(model, x, sigmoid=True, batch_size=3),
    "gaussian": lambda model, x, **where: gaussian_rubbish(
        model, (1, 8, 8), n=7, rng=np.random.default_rng(0), **where
    ),
    "gradient": lambda model, x, **where: gradient_rubbish(model, x, x.argmax(axis=1)[:, 0, 0] % 2, steps=4, decay=0.1),
    "evolved": lambda model, x, **where: evolved_rubbish(
        model, (1, 8, 8), generations=3, population=5, crossover=0.5, rng=np.random.default_rng(0), **where
    ),
}


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_on_the_device_is_the_rubbish(counts, split, name):
    def run(device):
        model, x = convnet().to(device), on(device, split.images[:4].astype(np.float64))
        result = RUBBISH[name](model, x, device=device, dtype=np.float64)
        values = {key: value for key, value in vars(result).items() if value is not None and key != "flags"}
        assert isinstance(values.pop("queries"), int)
        values |= dict(result.flags)
        assert {type(value) for value in values.values()} == {type(x)}
        assert 0 <= result.rate <= 1
        return {key: to_numpy(value) for key, value in values.items()}

    host, device = both(run)
    for key, value in host.items():
        np.testing.assert_allclose(device[key], value, rtol=1e-6, atol=1e-8, err_msg=key)


@pytest.mark.parametrize("kind", NORMS)
def test_norms_directions_and_projections_on_the_device_are_the_same(counts, rng, kind):
    x, centre = rng.random((3, 5)), rng.random((3, 5))

    def run(device):
        a, c = on(device, x), on(device, centre)
        return [
            to_numpy(v)
            for v in (norm(a, kind), steepest_ascent_direction(a - c, kind), project(a, c, 0.2, kind, (0.0, 1.0)))
        ]

    for host, device in zip(*both(run), strict=True):
        np.testing.assert_allclose(device, host, rtol=1e-12)


def test_a_game_on_the_device_is_the_game(counts, split):
    def run(device):
        rng = np.random.default_rng(3)
        generator = nn.Sequential(nn.Dense(3, 16, rng=rng), nn.ReLU(), nn.Reshape(4, 2, 2))
        generator = nn.Sequential(generator, nn.ConvTranspose2D(4, 1, 4, stride=4, rng=rng), nn.Sigmoid())
        discriminator = nn.Sequential(nn.Flatten(), nn.Dense(64, 8, rng=rng), nn.LeakyReLU(), nn.Dense(8, 1, rng=rng))
        gan = GAN(generator, discriminator, 3).astype(np.float64).to(device)
        players = Players(generator=Adam(generator.parameters()), discriminator=Adam(discriminator.parameters()))
        play(gan, split, players=players, epochs=1, batch_size=8, rng=rng)
        return gan.sample(2, rng=rng)

    host, device = both(run)
    np.testing.assert_allclose(device, host, rtol=1e-6)


def test_weights_come_back_from_the_device(counts, tmp_path, split):
    model = convnet().to("cuda")
    model.save(tmp_path / "weights.npz")
    host = convnet().load(tmp_path / "weights.npz")
    on_device = convnet().to("cuda").load(tmp_path / "weights.npz")
    x = split.images.astype(np.float64)
    np.testing.assert_allclose(to_numpy(on_device(on("cuda", x)).data), host(x).data)
    np.testing.assert_array_equal(model.to("cpu")(x).data, host(x).data)


def test_a_host_array_does_not_slip_into_a_model_on_the_device(counts, split):
    with pytest.raises(TypeError, match=r"numpy\.ndarray"):
        convnet().to("cuda")(split.images.astype(np.float64))


def test_a_gradient_between_two_outputs_stays_on_the_device(counts, split):
    from npadv import Tensor, hvp

    model, x = convnet().to("cuda"), on("cuda", split.images[:3].astype(np.float64))
    u = Tensor(x, requires_grad=True)
    product = hvp(kl_divergence(on("cuda", model(x).data), model(u), reduction="sum"), u, x)
    assert type(product) is fake_cupy.ndarray
    v = Tensor(split.images[:3].astype(np.float64), requires_grad=True)
    model = convnet()
    expected = hvp(kl_divergence(model(v.data).data, model(v), reduction="sum"), v, v.data)
    np.testing.assert_allclose(to_numpy(product), expected, rtol=1e-6, atol=1e-9)


def test_the_command_line_trains_on_the_device(counts, tmp_path, capsys):
    command = ["train", "softmax_regression", "--data", "digits", "--epochs", "1", "--device", "cuda", "--quiet"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert "test error" in capsys.readouterr().out
    assert "no card" in (tmp_path / "run" / "result.json").read_text()


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_the_stand_in_has_no_name_that_cupy_lacks():
    fake = fake_cupy.module()
    names = {"cupy": sorted(set(vars(fake)) - {"cuda"}), "cupy.cuda": sorted(vars(fake.cuda))}
    for kind in ("Device", "Graph", "MemoryPool", "Stream"):
        public = (name for name, value in vars(getattr(fake.cuda, kind)).items() if callable(value))
        names[f"cupy.cuda.{kind}"] = sorted(name for name in public if not name.startswith("_"))
    missing = "[name for where, names in all.items() for name in names if not hasattr(eval(where), name)]"
    code = f"import cupy; all = {names!r}; print({missing})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
