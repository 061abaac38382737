"""What part d compares: for each row two functions that compute the same, npadv's and a baseline.

===========================  ==============================================================================
row                          against
===========================  ==============================================================================
convolution and gradients    cuDNN, called by PyTorch, after it has tried its algorithms
matrix product               cuBLAS, called by PyTorch
sign step                    a copy of memory that moves as many bytes
adversarial training step    the same step in PyTorch, eager and with torch.compile (which captures it as well)
attack                       npadv on this machine's processor; other libraries on the GPU, where they are installed
===========================  ==============================================================================

Everything is float32.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.gpu.command import GROUPS
from benchmarks.gpu.tasks import Here, NotHereError
from npadv import attacks, kernels, nn
from npadv.capture import CapturedStep
from npadv.defenses import adversarial_training
from npadv.nn.networks import MNIST_DEVIATION, MNIST_MEAN
from npadv.optim import SGD
from npadv.train import gradient_update


class Convolution(NamedTuple):
    """The shapes of a convolution: square images and filters, and the padding."""

    title: str
    channels: int
    side: int
    filters: int
    window: int
    padding: int
    batch: int = 128


CONVOLUTIONS = (
    Convolution("28x28x1, 5x5 to 32", 1, 28, 32, 5, 2),
    Convolution("9x9x32, 5x5 to 64", 32, 9, 64, 5, 2),
    Convolution("14x14x32, 5x5 to 64", 32, 14, 64, 5, 2),
    Convolution("28x28x1, 8x8 to 96", 1, 28, 96, 8, 0),
    Convolution("32x32x3, 8x8 to 192", 3, 32, 192, 8, 4),
    Convolution("32x32x64, 3x3 to 64", 64, 32, 64, 3, 1),
    Convolution("32x32x128, 3x3 to 128", 128, 32, 128, 3, 1),
)
PRODUCTS = ((128, 1200, 784), (128, 1200, 1200), (4096, 4096, 4096))  # M, N, K
STEP_SHAPES = ((128, 784), (256, 3072), (65536, 784), (1 << 18, 1 << 10))  # (N, D) of a sign step; the last has 1 GiB
Call = Callable[[], Any]


class Row(NamedTuple):
    """Two functions that compute the same result: npadv's, and a baseline with its name."""

    title: str
    ours: Call
    theirs: Call
    against: str
    tolerance: float | None = 1e-4  # between the results, relative to the largest element; None: part b compares them
    turns: int = 15
    bytes: int = 0  # that each of them reads and writes, where memory limits both


class Comparison(NamedTuple):
    """A row that is made when it is its turn: its title, and a function that makes its arrays."""

    title: str
    make: Callable[[], Row]


def comparisons(here: Here) -> list[Comparison]:
    """Return every comparison. A rehearsal computes with NumPy and PyTorch on the CPU, and on small arrays."""
    xp, small = (np, True) if here.rehearsal else (here.xp, False)
    layers = (Convolution("a layer", 2, 9, 3, 5, 2, batch=2),) if small else CONVOLUTIONS
    products, steps = (((5, 7, 9),), ((3, 8),)) if small else (PRODUCTS, STEP_SHAPES)
    batch = 4 if small else 128
    found = [
        Comparison(f"{group} {layer.title}", functools.partial(convolution, layer, group, xp, here))
        for group in ("conv2d", "input gradient", "weight gradient")
        for layer in layers
    ]
    found += [
        Comparison(f"matmul {M}x{K} by {K}x{N}", functools.partial(product, M, N, K, xp, here)) for M, N, K in products
    ]
    found += [Comparison(f"sign step {n}x{d}", functools.partial(sign_step, n, d, xp)) for n, d in steps]
    for group in ("adversarial step", "same step"):
        title = f"{group} syn_convnet {batch}"
        found.append(Comparison(title, functools.partial(adversarial_step, batch, group, xp, here)))
    found += [Comparison(f"attack {name}", functools.partial(attack_here_and_there, name, here)) for name in ATTACKS]
    found += [Comparison(f"attack pgd, {library}", functools.partial(pgd_of, library, here)) for library in PEERS]
    return found


# ---------------------------------------------------------------------------------------------- kernels


