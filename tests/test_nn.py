"""Modules: the gradients of each layer, what training changes in them, their state and its files, and the papers' networks.

``CASES`` says how each module is built and called. One test walks it to check gradients in inputs and parameters, to the
second order; another fails for a module that is not in it.
"""

import inspect
import io
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import distinct, laid_out, layouts, seeds, smooth

from npadv import Tensor, grad, nn, ops
from npadv.autodiff import value_of
from npadv.files import save_arrays
from npadv.functional import cross_entropy
from npadv.nn import (
    AvgPool2D,
    BatchNorm,
    Conv2D,
    ConvTranspose2D,
    Dense,
    Dropout,
    Flatten,
    LeakyReLU,
    MaxNorm,
    Maxout,
    MaxoutConv2D,
    MaxPool2D,
    Module,
    NearestNeighbour,
    Pad2D,
    Parameter,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    SmoothedNearestNeighbour,
    Standardize,
    Tanh,
)
from npadv.nn.initializers import normal
from npadv.testing import check_grads


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Gradients ------------------------------------------------------------------------------------------------------------

ROWS, IMAGES = (3, 4), (2, 4, 5, 4)  # (N, D) and (N, C, H, W)
WIDE = {"init": normal(1.0)}  # weights far from ties


def case(shape, build, *, values=smooth, train=False):
    """Return a shape of inputs, a function from a generator to a module, the inputs' values, and whether it is training."""
    return shape, build, values, train


CASES = {
    "Dense": case(ROWS, lambda rng: Dense(4, 3, rng=rng)),
    "Dense, no bias": case(ROWS, lambda rng: Dense(4, 3, rng=rng, bias=False)),
    "Maxout": case(ROWS, lambda rng: Maxout(4, 2, 3, rng=rng, **WIDE)),
    "Conv2D": case(IMAGES, lambda rng: Conv2D(4, 2, 3, rng=rng)),
    "Conv2D, stride, padding": case(IMAGES, lambda rng: Conv2D(4, 2, (3, 2), rng=rng, stride=(2, 1), padding=(1, 2))),
    "Conv2D, dilation, groups": case(IMAGES, lambda rng: Conv2D(4, 2, 2, rng=rng, dilation=(3, 2), groups=2)),
    "Conv2D, no bias": case(IMAGES, lambda rng: Conv2D(4, 1, 2, rng=rng, bias=False)),
    "MaxoutConv2D": case(IMAGES, lambda rng: MaxoutConv2D(4, 2, 2, 3, rng=rng, **WIDE)),
    "ConvTranspose2D": case(IMAGES, lambda rng: ConvTranspose2D(4, 1, 2, rng=rng)),
    "ConvTranspose2D, every setting": case(
        (2, 4, 2, 3),
        lambda rng: ConvTranspose2D(
            4, 2, (3, 2), rng=rng, stride=(2, 3), padding=1, output_padding=(1, 2), dilation=(1, 2), groups=2
        ),
    ),
    "MaxPool2D": case(IMAGES, lambda rng: MaxPool2D(2), values=distinct),
    "MaxPool2D, every setting": case(
        IMAGES, lambda rng: MaxPool2D((3, 2), stride=(2, 2), padding=(1, 0), ceil_mode=True), values=distinct
    ),
    "AvgPool2D": case(IMAGES, lambda rng: AvgPool2D((3, 2), stride=(1, 2), padding=1)),
    "BatchNorm": case(ROWS, lambda rng: BatchNorm(4)),
    "BatchNorm, training": case(ROWS, lambda rng: BatchNorm(4), values=distinct, train=True),
    "BatchNorm, training, images": case((2, 2, 2, 3), lambda rng: BatchNorm(2), values=distinct, train=True),
    "BatchNorm, no affine": case(IMAGES, lambda rng: BatchNorm(4, affine=False)),
    "BatchNorm, no affine, training": case(ROWS, lambda rng: BatchNorm(4, affine=False), values=distinct, train=True),
    "Dropout": case(ROWS, lambda rng: Dropout(0.5)),
    "Dropout, training": case(ROWS, lambda rng: Dropout(0.5), train=True),
    "ReLU": case(ROWS, lambda rng: ReLU()),
    "LeakyReLU": case(ROWS, lambda rng: LeakyReLU(0.2)),
    "Tanh": case(ROWS, lambda rng: Tanh()),
    "Sigmoid": case(ROWS, lambda rng: Sigmoid()),
    "Flatten": case(IMAGES, lambda rng: Flatten()),
    "Reshape": case(IMAGES, lambda rng: Reshape(10, 8)),
    "Pad2D": case(IMAGES, lambda rng: Pad2D(2, value=0.5)),
    "Standardize": case(IMAGES, lambda rng: Standardize([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0])),
    "Standardize, one number": case(ROWS, lambda rng: Standardize(0.1307, 0.3081)),
    "NearestNeighbour": case(ROWS, lambda rng: NearestNeighbour(rng.random((9, 4)), np.arange(9) % 3)),
    "SmoothedNearestNeighbour": case(
        IMAGES, lambda rng: SmoothedNearestNeighbour(rng.random((9, 4, 5, 4)), np.arange(9) % 3, gamma=0.05)
    ),
    "Sequential": case(
        (2, 2, 4, 4),
        lambda rng: Sequential(
            Conv2D(2, 3, 3, rng=rng), BatchNorm(3), Tanh(), Flatten(), Dropout(0.5), Dense(12, 2, rng=rng)
        ),
        train=True,
    ),
}


