"""Copies and pickles of modules and optimizers: whole, and independent of the original."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from npadv import Tensor, grad, nn
from npadv.functional import kl_divergence
from npadv.gan import Players
from npadv.nn import MaxNorm, Parameter
from npadv.ops import DeviceRandom
from npadv.optim import SGD, Adam, ExponentialDecay, Linear
from npadv.train import classification_loss, gradient_update

X = np.random.default_rng(1).random((6, 1, 2, 2)).astype(np.float32)
Y = np.arange(6) % 3


def network(seed=0):
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Standardize(0.5, 0.3), nn.Flatten(), nn.Dropout(0.2), nn.Dense(4, 5, rng=rng, max_norm=0.9, step_scale=0.5),
        nn.BatchNorm(5), nn.ReLU(), nn.Dense(5, 3, rng=rng),
    )  # fmt: skip


def unpickled(thing):
    return pickle.loads(pickle.dumps(thing))


COPIES = {"deepcopy": copy.deepcopy, "pickle": unpickled}
OPTIMIZERS = {
    "sgd": lambda p: SGD(p, ExponentialDecay(0.1, 1.5), momentum=Linear(0.5, 0.9, end=3), weight_decay=0.1),
    "dampened": lambda p: SGD(p, 0.1, momentum=0.9, dampening=0.9),
    "adam": lambda p: Adam(p, 0.1),
}
each_copy = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


def train(model, optimizer, steps=3):
    rng = np.random.default_rng(3)
    return [float(gradient_update(model, classification_loss, optimizer, X, Y, rng=rng)) for _ in range(steps)]


# Modules --------------------------------------------------------------------------------------------------------------


@each_copy
def test_a_copied_module_computes_the_same_and_shares_no_memory(copied):
    model = network()
    model.about = {"network": "small"}
    twin = copied(model)
    np.testing.assert_array_equal(twin(X).data, model(X).data)
    assert (repr(twin), twin.about) == (repr(model), model.about)
    for (name, a), (_, b) in zip(model.named_tensors(), twin.named_tensors(), strict=True):
        assert type(a) is type(b), name
        assert a.requires_grad == b.requires_grad, name
        assert not np.shares_memory(a.data, b.data), name


@each_copy
def test_a_copied_parameter_keeps_its_step_scale_and_its_constraint(copied):
    p = copied(Parameter(np.ones((2, 3)), step_scale=0.25, constraint=MaxNorm(0.5, axes=(0,))))
    assert (p.step_scale, p.constraint, p.requires_grad) == (0.25, MaxNorm(0.5, axes=(0,)), True)
    SGD([p], 0.0).step([np.ones((2, 3))])
    np.testing.assert_allclose(np.linalg.norm(p.data, axis=0), 0.5)


@each_copy
def test_training_a_copy_leaves_the_original_alone(copied):
    teacher = network()
    before, student = teacher.state(), copied(teacher)
    train(student, SGD(student.parameters(), 0.5))
    np.testing.assert_equal(teacher.state(), before)
    assert (student.state()["layers.3.weight"] != before["layers.3.weight"]).any()


@each_copy
def test_a_student_and_its_copied_teacher_have_gradients_of_their_own(copied):
    """The gradient of KL(teacher || student) in the student's logits is softmax(student) - softmax(teacher)."""
    student = nn.Dense(4, 3, rng=np.random.default_rng(0))
    teacher = copied(student)
    teacher.weight.assign(teacher.weight.data + np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32))
    x = X.reshape(6, 4)
    loss = kl_divergence(teacher(x), student(x), reduction="sum")
    s, t = (np.exp(m(x).data) / np.exp(m(x).data).sum(axis=1, keepdims=True) for m in (student, teacher))
    both = grad(loss, [student.weight, teacher.weight])
    np.testing.assert_allclose(both[0], x.T @ (s - t), rtol=1e-4, atol=1e-6)
    assert np.abs(both[1] - both[0]).max() > 1e-2


