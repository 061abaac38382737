"""Update rules against their formulas, written out in plain NumPy; schedules against the papers' numbers."""

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npadv import Tensor, nn
from npadv.nn import MaxNorm, Parameter
from npadv.optim import SGD, Adam, ExponentialDecay, InverseDecay, Linear, StepDecay
from npadv.recipes import RECIPES

START = np.array([1.0, -2.0, 0.5])
GRADIENTS = [np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.25, -1.0]), np.array([-0.5, 3.0, 0.0])]


def run(build, gradients=GRADIENTS):
    """Return where an optimizer takes START."""
    p = Parameter(START.copy())
    optimizer = build([p])
    for g in gradients:
        optimizer.step([g])
    return p.data


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Rules ----------------------------------------------------------------------------------------------------------------


def test_plain_descent_subtracts_step_times_gradient():
    np.testing.assert_array_equal(run(lambda p: SGD(p, 0.5)), START - 0.5 * np.array([1.0, 2.25, 1.0]))


def test_momentum_by_hand():
    # v = 1, then 0.5 * 1 + 1 = 1.5, then 0.5 * 1.5 + 1 = 1.75
    ones = [np.ones(3)] * 3
    np.testing.assert_array_equal(run(lambda p: SGD(p, 1.0, momentum=0.5), ones), START - (1 + 1.5 + 1.75))
    # dampened by as much, it is an average of gradients: v = 1, then 0.5 * 1 + 0.5 * 1
    dampened = run(lambda p: SGD(p, 1.0, momentum=0.5, dampening=0.5), ones)
    np.testing.assert_array_equal(dampened, START - 3)
    # Nesterov looks one step ahead: g + m v = 1.5, 1.75, 1.875
    nesterov = run(lambda p: SGD(p, 1.0, momentum=0.5, nesterov=True), ones)
    np.testing.assert_array_equal(nesterov, START - (1.5 + 1.75 + 1.875))


@given(
    step=st.floats(0, 2),
    momentum=st.floats(0, 0.99),
    dampening=st.floats(0, 1),
    decay=st.sampled_from([0.0, 0.1]),
    nesterov=st.booleans(),
)
def test_every_variant_of_descent_follows_its_formula(step, momentum, dampening, decay, nesterov):
    nesterov &= momentum > 0
    if nesterov or momentum == 0:  # without momentum there is no velocity to dampen
        dampening = 0.0
    p, v = START.copy(), None
    for g in GRADIENTS:
        g = g + decay * p
        v = g if v is None else momentum * v + (1 - dampening) * g
        p = p - step * (g + momentum * v if nesterov else v)
    settings = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": decay}
    np.testing.assert_allclose(run(lambda q: SGD(q, step, **settings)), p, rtol=1e-13, atol=1e-13)


@given(step=st.floats(0, 2), b1=st.floats(0, 0.99), b2=st.floats(0, 0.999), decay=st.sampled_from([0.0, 0.1]))
def test_adam_follows_its_formula(step, b1, b2, decay):
    p, m, v = START.copy(), np.zeros(3), np.zeros(3)
    for t, g in enumerate(GRADIENTS, start=1):
        g = g + decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        p = p - step * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
    result = run(lambda q: Adam(q, step, betas=(b1, b2), weight_decay=decay))
    np.testing.assert_allclose(result, p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_adams_first_step_is_the_step_size_whatever_the_gradients_scale(scale):
    moved = run(lambda p: Adam(p, 0.25), [scale * GRADIENTS[0]]) - START
    np.testing.assert_allclose(moved, -0.25 * np.sign(GRADIENTS[0]), rtol=1e-4)


def test_gradients_are_read_and_not_written():
    kept = [g.copy() for g in GRADIENTS]
    run(lambda p: SGD(p, 0.5, momentum=0.9, nesterov=True, weight_decay=0.1))
    run(lambda p: Adam(p, 0.5, weight_decay=0.1))
    np.testing.assert_array_equal(GRADIENTS, kept)


@pytest.mark.parametrize("build", [lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.1), lambda p: Adam(p, 0.1)])
def test_float32_stays_float32(build):
    p = Parameter(START.astype(np.float32))
    optimizer = build([p])
    optimizer.step([GRADIENTS[0].astype(np.float32)])
    assert p.dtype == np.float32
    assert {a.dtype for kept in optimizer.memory.values() for a in kept} == {np.dtype(np.float32)}


