"""NumPy's own functions on Tensors: values, gradients, what is refused, and a model written in plain NumPy under attack."""

import numpy as np
import pytest
from scipy.special import erf, expit

import npadv
from npadv import Tensor, grad, ops
from npadv.attacks import fgsm, lbfgs, pgd
from npadv.functional import cross_entropy
from npadv.ops.numpy_protocol import FUNCTIONS, UFUNCS
from npadv.testing import check_grads

RNG = np.random.default_rng(0)
X = RNG.uniform(0.3, 2, (3, 4))
A = RNG.uniform(0.3, 2, (3, 4))
C = A > 1

CALLS = {
    "absolute": lambda x: np.abs(-x),
    "add": lambda x: np.add(A, x) + np.add(x, A) + (A + x),
    "broadcast_to": lambda x: np.broadcast_to(x[0], (2, 4)),
    "broadcast_to, an integer": lambda x: np.broadcast_to(x[0, 0], 3),
    "clip": lambda x: np.clip(x, 0.5, 1.5),
    "clip from below": lambda x: np.clip(x, 0.5, None),
    "concatenate": lambda x: np.concatenate([x, A, 2 * x], axis=1),
    "concatenate, flat": lambda x: np.concatenate((x, A), axis=None),
    "concatenate behind an array": lambda x: np.concatenate((A, x)),
    "copy": lambda x: np.copy(x),
    "cos": lambda x: np.cos(x),
    "cumsum": lambda x: np.cumsum(x) + np.cumsum(x, axis=1).ravel(),
    "divide": lambda x: np.divide(A, x) + np.true_divide(x, A) + A / x,
    "dot": lambda x: np.dot(x, A.T) + np.dot(A, x.T),
    "einsum": lambda x: np.einsum("ij,kj->ik", x, A, optimize=True) + np.einsum("ij,kj", A, x),
    "erf": lambda x: erf(x),
    "exp": lambda x: np.exp(x),
    "expand_dims": lambda x: np.expand_dims(x, 1),
    "expand_dims, twice": lambda x: np.expand_dims(x, (0, 2)),
    "expit": lambda x: expit(x),
    "expm1": lambda x: np.expm1(x),
    "fabs": lambda x: np.fabs(-x),
    "flip": lambda x: np.flip(x) + np.flip(x, 0) + np.flipud(x) + np.fliplr(x),
    "hstack": lambda x: np.hstack([x, A]),
    "hstack of rows": lambda x: np.hstack((x[0], A[0])),
    "inner": lambda x: np.inner(x, A),
    "log": lambda x: np.log(x) + np.log2(x) + np.log10(x),
    "log1p": lambda x: np.log1p(x),
    "matmul": lambda x: np.matmul(x, A.T) + A @ x.T,
    "max": lambda x: np.max(x, axis=1) + np.amax(x),
    "maximum": lambda x: np.maximum(x, 1.0) + np.maximum(A, x),
    "mean": lambda x: np.mean(x, axis=(0, 1)) + np.mean(x, 1, keepdims=True),
    "min": lambda x: np.min(x, axis=0, keepdims=True) + np.amin(x, 0),
    "minimum": lambda x: np.minimum(x, 1.0),
    "moveaxis": lambda x: np.moveaxis(x, 0, 1),
    "multiply": lambda x: np.multiply(x, A) * (A * x),
    "negative": lambda x: np.negative(x),
    "outer": lambda x: np.outer(x, [1.0, 2.0]),
    "pad": lambda x: np.pad(x, 1) + np.pad(x, ((1, 1), (2, 0)), constant_values=3.0),
    "pad, constant": lambda x: np.pad(x, (1, 0), "constant"),
    "positive": lambda x: np.positive(x),
    "power": lambda x: np.power(x, 2.0) + np.power(2.0, x) + A**x,
    "prod": lambda x: np.prod(x, axis=1),
    "ravel": lambda x: np.ravel(x),
    "reciprocal": lambda x: np.reciprocal(x),
    "repeat": lambda x: np.repeat(x, 2, axis=0),
    "reshape": lambda x: np.reshape(x, (4, 3)),
    "reshape, an integer": lambda x: np.reshape(x, -1),
    "roll": lambda x: np.roll(x, 1, axis=1),
    "sin": lambda x: np.sin(x) + np.tan(x / 2),
    "sort": lambda x: np.sort(x, axis=0),
    "split": lambda x: np.split(x, 2, axis=1)[1],
    "sqrt": lambda x: np.sqrt(x),
    "square": lambda x: np.square(x),
    "squeeze": lambda x: np.squeeze(x[:1], axis=0),
    "stack": lambda x: np.stack([A, x], axis=1),
    "std": lambda x: np.std(x, axis=0, ddof=1),
    "subtract": lambda x: np.subtract(A, x) - (A - x) * 2,
    "sum": lambda x: np.sum(x, 0) + np.sum(x) + np.sum(x, axis=-1, keepdims=True),
    "swapaxes": lambda x: np.swapaxes(x, 0, 1),
    "take": lambda x: np.take(x, [2, 0, 2], axis=1),
    "take, flat": lambda x: np.take(x, np.array([5, 1])),
    "take_along_axis": lambda x: np.take_along_axis(x, np.array([[1], [0], [2]]), axis=1),
    "tanh": lambda x: np.tanh(x),
    "tensordot": lambda x: np.tensordot(x, A, axes=([1], [1])),
    "tile": lambda x: np.tile(x, (2, 1)),
    "transpose": lambda x: np.transpose(x) + np.transpose(x, (1, 0)),
    "var": lambda x: np.var(x, axis=1, keepdims=True),
    "vstack": lambda x: np.vstack((x[0], A)),
    "where": lambda x: np.where(C, x, A) + np.where(x > 1, 2 * x, 0.0),
}

