"""Part b: the GPU's results are NumPy's within rounding, and nothing waits for the GPU or moves data without need.

===========================  ==========================================================================================
compared                     tolerance, relative to the largest element
===========================  ==========================================================================================
a kernel                     100 units of rounding; 4 where the kernel computes no sums
an operation, its gradient   1e-4 in float32, 1e-11 in float64
a network, its gradients     1e-3 in float32, 1e-9 in float64: rounding grows from layer to layer
attacks, training, a game    1e-6 in float64: after some steps; signs of float32 gradients near 0 would differ
===========================  ==========================================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.cases import Case, cases, draw
from benchmarks.gpu.gpu_tests import gpu_tests
from benchmarks.gpu.tasks import Here, NotHereError, Task, compare
from npadv import Tensor, attacks, functional, grad, nn, ops
from npadv.data import Split
from npadv.defenses import adversarial_training
from npadv.gan import GAN, Players, play
from npadv.optim import SGD, Adam
from npadv.train import classification_loss, fit, gradient_update

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def tasks(here: Here) -> list[Task]:
    """Return the kernels' tasks, then the library's, then the tests: what matters most comes first."""
    found = [Task(f"kernel: {case.name}", functools.partial(kernel, here, case)) for case in cases()]
    found += [Task(f"operation: {name}", functools.partial(operation, here, f)) for name, f in OPERATIONS.items()]
    found += [Task(f"network: {name}", functools.partial(network, here, f)) for name, f in NETWORKS.items()]
    found += [Task("training step without waits", lambda: step_without_waits(here))]
    found += [Task(f"attack: {name}", functools.partial(attack, here, f)) for name, f in ATTACKS.items()]
    found += [Task(f"defense: {name}", functools.partial(defense, here, loss)) for name, loss in DEFENSES.items()]
    found += [Task("game: one epoch of a GAN", lambda: game(here))]
    return [*found, Task("pytest -m gpu", lambda: gpu_tests(here), share=0.95)]


# --------------------------------------------------------------------------------------------------------- kernels


def kernel(here: Here, case: Case) -> dict[str, Any]:
    """Compare a kernel with NumPy, in both precisions; return how far they are apart."""
    apart = {}
    for dtype in (FLOAT32, FLOAT64):
        tolerance = case.roundings * float(np.finfo(dtype).eps)
        pairs = case.run(here.xp, dtype)
        for i, (got, _) in enumerate(pairs):
            if got.dtype != dtype:
                raise AssertionError(f"result {i} of {case.name}: expected {dtype}, got {got.dtype}")
        apart[dtype.name] = max(compare(*pair, tolerance, f"result {i}, {dtype}") for i, pair in enumerate(pairs))
    return {"apart": apart}


# ------------------------------------------------------------------------------------------------------ operations

OPERATIONS: dict[str, Callable[..., Any]] = {  # of x (3, 4, 6, 6), positive p of the same shape, and a matrix m (6, 5)
    "arithmetic": lambda x, p, m: x * p + x / p - p**2 + p**1.5,
    "exp and log": lambda x, p, m: ops.exp(x) + ops.log(p) + ops.expm1(x) + ops.log1p(p) + ops.sqrt(p),
    "sigmoid, tanh, softplus": lambda x, p, m: ops.sigmoid(x) * ops.tanh(p) + ops.softplus(x),
    "sin, cos, erf": lambda x, p, m: ops.sin(x) + ops.cos(p) + ops.erf(x),
    "choices": lambda x, p, m: (
        ops.relu(x) + ops.maximum(x, p) + ops.minimum(x, p) + ops.abs(x) + ops.clip(x, -0.5, 0.5)
    ),
    "where and sign": lambda x, p, m: ops.where(x > 0, x, p) * ops.sign(x),
    "sums": lambda x, p, m: ops.sum(x, axis=1) * ops.mean(p, axis=(0, 1)) + ops.var(x, axis=1),
    "extremes": lambda x, p, m: ops.max(x, axis=1) + ops.min(x, axis=1) + ops.logsumexp(x, axis=1),
    "softmax": lambda x, p, m: ops.softmax(x, axis=-1),
    "shapes": lambda x, p, m: ops.transpose(ops.concatenate([x, p], axis=0).reshape(6, 24, 6), axes=(2, 0, 1)),
    "indexing": lambda x, p, m: x[:, 1:, ::2] + ops.stack([x[:, 1], x[:, 2], p[:, 0]], axis=1)[:, :, ::2],
    "padding": lambda x, p, m: ops.pad(x, widths=((0, 0), (0, 0), (1, 2), (2, 1))),
    "products": lambda x, p, m: ops.matmul(x, m) + ops.einsum("abcd,de->abce", p, m),
    "dense product": lambda x, p, m: ops.matmul(x.reshape(72, 6), m),
    "convolution": lambda x, p, m: ops.conv2d(x, p[:, :, :3, :3], padding=1, stride=2),
    "transposed convolution": lambda x, p, m: ops.conv_transpose2d(x, p[:, :, :3, :3].reshape(4, 3, 3, 3), stride=2),
    "pooling": lambda x, p, m: ops.max_pool2d(x, 2) + ops.avg_pool2d(p, 2),
    "maxout": lambda x, p, m: functional.maxout(x, 2, 1),
    "cumsum and sort": lambda x, p, m: ops.cumsum(x, axis=2) + ops.sort(p, axis=3),
    "cross-entropy": lambda x, p, m: functional.cross_entropy(x.reshape(72, 6), np.arange(72) % 6, reduction="none"),
}


def operation(here: Here, f: Callable[..., Any]) -> dict[str, Any]:
    """Compare an expression and its gradients on both devices."""
    apart = {}
    for dtype, tolerance in ((FLOAT32, 1e-4), (FLOAT64, 1e-11)):
        host = [draw(0, 3, 4, 6, 6, dtype=dtype), np.abs(draw(1, 3, 4, 6, 6, dtype=dtype)), draw(2, 6, 5, dtype=dtype)]

        def run(arrays: list[Any]) -> list[Any]:
            leaves = [Tensor(a, requires_grad=True) for a in arrays]
            y = f(*leaves)
            used = [leaf for leaf in leaves if depends(y, leaf)]
            return [y.data, *grad(ops.sum(y * y), used)]

        pairs = zip(run([here.xp.asarray(a) for a in host]), run(host), strict=True)
        apart[dtype.name] = max(compare(*pair, tolerance, f"result {i}, {dtype}") for i, pair in enumerate(pairs))
    return {"apart": apart}


def depends(y: Any, leaf: Any) -> bool:
    """Return whether a gradient of ``y`` with respect to ``leaf`` exists."""
    try:
        grad(ops.sum(y), [leaf])
    except ValueError:
        return False
    return True


# -------------------------------------------------------------------------------------------------------- networks


def convnet() -> Any:
    """Return a network with every kind of layer, for images of 1 x 8 x 8 and two classes."""
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
    )


def named(name: str) -> Callable[[], tuple[Any, tuple[int, ...]]]:
    """Return a function that makes one of the papers' networks, and the shape of a batch for it."""
    shape = {"mlp": (4, 784), "vgg": (2, 3, 32, 32)}.get(name.split("_")[1], (2, 1, 28, 28))
    return lambda: (nn.network(name, rng=np.random.default_rng(0)), shape)