def convolution(layer: Convolution, group: str, xp: Any, here: Here) -> Row:
    """Return one of a layer's three rows."""
    torch = here.torch()
    _, C, side, K, window, p, N = layer
    out = side + 2 * p - window + 1
    x, w, g = _random(xp, (N, C, side, side)), _random(xp, (K, C, window, window)), _random(xp, (N, K, out, out))
    tx, tw, tg = map(torch.from_dlpack, (x, w, g))  # the same memory
    pads = (p, p)

    def backward(*wanted: bool) -> Any:
        gradients = torch.ops.aten.convolution_backward(
            tg, tx, tw, None, [1, 1], list(pads), [1, 1], False, [0, 0], 1, [*wanted, False]
        )
        return gradients[wanted.index(True)]

    calls: dict[str, tuple[Call, Call]] = {
        "conv2d": (
            lambda: kernels.conv2d(x, w, padding=pads),
            lambda: torch.nn.functional.conv2d(tx, tw, padding=pads),
        ),
        "input gradient": (
            lambda: kernels.conv2d_input_grad(g, w, x.shape, padding=pads),
            lambda: backward(True, False),
        ),
        "weight gradient": (
            lambda: kernels.conv2d_weight_grad(x, g, w.shape, padding=pads),
            lambda: backward(False, True),
        ),
    }
    return Row(f"{group} {layer.title}", *calls[group], GROUPS[group])


def product(M: int, N: int, K: int, xp: Any, here: Here) -> Row:
    """Return the row of a matrix product."""
    torch = here.torch()
    a, b = _random(xp, (M, K)), _random(xp, (K, N))
    ta, tb = torch.from_dlpack(a), torch.from_dlpack(b)
    return Row(f"matmul {M}x{K} by {K}x{N}", lambda: kernels.matmul(a, b), lambda: torch.mm(ta, tb), GROUPS["matmul"])


