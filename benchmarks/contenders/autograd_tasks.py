"""The tasks in HIPS autograd, which records NumPy's functions. A convolution is a sum of matrix products over the taps."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd import grad, value_and_grad
from autograd.scipy.special import logsumexp

from benchmarks import problems

Step = Callable[[], Any]
Arrays = list[Any]
F32 = np.float32


def start(*, threads: int) -> dict[str, str]:
    """Return the versions; the number of threads is in the environment."""
    return {"autograd": metadata.version("autograd"), "numpy": np.__version__}


# Networks ----------------------------------------------------------------------------------------------------------------


def logits(network: str, w: Arrays, x: Any, rng: np.random.Generator | None = None) -> Any:
    """Return a network's logits; ``rng`` switches dropout on."""
    if network == "syn_convnet":
        raise NotImplementedError("syn_convnet is not implemented here; it has the same layers as convnet")
    if network == "maxout":
        x = x * _mask(x.shape, 0.2, 1.0, rng)
        for i in (0, 2):
            z = anp.dot(x, w[i]) + w[i + 1]
            x = anp.max(anp.reshape(z, (len(z), problems.MAXOUT_PIECES, problems.MAXOUT_UNITS)), axis=1)
            x = x * _mask(x.shape, 0.5, 2.0, rng)
        return anp.dot(x, w[4]) + w[5]
    if network == "convnet":
        x = _max_pool(anp.maximum(_conv(x, w[0], padding=2) + w[1][:, None, None], F32(0)), 3)
        x = _max_pool(anp.maximum(_conv(x, w[2], padding=2) + w[3][:, None, None], F32(0)), 2)
        x, w = anp.reshape(x, (len(x), -1)), w[4:]
    for i in range(0, len(w), 2):
        x = anp.dot(x, w[i]) + w[i + 1]
        x = anp.maximum(x, F32(0)) if i < len(w) - 2 else x
    return x


def _mask(shape: tuple[int, ...], rate: float, factor: float, rng: np.random.Generator | None) -> Any:
    return F32(1) if rng is None else ((rng.random(shape) >= rate) * factor).astype(F32)


def _conv(x: Any, w: Any, padding: int) -> Any:
    (kh, kw), p = w.shape[2:], padding
    oh, ow = (size + 2 * p - k + 1 for size, k in zip(x.shape[2:], w.shape[2:], strict=True))
    x = anp.pad(x, ((0, 0), (0, 0), (p, p), (p, p)), "constant")
    taps = [
        anp.tensordot(x[:, :, i : i + oh, j : j + ow], w[:, :, i, j], axes=([1], [1]))
        for i in range(kh)
        for j in range(kw)
    ]
    return anp.transpose(sum(taps[1:], taps[0]), (0, 3, 1, 2))


def _max_pool(x: Any, size: int) -> Any:
    n, c, h, w = x.shape
    oh, ow = h // size, w // size
    x = x[:, :, : oh * size, : ow * size]
    return anp.max(anp.reshape(x, (n, c, oh, size, ow, size)), axis=(3, 5))


def _summed_loss(w: Arrays, x: Any, y: Any, network: str, rng: np.random.Generator | None = None) -> Any:
    z = logits(network, w, x, rng)
    return anp.sum(logsumexp(z, axis=1) - z[np.arange(len(y)), y])


def _loss(w: Arrays, x: Any, y: Any, network: str, rng: np.random.Generator | None = None) -> Any:
    return _summed_loss(w, x, y, network, rng) / F32(len(y))


# Tasks -------------------------------------------------------------------------------------------------------------------


def gradients(network: str, batch: int) -> tuple[float, Arrays]:
    """Return the mean loss and its gradients in the weights, without dropout."""
    return value_and_grad(_loss)(problems.weights(network), *problems.batch(network, batch), network)


def train_step(network: str, batch: int, dropout: bool = True) -> Step:
    """Return a step of gradient descent with momentum; the norms of the maxout network's weights are then constrained."""
    w, (x, y), rng = problems.weights(network), problems.batch(network, batch), np.random.default_rng(0)
    velocity = [np.zeros_like(a) for a in w]
    differentiated = value_and_grad(_loss)
    logits(network, w, x[:1])  # raises now if the network is not implemented

    def step() -> float:
        loss, g = differentiated(w, x, y, network, rng if dropout else None)
        for i, a in enumerate(w):
            velocity[i] = F32(problems.MOMENTUM) * velocity[i] + g[i]
            a -= F32(problems.STEP_SIZE) * velocity[i]
            if network == "maxout" and a.ndim == 2:
                a *= np.minimum(1, F32(problems.MAX_NORM) / np.linalg.norm(a, axis=0))
        return loss

    return step


def input_gradient(network: str, batch: int) -> Step:
    """Return a function that computes the gradient of the summed cross-entropy in the input alone."""
    w, (x, y) = problems.weights(network), problems.batch(network, batch)
    differentiated = grad(_summed_loss, 1)
    return lambda: differentiated(w, x, y, network)


TASKS: dict[str, Callable[..., Step]] = {task.__name__: task for task in (train_step, input_gradient)}
