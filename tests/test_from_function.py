"""Models of foreign code: the same logits, gradients and adversarial examples as the model written with npadv's operations."""

import numpy as np
import pytest

import npadv
from npadv import Tensor, grad, ops
from npadv.attacks import fgsm, lbfgs, pgd
from npadv.testing import check_grads

RNG = np.random.default_rng(0)
W1, B1, W2 = RNG.normal(size=(6, 8)), RNG.normal(size=8), RNG.normal(size=(8, 3))
X, Y = RNG.uniform(0.3, 0.7, (5, 6)), np.array([0, 1, 2, 0, 1])


def own(x):
    return ops.tanh(x @ W1 + B1) @ W2


def with_numpy():
    def forward(x):
        return np.tanh(x @ W1 + B1) @ W2

    def vjp(x, g):
        h = np.tanh(x @ W1 + B1)
        return (g @ W2.T * (1 - h * h)) @ W1.T

    return forward, vjp


def with_torch():
    torch = pytest.importorskip("torch")
    w1, b1, w2 = map(torch.tensor, (W1, B1, W2))

    def network(x):
        return torch.tanh(x @ w1 + b1) @ w2

    def forward(x):
        with torch.no_grad():
            return network(torch.tensor(x)).numpy()

    def vjp(x, g):
        x = torch.tensor(x, requires_grad=True)
        return torch.autograd.grad(network(x), x, torch.tensor(g))[0].numpy()

    return forward, vjp


def with_jax():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)

    def network(x):
        return jax.numpy.tanh(x @ W1 + B1) @ W2

    def forward(x):
        return np.asarray(network(x))

    def vjp(x, g):
        return np.asarray(jax.vjp(network, x)[1](g)[0])

    return forward, vjp


every_library = pytest.mark.parametrize("library", [with_numpy, with_torch, with_jax])
ATTACKS = {
    "fgsm": lambda model: fgsm(model, X, Y, eps=0.1),
    "pgd": lambda model: pgd(model, X, Y, eps=0.1, steps=10, rng=np.random.default_rng(1)),
    "pgd, l2": lambda model: pgd(model, X, Y, eps=0.3, norm="l2", steps=5),
    "lbfgs": lambda model: lbfgs(model, X, (Y + 1) % 3),
}


@every_library
def test_logits_and_gradients_are_the_same(library):
    model = npadv.from_function(*library())
    np.testing.assert_allclose(model(X), own(X), rtol=1e-12)
    x, g = Tensor(X, requires_grad=True), RNG.normal(size=(5, 3))
    np.testing.assert_allclose(grad(model(x), x, g), grad(own(x), x, g), rtol=1e-12, atol=1e-14)


@every_library
@pytest.mark.parametrize("attack", ATTACKS)
def test_adversarial_examples_are_the_same(library, attack):
    got, expected = (ATTACKS[attack](model) for model in (npadv.from_function(*library()), own))
    np.testing.assert_allclose(got.x_adv, expected.x_adv, atol=1e-4 if attack == "lbfgs" else 1e-12)
    np.testing.assert_array_equal(got.success, expected.success)


def test_first_derivatives_agree_with_differences():
    model = npadv.from_function(*with_numpy())
    check_grads(lambda x: ops.tanh(model(2 * x)), [X], order=1)


def test_float32_stays_float32():
    forward, vjp = with_numpy()
    model = npadv.from_function(lambda x: forward(x).astype(x.dtype), vjp)  # the gradient comes in float64
    x = Tensor(X.astype(np.float32), requires_grad=True)
    assert grad(model(x), x, np.ones((5, 3), np.float32)).dtype == np.float32


def test_second_derivatives_are_refused_and_the_error_says_what_to_do():
    model, x = npadv.from_function(*with_numpy()), Tensor(X, requires_grad=True)
    first = grad(model(x).sum(), x, create_graph=True)
    np.testing.assert_allclose(first.data, grad(own(x).sum(), x), rtol=1e-12)
    with pytest.raises(NotImplementedError, match=r"cannot be differentiated again; write the model with npadv\.ops"):
        grad(first.sum(), x)
    with pytest.raises(NotImplementedError, match="cannot be differentiated again"):
        npadv.hvp(model(x).sum(), x, np.ones_like(X))


def square(x):
    return x * x


WRONG = {
    "forward is no function": (
        lambda: npadv.from_function(3, square),
        TypeError,
        r"from_function\(forward\): expected a function",
    ),
    "vjp is no function": (
        lambda: npadv.from_function(square, None),
        TypeError,
        r"from_function\(vjp\): expected a function",
    ),
    "forward returns a list": (
        lambda: npadv.from_function(lambda x: x.tolist(), square)(X),
        TypeError,
        r"from_function\(forward\): expected to get back an array of NumPy or CuPy, got builtins\.list",
    ),
    "vjp returns another shape": (
        lambda: gradient_of(lambda x, g: g[:1]),
        ValueError,
        r"from_function\(vjp\): expected a gradient of x's shape \(5, 6\), got \(1, 6\)",
    ),
    "vjp returns None": (
        lambda: gradient_of(lambda x, g: None),
        TypeError,
        r"from_function\(vjp\): .* got builtins\.NoneType",
    ),
}


def gradient_of(vjp):
    x = Tensor(X, requires_grad=True)
    return grad(npadv.from_function(square, vjp)(x).sum(), x)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_functions_are_named(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()