NETWORKS: dict[str, Callable[[], tuple[Any, tuple[int, ...]]]] = {
    "every layer": lambda: (convnet(), (4, 1, 8, 8)),
    "maxout_mlp": named("maxout_mlp"),
    "relu_mlp": named("relu_mlp"),
    "syn_convnet": named("syn_convnet"),
    "maxout_convnet_mnist": named("maxout_convnet_mnist"),
    "syn_vgg": named("syn_vgg"),
}
LARGE = ("maxout_convnet_mnist", "syn_vgg")  # too large for the stand-in


def network(here: Here, make: Callable[[], tuple[Any, tuple[int, ...]]]) -> dict[str, Any]:
    """Compare logits, and the gradients of the loss for images and weights, on both devices."""
    if here.rehearsal and make in [NETWORKS[name] for name in LARGE]:
        raise NotHereError("a GPU: the stand-in would take minutes")
    apart = {}
    for dtype, tolerance in ((FLOAT32, 1e-3), (FLOAT64, 1e-9)):

        def run(device: str, dtype: Any = dtype) -> list[Any]:
            model, shape = make()
            model.astype(dtype).to(device)
            x, labels = np.abs(draw(0, *shape, dtype=dtype)), np.arange(len(range(shape[0]))) % 2
            x, labels = (a if device == "cpu" else here.xp.asarray(a) for a in (x, labels))
            images = Tensor(x, requires_grad=True)
            logits = model(images)
            loss = functional.cross_entropy(logits, labels)
            return [logits.data, *grad(loss, [images, *model.parameters()])]

        pairs = zip(run("cuda"), run("cpu"), strict=True)
        apart[dtype.name] = max(compare(*pair, tolerance, f"result {i}, {dtype}") for i, pair in enumerate(pairs))
    return {"apart": apart}


