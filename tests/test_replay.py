"""Tapes run again: bit for bit what recording anew gives, and not believed where that cannot be known."""

import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from npadv import Replay, Tensor, defvjp, grad, nn, no_record, ops, primitive
from npadv.autodiff import PRIMITIVES
from npadv.functional import cross_entropy, leaky_relu
from npadv.nn import networks

LABELS = np.array([1, 0, 2])


def points(shape, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    while True:
        yield rng.random(shape).astype(dtype)


def anew(function, x):
    point = Tensor(x, requires_grad=True)
    y = function(point)
    return y.data, grad(y, point)


def assert_replays(function, shape, dtype=np.float32, calls=5):
    """Call a function at several points, and compare with recording it anew; return the Replay."""
    replay = Replay(function)
    for x, _ in zip(points(shape, dtype), range(calls), strict=False):
        value, gradient = replay(x)
        expected, expected_gradient = anew(function, x)
        assert np.array_equal(value, expected)
        assert np.array_equal(gradient, expected_gradient)
        assert value.dtype == expected.dtype
        assert gradient.dtype == dtype
        assert type(value) is type(gradient) is np.ndarray
    return replay


def is_replayed(replay):
    return " replayed, " in repr(replay)


def dense():
    rng = np.random.default_rng(0)
    return nn.Sequential(nn.Dense(6, 5, rng=rng), nn.ReLU(), nn.Dense(5, 3, rng=rng))


def loss_of(model, labels=LABELS, reduction="sum"):
    return lambda x: cross_entropy(model(x), labels, reduction=reduction)


# What is believed ---------------------------------------------------------------------------------------------------------

NETWORKS = {
    "dense": (dense, (3, 6)),
    "maxout": (lambda: networks.maxout_mlp(rng=np.random.default_rng(0)), (3, 1, 28, 28)),
    "convolutions": (lambda: networks.syn_convnet(rng=np.random.default_rng(0))[1:], (3, 1, 28, 28)),
    "tanh": (
        lambda: nn.Sequential(nn.Dense(6, 4, rng=np.random.default_rng(0)), nn.Tanh(), nn.Sigmoid()),
        (3, 6),
    ),
}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_networks_gradient_is_replayed_bit_for_bit(network, reduction):
    build, shape = NETWORKS[network]
    assert is_replayed(assert_replays(loss_of(build(), reduction=reduction), shape))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_input_at_a_time(dtype):
    assert is_replayed(assert_replays(loss_of(dense().astype(dtype), LABELS[:1]), (1, 6), dtype))


def test_each_kind_of_input_is_recorded_three_times():
    seen = []
    replay = Replay(lambda x: seen.append(x.shape) or (x * x).sum())
    for shape in ((2,), (3,), (2,), (3,), (2,), (3,)):
        replay(np.random.default_rng(len(seen)).random(shape))
    assert seen == [(2,), (3,), (2,), (2,), (3,), (3,)]
    replay(np.ones(2, np.float32))
    assert len(seen) == 7


def test_what_weights_and_constants_are_now_is_what_counts():
    model, shift = dense(), np.zeros(6, np.float32)
    function = loss_of(lambda x: model(x + shift))
    replay = assert_replays(function, (3, 6))
    x = next(points((3, 6), seed=9))
    for change in (
        lambda: model[0].weight.assign(model[0].weight.data * 2),
        lambda: setattr(model[2].bias, "data", model[2].bias.data + 1),
        lambda: shift.__setitem__(0, 5.0),
    ):
        before = replay(x)
        change()
        after, expected = replay(x), anew(function, x)
        assert np.array_equal(after[0], expected[0])
        assert np.array_equal(after[1], expected[1])
        assert not np.array_equal(before[1], after[1])
    assert is_replayed(replay)


def test_what_is_computed_from_the_weights_alone_is_computed_again():
    w = Tensor(np.array([1.0, 2.0]), requires_grad=True)

    def function(x):
        return (ops.exp(w) * x * x).sum()

    replay = assert_replays(function, (2,), np.float64)
    w.assign([3.0, 4.0])
    x = np.array([0.5, 0.25])
    assert np.array_equal(replay(x)[1], anew(function, x)[1])
    assert is_replayed(replay)


def test_records_older_than_the_input_are_constants():
    w = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    scale = ops.exp(w)
    replay = assert_replays(lambda x: (scale * x * x).sum(), (2,), np.float64)
    w.assign([5.0, 6.0])
    assert np.array_equal(replay(np.ones(2))[1], 2 * scale.data)
    assert is_replayed(replay)


def test_the_gradient_costs_nothing_for_the_weights():
    calls = []

    @primitive
    def watched(w):
        return w * 2

    defvjp(watched, lambda g, y, w: calls.append(y) or g * 2)
    w = Tensor(np.ones(2), requires_grad=True)
    assert is_replayed(assert_replays(lambda x: (watched(ops.exp(w)) * x).sum(), (2,), np.float64))
    assert calls == []


def test_the_gradient_comes_in_the_inputs_dtype():
    wide = np.array([1.0, 1e-3])
    assert is_replayed(assert_replays(lambda x: (x * wide * x).sum(), (2,), np.float32))


def test_the_input_may_be_the_result():
    replay = Replay(lambda x: x)
    for value in (1.0, 2.0, 3.0):
        assert replay(np.array([value])) == (np.array([value]), np.array([1.0]))


UNARY = [ops.tanh, ops.exp, ops.relu, ops.square, ops.sigmoid, lambda v: v[::-1], lambda v: v.T, lambda v: -v]
BINARY = [ops.add, ops.multiply, ops.subtract, ops.maximum]


@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12),
    seeds,
)
@settings(max_examples=60)
def test_any_program_with_sharing_is_replayed_bit_for_bit(program, seed):
    weights = Tensor(np.random.default_rng(seed).normal(size=(3, 3)), requires_grad=True)

    def function(x):
        values = [x, weights, ops.tanh(x)]
        for code, i, j in program:
            a, b = values[i % len(values)], values[j % len(values)]
            values.append(ops.tanh(UNARY[code](a) if code < 8 else BINARY[code - 8](a, b)))
        return sum((v.sum() for v in values[1:]), start=x.sum())

    assert is_replayed(assert_replays(function, (3, 3), np.float64, calls=4))


