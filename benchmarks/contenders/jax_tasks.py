"""The tasks in JAX. Each is one function, compiled as a whole; each step waits for its result."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import problems

Step = Callable[[], Any]
Arrays = list[Any]


def start(*, threads: int) -> dict[str, str]:
    """Limit the cores of this process to the number of threads, before XLA counts them; return the versions."""
    # XLA has no setting for the size of its thread pool: it starts a thread for every core that the process may use.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    elif threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return {"jax": jax.__version__}


# Networks ----------------------------------------------------------------------------------------------------------------


def logits(network: str, w: Arrays, x: Any, key: Any = None) -> Any:
    """Return a network's logits; ``key`` switches dropout on."""
    if network == "syn_convnet":
        raise NotImplementedError("syn_convnet is not implemented here; it has the same layers as convnet")
    if network == "maxout":
        keys = [None] * 3 if key is None else jax.random.split(key, 3)
        x = _dropout(x, 0.2, 1.0, keys[0])
        for i in (0, 2):
            z = x @ w[i] + w[i + 1]
            x = z.reshape(len(z), problems.MAXOUT_PIECES, problems.MAXOUT_UNITS).max(axis=1)
            x = _dropout(x, 0.5, 2.0, keys[i // 2 + 1])
        return x @ w[4] + w[5]
    if network == "convnet":
        x = _max_pool(jax.nn.relu(_conv(x, w[0]) + w[1][:, None, None]), 3)
        x = _max_pool(jax.nn.relu(_conv(x, w[2]) + w[3][:, None, None]), 2)
        x, w = x.reshape(len(x), -1), w[4:]
    for i in range(0, len(w), 2):
        x = x @ w[i] + w[i + 1]
        x = jax.nn.relu(x) if i < len(w) - 2 else x
    return x


def _dropout(x: Any, rate: float, factor: float, key: Any) -> Any:
    return x if key is None else jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), factor * x, 0)


def _conv(x: Any, w: Any) -> Any:
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))


def _max_pool(x: Any, size: int) -> Any:
    window = (1, 1, size, size)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def _summed_loss(w: Arrays, x: Any, y: Any, key: Any = None, *, network: str) -> Any:
    z = logits(network, w, x, key)
    return (jax.nn.logsumexp(z, axis=1) - z[jnp.arange(len(y)), y]).sum()


def _loss(w: Arrays, x: Any, y: Any, key: Any = None, *, network: str) -> Any:
    return _summed_loss(w, x, y, key, network=network) / len(y)


def _problem(network: str, batch: int) -> tuple[Arrays, Any, Any]:
    x, y = problems.batch(network, batch)
    return [jnp.asarray(a) for a in problems.weights(network)], jnp.asarray(x), jnp.asarray(y)


# Tasks -------------------------------------------------------------------------------------------------------------------


def gradients(network: str, batch: int) -> tuple[float, list[np.ndarray]]:
    """Return the mean loss and its gradients in the weights, without dropout."""
    w, x, y = _problem(network, batch)
    loss, g = jax.value_and_grad(partial(_loss, network=network))(w, x, y)
    return float(loss), [np.asarray(a) for a in g]


def train_step(network: str, batch: int, dropout: bool = True) -> Step:
    """Return a step of gradient descent with momentum; the norms of the maxout network's weights are then constrained."""
    w, x, y = _problem(network, batch)
    velocity = [jnp.zeros_like(a) for a in w]
    key = jax.random.key(0)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(w: Arrays, velocity: Arrays, key: Any) -> tuple[Arrays, Arrays, Any, Any]:
        key, mask = jax.random.split(key)
        loss, g = jax.value_and_grad(partial(_loss, network=network))(w, x, y, mask if dropout else None)
        velocity = [problems.MOMENTUM * v + a for v, a in zip(velocity, g, strict=True)]
        w = [a - problems.STEP_SIZE * v for a, v in zip(w, velocity, strict=True)]
        if network == "maxout":
            w = [a * jnp.minimum(1, problems.MAX_NORM / jnp.linalg.norm(a, axis=0)) if a.ndim == 2 else a for a in w]
        return w, velocity, key, loss

    def step() -> Any:
        nonlocal w, velocity, key
        w, velocity, key, loss = jax.block_until_ready(update(w, velocity, key))
        return loss

    return step


def input_gradient(network: str, batch: int) -> Step:
    """Return a function that computes the gradient of the summed cross-entropy in the input alone."""
    w, x, y = _problem(network, batch)
    differentiated = jax.jit(jax.grad(partial(_summed_loss, network=network), argnums=1))
    return lambda: jax.block_until_ready(differentiated(w, x, y))


TASKS: dict[str, Callable[..., Step]] = {task.__name__: task for task in (train_step, input_gradient)}
