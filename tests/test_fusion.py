"""Max pooling before biases and ReLUs: the same numbers as the plain order of layers, from fewer of them."""

import numpy as np
import pytest

from npadv import Tensor, grad, nn
from npadv.fast import ENABLED, PAIRS
from npadv.nn.fusion import pooled_convolution, pooled_first, uncovered

PLAIN, FUSED = PAIRS["npadv.nn.sequential.Sequential.forward"]
X = np.random.default_rng(1).standard_normal((4, 2, 9, 8)).astype(np.float32)


def convolution(bias=True):
    rng = np.random.default_rng(0)
    conv = nn.Conv2D(2, 5, 3, rng=rng, bias=bias)
    if bias:
        conv.bias.assign(rng.standard_normal((5, 1, 1)).astype(np.float32))
    return conv


def run(forward, model, x):
    return forward(model, x, train=False, rng=None)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(-0.5), nn.Tanh()])
@pytest.mark.parametrize("bias", [True, False])
def test_fused_layers_compute_the_same_bits(activation, bias):
    model = nn.Sequential(convolution(bias), activation, nn.MaxPool2D(3, stride=2, ceil_mode=True))
    np.testing.assert_array_equal(run(FUSED, model, X).data, run(PLAIN, model, X).data)


@pytest.mark.parametrize("bias", [True, False])
def test_fused_layers_have_the_same_gradients(bias):
    model = nn.Sequential(convolution(bias), nn.ReLU(), nn.MaxPool2D(3, stride=2, ceil_mode=True))
    x = Tensor(X, requires_grad=True)
    fused, plain = run(FUSED, model, x), run(PLAIN, model, x)
    wrt, g = [x, *model.parameters()], np.random.default_rng(2).standard_normal(plain.shape).astype(np.float32)
    for got, expected in zip(grad(fused, wrt, g), grad(plain, wrt, g), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def shapes_along(layers, x):
    shapes = []
    for step in pooled_first(layers):
        x = step(x, train=False, rng=None)
        shapes.append(x.shape)
    return shapes


def test_the_bias_and_the_relu_come_after_the_pooling():
    assert shapes_along([convolution(), nn.ReLU(), nn.MaxPool2D(3)], X) == [(4, 5, 2, 2)] * 3


def test_pooling_comes_before_several_increasing_layers():
    layers = [nn.Tanh(), nn.ReLU(), nn.LeakyReLU(0.2), nn.MaxPool2D(2)]
    assert shapes_along(layers, X) == [(4, 2, 9, 8), (4, 2, 4, 4), (4, 2, 4, 4), (4, 2, 4, 4)]


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (nn.MaxPool2D(2), (1, 0)),
        (nn.MaxPool2D(3, stride=2), (0, 1)),
        (nn.MaxPool2D(2, ceil_mode=True), (0, 0)),
        (nn.MaxPool2D(2, padding=1), (0, 0)),
        (nn.MaxPool2D(3, stride=5), (1, 2)),
    ],
)
def test_rows_and_columns_that_no_window_covers_are_left_out(pool, expected):
    assert uncovered(pool, (4, 2, 9, 10)) == expected
    images, pooled = np.random.default_rng(3).standard_normal((4, 2, 11, 12)).astype(np.float32), []

    class Recording(nn.MaxPool2D):
        def forward(self, x, *, train, rng):
            pooled.append(x.shape)
            return super().forward(x, train=train, rng=rng)

    settings = {"stride": pool.stride, "padding": pool.padding, "ceil_mode": pool.ceil_mode}
    pooled_convolution(convolution(), Recording(pool.size, **settings), images)
    assert pooled == [(4, 5, 9 - expected[0], 10 - expected[1])]
    model = nn.Sequential(convolution(), pool)
    np.testing.assert_array_equal(run(FUSED, model, images).data, run(PLAIN, model, images).data)


def test_a_subclass_of_an_increasing_layer_is_not_passed_over():
    class Odd(nn.ReLU):
        def forward(self, x, *, train, rng):
            return 0 - super().forward(x, train=train, rng=rng)

    x = np.arange(16.0).reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(nn.Sequential(Odd(), nn.MaxPool2D(2))(x), [[[[0, -2], [-8, -10]]]])


def test_a_sequential_runs_fused_unless_it_is_switched_off():
    assert nn.Sequential.forward is (FUSED if ENABLED else PLAIN)