# What is not --------------------------------------------------------------------------------------------------------------


def way_by_value(x):
    return (x * x).sum() if x.data.sum() < 1.5 else ops.tanh(x).sum()


def other_values(x):
    a, b = x * 2.0, x * 3.0
    return ((a - b) if x.data[0] < 0.5 else (b - a)).sum()


def longer_way(x):
    y = x
    while y.data.sum() > 0.7:
        y = y * 0.5
    return y.sum()


DISTRUSTED = {
    "another way": (way_by_value, "multiply was computed, then tanh"),
    "a longer way": (longer_way, "operations, then"),
    "another operation": (
        lambda x: (ops.tanh(x) if x.data[0] < 0.5 else ops.exp(x)).sum(),
        "exp was computed, then tanh",
    ),
    "another type": (lambda x: x[True if x.data[0] < 0.5 else 1].sum(), "index of getitem was"),
    "a setting left out": (
        lambda x: (ops.softmax(x, axis=-1) if x.data[0] < 0.5 else ops.softmax(x))[0],
        "axis of softmax was",
    ),
    "another length": (lambda x: x[() if x.data[0] < 0.5 else (0,)].sum(), "index of getitem was"),
    "an index of arrays": (lambda x: x[(np.argsort(x.data)[:2],)].sum(), "index of getitem was"),
    "a number from the input": (lambda x: x.sum() * float(x.data[0]), "argument 1 of multiply was 0."),
    "an array from the input": (lambda x: (x * np.sign(x.data)).sum(), "an array (3,), then an array (3,)"),
    "a tensor from the input": (lambda x: (x * x.detach()).sum(), "argument 1 of multiply was the input itself"),
    "a setting from the input": (lambda x: x[int(x.data.argmax()) :].sum(), "index of getitem was"),
    "other values": (other_values, "subtract was computed from other values"),
    "a mask": (lambda x: leaky_relu(x - 0.5).sum(), "argument 0 of where was an array (3,), then an array (3,)"),
}


@pytest.mark.parametrize("case", DISTRUSTED)
def test_a_function_of_more_than_the_tape_shows_is_recorded_anew(case):
    function, why = DISTRUSTED[case]
    replay = assert_replays(function, (3,), np.float64, calls=6)
    assert "recorded anew each time: " in repr(replay)
    assert why in repr(replay)


