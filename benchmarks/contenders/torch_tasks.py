"""The tasks in eager PyTorch, as a careful user would write them; where there are several spellings, the fastest.

``channels_last`` is for the second baseline of the convolutional networks: images and filters in the memory order that oneDNN
prefers. (Its worker also starts with glibc's thresholds raised, so that activations are not mapped anew at every step.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import problems

Step = Callable[[], Any]

FORMAT = torch.contiguous_format


def start(*, threads: int, channels_last: bool = False) -> dict[str, str]:
    """Set the number of threads and the memory order; return the versions."""
    global FORMAT
    torch.set_num_threads(threads)
    FORMAT = torch.channels_last if channels_last else torch.contiguous_format
    return {"torch": torch.__version__}


# Networks ----------------------------------------------------------------------------------------------------------------


class Maxout(nn.Module):
    """784-240x5-240x5-10 with dropout. The pieces of a unit are not adjacent; amax is then PyTorch's fastest maximum."""

    def __init__(self) -> None:
        super().__init__()
        outputs = problems.MAXOUT_UNITS * problems.MAXOUT_PIECES
        self.first, self.second = nn.Linear(784, outputs), nn.Linear(problems.MAXOUT_UNITS, outputs)
        self.last = nn.Linear(problems.MAXOUT_UNITS, problems.CLASSES)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        if self.training:
            x = x * (torch.rand_like(x) >= 0.2)  # dropout without rescaling, twice as fast as F.dropout
        for layer in (self.first, self.second):
            x = layer(x).view(-1, problems.MAXOUT_PIECES, problems.MAXOUT_UNITS).amax(dim=1)
            x = self.dropout(x)
        return self.last(x)


def _convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 200),
        nn.ReLU(),
        nn.Linear(200, 10),
    )