def step_without_waits(here: Here) -> dict[str, Any]:
    """Take a training step twice; the second must not wait for the GPU."""
    model = convnet().to("cuda")
    optimizer, rng = SGD(model.parameters(), 0.1, momentum=0.9), np.random.default_rng(0)
    x = here.xp.asarray(np.abs(draw(0, 4, 1, 8, 8, dtype=np.float32)))
    targets = here.xp.asarray(np.eye(2, dtype=np.float32)[[0, 1, 0, 1]])

    def loss(model: Any, x: Any, y: Any, *, rng: Any) -> Any:
        difference = model(x) - y
        return ops.mean(difference * difference)

    gradient_update(model, loss, optimizer, x, targets, rng=rng)
    with here.no_waits():
        gradient_update(model, loss, optimizer, x, targets, rng=rng)
    return {}


# ------------------------------------------------------------------------------- attacks, a defense, a game

NORMS = ("linf", "l2", "l1")
ATTACKS: dict[str, Callable[..., Any]] = {
    "fgsm": lambda model, x, y: attacks.fgsm(model, x, y, eps=0.1),
    **{f"pgd {k}": lambda model, x, y, k=k: attacks.pgd(model, x, y, eps=0.3, steps=3, norm=k) for k in NORMS},
    **{
        f"steepest ascent {k}": lambda model, x, y, k=k: attacks.steepest_ascent(model, x, y, eps=0.3, norm=k)
        for k in NORMS
    },
    "linearized": lambda model, x, y: attacks.linearized(model, x, y, norm="l2", steps=3),
    "jsma": lambda model, x, y: attacks.jsma(model, x, y, pixels=4),
    "carlini_wagner": lambda model, x, y: attacks.carlini_wagner(model, x, y, searches=2, steps=5, step=0.2),
    "lbfgs": lambda model, x, y: attacks.lbfgs(model, x, y, searches=2, max_iterations=5),
    "lbfgs batched": lambda model, x, y: attacks.lbfgs(model, x, y, searches=2, max_iterations=5, solver="batched"),
}
DEFENSES: dict[str, Any] = {
    "none": classification_loss,
    "adversarial training, linf": adversarial_training(0.1),
    "adversarial training, l2": adversarial_training(0.5, norm="l2"),
}


def images(n: int) -> Split:
    """Return images of 8 x 8, labelled by which half is brighter."""
    x = np.random.default_rng(0).random((n, 1, 8, 8))
    return Split(x, (x[:, 0, :4].mean(axis=(1, 2)) > x[:, 0, 4:].mean(axis=(1, 2))).astype(np.int64))


def attack(here: Here, run: Callable[..., Any]) -> dict[str, Any]:
    """Compare an attack's examples and its report on both devices, in float64."""

    def on(device: str) -> Any:
        model, data = convnet().astype(np.float64).to(device), images(4)
        return run(model, *(a if device == "cpu" else here.xp.asarray(a) for a in (data.images, data.labels)))

    got, expected = on("cuda"), on("cpu")
    if type(got.x_adv).__module__.partition(".")[0] != "cupy":
        raise AssertionError(f"x_adv: expected an array on the GPU, got {type(got.x_adv).__module__}.ndarray")
    names = ("x_adv", "success", "distance")
    return {"apart": max(compare(getattr(got, n), getattr(expected, n), 1e-6, n) for n in names)}


def defense(here: Here, loss: Any) -> dict[str, Any]:
    """Compare the weights after two epochs of training on both devices, in float64.

    A bias before a batch normalisation has no gradient: it is 0 up to rounding, and compared with 1e-3.
    """

    def run(device: str) -> Any:
        model = convnet().astype(np.float64).to(device)
        optimizer = SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
        fit(model, loss, images(20), optimizer=optimizer, epochs=2, batch_size=10, rng=np.random.default_rng(2))
        return model.state()

    got, expected = run("cuda"), run("cpu")
    return {"apart": max(compare(got[name], expected[name], 1e-6, name, least=1e-3) for name in expected)}


def game(here: Here) -> dict[str, Any]:
    """Compare a generator's images after an epoch of a game on both devices, in float64."""

    def run(device: str) -> Any:
        rng = np.random.default_rng(3)
        layers = [
            nn.Dense(3, 16, rng=rng),
            nn.ReLU(),
            nn.Reshape(4, 2, 2),
            nn.ConvTranspose2D(4, 1, 4, stride=4, rng=rng),
        ]
        generator = nn.Sequential(*layers, nn.Sigmoid())
        discriminator = nn.Sequential(nn.Flatten(), nn.Dense(64, 8, rng=rng), nn.LeakyReLU(), nn.Dense(8, 1, rng=rng))
        gan = GAN(generator, discriminator, 3).astype(np.float64).to(device)
        players = Players(generator=Adam(generator.parameters()), discriminator=Adam(discriminator.parameters()))
        play(gan, images(16), players=players, epochs=1, batch_size=8, rng=rng)
        return gan.sample(2, rng=rng)

    return {"apart": compare(run("cuda"), run("cpu"), 1e-6, "samples")}