def put(module, name, tensor):
    """Put a tensor in place of the one called ``name``."""
    *path, last = name.split(".")
    for key in path:
        module = module[int(key)] if isinstance(module, list) else getattr(module, key)
    setattr(module, last, tensor)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(seed=seeds, data=st.data())
def test_gradients_in_inputs_and_parameters_are_right_to_the_second_order(name, seed, data):
    shape, build, values, train = CASES[name]
    rng = np.random.default_rng(seed)
    x = laid_out(values(rng, shape), *data.draw(layouts(len(shape))))
    module = build(rng).astype(np.float64)
    parameters = dict(module.named_parameters())

    def function(x, *tensors):
        for name, tensor in zip(parameters, tensors, strict=True):
            put(module, name, tensor)
        return module(x, train=train, rng=np.random.default_rng(seed))  # the same masks at every call

    # Biases start at zero and scales at one: move them to where a wrong rule shows.
    moved = [p.data + rng.uniform(0.1, 0.5, p.shape) for p in parameters.values()]
    check_grads(function, [x, *moved], rng=rng)


def test_every_module_has_a_case():
    exported = {
        name
        for name in nn.__all__
        if inspect.isclass(getattr(nn, name)) and issubclass(getattr(nn, name), Module) and name != "Module"
    }
    built = {type(build(np.random.default_rng(0))).__name__ for _, build, _, _ in CASES.values()}
    assert {name.partition(",")[0] for name in CASES} == built == exported


# Layers by their formulas ---------------------------------------------------------------------------------------------


OPERATIONS = {  # each layer's output, from x, its weights w and its bias b
    "Dense": lambda x, w, b: x @ w + b,
    "Dense, no bias": lambda x, w, b: x @ w,
    "Conv2D": lambda x, w, b: ops.conv2d(x, w) + b,
    "Conv2D, stride, padding": lambda x, w, b: ops.conv2d(x, w, stride=(2, 1), padding=(1, 2)) + b,
    "Conv2D, dilation, groups": lambda x, w, b: ops.conv2d(x, w, dilation=(3, 2), groups=2) + b,
    "ConvTranspose2D, every setting": lambda x, w, b: (
        b + ops.conv_transpose2d(x, w, stride=(2, 3), padding=1, output_padding=(1, 2), dilation=(1, 2), groups=2)
    ),
    "MaxPool2D, every setting": lambda x, w, b: ops.max_pool2d(
        x, (3, 2), stride=(2, 2), padding=(1, 0), ceil_mode=True
    ),
    "AvgPool2D": lambda x, w, b: ops.avg_pool2d(x, (3, 2), stride=(1, 2), padding=1),
    "ReLU": lambda x, w, b: np.maximum(x, 0),
    "LeakyReLU": lambda x, w, b: np.where(x > 0, x, 0.2 * x),
    "Tanh": lambda x, w, b: np.tanh(x),
    "Sigmoid": lambda x, w, b: 1 / (1 + np.exp(-x)),
    "Flatten": lambda x, w, b: x.reshape(2, 80),
    "Reshape": lambda x, w, b: x.reshape(2, 10, 8),
    "Pad2D": lambda x, w, b: np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=0.5),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_layer_is_its_operation_with_its_settings(rng, name):
    shape, build, values, _ = CASES[name]
    x, layer = values(rng, shape), build(rng).astype(np.float64)
    w, b = (getattr(layer, part, None) for part in ("weight", "bias"))
    if b is not None:
        b.assign(rng.normal(size=b.shape))
    expected = OPERATIONS[name](x, *(None if p is None else p.data for p in (w, b)))
    np.testing.assert_allclose(value_of(layer(x)), expected, rtol=1e-14)