def test_a_network_that_makes_constants_of_its_own_is_recorded_anew():
    model = networks.syn_convnet(rng=np.random.default_rng(0))  # which divides by a deviation
    assert "argument 1 of subtract was an array" in repr(assert_replays(loss_of(model), (3, 1, 28, 28)))


def test_dropout_is_not_replayed():
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Dense(6, 5, rng=rng), nn.Dropout(0.5), nn.Dense(5, 3, rng=rng))
    replay = Replay(lambda x: cross_entropy(model(x, train=True, rng=rng), LABELS))
    losses = {float(replay(np.full((3, 6), 0.1 * (i % 2), np.float32))[0]) for i in range(8)}
    assert len(losses) > 2
    assert "recorded anew each time" in repr(replay)


def test_one_input_twice_proves_nothing():
    replay = Replay(lambda x: x.sum() * float(x.data[0]))
    same = np.array([1.0, 2.0])
    for _ in range(4):
        replay(same)
    assert "recorded at one input" in repr(replay)
    assert replay(np.array([3.0, 2.0]))[0] == 15.0
    assert replay(np.array([2.0, 2.0]))[0] == 8.0


def test_the_input_that_was_recorded_may_change_afterwards():
    replay, x = Replay(lambda x: x.sum() * float(x.data[0])), np.array([1.0, 2.0])
    replay(x)
    x[0] = 3.0
    assert replay(x)[0] == 15.0
    assert "recorded anew each time" in repr(replay)


@pytest.mark.parametrize("taken", [lambda a: a, lambda a: a[::-1]])
def test_the_inputs_own_memory_is_no_constant_though_it_is_one_object(taken):
    function, buffer = lambda x: (x * taken(x.data)).sum(), np.zeros(3)
    replay = Replay(function)
    for i in range(4):
        buffer[...] = np.arange(3.0) + i
        replay(buffer)
    other = np.array([5.0, 7.0, 9.0])
    assert np.array_equal(replay(other)[1], taken(other))
    assert "argument 1 of multiply was the input itself, past the tape" in repr(replay)


# What it leaves alone, and what goes wrong --------------------------------------------------------------------------------


def test_what_is_returned_belongs_to_the_caller():
    replay = Replay(lambda x: x)
    for i in range(4):
        value, gradient = replay(np.array([float(i)]))
        assert value == i
        assert gradient == 1
        value[...] = gradient[...] = 7


def test_it_records_where_recording_is_switched_off():
    replay = Replay(lambda x: (x * x).sum())
    with no_record():
        for i in range(4):
            assert replay(np.array([float(i)]))[1] == 2 * i


def test_no_values_are_kept():
    seen = []

    def function(x):
        y = x * x
        seen.append(weakref.ref(y))
        return y.sum()

    replay = Replay(function)
    for i in range(3):
        replay(np.array([float(i)]))
        assert [y() for y in seen] == [None] * len(seen)


