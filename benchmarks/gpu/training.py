"""Part c: training that is captured in CUDA graphs, and training that ends where the CPU's ends.

Two statements are checked for each network and loss:

- ``fit(capture=True)`` leaves the same weights, to the bit, whether its steps are replayed from graphs or run one by one;
- ``fit`` on the GPU ends where it ends on the CPU: the losses of all epochs agree within 2%, the final errors within 0.02.

The second cannot hold to rounding. Rounding differs between the devices, and training amplifies the difference; an adversarial
step amplifies it most, since the sign of a gradient near zero is rounding's.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from benchmarks.gpu.tasks import Here, Task
from npadv import capture, nn
from npadv.backend import to_numpy
from npadv.data import Split
from npadv.defenses import adversarial_training
from npadv.optim import Adam
from npadv.train import classification_loss, evaluate, fit

LOSSES = {"plain": classification_loss, "adversarial": adversarial_training(0.05)}
NETWORKS = ("maxout_mlp", "syn_convnet")
NEVER = 10**9


def tasks(here: Here) -> list[Task]:
    """Return two tasks for each network and loss."""
    pairs = [(network, loss) for network in NETWORKS for loss in LOSSES]
    exact = [
        Task(f"replayed to the bit: {n}, {k}", functools.partial(replayed, here, n, k), share=0.3) for n, k in pairs
    ]
    return [*exact, *(Task(f"ends as on the CPU: {n}, {k}", functools.partial(ends, here, n, k)) for n, k in pairs)]


def problem(here: Here) -> tuple[Split, Split, int]:
    """Return images of 28 x 28 with ten classes for training and for the test, and the size of a batch.

    Each class has a random pattern in the left or right half; noise is added to it. No file is needed.
    """
    n, batch = (9, 4) if here.rehearsal else (5050, 100)  # the last batch of an epoch is smaller
    rng = np.random.default_rng(0)
    patterns = rng.random((10, 1, 28, 28))

    def draw(count: int) -> Split:
        labels = rng.integers(0, 10, count)
        images = 0.4 * patterns[labels] + 0.6 * rng.random((count, 1, 28, 28))
        return Split(images.astype(np.float32), labels)

    return draw(n), draw(n // 5), batch


def train(here: Here, network: str, loss: str, device: str, epochs: int, **options: Any) -> tuple[Any, list[float]]:
    """Train a network; return it, and the loss of each epoch."""
    data, _, batch = problem(here)
    sizes = {"units": 12, "pieces": 2} if here.rehearsal and network == "maxout_mlp" else {}
    model = nn.network(network, rng=np.random.default_rng(1), **sizes)
    model.to(device)
    optimizer = Adam(model.parameters(), 1e-3)
    history = fit(
        model,
        LOSSES[loss],
        data,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=batch,
        rng=np.random.default_rng(2),
        **options,
    )
    return model, [row["train_loss"] for row in history]


def replayed(here: Here, network: str, loss: str) -> dict[str, Any]:
    """Compare a captured run with one whose steps are never recorded."""
    model, losses = train(here, network, loss, "cuda", 2, capture=True)
    warm_up, capture.WARM_UP = capture.WARM_UP, NEVER
    try:
        expected, expected_losses = train(here, network, loss, "cuda", 2, capture=True)
    finally:
        capture.WARM_UP = warm_up
    if losses != expected_losses:
        raise AssertionError(f"losses: expected {expected_losses}, got {losses}")
    for i, (p, q) in enumerate(zip(model.parameters(), expected.parameters(), strict=True)):
        if not np.array_equal(to_numpy(p.data), to_numpy(q.data)):
            different = int((to_numpy(p.data) != to_numpy(q.data)).sum())
            raise AssertionError(f"parameter {i}: {different} of {p.data.size} elements differ")
    return {"losses": losses}


def ends(here: Here, network: str, loss: str) -> dict[str, Any]:
    """Train on both devices; compare the losses of each epoch and the error on the test images."""
    epochs, test = (2 if here.rehearsal else 3), problem(here)[1]
    found: dict[str, tuple[list[float], float]] = {}
    for device in ("cuda", "cpu"):
        model, losses = train(here, network, loss, device, epochs)
        found[device] = losses, float(evaluate(model, test).error)
    (losses, error), (expected_losses, expected_error) = found["cuda"], found["cpu"]
    if not np.allclose(losses, expected_losses, rtol=0.02) or abs(error - expected_error) > 0.02:
        raise AssertionError(f"losses and error: expected {found['cpu']}, got {found['cuda']}")
    return {"losses": losses, "cpu_losses": expected_losses, "error": error, "cpu_error": expected_error}