def test_maxout_takes_the_largest_of_each_units_pieces(rng):
    layer = Maxout(3, 2, 4, rng=rng)
    x = rng.random((5, 3), np.float32)
    pieces = (x @ layer.linear.weight.data + layer.linear.bias.data).reshape(5, 4, 2)
    np.testing.assert_array_equal(layer(x).data, pieces.max(axis=1))


def test_maxout_convolution_takes_the_largest_of_each_channels_pieces(rng):
    layer = MaxoutConv2D(2, 3, 4, 2, rng=rng)
    x = rng.random((1, 2, 4, 4), np.float32)
    np.testing.assert_array_equal(layer(x).data, layer.linear(x).data.reshape(1, 4, 3, 3, 3).max(axis=1))


def test_standardize_acts_on_each_channel():
    x = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32).reshape(1, 2, 1, 2)
    y = Standardize([1.0, 2.0], [0.5, 4.0])(x)
    np.testing.assert_array_equal(y, np.array([[0.0, 2.0], [0.25, 1.0]], np.float32).reshape(1, 2, 1, 2))
    with pytest.raises(ValueError, match=r"Standardize\(deviation\): expected positive numbers, got \[1.0, 0.0\]"):
        Standardize(0.0, [1.0, 0.0])


@pytest.mark.parametrize(("rescale", "factor"), [(True, 4.0), (False, 1.0)])
def test_dropout_keeps_its_share_and_rescales_it_if_told(rescale, factor):
    x = np.full((500, 400), 3.0, np.float32)
    y = Dropout(0.75, rescale=rescale)(x, train=True, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(np.unique(y), [0, 3 * factor])
    kept, spread = (y != 0).mean(), np.sqrt(0.25 * 0.75 / y.size)
    assert abs(kept - 0.25) < 4 * spread


def test_dropout_draws_one_mask_from_one_seed():
    x, layer = np.ones((4, 50), np.float32), Dropout(0.5)
    first, same, other = (layer(x, train=True, rng=np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_dropout_does_nothing_in_inference():
    x = np.ones((2, 3), np.float32)
    assert Dropout(0.5)(x) is x


def test_dropout_in_training_needs_a_generator():
    with pytest.raises(
        ValueError, match=r"Dropout: training needs a random generator: model\(x, train=True, rng=rng\)"
    ):
        Sequential(Dropout(0.5))(np.ones((2, 3), np.float32), train=True)


@pytest.mark.parametrize("rate", [-0.1, 1, float("nan")])
def test_dropout_refuses_a_rate_that_is_no_probability(rate):
    with pytest.raises(ValueError, match=rf"Dropout\(rate\): expected a probability in \[0, 1\), got {rate}"):
        Dropout(rate)


def test_batch_norm_brings_a_batch_to_mean_0_and_variance_1(rng):
    x = rng.normal(5, 3, (6, 2, 3, 3))
    layer = BatchNorm(2, epsilon=0.0).astype(np.float64)
    layer.scale.assign([2.0, 3.0])
    layer.shift.assign([-1.0, 1.0])
    y = layer(x, train=True).data
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), [-1, 1], rtol=1e-12)
    np.testing.assert_allclose(y.std(axis=(0, 2, 3)), [2, 3], rtol=1e-12)


def test_batch_norm_averages_means_and_unbiased_variances_while_training(rng):
    layer = BatchNorm(2, momentum=0.3).astype(np.float64)
    mean, variance = np.zeros(2), np.ones(2)
    for _ in range(3):
        x = rng.normal(5, 3, (4, 2, 3, 3))
        layer(x, train=True)
        mean = 0.7 * mean + 0.3 * x.mean(axis=(0, 2, 3))
        variance = 0.7 * variance + 0.3 * x.var(axis=(0, 2, 3), ddof=1)
    np.testing.assert_allclose(layer.running_mean.data, mean, rtol=1e-14)
    np.testing.assert_allclose(layer.running_variance.data, variance, rtol=1e-14)


def test_batch_norm_infers_from_its_averages_whatever_the_batch(rng):
    layer = BatchNorm(3, affine=False, epsilon=0.5).astype(np.float64)
    layer.running_mean.assign([1.0, 2.0, 3.0])
    layer.running_variance.assign([0.5, 3.5, 8.5])
    x = rng.normal(size=(4, 3))
    y = layer(x)
    np.testing.assert_array_equal(y, (x - [1, 2, 3]) / [1, 2, 3])
    np.testing.assert_array_equal(layer(x[:1]), y[:1])
    np.testing.assert_array_equal(layer.running_mean.data, [1, 2, 3])  # looking does not change them


def test_batch_norm_refuses_other_features_and_a_single_value():
    with pytest.raises(ValueError, match=r"BatchNorm\(x\): expected 3 features on axis 1, got shape \(2, 4\)"):
        BatchNorm(3)(np.ones((2, 4)))
    with pytest.raises(ValueError, match="BatchNorm: training needs at least two values for each feature, got 1"):
        BatchNorm(3)(np.ones((1, 3)), train=True)


@given(seed=seeds, limit=st.floats(0.1, 3.0))
def test_max_norm_shortens_the_long_and_leaves_the_short_alone(seed, limit):
    weights = np.random.default_rng(seed).normal(0, 0.5, (6, 4)).astype(np.float32)
    weights[:, 0] = 0
    bounded = weights.copy()
    MaxNorm(limit, axes=(0,))(bounded)
    before, after = (np.linalg.norm(w.astype(np.float64), axis=0) for w in (weights, bounded))
    assert (after <= limit * (1 + 4 * np.finfo(np.float32).eps)).all()
    short = before < limit * (1 - 1e-6)
    np.testing.assert_array_equal(bounded[:, short], weights[:, short])
    shortened = weights * np.minimum(1, limit / np.maximum(before, 1e-9))  # in the same direction
    np.testing.assert_allclose(bounded, shortened, rtol=1e-6)


def test_max_norm_bounds_what_flows_into_each_unit(rng):
    for layer, lengths in (
        (Dense(9, 5, rng=rng, max_norm=0.5), lambda w: np.sqrt((w * w).sum(axis=0))),  # (in, out)
        (Maxout(9, 5, 2, rng=rng, max_norm=0.5).linear, lambda w: np.sqrt((w * w).sum(axis=0))),
        (Conv2D(3, 4, 2, rng=rng, max_norm=0.5), lambda w: np.sqrt((w * w).sum(axis=(1, 2, 3)))),  # (K, C, KH, KW)
        (MaxoutConv2D(3, 4, 2, 2, rng=rng, max_norm=0.5).linear, lambda w: np.sqrt((w * w).sum(axis=(1, 2, 3)))),
    ):
        weights = layer.weight.data
        weights += 1  # all too long now
        layer.weight.constraint(weights)
        np.testing.assert_allclose(lengths(weights), 0.5, rtol=1e-6)
        assert layer.bias.constraint is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda rng: Conv2D(3, 4, 2, rng=rng, groups=2), r"Conv2D\(groups\): expected a divisor of 3 inputs and 4 outputs"),
        (lambda rng: ConvTranspose2D(4, 3, 2, rng=rng, groups=2), r"ConvTranspose2D\(groups\): .* 4 inputs and 3 outputs"),
        (lambda rng: Conv2D(3, 4, 0, rng=rng), "size: expected an integer of at least 1, or two of them, got 0"),
        (lambda rng: Dense(3, 4, rng=rng)(np.ones((2, 5))), r"Dense\(x\): expected shape \(N, 3\), got \(2, 5\); Flatten"),
        (lambda rng: Dense(3, 4, rng=rng)(np.ones((2, 1, 3))), r"Dense\(x\): expected shape \(N, 3\), got \(2, 1, 3\)"),
    ],
)  # fmt: skip
def test_bad_settings_and_inputs_are_named(rng, build, message):
    with pytest.raises(ValueError, match=message):
        build(rng)