# As in Torch7, which ran the published code of [SYN] ------------------------------------------------------------------


def test_the_velocity_starts_as_the_first_gradient_undampened():
    p = Parameter(np.array([1.0]))
    optimizer = SGD([p], 0.1, momentum=0.9, dampening=0.5)
    optimizer.step([np.array([1.0])])  # v = 1
    assert p.data == pytest.approx([0.90])  # 0.95 if the first gradient were dampened
    optimizer.step([np.array([1.0])])  # v = 0.9 + 0.5
    assert p.data == pytest.approx([0.90 - 0.14])


def test_dampening_equal_to_the_momentum_averages_gradients():
    p = Parameter(np.array([0.0]))
    optimizer = SGD([p], 1.0, momentum=0.9, dampening=0.9)
    for g in (1.0, 2.0, 3.0):
        before = p.data.copy()
        optimizer.step([np.array([g])])
    assert before - p.data == pytest.approx([0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3])


def test_momentum_may_be_set_later():
    late, p = Parameter(np.array([0.0])), Parameter(np.array([0.0]))
    optimizer, early = SGD([late], 1.0, dampening=0.5), SGD([p], 1.0, momentum=0.5, dampening=0.5)
    optimizer.step([np.array([7.0])])
    late.assign([0.0])
    optimizer.momentum = 0.5  # its velocity starts with the next gradient
    for g in (1.0, 3.0):
        optimizer.step([np.array([g])])
        early.step([np.array([g])])
    assert late.data == p.data == -(1 + 2)
    with pytest.raises(ValueError, match="momentum: expected a number of at least 0 and below 1, got 1"):
        optimizer.momentum = 1


def test_momentum_may_be_switched_off():
    p = Parameter(np.array([0.0]))
    optimizer = SGD([p], 1.0, momentum=0.5, dampening=0.5)
    optimizer.step([np.array([1.0])])
    optimizer.momentum = 0
    optimizer.step([np.array([1.0])])
    assert p.data == -2


# Lists of parameters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [lambda p: SGD(p, 0.5), lambda p: SGD(p, 0.5, momentum=0.9), lambda p: Adam(p, 0.5)])
def test_a_parameter_listed_twice_is_stepped_once(build):
    p, q = Parameter(START.copy()), Parameter(START.copy())
    once, twice = build([p]), build([q, q])
    assert [id(p) for p in twice.parameters] == [id(q)]
    for optimizer in (once, twice):
        optimizer.step([GRADIENTS[0]])
    np.testing.assert_array_equal(q.data, p.data)


def test_layers_that_share_a_parameter_step_it_once(rng):
    layer = nn.Dense(2, 2, rng=rng)
    before = layer.weight.data.copy()
    optimizer = SGD([*layer.parameters(), *nn.Sequential(layer, layer).parameters()], 1.0)
    optimizer.step([np.ones((2, 2), np.float32), np.ones(2, np.float32)])
    np.testing.assert_array_equal(layer.weight.data, before - 1)


@pytest.mark.parametrize("operator", [operator.iadd, operator.isub, operator.imul, operator.itruediv])
def test_in_place_arithmetic_that_would_change_nothing_is_refused(operator):
    p = Parameter(START.copy())
    with pytest.raises(TypeError, match=r"in-place arithmetic on a parameter, such as p -= step, .*p\.assign\(p\.data"):
        operator(p, 0.1)
    p.assign(p.data - 0.1)
    np.testing.assert_array_equal(p.data, START - 0.1)


def test_update_rules_have_the_published_defaults():
    p = Parameter(START.copy())
    adam, sgd = Adam([p]), SGD([p], 0.1)
    assert (adam.step_size, adam.betas, adam.epsilon, adam.weight_decay) == (1e-3, (0.9, 0.999), 1e-8, 0)
    assert (sgd.momentum, sgd.dampening, sgd.nesterov, sgd.weight_decay) == (0, 0, False, 0)


# The settings of a parameter ------------------------------------------------------------------------------------------


def test_step_scale_multiplies_the_step_of_its_parameter_alone():
    slow, usual = Parameter(START.copy(), step_scale=0.05), Parameter(START.copy())
    SGD([slow, usual], 0.5).step([GRADIENTS[0]] * 2)
    np.testing.assert_array_equal(slow.data, START - 0.5 * 0.05 * GRADIENTS[0])
    np.testing.assert_array_equal(usual.data, START - 0.5 * GRADIENTS[0])