@each_copy
def test_layers_that_share_a_parameter_share_it_in_the_copy(copied):
    layer = nn.Dense(2, 2, rng=np.random.default_rng(0))
    twin = copied(nn.Sequential(layer, nn.ReLU(), layer))
    assert twin[0] is twin[2]
    assert len(twin.parameters()) == 2


@each_copy
def test_a_module_that_knows_its_parent_is_copied_with_it(copied):
    parent = network()
    parent.layers[0].parent = parent
    twin = copied(parent)
    assert twin.layers[0].parent is twin
    np.testing.assert_array_equal(twin(X).data, parent(X).data)


def test_a_shallow_copy_shares_its_parameters_as_in_python():
    model = network()
    twin = copy.copy(model)
    assert [*map(id, twin.parameters())] == [*map(id, model.parameters())]
    twin.layers = twin.layers[:2]
    assert len(model) == 7


# Optimizers -----------------------------------------------------------------------------------------------------------


@each_copy
@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_copied_with_its_model_steps_the_copy(copied, build):
    model = network()
    optimizer = build(model.parameters())
    train(model, optimizer)
    twin, twins_optimizer = copied((model, optimizer))
    assert [*map(id, twins_optimizer.parameters)] == [*map(id, twin.parameters())]
    before = model.state()
    losses = train(twin, twins_optimizer)
    np.testing.assert_equal(model.state(), before)
    assert optimizer.updates == 3
    assert train(model, optimizer) == losses
    np.testing.assert_equal(twin.state(), model.state())
    np.testing.assert_equal(twins_optimizer.state(), optimizer.state())


@each_copy
def test_an_optimizer_copied_alone_steps_parameters_of_its_own(copied):
    p = Parameter(np.ones(3))
    optimizer = SGD([p], 0.5, momentum=0.9)
    optimizer.step([np.ones(3)])
    twin = copied(optimizer)
    twin.step([np.ones(3)])
    np.testing.assert_allclose(twin.parameters[0].data, 1 - 0.5 - 0.95)
    np.testing.assert_array_equal(p.data, [0.5] * 3)
    assert (optimizer.updates, twin.updates) == (1, 2)


@each_copy
def test_the_players_of_a_game_are_copied_with_their_networks(copied):
    generator, discriminator = (nn.Dense(2, 2, rng=np.random.default_rng(0)) for _ in "gd")
    players = Players(generator=Adam(generator.parameters()), discriminator=SGD(discriminator.parameters(), 0.1))
    g, d, twins = copied((generator, discriminator, players))
    assert twins.generator.parameters[0] is g.weight
    assert twins.discriminator.parameters[0] is d.weight


@each_copy
def test_a_random_state_for_dropout_is_copied(copied):
    random = DeviceRandom(7, np.zeros(1))
    random.draw()
    random.advance()
    twin = copied(random)
    np.testing.assert_equal(twin.state(), random.state())
    twin.draw()
    twin.advance()
    assert (twin.steps, random.steps) == (2, 1)


# Threads and processes ------------------------------------------------------------------------------------------------


def logits(model, x):
    return model(x).data


def input_gradient(model, x):
    x = Tensor(x, requires_grad=True)
    return grad(model(x).sum(), x)


def test_copies_train_side_by_side_in_threads():
    models = [network() for _ in range(4)]
    alone = network()
    expected = train(alone, SGD(alone.parameters(), 0.5))
    with ThreadPoolExecutor(4) as pool:
        copies = [*pool.map(copy.deepcopy, models)]
        results = [*pool.map(lambda m: train(m, SGD(m.parameters(), 0.5)), copies)]
    assert results == [expected] * 4
    for model in models:
        np.testing.assert_equal(model.state(), network().state())


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pickled_network_gives_the_same_in_another_process(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} is not available here")
    model = network()
    train(model, SGD(model.parameters(), 0.5))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        np.testing.assert_allclose(pool.submit(logits, model, X).result(), model(X).data, rtol=1e-6)
        np.testing.assert_allclose(pool.submit(input_gradient, model, X).result(), input_gradient(model, X), rtol=1e-5)