def test_a_module_without_forward_says_what_to_write():
    class Empty(Module):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty defines no forward\(x, \*, train, rng\)"):
        Empty()(np.ones(1))


# State ----------------------------------------------------------------------------------------------------------------


class Nested(Module):
    """Parameters in every place they are looked for, defined in no alphabetical order."""

    def __init__(self, rng):
        self.z = Dense(2, 3, rng=rng)
        self.branches = {"right": Dense(3, 1, rng=rng), "left": [ReLU(), BatchNorm(3)]}
        self.again = self.z
        self.a = Parameter(np.ones(2, np.float32))
        self.settings = (0.1, "text", None)


def test_parameters_come_in_order_of_definition_and_shared_ones_once(rng):
    module = Nested(rng)
    names = ["z.weight", "z.bias", "branches.right.weight", "branches.right.bias"]
    norm = ["branches.left.1.scale", "branches.left.1.shift"]
    averages = ["branches.left.1.running_mean", "branches.left.1.running_variance"]
    assert [name for name, _ in module.named_parameters()] == [*names, *norm, "a"]
    assert [name for name, _ in module.named_tensors()] == [*names, *norm, *averages, "a"]
    assert module.parameters()[0] is module.z.weight


def test_state_is_a_copy_and_goes_into_another_module(rng):
    first, second = Nested(rng), Nested(rng)
    state = first.state()
    second.load_state(state)
    np.testing.assert_equal(second.state(), state)
    state["a"][:] = 7
    np.testing.assert_array_equal(first.a.data, [1, 1])
    np.testing.assert_array_equal(second.a.data, [1, 1])


