"""All contenders of the benchmarks compute the same as npadv."""

import importlib

import numpy as np
import pytest
from benchmark_cases import contender

from benchmarks import problems
from benchmarks.workloads import CONTENDERS, WORKLOADS

PEERS = ("torch", "jax", "autograd", "textbook")
NETWORKS = ("maxout", "convnet", "syn_convnet", "20-32-10")
IMPLEMENTED = [(name, network) for name in PEERS for network in NETWORKS if name == "torch" or network != "syn_convnet"]


@pytest.mark.parametrize(("name", "network"), IMPLEMENTED)
def test_loss_and_gradients_equal_npadvs(name, network):
    loss, gradients = contender("npadv").gradients(network, 6)
    their_loss, their_gradients = contender(name).gradients(network, 6)
    assert their_loss == pytest.approx(loss, rel=1e-5)
    assert [g.shape for g in their_gradients] == [g.shape for g in gradients]
    for ours, theirs in zip(gradients, their_gradients, strict=True):
        assert theirs.dtype == np.float32
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4 * abs(ours).max())


@pytest.mark.parametrize("name", PEERS[1:])
def test_a_missing_network_is_refused(name):
    with pytest.raises(NotImplementedError, match="syn_convnet is not implemented here"):
        contender(name).gradients("syn_convnet", 6)


@pytest.mark.parametrize(("name", "network"), IMPLEMENTED)
def test_losses_along_training_steps_equal_npadvs(name, network, monkeypatch):
    initial = problems.weights
    # Large steps change the losses visibly; large weights make the maxout network's constraint active.
    scale = 1.6 if network == "maxout" else 1
    monkeypatch.setattr(problems, "STEP_SIZE", 0.01)
    monkeypatch.setattr(problems, "weights", lambda network: [scale * w for w in initial(network)])
    ours, theirs = (contender(library).train_step(network, 6, dropout=False) for library in ("npadv", name))
    losses = np.array([[float(ours()), float(theirs())] for _ in range(4)])
    np.testing.assert_allclose(losses[:, 1], losses[:, 0], rtol=1e-4)
    assert abs(losses[-1, 0] / losses[0, 0] - 1) > 0.01


@pytest.mark.parametrize("network", ["20-32-10", "784-100-100-10"])
@pytest.mark.parametrize("name", PEERS)
def test_input_gradient_equals_npadvs(name, network):
    ours = contender("npadv").input_gradient(network, 1)()
    theirs = np.asarray(contender(name).input_gradient(network, 1)())
    assert theirs.dtype == ours.dtype == np.float32
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * abs(ours).max())


@pytest.mark.parametrize("network", ["20-32-10", "784-100-100-10"])
def test_replayed_gradient_equals_the_recorded_one_exactly(network):
    npadv = contender("npadv")
    assert np.array_equal(npadv.replayed_gradient(network, 1)(), npadv.input_gradient(network, 1)())


@pytest.mark.parametrize("name", ["npadv", *PEERS])
def test_timed_training_steps_use_dropout(name):
    step = contender(name).train_step("maxout", 50)
    without = contender(name).train_step("maxout", 50, dropout=False)
    assert abs(float(step()) / float(without()) - 1) > 0.02


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("network", ["784-100-100-10", "convnet"])
@pytest.mark.parametrize(("task", "settings"), [("fgsm", {}), ("pgd", {"steps": 5})])
def test_torchs_attacks_succeed_as_often_as_npadvs(task, settings, network, channels_last):
    torch = contender("torch")
    torch.start(threads=1, channels_last=channels_last)
    success = float(contender("npadv").TASKS[task](network, 40, **settings)())
    assert float(torch.TASKS[task](network, 40, **settings)()) == pytest.approx(success, abs=1 / 40)
    assert success > 0.5


@pytest.mark.parametrize("part", ["forward", "input gradient", "weight gradient"])
def test_torchs_convolutions_equal_npadvs(part):
    torch_tasks, torch = contender("torch"), pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, w, g = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 3, 9, 9), (5, 3, 4, 4), (4, 5, 8, 8)))
    ours = contender("npadv").primitive(part, x, w, g, 1)()
    theirs = torch_tasks.primitive(part, *(torch.from_numpy(a) for a in (x, w, g)), 1)()
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=0, atol=1e-5 * abs(ours).max())


ENTRIES = [entry for workload in WORKLOADS.values() for entry in workload.entries.values()]
SAMPLES = [entry for key in ("a", "c2", "d2", "f3", "f6", "g3i", "h") for entry in WORKLOADS[key].entries.values()]


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_task_of_every_workload_exists(name):
    module = CONTENDERS[name].module
    contender(module.rpartition(".")[2].removesuffix("_tasks"))
    tasks = {entry.task for entry in ENTRIES if entry.contender == name}
    assert tasks <= set(importlib.import_module(module).TASKS)


@pytest.mark.parametrize("entry", SAMPLES, ids=lambda entry: f"{entry.contender}-{entry.task}")
def test_a_workloads_task_runs(entry):
    small = {"batch": 2, "steps": 2}
    settings = {name: small.get(name, value) for name, value in entry.settings.items()}
    name = CONTENDERS[entry.contender].module.rpartition(".")[2].removesuffix("_tasks")
    contender(name).TASKS[entry.task](**settings)()
