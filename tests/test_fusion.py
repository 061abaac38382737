"""Max pooling before biases and ReLUs: the same bits, from fewer numbers."""

import numpy as np
import pytest

from npadv import Tensor, grad, nn
from npadv.fast import ENABLED
from npadv.fast import conv as fast

needs_fast = pytest.mark.skipif(not ENABLED, reason="NPADV_FAST=off: layers run one after the other")

# Order of layers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(-0.5), nn.Tanh()])
@pytest.mark.parametrize("bias", [True, False])
def test_pooling_first_changes_no_bit(activation, bias):
    rng = np.random.default_rng(0)
    layers = [nn.Conv2D(2, 5, 3, rng=rng, bias=bias), activation, nn.MaxPool2D(3, stride=2, ceil_mode=True)]
    if bias:
        layers[0].bias.assign(rng.standard_normal((5, 1, 1)).astype(np.float32))
    x = Tensor(rng.standard_normal((4, 2, 9, 8)).astype(np.float32), requires_grad=True)
    y = x
    for layer in layers:
        y = layer(y)
    fast = nn.Sequential(*layers)(x)
    np.testing.assert_array_equal(fast.data, y.data)
    g = rng.standard_normal(y.shape).astype(np.float32)
    wrt = [x, *layers[0].parameters()]
    for got, expected in zip(grad(fast, wrt, g), grad(y, wrt, g), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_bias_is_added_to_what_the_pooling_left(monkeypatch):
    shifted, shift = [], nn.Conv2D.shift
    monkeypatch.setattr(nn.Conv2D, "shift", lambda self, y: shifted.append(y.shape) or shift(self, y))
    rng = np.random.default_rng(0)
    nn.Sequential(nn.Conv2D(1, 2, 3, rng=rng), nn.ReLU(), nn.MaxPool2D(3))(np.ones((4, 1, 11, 11), np.float32))
    assert shifted == [(4, 2, 3, 3)]


def test_what_no_window_covers_is_not_computed(monkeypatch):
    shapes = []
    monkeypatch.setattr(fast, "use_im2col", lambda asked: shapes.append(asked.y) or True)
    rng = np.random.default_rng(0)
    for pool in (
        nn.MaxPool2D(2),
        nn.MaxPool2D(3, stride=2),
        nn.MaxPool2D(2, ceil_mode=True),
        nn.MaxPool2D(2, padding=1),
    ):
        nn.Sequential(nn.Conv2D(1, 2, 3, rng=rng), nn.ReLU(), pool)(np.ones((4, 1, 11, 12)))
    assert shapes == [(4, 2, 8, 10), (4, 2, 9, 9), (4, 2, 9, 10), (4, 2, 9, 10)]


def test_a_layer_of_ones_own_is_not_passed_over():
    class Odd(nn.ReLU):
        def forward(self, x, *, train, rng):
            return 0 - super().forward(x, train=train, rng=rng)

    x = np.arange(16.0).reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(nn.Sequential(Odd(), nn.MaxPool2D(2))(x), [[[[0, -2], [-8, -10]]]])