def test_save_and_load_keep_every_bit(rng, tmp_path):
    first, second = Nested(rng), Nested(rng)
    first.save(tmp_path / "weights")  # under exactly this name
    assert second.load(str(tmp_path / "weights")) is second
    np.testing.assert_equal(second.state(), first.state())
    with np.load(tmp_path / "weights", allow_pickle=False) as archive:  # anyone's NumPy can read it
        np.testing.assert_array_equal(archive["z.weight"], first.z.weight.data)


def test_loading_is_noticed_by_a_gradient_that_is_under_way(rng):
    layer = Dense(2, 1, rng=rng)
    x = Tensor(np.ones((1, 2), np.float32), requires_grad=True)
    y = layer(x)
    layer.load_state(layer.state())
    with pytest.raises(RuntimeError, match="changed in place"):
        grad(y, x)


def damaged(state):
    """Return the states that do not fit ``state``, each with what the message must say."""
    renamed = {name.replace("bias", "offset"): array for name, array in state.items()}
    return {
        "another architecture": (renamed, r"does not fit this model; missing \['bias'\], unknown \['offset'\]"),
        "another shape": (
            {**state, "weight": np.zeros((3, 2), np.float32)},
            r"weight: expected shape \(2, 3\) and float32, got \(3, 2\) and float32",
        ),
        "another dtype": (
            {**state, "bias": np.zeros(3)},
            r"bias: expected shape \(3,\) and float32, got \(3,\) and float64",
        ),
    }


@pytest.mark.parametrize("damage", ["another architecture", "another shape", "another dtype"])
def test_a_file_that_does_not_fit_is_refused_and_nothing_is_changed(rng, tmp_path, damage):
    layer = Dense(2, 3, rng=rng)
    before = layer.state()
    state, message = damaged({name: array + 1 for name, array in before.items()})[damage]
    save_arrays(tmp_path / "w.npz", state)
    with pytest.raises(ValueError, match=rf"w\.npz: {message}"):
        layer.load(tmp_path / "w.npz")
    np.testing.assert_equal(layer.state(), before)


