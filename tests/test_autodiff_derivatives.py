"""Jacobians, products with Jacobians and Hessians, and derivatives of derivatives."""

import numpy as np
from hypothesis import given
from strategies import seeds

from npadv import Tensor, grad, hvp, jacobian, jvp, ops


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


def field(x):
    """Return some smooth function from three numbers to two."""
    return ops.stack([x[0] * ops.exp(x[1]) / x[2], (ops.tanh(x) * x[::-1]).sum()])


def difference(f, x, direction, step=1e-6):
    return (f(x + step * direction) - f(x - step * direction)) / (2 * step)


@given(seed=seeds)
def test_jacobian_jvp_and_hvp_agree_with_differences_and_with_each_other(seed):
    rng = np.random.default_rng(seed)
    at, v = rng.uniform(0.5, 1.5, 3), rng.standard_normal(3)
    x = leaf(at)
    y = field(x)
    J = jacobian(y, x)
    assert J.shape == (2, 3)
    np.testing.assert_allclose(J @ v, difference(field, at, v), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(jvp(y, x, v), J @ v, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(grad(y, x, [1, 2]), [1, 2] @ J, rtol=1e-12, atol=1e-12)
    H = jacobian(grad(y, x, [1, 2], create_graph=True), x)
    np.testing.assert_allclose(H, H.T, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(hvp((y * np.array([1, 2])).sum(), x, v), H @ v, rtol=1e-10, atol=1e-10)


def test_derivatives_of_derivatives_agree_with_differences():
    at, v, w = np.array([0.5, 1.5, 0.7]), np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.2, -1.0])
    for f in (
        lambda x: jacobian(field(x), x, create_graph=True),
        lambda x: jvp(field(x), x, v, create_graph=True),
        lambda x: hvp(field(x).sum(), x, w, create_graph=True),
    ):
        x = leaf(at)
        result = f(x)
        assert isinstance(result, Tensor)
        derivative = difference(lambda at, f=f: f(leaf(at)).data, at, v)
        np.testing.assert_allclose(jvp(result, x, v), derivative, rtol=1e-5, atol=1e-7)


def test_what_is_linear_has_no_second_derivative():
    x = leaf([1, 2])
    assert hvp(x.sum(), x, np.ones(2)).tolist() == [0, 0]
    assert jvp(ops.sign(x), x, np.ones(2)).tolist() == [0, 0]


def test_the_jacobian_of_nothing_and_of_a_scalar():
    x = leaf([1, 2])
    assert jacobian(x[:0], x).shape == jacobian(x[:0], x, create_graph=True).shape == (0, 2)
    assert jacobian(x.sum(), x).tolist() == jacobian(x.sum(), x, create_graph=True).data.tolist() == [1, 1]