class SynConvnet(nn.Sequential):
    """[SYN] 5.1: standardised, padded to 32 x 32, unpadded convolutions."""

    def __init__(self) -> None:
        super().__init__(
            nn.ZeroPad2d(2),
            nn.Conv2d(1, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(3),
            nn.Conv2d(32, 64, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 2 * 2, 200),
            nn.ReLU(),
            nn.Linear(200, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of images with pixels in [0, 1]."""
        return super().forward((x - 0.1307) * (1 / 0.3081))


def _relu_network(widths: list[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def build(network: str, weights: Sequence[np.ndarray] | None = None) -> nn.Module:
    """Return a network with the given weights, or with those from which all contenders start."""
    widths = problems.widths(network)
    model = (
        _relu_network(widths)
        if widths
        else {"maxout": Maxout, "convnet": _convnet, "syn_convnet": SynConvnet}[network]()
    )
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), weights or problems.weights(network), strict=True):
            # PyTorch's dense weights are (out, in).
            parameter.copy_(torch.from_numpy(values.T if values.ndim == 2 else values))
    return model.to(memory_format=FORMAT)


def batch(network: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the batch on which all contenders work."""
    x, y = (torch.from_numpy(a) for a in problems.batch(network, size))
    return x.contiguous(memory_format=FORMAT) if x.ndim == 4 else x, y


# Tasks -------------------------------------------------------------------------------------------------------------------


def gradients(network: str, batch: int) -> tuple[float, list[np.ndarray]]:
    """Return the mean loss and its gradients in the weights, dense ones (in, out), without dropout."""
    model, (x, y) = build(network).eval(), _batch(network, batch)
    loss = F.cross_entropy(model(x), y)
    found = torch.autograd.grad(loss, list(model.parameters()))
    return loss.item(), [g.numpy().T if g.ndim == 2 else g.numpy() for g in found]


def train_step(network: str, batch: int, dropout: bool = True) -> Step:
    """Return a step of gradient descent with momentum; the norms of the maxout network's weights are then constrained."""
    model, (x, y) = build(network).train(dropout), _batch(network, batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=problems.STEP_SIZE, momentum=problems.MOMENTUM)
    constrained = [p.detach() for p in model.parameters() if p.ndim == 2] if network == "maxout" else []

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        for weight in constrained:
            weight.renorm_(p=2, dim=0, maxnorm=problems.MAX_NORM)
        return loss.detach()

    return step


def fgsm(network: str, batch: int) -> Step:
    """Return the attack with npadv's report: gradient, step, clipping to the box, and a second forward pass for success.

    npadv also checks the input for NaN and for pixels outside the box, and flags useless gradients; this code does not.
    """
    model, (x, y) = _frozen(network), _batch(network, batch)

    def step() -> torch.Tensor:
        g, before = _gradient(model, x, y)
        x_adv = (x + 0.25 * g.sign()).clamp(0, 1)
        return _report(model, x, x_adv, y, before)

    return step


def pgd(network: str, batch: int, steps: int) -> Step:
    """Return projected gradient descent in the maximum norm, eps .3 and step .01, with the same report."""
    model, (x, y) = _frozen(network), _batch(network, batch)
    low, high = (x - 0.3).clamp(0, 1), (x + 0.3).clamp(0, 1)

    def step() -> torch.Tensor:
        x_adv, before = x, y
        for i in range(steps):
            g, prediction = _gradient(model, x_adv, y)
            before = prediction if i == 0 else before
            x_adv = torch.clamp(x_adv + 0.01 * g.sign(), low, high)
        return _report(model, x, x_adv, y, before)

    return step


def _gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient of the summed loss in x, and the predictions of the same forward pass."""
    x = x.detach().requires_grad_()
    logits = model(x)
    (g,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
    return g, logits.detach().argmax(dim=1)


def _report(
    model: nn.Module, x: torch.Tensor, x_adv: torch.Tensor, y: torch.Tensor, before: torch.Tensor
) -> torch.Tensor:
    """Compute success, distance and whether each example was wrong before; return the share of successes."""
    with torch.no_grad():
        success = model(x_adv).argmax(dim=1) != y
        _ = (x_adv - x).flatten(1).abs().amax(dim=1), before != y
    return success.float().mean()


def _frozen(network: str) -> nn.Module:
    return build(network).eval().requires_grad_(False)


def input_gradient(network: str, batch: int) -> Step:
    """Return a function that computes the gradient of the summed cross-entropy in the input alone."""
    model, (x, y) = _frozen(network), _batch(network, batch)

    def step() -> torch.Tensor:
        inputs = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(inputs), y, reduction="sum"), inputs)
        return g

    return step


def convolution(part: str, batch: int, images: list[int], filters: list[int], padding: int) -> Step:
    """Return one of a convolution's three primitives."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((batch, *images), dtype=np.float32)).contiguous(memory_format=FORMAT)
    w = torch.from_numpy(rng.normal(0, 0.05, filters).astype(np.float32)).contiguous(memory_format=FORMAT)
    g = F.conv2d(x, w, padding=padding) * 0.5
    work = primitive(part, x, w, g, padding)

    def step() -> None:
        work()

    return step


def primitive(part: str, x: torch.Tensor, w: torch.Tensor, g: torch.Tensor, padding: int) -> Step:
    """Return the function that computes one part of a convolution: its output, or a gradient for the cotangent g."""
    if part == "forward":
        return lambda: F.conv2d(x, w, padding=padding)
    i = ("input gradient", "weight gradient").index(part)
    backward, wanted = torch.ops.aten.convolution_backward, [i == 0, i == 1, False]
    return lambda: backward(g, x, w, None, [1, 1], [padding, padding], [1, 1], False, [0, 0], 1, wanted)[i]


_batch = batch  # the tasks have an argument of the same name

TASKS: dict[str, Callable[..., Step]] = {
    task.__name__: task for task in (train_step, fgsm, pgd, input_gradient, convolution)
}