def sign_step(n: int, d: int, xp: Any) -> Row:
    """Return the row of a sign step. It reads two arrays and writes one: as much traffic as copying one and a half arrays."""
    x, g = _random(xp, (n, d)), _random(xp, (n, d))
    source, target = (xp.zeros(n * d * 3 // 2, dtype=x.dtype) for _ in "st")

    def copy() -> None:
        target[...] = source

    return Row(
        f"sign step {n}x{d}",
        lambda: kernels.sign_step(x, g, 1e-3, bounds=(-9, 9)),
        copy,
        "copy",
        None,
        bytes=3 * x.nbytes,
    )


# ---------------------------------------------------------------------------------------------- training steps


def adversarial_step(n: int, group: str, xp: Any, here: Here, *, steps: int = 3) -> Row:
    """Return the row of adversarial training of [SYN]'s convnet. On a GPU, npadv's step is a captured one.

    Both have trained for a few steps when their losses are compared, so equal losses show that the updates are equal.
    """
    torch = here.torch()
    model = nn.network("syn_convnet", rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    settings: dict[str, Any] = {"momentum": 0.9, "weight_decay": 1e-3}
    host = rng.random((n, 1, 28, 28), np.float32), rng.integers(0, 10, n)
    tx, ty = (torch.from_numpy(a).to("cpu" if xp is np else "cuda") for a in host)
    mean_loss = _torch_loss(torch, [torch.from_numpy(p.data.copy()).to(tx.device) for p in model.parameters()])
    weights = list(mean_loss.parameters())
    if group == "same step" and xp is not np:  # compiling for a CPU takes half a minute
        mean_loss = torch.compile(mean_loss, mode="reduce-overhead")
    descent = torch.optim.SGD(weights, 0.01, **settings)

    def theirs() -> Any:
        with torch.enable_grad():
            torch.compiler.cudagraph_mark_step_begin()
            inputs = tx.detach().requires_grad_()
            for w in weights:  # the attack needs no gradients of the weights
                w.requires_grad_(False)
            (g,) = torch.autograd.grad(mean_loss(inputs, ty), inputs)
            for w in weights:
                w.requires_grad_(True)
            worst = (tx + 0.1 * g.sign()).clamp(0, 1)
            loss = sum(0.5 * mean_loss(images, ty) for images in (tx, worst))
            descent.zero_grad()  # sets the gradients to None
            loss.backward()
        descent.step()
        return loss.detach()

    model.to("cpu" if xp is np else "cuda")
    optimizer, loss = SGD(model.parameters(), 0.01, **settings), adversarial_training(0.1)
    x, y = map(xp.asarray, host)

    def step(x: Any, y: Any) -> Any:
        return gradient_update(model, loss, optimizer, x, y, rng=np.random.default_rng(0))  # rng is not used

    captured = step if xp is np else CapturedStep(step, x)
    for _ in range(steps):
        captured(x, y)
        theirs()
    # The sign of a gradient close to zero is rounding's, and moves its pixel by 2 eps: looser than the kernels' tolerance.
    return Row(f"{group} syn_convnet {n}", lambda: captured(x, y), theirs, GROUPS[group], tolerance=1e-3)


def _torch_loss(torch: Any, weights: Any) -> Any:
    """Return the mean loss of ``nn.networks.syn_convnet`` as a module of PyTorch.

    A compiled module reads its parameters where they are. It would copy weights that are arguments at each call.
    """
    f = torch.nn.functional

    class Loss(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for i, w in enumerate(weights):
                self.register_parameter(f"w{i}", torch.nn.Parameter(w))

        def forward(self, x: Any, labels: Any) -> Any:
            c1, b1, c2, b2, w3, b3, w4, b4 = self.parameters()
            x = f.pad((x - MNIST_MEAN) / MNIST_DEVIATION, (2, 2, 2, 2))
            x = f.max_pool2d(f.relu(f.conv2d(x, c1, b1.flatten())), 3)
            x = f.max_pool2d(f.relu(f.conv2d(x, c2, b2.flatten())), 2)
            return f.cross_entropy(f.relu(x.flatten(1) @ w3 + b3) @ w4 + b4, labels)

    return Loss()


# ---------------------------------------------------------------------------------------------- attacks

ATTACKS: dict[str, Callable[..., Any]] = {
    "pgd": lambda model, x, y: attacks.pgd(model, x, y, eps=0.1, step=0.01, steps=40),
    "jsma": lambda model, x, y: attacks.jsma(model, x, y, pixels=20),
    "lbfgs": lambda model, x, y: attacks.lbfgs(model, x, y, solver="batched", searches=2, max_iterations=10),
}
PEERS = ("foolbox", "torchattacks")


def _victim(here: Here, device: str) -> tuple[Any, Any, Any]:
    """Return a network 784-1200-1200-10 with initial weights, images, and the classes that it gives them."""
    hidden, n = (16, 2) if here.rehearsal else (1200, 256)
    rng = np.random.default_rng(0)
    layers = [nn.Flatten(), nn.Dense(784, hidden, rng=rng), nn.ReLU(), nn.Dense(hidden, hidden, rng=rng), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Dense(hidden, 10, rng=rng))
    x = rng.random((n, 1, 28, 28), np.float32)
    y = model(x).data.argmax(axis=1)
    model.to(device)
    return (model, x, y) if device == "cpu" else (model, here.xp.asarray(x), here.xp.asarray(y))


def attack_here_and_there(name: str, here: Here) -> Row:
    """Return the row of an attack on the GPU and on this machine's processor."""
    ours, theirs = _victim(here, "cuda"), _victim(here, "cpu")
    against = "npadv on the CPU"
    return Row(f"attack {name}", lambda: ATTACKS[name](*ours), lambda: ATTACKS[name](*theirs), against, None, turns=3)


def pgd_of(library: str, here: Here) -> Row:
    """Return the row of projected gradient descent against another library's, on the same GPU."""
    torch = here.torch()
    try:
        peer = importlib.import_module(library)
    except ImportError:
        raise NotHereError(library) from None
    device = "cpu" if here.rehearsal else "cuda"
    model, x, y = _victim(here, "cpu")
    network = torch.nn.Sequential(torch.nn.Flatten())
    for layer in model:
        if isinstance(layer, nn.Dense):
            linear = torch.nn.Linear(*layer.weight.shape)
            linear.weight.data, linear.bias.data = (torch.from_numpy(p.data.T) for p in layer.parameters())
            network.append(linear)
        elif isinstance(layer, nn.ReLU):
            network.append(torch.nn.ReLU())
    network = network.to(device).eval()
    tx, ty = (torch.from_numpy(a).to(device) for a in (x, y))
    if library == "foolbox":
        known = peer.PyTorchModel(network, bounds=(0, 1), device=device)
        attack = peer.attacks.LinfPGD(abs_stepsize=0.01, steps=40, random_start=False)
        theirs = lambda: attack(known, tx, ty, epsilons=0.1)  # noqa: E731
    else:
        attack = peer.PGD(network, eps=0.1, alpha=0.01, steps=40, random_start=False)
        theirs = lambda: attack(tx, ty)  # noqa: E731
    enabled: Call = lambda: torch.enable_grad()(theirs)()  # noqa: E731
    ours = _victim(here, "cuda")
    return Row(f"attack pgd, {library}", lambda: ATTACKS["pgd"](*ours), enabled, library, None, turns=5)


def _random(xp: Any, shape: tuple[int, ...]) -> Any:
    return xp.random.RandomState(0).uniform(-1, 1, shape).astype(xp.float32)