@pytest.mark.parametrize("build", [lambda p: SGD(p, 1.0, momentum=0.5), lambda p: Adam(p, 1.0)])
def test_a_constraint_holds_after_every_step(build, rng):
    p = Parameter(rng.normal(size=(4, 3)), constraint=MaxNorm(1.5, axes=(0,)))
    optimizer = build([p])
    for _ in range(5):
        optimizer.step([rng.normal(size=(4, 3))])
        assert (np.linalg.norm(p.data, axis=0) <= 1.5 * (1 + 1e-15)).all()
    assert np.linalg.norm(p.data, axis=0).max() > 1.49  # and it was needed


def test_a_step_is_noticed_by_a_gradient_that_is_under_way():
    p = Parameter(START.copy())
    y = (p * p).sum()
    SGD([p], 0.1).step([GRADIENTS[0]])
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


# Schedules ------------------------------------------------------------------------------------------------------------


def test_schedules_give_the_published_numbers():
    decay = ExponentialDecay(0.1, 1.000004, floor=1e-6)  # MNIST's maxout network: / 1.000004 at every batch
    assert decay(0, 0) == 0.1
    assert decay(500, 1) == pytest.approx(0.1 / 1.000004**500, rel=1e-12)
    assert decay(10**7, 0) == 1e-6
    inverse = InverseDecay(0.01, 5e-6)  # [SYN] on MNIST: .01 / (1 + 5e-6 t)
    assert inverse(600 * 120, 120) == pytest.approx(0.01 / 1.36, rel=1e-12)
    halved = StepDecay(1.0, every=25)  # [SYN] on CIFAR-10
    assert [halved(0, epoch) for epoch in (0, 24, 25, 49, 50, 299)] == [1, 1, 0.5, 0.5, 0.25, 0.5**11]
    linear = Linear(0.17, 0.0017, end=500)  # CIFAR-10's maxout network: to a hundredth at epoch 500
    assert [linear(0, epoch) for epoch in (0, 500, 600)] == pytest.approx([0.17, 0.0017, 0.0017], rel=1e-12)
    assert linear(0, 250) == pytest.approx((0.17 + 0.0017) / 2, rel=1e-12)
    assert Linear(1.0, 3.0, start=10, end=20)(0, 9) == 1.0
    assert Linear(1.0, 3.0, start=10, end=20)(0, 15) == 2.0


def test_a_schedule_that_goes_nowhere_is_refused():
    with pytest.raises(ValueError, match="Linear\\(end\\): expected an epoch after the start, 5, got 5"):
        Linear(0.5, 0.7, end=5, start=5)
    with pytest.raises(ValueError, match="StepDecay\\(every\\): expected at least 1 epoch, got 0"):
        StepDecay(1.0, every=0)


def test_an_optimizer_asks_its_schedules_for_each_update_and_epoch():
    asked = []

    def schedule(update, epoch):
        asked.append((update, epoch))
        return 1.0 / (1 + update)

    p = Tensor(np.zeros(1), requires_grad=True)
    optimizer = SGD([p], schedule, momentum=lambda update, epoch: 0.5 * epoch)
    optimizer.step([np.ones(1)])  # v = 1, step 1
    optimizer.epoch = 1
    optimizer.step([np.ones(1)])  # v = .5 + 1, step 1/2
    assert asked == [(0, 0), (1, 1)]
    np.testing.assert_array_equal(p.data, [-1.75])


def numbers(name, epoch=0):
    """Return a recipe's step size, momentum, dampening and weight decay at the start of an epoch."""
    model = nn.Dense(1, 1, rng=np.random.default_rng(0))
    optimizer = RECIPES[name].optimizer(model)
    optimizer.epoch = epoch
    return (
        optimizer.now(optimizer.step_size),
        optimizer.now(optimizer.momentum),
        optimizer.dampening,
        optimizer.weight_decay,
    )