def one_array():
    np.save(file := io.BytesIO(), np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-60]), r"w\.npz: expected an .npz archive"),  # truncated
        (lambda path: path.write_bytes(b""), r"w\.npz: expected an .npz archive"),
        (lambda path: path.write_text("weights"), r"w\.npz: expected an .npz archive"),
        (lambda path: path.write_bytes(one_array()), r"w\.npz: expected an .npz archive"),  # one array alone
        (
            lambda path: np.savez(path, weight=np.zeros((2, 3), np.float32), bias=np.array([None] * 3)),
            r"w\.npz: bias: expected an .npz archive of arrays, could not read it \(holds Python objects",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(np.float32(0.625).tobytes(), b"\1\2\3\4")),
            r"w\.npz: bias: .*CRC",
        ),
    ],
    ids=["truncated", "empty", "text", "npy", "object array", "a changed bit"],
)
def test_a_file_that_is_damaged_or_foreign_is_refused_and_nothing_is_changed(rng, tmp_path, damage, message):
    layer, path = Dense(2, 3, rng=rng), tmp_path / "w.npz"
    layer.bias.assign([0.625, 0, 0])
    layer.save(path)
    damage(path)
    before = layer.state()
    with pytest.raises(ValueError, match=message):
        layer.load(path)
    np.testing.assert_equal(layer.state(), before)


def test_a_file_that_is_not_there_is_not_found(rng, tmp_path):
    with pytest.raises(FileNotFoundError):
        Dense(2, 3, rng=rng).load(tmp_path / "w.npz")


def test_astype_converts_all_state(rng):
    module = Nested(rng).astype(np.float64)
    assert {array.dtype for array in module.state().values()} == {np.dtype(np.float64)}
    assert module.a.requires_grad


# Networks -------------------------------------------------------------------------------------------------------------

# The sizes (H, W) that the comments in networks.py promise, as they change; and the parameters, counted by hand:
# (in * out + out) for each dense layer, (channels * taps * filters + filters) for each convolution.
NETWORKS = {
    "maxout_mlp": ([28], (784 * 1200 + 1200) + (240 * 1200 + 1200) + (240 * 10 + 10)),
    "maxout_convnet_mnist": (
        [28, 21, 10, 9, 4, 6, 3],
        (64 * 96 + 96) + (48 * 64 * 96 + 96) + (48 * 25 * 96 + 96) + (216 * 10 + 10),
    ),
    "maxout_convnet_cifar10": (
        [32, 33, 16, 15, 7, 9, 5],
        (3 * 64 * 192 + 192) + (96 * 64 * 384 + 384) + (192 * 25 * 384 + 384) + (4800 * 2500 + 2500) + (500 * 10 + 10),
    ),
    "relu_mlp": ([28], 2_395_210),
    "tanh_mlp": ([28], 2_395_210),
    "softmax_regression": ([28], 7_850),
    "syn_convnet": ([28, 32, 28, 9, 5, 2], (25 * 32 + 32) + (32 * 25 * 64 + 64) + (256 * 200 + 200) + (200 * 10 + 10)),
    "syn_convnet_bn": ([28, 32, 28, 9, 5, 2], 105_506),
    # VGG's convolutions have 14,714,688; each of 4,224 channels and 512 units a scale and a shift; 512-512-10.
    "syn_vgg": ([32, 16, 8, 4, 2, 1], 14_714_688 + 2 * (4224 + 512) + (512 * 512 + 512) + (512 * 10 + 10)),
    "small_maxout": ([28], (784 * 512 + 512) + (128 * 512 + 512) + (128 * 10 + 10)),
    "small_convnet": ([28, 24, 12, 8, 4], (25 * 16 + 16) + (16 * 25 * 32 + 32) + (512 * 10 + 10)),
}


@lru_cache(1)
def built(name):
    return nn.network(name, rng=np.random.default_rng(0))


def batch(name):
    shape = (3, 32, 32) if NETWORKS[name][0][0] == 32 else (1, 28, 28)
    return np.random.default_rng(1).random((2, *shape), np.float32)


def test_every_network_is_here():
    assert NETWORKS.keys() == nn.NETWORKS.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_published_sizes_and_stays_in_float32(name):
    sizes, parameters = NETWORKS[name]
    model, rng = built(name), np.random.default_rng(2)
    assert sum(p.size for p in model.parameters()) == parameters

    x = y = Tensor(batch(name), requires_grad=True)
    seen = [x.shape[2]]
    for layer in model:
        y = layer(y, train=True, rng=rng)
        assert y.dtype == np.float32, layer
        if y.ndim == 4:
            assert y.shape[2] == y.shape[3]
            seen += [y.shape[2]] if y.shape[2] != seen[-1] else []
    assert seen == sizes
    assert y.shape == (2, 10)

    gradients = grad(cross_entropy(y, np.array([3, 7])), [x, *model.parameters()])
    assert all(g.dtype == np.float32 and np.isfinite(g).all() for g in gradients)
    assert all(array.dtype == np.float32 for array in model.state().values())


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"syn_vgg", "maxout_convnet_cifar10"}))
def test_a_seed_fixes_a_network(name):
    first, same, other = (nn.network(name, rng=np.random.default_rng(seed)).state() for seed in (0, 0, 1))
    np.testing.assert_equal(first, same)
    assert any((first[key] != other[key]).any() for key in first)