def test_threads_share_a_replay():
    model = dense()
    replay = assert_replays(loss_of(model), (3, 6))
    wrong = []

    def work(seed):
        for x, _ in zip(points((3, 6), seed=seed), range(200), strict=False):
            if not np.array_equal(replay(x)[1], anew(loss_of(model), x)[1]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_exception_in_the_middle_leaves_it_usable():
    broken = []

    @primitive
    def fragile(x):
        if broken:
            raise FloatingPointError("no more")
        return x * 2

    defvjp(fragile, lambda g, y, x: g * 2)
    replay = Replay(lambda x: (fragile(x) * x).sum())
    for i in range(3):
        replay(np.array([float(i)]))
    broken.append(True)
    with pytest.raises(FloatingPointError, match="no more"):
        replay(np.array([4.0]))
    broken.clear()
    assert replay(np.array([4.0]))[1] == 16.0
    assert is_replayed(replay)


@pytest.mark.parametrize(
    ("function", "x", "error", "message"),
    [
        (lambda x: x.sum(), [1.0], TypeError, "expected an array, got list"),
        (lambda x: x.sum(), Tensor([1.0]), TypeError, "expected an array, got Tensor"),
        (lambda x: x.sum(), np.array([1]), ValueError, "expected a floating-point dtype, got int64"),
        (lambda x: x * 2, np.ones(2), ValueError, "give a cotangent of that shape"),
        (lambda x: 3.0, np.ones(2), TypeError, "expected a Tensor, got float"),
        (lambda x: Tensor(1.0, requires_grad=True), np.ones(2), ValueError, "y does not depend on this tensor"),
    ],
)
def test_a_wrong_argument_or_function_says_what_it_is(function, x, error, message):
    replay = Replay(function)
    for _ in range(3):
        with pytest.raises(error, match=message):
            replay(x)
    assert repr(replay) == "Replay(<lambda>: not called yet)"


def test_its_looks_tell_of_every_kind_of_input():
    def squares(x):
        return (x * x).sum()

    replay = Replay(squares)
    for i in range(3):
        replay(np.array([float(i)]))
    replay(np.ones((2, 1), np.float32))
    assert repr(replay) == "Replay(squares: float64 (1,) replayed, 2 operations; float32 (2, 1) recorded at one input)"


# The program ----------------------------------------------------------------------------------------------------------


def test_there_is_a_program_for_each_kind_of_input_that_is_replayed():
    replay = Replay(loss_of(dense()))
    x = np.ones((3, 6), np.float32)
    assert replay.program(x) == ""
    replay(x)
    assert replay.program(x) == ""  # of one input, nothing is believed
    replay(2 * x)
    calls = [line.split(" = ")[1].split("(")[0] for line in replay.program(x).splitlines() if " = op" in line]
    assert calls == ["op1_affine", "op2_relu", "op3_affine", "op4_softmax_cross_entropy"]
    assert replay.program(np.ones((3, 6))) == ""
    with pytest.raises(TypeError, match="expected an array, got list"):
        replay.program([1.0])


@pytest.mark.parametrize("name", ["y1", "d0", "constant1_1", "rule1_0", "one", "as_gradient", "not a name", "op1_"])
def test_operations_and_settings_of_any_name_fit_into_a_program(name):
    def plus(x, c, **settings):
        return x + c + sum(settings.values())

    plus.__name__ = name
    known = PRIMITIVES.get(name)
    plus = primitive(plus)
    try:
        defvjp(plus, lambda g, y, x, c, **settings: g, None)
        settings = {"y1": 1.0, "d0": 2.0, "one": 3.0, "constant1_1": 4.0}
        function = lambda x: (plus(plus(x, 0.5, **settings), 0.25, y1=7.0) * x).sum()  # noqa: E731
        assert is_replayed(assert_replays(function, (3,), np.float64))
    finally:
        del PRIMITIVES[name]
        assert known is None


def test_residuals_are_computed_in_every_run():
    calls = []

    @primitive
    def cubed(x):
        return x * x * x

    def cubed_and_square(x):
        calls.append(x.copy())
        return x * x * x, x * x

    defvjp(cubed, lambda g, y, x, residuals: g * 3 * residuals, forward_with_residuals=cubed_and_square)
    replay = Replay(lambda x: cubed(x).sum())
    try:
        for value in (1.0, 2.0, 3.0, 4.0):
            assert replay(np.array([value]))[1] == 3 * value * value
        assert is_replayed(replay)
        assert [float(x[0]) for x in calls if x[0] == round(float(x[0]))] == [1, 2, 3, 4]
    finally:
        del PRIMITIVES["cubed"]


# Values read past the tape ----------------------------------------------------------------------------------------------

READS = {
    "a constant that agrees by chance": lambda x: (x / float(x.data.max())).sum(),
    "the same of an intermediate result": lambda x: (x * float((x * 2).data.max())).sum(),
    "float": lambda x: (x * float(x.max())).sum(),
    "item": lambda x: (x * x.sum().item()).sum(),
    "bool": lambda x: x.sum() if bool(x.max()) else x.sum() * 2,
    "a comparison": lambda x: x.sum() if x.max() > 0 else x.sum() * 2,
    "numpy": lambda x: (x * x.detach().numpy().sum()).sum(),
    "an error at a third input": lambda x: (x / (1 if 1 in x.data else 0)).sum(),
}


@pytest.mark.parametrize("function", READS.values(), ids=READS)
def test_a_function_that_reads_values_is_not_replayed(function):
    replay = Replay(function)
    for point in ([0.5, 1.0, 0.25], [1.0, 0.25, 0.5], [0.25, 0.5, 1.0], [3.0, 2.0, 1.0]):
        x = Tensor(np.array(point), requires_grad=True)
        y = function(x)
        value, gradient = replay(np.array(point))
        assert value == y.data
        np.testing.assert_array_equal(gradient, grad(y, x))
    assert "recorded anew each time" in repr(replay)