def test_recipes_hold_the_published_numbers():
    assert numbers("maxout_mlp") == (0.1, 0.5, 0, 0)
    assert numbers("maxout_mlp", 250)[1] == pytest.approx(0.7)
    assert numbers("maxout_convnet_mnist")[0] == 0.05
    assert numbers("maxout_convnet_cifar10", 500)[:2] == pytest.approx((0.0017, 0.65))
    assert numbers("syn_convnet") == numbers("syn_convnet_bn") == (0.01, 0.9, 0.9, 1e-3)
    assert numbers("syn_vgg") == (1.0, 0.9, 0.9, 5e-4)
    sizes = {name: (recipe.batch_size, recipe.hold_out) for name, recipe in RECIPES.items()}
    assert sizes["maxout_mlp"] == (100, 10_000)
    assert sizes["maxout_convnet_mnist"] == sizes["maxout_convnet_cifar10"] == (128, 10_000)
    assert sizes["syn_convnet"] == (100, 0)
    assert sizes["syn_vgg"] == (128, 0)


def test_every_network_has_a_recipe():
    assert RECIPES.keys() == nn.NETWORKS.keys()


# State ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        lambda p: SGD(p, InverseDecay(0.1, 0.5)),
        lambda p: SGD(p, Linear(1.0, 0.1, end=3), momentum=0.9),
        lambda p: Adam(p, 0.1),
    ],
)
def test_state_goes_into_another_optimizer_which_then_does_the_same(build):
    first, second = Parameter(START.copy()), Parameter(START.copy())
    one, other = build([first]), build([second])
    one.step([GRADIENTS[0]])
    one.epoch = 2
    second.assign(first.data)
    other.load_state(state := one.state())
    for kept in state.values():
        kept[...] = 9  # a copy: nobody minds
    for optimizer in (one, other):
        optimizer.step([GRADIENTS[1]])
    np.testing.assert_array_equal(first.data, second.data)
    np.testing.assert_equal(one.state(), other.state())
    assert other.updates == 2


def test_a_state_of_another_optimizer_is_refused_and_nothing_is_changed():
    p = Parameter(START.copy())
    for other in (SGD([p], 0.1), Adam([p]), SGD([Parameter(np.zeros(2))], 0.1, momentum=0.5)):
        optimizer = SGD([p], 0.1, momentum=0.5)
        other.updates = 7
        with pytest.raises(ValueError, match="optimizer state: does not fit this optimizer and its parameters"):
            optimizer.load_state(other.state())
        assert optimizer.updates == 0


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p: SGD(p, -0.1), "step_size: expected a number of at least 0, got -0.1"),
        (lambda p: SGD(p, float("nan")), "step_size: expected a number of at least 0, got nan"),
        (lambda p: SGD(p, 0.1, momentum=1), "momentum: expected a number of at least 0 and below 1, got 1"),
        (lambda p: SGD(p, 0.1, momentum=0.5, dampening=-1), "dampening: expected a number of at least 0, got -1"),
        (lambda p: SGD(p, 0.1, weight_decay=-1e-3), "weight_decay: expected a number of at least 0, got -0.001"),
        (lambda p: SGD(p, 0.1, nesterov=True), r"SGD\(nesterov=True\): expected momentum and no dampening"),
        (lambda p: SGD(p, 0.1, nesterov=True, momentum=0.5, dampening=0.5), "expected momentum and no dampening"),
        (lambda p: Adam(p, betas=(0.9, 1)), "betas: expected a number of at least 0 and below 1, got 1"),
        (lambda p: Adam(p, weight_decay=-1), "weight_decay: expected a number of at least 0, got -1"),
        (lambda p: SGD([], 0.1), r"optimizer\(parameters\): expected at least one parameter, got none"),
    ],
)
def test_bad_settings_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build([Parameter(START.copy())])


@pytest.mark.parametrize(
    ("gradients", "came"),
    [
        ([np.ones(3)], r"\[\(3,\)\]"),
        ([np.ones(3)] * 3, r"\[\(3,\), \(3,\), \(3,\)\]"),
        ([np.ones(3), np.ones(1)], r"\[\(3,\), \(1,\)\]"),  # would broadcast
    ],
)
def test_gradients_that_do_not_match_are_refused_before_anything_is_changed(gradients, came):
    parameters = [Parameter(START.copy()), Parameter(START.copy())]
    optimizer = SGD(parameters, 0.1)
    message = rf"step\(gradients\): expected one for each parameter, of shapes \[\(3,\), \(3,\)\], got {came}"
    with pytest.raises(ValueError, match=message):
        optimizer.step(gradients)
    assert optimizer.updates == 0
    np.testing.assert_array_equal(parameters[0].data, START)