def test_options_go_to_the_network(rng):
    assert nn.network("maxout_mlp", rng=rng, inputs=4, units=3, pieces=2)(np.ones((2, 1, 2, 2), np.float32)).shape == (
        2,
        10,
    )


def small(seed=0, **options):
    return nn.network("maxout_mlp", rng=np.random.default_rng(seed), inputs=4, units=np.int64(3), pieces=2, **options)


def test_a_file_says_which_network_it_holds(tmp_path):
    model = small(1)
    model.about = {**model.about, "data": "four pixels"}
    model.save(tmp_path / "w.npz")
    same = nn.load_network(tmp_path / "w.npz")
    np.testing.assert_equal(same.state(), model.state())
    assert [type(layer) for layer in same] == [type(layer) for layer in model]
    assert same.about == {
        "network": "maxout_mlp",
        "options": {"inputs": 4, "units": 3, "pieces": 2},
        "data": "four pixels",
    }
    same.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "w.npz").read_bytes()
    np.testing.assert_equal(small().load(tmp_path / "w.npz").state(), model.state())
    by_hand = nn.Sequential(*small())  # which says nothing of itself
    np.testing.assert_equal(by_hand.load(tmp_path / "w.npz").state(), model.state())
    assert by_hand.about == {}


def test_a_file_that_does_not_say_is_loaded_by_name(tmp_path):
    model = nn.network("softmax_regression", rng=np.random.default_rng(1))
    save_arrays(tmp_path / "w.npz", model.state())  # as all were before
    np.testing.assert_equal(
        nn.network("softmax_regression", rng=np.random.default_rng(0)).load(tmp_path / "w.npz").state(), model.state()
    )
    loaded = nn.load_network(tmp_path / "w.npz", "softmax_regression")
    np.testing.assert_equal(loaded.state(), model.state())
    assert loaded.about == {"network": "softmax_regression", "options": {}}
    with pytest.raises(ValueError, match=r"w\.npz: does not say which network it holds"):
        nn.load_network(tmp_path / "w.npz")
    with pytest.raises(ValueError, match=r"w\.npz: does not fit this model"):
        nn.load_network(tmp_path / "w.npz", "maxout_mlp")


def test_another_networks_file_is_refused(tmp_path):
    small().save(tmp_path / "w.npz")
    other = nn.network("relu_mlp", rng=np.random.default_rng(0), inputs=4, units=3)
    with pytest.raises(
        ValueError, match=r"w\.npz: was saved from a module of network 'maxout_mlp', this one has 'relu_mlp'"
    ):
        other.load(tmp_path / "w.npz")
    wider = nn.network("maxout_mlp", rng=np.random.default_rng(0), inputs=4, units=5, pieces=2)
    with pytest.raises(ValueError, match=r"w\.npz: was saved from a module of options .*'units': 3.* has .*'units': 5"):
        wider.load(tmp_path / "w.npz")
    with pytest.raises(ValueError, match=r"w\.npz: expected weights of 'relu_mlp', got those of 'maxout_mlp'"):
        nn.load_network(tmp_path / "w.npz", "relu_mlp")


def test_an_unknown_network_is_answered_with_the_nearest_name(rng):
    with pytest.raises(
        ValueError, match=r"network: expected one of maxout_mlp, .*, got 'maxout_mpl'; did you mean 'maxout_mlp'\?"
    ):
        nn.network("maxout_mpl", rng=rng)
    with pytest.raises(ValueError, match=r"got 'resnet'$"):
        nn.network("resnet", rng=rng)


def test_a_network_prints_its_layers_and_its_size(rng):
    text = repr(nn.network("softmax_regression", rng=rng))
    assert text == "Sequential(\n    Flatten(),\n    Dense(inputs=784, outputs=10),\n)  # 7,850 parameters"
