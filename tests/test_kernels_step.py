"""A whole training step in kernels: what the tape computes, and, on a GPU, captured once and replayed."""

import sys
import types

import fake_cupy
import numpy as np
import pytest
from kernel_cases import needs_compiler

from npadv import functional, kernels, ops
from npadv.autodiff import grad
from npadv.backend import to_numpy
from npadv.nn.parameter import MaxNorm, Parameter
from npadv.optim import SGD

N, D, UNITS, PIECES, CLASSES = 9, 20, 7, 3, 4
RATES = (0.2, 0.5)  # of dropping inputs and hidden units
MOMENTUM, LONGEST = 0.9, 0.8


def beginning(xp):
    """A maxout network's arrays: a batch, weights and biases, velocities, and the settings that a schedule would change."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (D, PIECES * UNITS), "b1": (PIECES * UNITS,), "w2": (UNITS, CLASSES), "b2": (CLASSES,)}
    host = {"x": rng.random((N, D)), "labels": rng.integers(0, CLASSES, N)}
    for name, shape in shapes.items():
        host[name], host[f"v_{name}"] = rng.normal(size=shape) * 0.3, np.zeros(shape)
    host["state"], host["settings"] = np.array([5, 0], np.uint64), np.array([0.1, MOMENTUM])
    host["share"], host["ones"] = np.full(N, 1 / N), np.ones((1, N))
    return types.SimpleNamespace(**{name: xp.asarray(a) for name, a in host.items()})


def step(a):
    """Forward, backward and update in kernels; the loss of each example."""
    x = kernels.dropout(a.x, RATES[0], a.state, draw=0)
    h, winners = kernels.maxout(kernels.matmul(x, a.w1, bias=a.b1), PIECES)
    dropped = kernels.dropout(h, RATES[1], a.state, draw=1)
    logits = kernels.matmul(dropped, a.w2, bias=a.b2)
    losses = kernels.cross_entropy(logits, a.labels)

    gz = kernels.cross_entropy_grad(logits, a.labels, a.share)
    gh = kernels.dropout(kernels.matmul(gz, a.w2, transpose_b=True), RATES[1], a.state, draw=1)
    gp = kernels.maxout_grad(gh, winners, PIECES)
    gradients = {
        "w1": kernels.matmul(x, gp, transpose_a=True),
        "b1": kernels.matmul(a.ones, gp).reshape(-1),
        "w2": kernels.matmul(dropped, gz, transpose_a=True),
        "b2": kernels.matmul(a.ones, gz).reshape(-1),
    }
    for name, g in gradients.items():
        kernels.sgd(getattr(a, name), g, a.settings, velocity=getattr(a, f"v_{name}"))
    kernels.max_norm(a.w1, LONGEST, (0,))
    offset = a.state[1:]
    offset += np.uint64(2)
    return losses


def steps_on_the_tape(steps):
    """The same by the tape and the optimizer: the losses of each step, and the parameters in the end."""
    a = beginning(np)
    parameters = [
        Parameter(p, constraint=MaxNorm(LONGEST, (0,)) if p is a.w1 else None) for p in (a.w1, a.b1, a.w2, a.b2)
    ]
    optimizer, random, found = SGD(parameters, 0.1, momentum=MOMENTUM), ops.DeviceRandom(5, a.x), []
    for _ in range(steps):
        w1, b1, w2, b2 = parameters
        x = ops.dropout(a.x, rate=RATES[0], draw=random.draw())
        h = functional.maxout(ops.matmul(x, w1) + b1, PIECES)
        h = ops.dropout(h, rate=RATES[1], draw=random.draw())
        losses = functional.cross_entropy(ops.matmul(h, w2) + b2, a.labels, reduction="none")
        optimizer.step(grad(ops.mean(losses), parameters))
        found.append(losses.data)
        random.advance()
    return found, [p.data for p in parameters]


def test_a_step_in_kernels_is_the_step_on_the_tape(xp):
    a = beginning(xp)
    found = [to_numpy(step(a)) for _ in range(3)]
    expected, parameters = steps_on_the_tape(3)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    for name, p in zip(("w1", "b1", "w2", "b2"), parameters, strict=True):
        np.testing.assert_allclose(to_numpy(getattr(a, name)), p, rtol=1e-11)
    assert abs(to_numpy(a.w1) - beginning(np).w1).max() > 0.01


@needs_compiler
def test_a_step_on_device_arrays_neither_waits_nor_moves_data():
    """On the stand-in for CuPy, which counts; a wait would make a CUDA graph impossible."""
    with fake_cupy.installed() as counts:
        a = beginning(sys.modules["cupy"])
        before = dict(counts)
        losses = step(a)
        done = {what: counts[what] - before[what] for what in ("waits", "uploads", "downloads", "launches")}
        assert done == {"waits": 0, "uploads": 0, "downloads": 0, "launches": 19}
        np.testing.assert_allclose(to_numpy(losses), steps_on_the_tape(1)[0][0], rtol=1e-12)


@pytest.mark.gpu
def test_a_captured_step_draws_new_masks_and_obeys_a_schedule():
    """A CUDA graph repeats launches, arguments and all: what differs between steps must come from the device's memory."""
    cupy = pytest.importorskip("cupy")
    if not cupy.is_available():
        pytest.skip("no CUDA device")
    with cupy.cuda.Stream(non_blocking=True) as stream:
        step(beginning(cupy))  # compiles, and fills the memory pool
        a = beginning(cupy)
        stream.begin_capture()
        losses = step(a)
        graph = stream.end_capture()
        found = []
        for _ in range(3):
            graph.launch(stream)
            found.append(losses.get(stream=stream))
    np.testing.assert_allclose(found, steps_on_the_tape(3)[0], rtol=1e-12)
