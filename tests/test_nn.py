"""Layers: the gradients of each, their formulas, what training changes in them, and the settings they refuse.

``CASES`` says how each module is built and called. One test walks it to check gradients in inputs and parameters, to the
second order; another fails for a module that is not in it.
"""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import distinct, laid_out, layouts, seeds, smooth

from npadv import nn, ops
from npadv.autodiff import value_of
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


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9, 0.999, 0.99999, 1 - 1e-7])
def test_dropout_keeps_the_mean_at_any_rate(rate):
    x = np.ones((1000, 2000), np.float32)
    share = (Dropout(rate)(x, train=True, rng=np.random.default_rng(0)) != 0).mean()
    spread = np.sqrt(rate * (1 - rate) / x.size)
    assert abs(share - (1 - rate)) < 4 * spread + 1e-4 * (1 - rate)
    y = Dropout(rate)(np.ones(1000), train=True, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(y[y != 0], 1 / (1 - rate))


def test_dropout_acts_in_training_inside_a_network():
    model, x = Sequential(Flatten(), Sequential(Dropout(0.5))), np.ones((4, 50), np.float32)
    y = model(x, train=True, rng=np.random.default_rng(0))
    assert set(np.unique(y)) == {0, 2}
    np.testing.assert_array_equal(model(x), x)


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


def test_layers_have_the_settings_of_the_papers_by_default():
    rng = np.random.default_rng(0)
    norm, drop, leak = BatchNorm(2), Dropout(0.5), LeakyReLU()
    assert (norm.momentum, norm.epsilon, drop.rescale, leak.slope) == (0.1, 1e-5, True, 0.01)
    conv, dense, pool = Conv2D(1, 1, 3, rng=rng), Dense(1, 1, rng=rng), MaxPool2D(2)
    assert (conv.stride, conv.padding, conv.dilation, conv.groups) == (1, 0, 1, 1)
    assert (pool.stride, pool.padding, pool.ceil_mode) == (None, 0, False)
    assert (dense.weight.step_scale, dense.weight.constraint, conv.weight.constraint) == (1.0, None, None)
    assert not any(layer.bias.data.any() for layer in (conv, dense))


@pytest.mark.parametrize("train", [False, True])
def test_settings_that_are_numpys_numbers_keep_float32(train):
    half, x = np.float64(0.5), np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    layers = [BatchNorm(3, momentum=half, epsilon=half), LeakyReLU(half), Dropout(half), Standardize(half, half)]
    for layer in layers:
        assert layer(x, train=train, rng=np.random.default_rng(0)).dtype == np.float32, layer
        assert all(array.dtype == np.float32 for array in layer.state().values())


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