if np.lib.NumpyVersion(np.__version__) >= "2.1.0":
    CALLS["clip, by min and max"] = lambda x: np.clip(x, min=0.5, max=1.5)
    CALLS["reshape, by shape"] = lambda x: np.reshape(x, shape=(4, -1))


@pytest.mark.parametrize("name", CALLS)
def test_a_numpy_expression_has_its_value_and_its_derivatives(name):
    y = CALLS[name](Tensor(X, requires_grad=True))
    np.testing.assert_allclose(y.data, CALLS[name](X), rtol=1e-14, strict=True)
    check_grads(CALLS[name], [X])


def test_every_function_of_the_table_is_called_above():
    called = {name.partition(",")[0].split()[0] for name in CALLS}
    also = {"amax", "amin", "fliplr", "flipud", "log10", "log2", "sign", "tan", "argmax", "argmin"}
    differentiated = {f.__name__ for table in (UFUNCS, FUNCTIONS) for f in table} - PLAIN.keys()
    assert differentiated - called - also == set()


PLAIN = {
    "all": lambda x: np.all(x > 0),
    "allclose": lambda x: np.allclose(x, X),
    "any": lambda x: np.any(x),
    "argmax": lambda x: np.argmax(x, axis=1),
    "argmin": lambda x: np.argmin(x, 0),
    "argsort": lambda x: np.argsort(x, axis=1),
    "argwhere": lambda x: np.argwhere(x),
    "array2string": lambda x: np.array2string(x),
    "array_equal": lambda x: np.array_equal(x, X),
    "array_equiv": lambda x: np.array_equiv(x, X),
    "array_repr": lambda x: np.array_repr(x),
    "array_str": lambda x: np.array_str(x),
    "bincount": lambda x: np.bincount([0, 1, 1], x[0, :3]),
    "can_cast": lambda x: np.can_cast(x, np.float64),
    "count_nonzero": lambda x: np.count_nonzero(x),
    "empty_like": lambda x: np.empty_like(x).shape,
    "equal": lambda x: np.equal(x, X),
    "flatnonzero": lambda x: np.flatnonzero(x),
    "full_like": lambda x: np.full_like(x, 3),
    "greater": lambda x: x < A,
    "greater_equal": lambda x: np.greater_equal(x, A),
    "isclose": lambda x: np.isclose(x, A),
    "isfinite": lambda x: np.isfinite(x),
    "isinf": lambda x: np.isinf(x),
    "isnan": lambda x: np.isnan(x),
    "less": lambda x: x > A,
    "less_equal": lambda x: x >= A,
    "logical_and": lambda x: np.logical_and(x, C),
    "logical_not": lambda x: np.logical_not(x),
    "logical_or": lambda x: np.logical_or(x, C),
    "logical_xor": lambda x: np.logical_xor(x, C),
    "may_share_memory": lambda x: np.may_share_memory(x, X),
    "ndim": lambda x: np.ndim(x),
    "nonzero": lambda x: np.nonzero(x)[0],
    "not_equal": lambda x: np.not_equal(x, A),
    "ones_like": lambda x: np.ones_like(x),
    "result_type": lambda x: np.result_type(x, np.float32),
    "searchsorted": lambda x: np.searchsorted([0.5, 1.0], x),
    "shape": lambda x: np.shape(x),
    "shares_memory": lambda x: np.shares_memory(x, A),
    "signbit": lambda x: np.signbit(x),
    "size": lambda x: np.size(x),
    "where": lambda x: np.where(x > 1)[0],
    "zeros_like": lambda x: np.zeros_like(x),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_has_no_gradient_is_numpys_own(name):
    got, expected = PLAIN[name](Tensor(X, requires_grad=True)), PLAIN[name](X)
    assert type(got) is type(expected)
    np.testing.assert_array_equal(got, expected)


def test_float32_stays_float32():
    x, a = Tensor(X.astype(np.float32), requires_grad=True), A.astype(np.float32)
    for y in (
        a + x,
        np.float32(2) * x,
        np.tanh(a @ x.T) + 1,
        np.maximum(0, x),
        np.where(C, x, 0),
        np.log2(x),
        np.reciprocal(x),
    ):
        assert y.dtype == np.float32
        assert grad(y.sum(), x).dtype == np.float32


# Refused --------------------------------------------------------------------------------------------------------------


def added_in_place(x):
    a = A.copy()
    a += x


REFUSED = {
    "a ufunc without a rule": (
        np.arctan,
        r"numpy\.arctan of a Tensor has no gradient rule: write one with npadv\.primitive",
    ),
    "a function without a rule": (np.linalg.svd, r"numpy\.linalg\.svd of a Tensor has no gradient rule"),
    "a function with another name here": (
        np.linalg.norm,
        r"use npadv\.ops\.sqrt\(npadv\.ops\.sum\(x \* x\)\), or write",
    ),
    "a method of a ufunc": (
        np.add.reduce,
        r"numpy\.add\.reduce of a Tensor has no gradient rule: use npadv\.ops\.sum, or",
    ),
    "an array for the output": (lambda x: np.sum(x, out=np.zeros(())), r"numpy\.sum of a Tensor: out is not supported"),
    "another dtype": (lambda x: np.mean(x, dtype=np.float32), r"numpy\.mean of a Tensor: dtype is not supported"),
    "an unknown argument": (lambda x: np.sum(x, where=C), r"numpy\.sum of a Tensor: .* 'where'"),
    "a ufunc's array for the output": (
        lambda x: np.exp(x, out=A.copy()),
        r"numpy\.exp: an array that a Tensor is written into",
    ),
    "a ufunc's mask": (lambda x: np.exp(x, where=C), r"numpy\.exp of a Tensor: where is not supported"),
    "a Tensor added to an array in place": (
        added_in_place,
        r"numpy\.add: .* added to in place, would drop its history",
    ),
    "another order": (
        lambda x: np.reshape(x, -1, order="F"),
        r"numpy\.reshape of a Tensor: expected order='C', got 'F'",
    ),
    "another mode": (
        lambda x: np.pad(x, 1, mode="edge"),
        r"numpy\.pad of a Tensor: expected mode='constant', got 'edge'",
    ),
    "an array made of it": (np.asarray, r"would drop the tensor's history; take tensor\.data"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_lose_the_history_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(TypeError, match=message):
        call(Tensor(X, requires_grad=True))


# A model ----------------------------------------------------------------------------------------------------------------

W1, B1, W2 = RNG.normal(size=(4, 6)), RNG.normal(size=6), RNG.normal(size=(6, 3))
IMAGES, LABELS = RNG.uniform(0.3, 0.7, (5, 4)), np.array([0, 1, 2, 0, 1])


def in_numpy(x):
    h = np.tanh(x @ W1 + B1)
    h = np.concatenate([np.maximum(h[:, :3], 0.1), np.where(h[:, 3:] > 0, h[:, 3:], 0.2 * h[:, 3:])], axis=1)
    return h @ W2 - np.mean(h, axis=1, keepdims=True)


def in_ops(x):
    h = ops.tanh(ops.add(ops.matmul(x, W1), B1))
    left, right = ops.getitem(h, index=(slice(None), slice(3))), ops.getitem(h, index=(slice(None), slice(3, None)))
    right = ops.where(npadv.autodiff.value_of(right) > 0, right, 0.2 * right)
    h = ops.concatenate([ops.maximum(left, 0.1), right], axis=1)
    return ops.subtract(ops.matmul(h, W2), ops.mean(h, axis=1, keepdims=True))


ATTACKS = {
    "fgsm": lambda model: fgsm(model, IMAGES, LABELS, eps=0.1),
    "pgd": lambda model: pgd(model, IMAGES, LABELS, eps=0.1, steps=10, rng=np.random.default_rng(1)),
    "lbfgs": lambda model: lbfgs(model, IMAGES, (LABELS + 1) % 3),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_model_in_numpy_is_attacked_as_one_in_ops(attack):
    assert type(in_numpy(IMAGES)) is np.ndarray
    got, expected = ATTACKS[attack](in_numpy), ATTACKS[attack](in_ops)
    np.testing.assert_array_equal(got.x_adv, expected.x_adv)
    np.testing.assert_array_equal(got.success, expected.success)


def test_a_loss_of_a_model_in_numpy_has_second_derivatives():
    check_grads(lambda x: cross_entropy(in_numpy(x), LABELS), [IMAGES])
