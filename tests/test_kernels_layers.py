"""The layers as kernels: matrix product, maxout, max pooling, cross-entropy and dropout, forward and backward."""

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import every_way, needs_compiler, same_bits
from kernel_mutations import Elsewhere, breaks_without_a_barrier, few_blocks

from npadv import functional, kernels, ops
from npadv.autodiff import Tensor, grad
from npadv.backend import to_numpy
from npadv.kernels.matmul import FILES
from npadv.ops.dropout import Draw, philox
from npadv.shapes import pool_shapes

reals = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)
few_or_many = st.sampled_from([few_blocks, contextlib.nullcontext])
some = settings(max_examples=12)
TIED = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, math.inf, -math.inf, math.nan])


# ---------------------------------------------------------------------------------------------- matrix product

versions = pytest.mark.parametrize("version", FILES)


@versions
@settings(max_examples=12)
@given(
    sides=st.tuples(
        st.sampled_from([0, 1, 31, 65]), st.sampled_from([0, 1, 33, 64, 130]), st.sampled_from([0, 1, 15, 16, 17, 33])
    ),
    real=reals,
    flips=st.tuples(st.booleans(), st.booleans()),
    with_bias=st.booleans(),
    seed=seeds,
    blocks=few_or_many,
)
def test_the_product_is_numpys_to_the_bit(xp, version, sides, real, flips, with_bias, seed, blocks):
    """Whole numbers, whose products add up exactly in any order: below 2^24 in float32, and past it in float64."""
    M, N, K = sides
    rng, most = np.random.default_rng(seed), 2**8 if real is np.float32 else 2**22
    a, b = (rng.integers(-most, most, shape).astype(real) for shape in [(M, K), (K, N)])
    bias = rng.integers(-most, most, N).astype(real) if with_bias else None
    expected = a @ b + (bias if with_bias else 0)
    a, b = (np.ascontiguousarray(m.T) if flip else m for m, flip in zip((a, b), flips, strict=True))
    how = {"transpose_a": flips[0], "transpose_b": flips[1], "version": version}

    def run():
        device_bias = None if bias is None else xp.asarray(bias)
        return kernels.matmul(xp.asarray(a), xp.asarray(b), bias=device_bias, **how)

    with blocks():
        (c,) = every_way(run, xp)
    assert same_bits(c + 0, expected + 0)  # + 0: of -0 and 0


@versions
def test_the_product_of_any_numbers_is_their_product_to_rounding(xp, version):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(70, 300)).astype(np.float32), rng.normal(size=(300, 90)).astype(np.float32)
    exact = a.astype(float) @ b.astype(float)
    bound = abs(a.astype(float)) @ abs(b.astype(float)) * 300 * 2**-24
    assert (abs(to_numpy(kernels.matmul(xp.asarray(a), xp.asarray(b), version=version)) - exact) <= bound).all()


@versions
def test_nan_and_infinity_stay_in_their_row_and_column(xp, version):
    a, b = np.ones((3, 20)), np.ones((20, 70))
    a[1, 19], b[4, 66] = math.nan, math.inf
    np.testing.assert_array_equal(to_numpy(kernels.matmul(xp.asarray(a), xp.asarray(b), version=version)), a @ b)


def test_a_transposed_view_is_read_where_it_lies(xp):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 9, (5, 7)).astype(float), rng.integers(-9, 9, (5, 6)).astype(float)
    da, db = xp.asarray(a), xp.asarray(b)
    np.testing.assert_array_equal(to_numpy(kernels.matmul(da.T, db)), a.T @ b)
    np.testing.assert_array_equal(to_numpy(kernels.matmul(db.T, da.T, transpose_b=True)), b.T @ a)
    np.testing.assert_array_equal(to_numpy(kernels.matmul(da.T[::2], db[:, ::2])), a.T[::2] @ b[:, ::2])


@needs_compiler
def test_all_versions_of_the_product_add_in_the_same_order(monkeypatch):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    rng = np.random.default_rng(0)
    a, b, bias = rng.normal(size=(70, 50)), rng.normal(size=(50, 90)), rng.normal(size=90)
    first, *others = (kernels.matmul(a, b, bias=bias, version=version) for version in FILES)
    assert all(same_bits(first, other) for other in others)
    assert same_bits(kernels.matmul(a, b, bias=bias), first)


@needs_compiler
@pytest.mark.parametrize("flips", [(False, False), (True, True)])
@pytest.mark.parametrize(("version", "barrier"), [(2, 0), (2, 1), (3, 0), (3, 1), (4, 0)])
def test_no_barrier_of_the_product_can_be_left_out(version, barrier, flips):
    a, b, how = np.ones((40, 40)), np.ones((40, 40)), dict(zip(("transpose_a", "transpose_b"), flips, strict=True))
    breaks_without_a_barrier(FILES[version], barrier, lambda: kernels.matmul(a, b, version=version, **how))


# ------------------------------------------------------------------------------------------------------ maxout

MAXOUTS = [  # shape, axis, pieces
    ((3, 4), 1, 2),
    ((2, 31), 1, 31),
    ((5, 132), 1, 2),
    ((2, 6, 3, 5), 1, 3),
    ((4, 3, 2), -1, 2),
    ((33, 5), 0, 3),
    ((7, 5), 1, 1),
    ((1, 300), 1, 3),
    ((0, 4), 1, 2),
    ((2, 0), 1, 3),
    ((2, 4, 0), 1, 2),
]


def gradient(y, leaf, g):
    """The tape's, whose zeros have any sign."""
    return grad(y, leaf, cotangent=g) + 0


@some
@given(case=st.sampled_from(MAXOUTS), real=reals, seed=seeds, blocks=few_or_many)
def test_maxout_is_the_librarys_maxout_to_the_bit_ties_and_nan_included(xp, case, real, seed, blocks):
    shape, axis, pieces = case
    rng = np.random.default_rng(seed)
    x = rng.choice(TIED, shape).astype(real)
    leaf = Tensor(x, requires_grad=True)
    y = functional.maxout(leaf, pieces, axis)
    g = rng.normal(size=y.shape).astype(real)

    def run():
        out, winners = kernels.maxout(xp.asarray(x), pieces, axis=axis)
        return out, kernels.maxout_grad(xp.asarray(g), winners, pieces, axis=axis)

    with blocks():
        results = every_way(run, xp)
    assert all(same_bits(*both) for both in zip(results, (y.data, gradient(y, leaf, g)), strict=True))


# ------------------------------------------------------------------------------------------------- max pooling


@st.composite
def poolings(draw):
    """The shape of some images and how to pool them."""
    size = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in size)
    sides = [
        draw(st.sampled_from([n for n in (1, 2, 5, 8, 31, 33) if n + 2 * p >= k]))
        for k, p in zip(size, padding, strict=True)
    ]
    stride = draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)))
    how = {"stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}
    return (draw(st.integers(0, 2)), draw(st.integers(1, 2)), *sides), size, how


@settings(max_examples=30)
@given(case=poolings(), real=reals, seed=seeds, blocks=few_or_many)
def test_pooling_is_the_librarys_pooling_to_the_bit_ties_and_nan_included(xp, case, real, seed, blocks):
    shape, size, how = case
    shapes = pool_shapes(shape, size, **how)
    rng = np.random.default_rng(seed)
    x = rng.choice(TIED, shape).astype(real)
    leaf = Tensor(x, requires_grad=True)
    y = ops.max_pool2d(leaf, size, **how)
    g = rng.integers(-9, 9, y.shape).astype(real)  # added up exactly, in any order

    def run():
        out, winners = kernels.max_pool2d(xp.asarray(x), shapes)
        return out, kernels.max_pool2d_grad(xp.asarray(g), winners, shapes) + 0

    with blocks():
        results = every_way(run, xp, checked=x.size < 1000)
    assert all(same_bits(*both) for both in zip(results, (y.data, gradient(y, leaf, g)), strict=True))


def test_padding_never_wins(xp):
    x = xp.asarray(np.full((1, 1, 2, 2), -math.inf))
    y, winners = kernels.max_pool2d(x, pool_shapes(x.shape, 2, 1, 1))
    assert to_numpy(y).max() == -math.inf
    assert to_numpy(winners).tolist() == [[[[0, 0, 1], [0, 0, 1], [2, 2, 3]]]]


# ----------------------------------------------------------------------------------------------- cross-entropy


@st.composite
def classifications(draw):
    """Logits of any size and some labels."""
    real, rng = draw(reals), np.random.default_rng(draw(seeds))
    n, k = draw(st.sampled_from([0, 1, 7, 33])), draw(st.sampled_from([1, 10, 31, 32, 33, 100]))
    z = (rng.normal(size=(n, k)) * 10.0 ** draw(st.integers(-3, 4))).astype(real)
    return z, rng.integers(0, k, n), rng.normal(size=n).astype(real)


@settings(max_examples=20)
@given(case=classifications(), blocks=few_or_many)
def test_cross_entropy_is_the_librarys(xp, case, blocks):
    z, labels, g = case

    def run():
        arguments = xp.asarray(z), xp.asarray(labels)
        return kernels.cross_entropy(*arguments), kernels.cross_entropy_grad(*arguments, xp.asarray(g))

    with blocks():
        losses, gz = every_way(run, xp)
    tolerance = {"rtol": 32 * np.finfo(z.dtype).eps, "atol": 32 * np.finfo(z.dtype).eps}
    assert losses.dtype == gz.dtype == z.dtype
    leaf = Tensor(z, requires_grad=True)
    expected = functional.cross_entropy(leaf, labels, reduction="none")
    np.testing.assert_allclose(losses, expected.data, **tolerance)
    np.testing.assert_allclose(gz, grad(expected, leaf, cotangent=g), **tolerance)


def test_without_a_cotangent_the_gradient_is_that_of_the_sum(xp):
    z, labels = xp.asarray(np.random.default_rng(0).normal(size=(5, 3))), xp.asarray(np.array([0, 2, 1, 1, 0]))
    gz = kernels.cross_entropy_grad(z, labels)
    assert same_bits(to_numpy(gz), to_numpy(kernels.cross_entropy_grad(z, labels, xp.asarray(np.ones(5)))))


def test_what_has_no_loss_is_nan_and_only_that(xp):
    z = np.zeros((7, 40), np.float32)
    z[2, 35], z[3, 35], z[4, 35], z[5] = math.nan, math.inf, -math.inf, -math.inf
    labels, g = np.array([40, -1, 0, 0, 0, 0, 39]), np.ones(7, np.float32)
    arguments = xp.asarray(z), xp.asarray(labels)
    losses = to_numpy(kernels.cross_entropy(*arguments))
    gz = to_numpy(kernels.cross_entropy_grad(*arguments, xp.asarray(g)))
    assert np.isnan(losses).tolist() == [True, True, True, True, False, True, False]
    np.testing.assert_allclose(losses[[4, 6]], np.log([39, 40]), rtol=1e-6)
    softmax = np.where(z[[4, 6]] == 0, 1, 0) / np.array([[39], [40]])
    np.testing.assert_allclose(gz[[4, 6]], softmax - np.eye(40)[labels[[4, 6]]], rtol=1e-5, atol=1e-7)
    assert np.isnan(gz).any(axis=1).tolist() == np.isnan(losses).tolist()


def test_the_largest_logit_is_found_wherever_it_is(xp):
    z = np.diag(np.full(100, 1000.0)) - 500
    losses = kernels.cross_entropy(xp.asarray(z), xp.asarray(np.arange(100)))
    np.testing.assert_array_equal(to_numpy(losses), np.zeros(100))


def test_large_logits_keep_their_digits(xp):
    z = np.array([[1e6, 1e6 - 1, 0], [-3e38, 3e38, 0]], np.float32)
    losses = kernels.cross_entropy(xp.asarray(z), xp.asarray(np.array([1, 1])))
    np.testing.assert_allclose(to_numpy(losses), [math.log1p(math.e), 0], rtol=1e-6)
    wrong = kernels.cross_entropy(xp.asarray(z[:1]), xp.asarray(np.array([2])))
    np.testing.assert_allclose(to_numpy(wrong), [1e6], rtol=1e-6)


# ----------------------------------------------------------------------------------------------------- dropout


def mask(state, number):
    """A mask of a random state whose seed and offset are those of ``state``."""
    random = ops.DeviceRandom(0, state)
    random.load_state({"state": state})
    return Draw(random, number, 0)


def test_the_generator_is_philox():
    """The known answers that its authors publish: counter, key, words."""
    counter = [0x85A308D3243F6A88, 0x0370734413198A2E]
    ones = 2**64 - 1
    for low, high, key, words in [
        (0, 0, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (ones, ones, ones, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (*counter, 0x299F31D0A4093822, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]:
        (got,) = philox(*(np.array([n], np.uint64) for n in (low, high, key)))
        assert " ".join(f"{word:08x}" for word in got) == words


@settings(max_examples=16)
@given(
    shape=st.sampled_from([(0,), (1,), (3,), (4,), (5,), (31, 33), (2, 3, 4, 5), (1025,)]),
    real=reals,
    rate=st.sampled_from([0.0, 0.2, 0.5, 0.999, 1e-12]),
    state=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    draw=st.sampled_from([0, 1, 2**64 - 1]),
    rescale=st.booleans(),
    blocks=few_or_many,
)
def test_dropout_is_the_librarys_to_the_bit(xp, shape, real, rate, state, draw, rescale, blocks):
    x, host = np.random.default_rng(0).normal(size=shape).astype(real), np.array(state, np.uint64)

    def run():
        on_device = xp.asarray(host.copy())
        return kernels.dropout(xp.asarray(x), rate, on_device, draw=draw, rescale=rescale), on_device

    with blocks():
        y, after = every_way(run, xp)
    assert same_bits(y, ops.dropout(x, rate=rate, draw=mask(host, draw), rescale=rescale))
    assert after.tolist() == list(state)


def test_an_element_is_dropped_below_the_rate_and_kept_at_it(xp):
    (words,) = philox(*(np.array([n], np.uint64) for n in (0, 5, 9)))
    state, ones = xp.asarray(np.array([9, 5], np.uint64)), xp.asarray(np.ones(4))
    for i, word in enumerate(words.tolist()):
        for rate, kept in [(word / 2**32, 1), ((word + 1) / 2**32, 0)]:
            assert to_numpy(kernels.dropout(ones, rate, state, rescale=False))[i] == kept


def test_masks_drop_at_their_rate_and_have_nothing_in_common(xp):
    state, ones = xp.asarray(np.array([7, 100], np.uint64)), xp.asarray(np.ones(100_000, np.float32))

    def mask(**how):
        return to_numpy(kernels.dropout(ones, 0.25, state, rescale=False, **how))

    first, again, second = mask(), mask(), mask(draw=1)
    state[1:] += np.uint64(2)
    third = mask()
    np.testing.assert_array_equal(again, first)  # the backward sees what the forward saw
    deviation = math.sqrt(0.25 * 0.75 / 100_000)
    for m in (first, second, third):
        assert set(m.tolist()) == {0.0, 1.0}
        assert abs(m.mean() - 0.75) < 5 * deviation
    for a, b in [(first, second), (first, third), (second, third), (first[1:], first[:-1]), (first[4:], first[:-4])]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(100_000)


def test_dropout_keeps_the_mean_and_shows_what_is_broken(xp):
    state = np.array([1, 0], np.uint64)
    x = np.ones(50_000)
    y = to_numpy(kernels.dropout(xp.asarray(x), 0.5, xp.asarray(state)))
    assert set(y.tolist()) == {0.0, 2.0}
    assert abs(y.mean() - 1) < 0.02
    x[:100], x[100:200] = math.nan, math.inf
    broken = to_numpy(kernels.dropout(xp.asarray(x), 0.5, xp.asarray(state)))
    assert np.isnan(broken[:100]).all()
    np.testing.assert_array_equal(broken[100:200], np.where(y[100:200] == 0, math.nan, math.inf))
    np.testing.assert_array_equal(broken[200:], y[200:])


# ---------------------------------------------------------------------------------------------- wrong arguments


def full(*shape, dtype="float32"):
    return np.full(shape, 1, dtype)


A, B, X, Z, L, S = full(4, 3), full(3, 2), full(2, 4, 5, 6), full(4, 3), full(4, dtype="int64"), full(2, dtype="uint64")
G, WON, POOL = full(2, 4, 2, 3), full(2, 4, 2, 3, dtype="int32"), pool_shapes(X.shape, 2)
WRONG = {
    kernels.matmul: [
        ((A, [[1.0]]), {}, TypeError, "b must be a numpy.ndarray, got list"),
        ((A, B.astype(float)), {}, TypeError, "b must have the dtype of a, float32, got float64"),
        ((A, B.view(Elsewhere)), {}, ValueError, "b must be on the device of a, cpu, got elsewhere"),
        ((A.astype(np.int64), B.astype(np.int64)), {}, TypeError, "a must be float32 or float64, got int64"),
        ((A[0], B), {}, ValueError, "a must be a matrix, got shape (3,)"),
        ((A, B[None]), {}, ValueError, "b must be a matrix, got shape (1, 3, 2)"),
        ((A, B), {"transpose_a": True}, ValueError, "b must have the K of a, 4, got 3 of shape (3, 2)"),
        ((A, B), {"transpose_b": True}, ValueError, "b must have the K of a, 3, got 2 of shape (3, 2)"),
        ((A, B), {"bias": full(3)}, ValueError, "bias must have the shape (N,), (2,), got (3,)"),
        ((A, B), {"bias": full(2, dtype="float64")}, TypeError, "bias must have the dtype of a, float32, got float64"),
        ((A, B), {"version": 5}, ValueError, "version must be one of 1, 2, 3, 4, got 5"),
    ],
    kernels.maxout: [
        ((A.astype(np.float16), 2), {}, TypeError, "x must be float32 or float64, got float16"),
        ((A, 2), {}, ValueError, "pieces must divide the 3 features on axis 1, got 2"),
        ((A, 0), {}, ValueError, "pieces must be an integer from 1 to 2**31 - 1, got 0"),
        ((A, 2.0), {}, TypeError, "pieces must be an integer, got 2.0"),
        ((A, 2), {"axis": 2}, ValueError, "axis must be an integer from -2 to 1, got 2"),
    ],
    kernels.maxout_grad: [
        ((A, None, 2), {}, TypeError, "winners must be a numpy.ndarray, got NoneType"),
        ((A, L, 2), {}, TypeError, "winners must be int32, got int64"),
        ((G, WON[:, :2], 2), {}, ValueError, "winners must have the shape of g, (2, 4, 2, 3), got (2, 2, 2, 3)"),
        ((G, WON.view(Elsewhere), 2), {}, ValueError, "winners must be on the device of g, cpu, got elsewhere"),
        ((G, WON, -1), {}, ValueError, "pieces must be an integer from 1"),
    ],
    kernels.max_pool2d: [
        ((X.astype(np.float16), POOL), {}, TypeError, "x must be float32 or float64, got float16"),
        ((A, POOL), {}, ValueError, "x must have the shape in shapes, (2, 4, 5, 6), got (4, 3)"),
        (
            (full(2, 3, 0, 4), pool_shapes((2, 3, 0, 4), 2, padding=1)),
            {},
            ValueError,
            "x must have images of 1 to 2**31 - 1 pixels, got 0x4",
        ),
        (
            (X, pool_shapes(X.shape, (2**31 - 1, 2), padding=(2**30 - 1, 0))),
            {},
            ValueError,
            "padding must keep the image's sides below 2**31",
        ),
    ],
    kernels.max_pool2d_grad: [
        (
            (G, WON, pool_shapes((1, 1, 2**16, 2**16), 2)),
            {},
            ValueError,
            "x must have images of 1 to 2**31 - 1 pixels, got 65536x65536",
        ),
        (
            (G, WON, pool_shapes((2, 4, 6, 6), 2)),
            {},
            ValueError,
            "g must have the shape of max_pool2d(x), (2, 4, 3, 3)",
        ),
        ((G, WON[:1], POOL), {}, ValueError, "winners must have the shape of g"),
        ((G, WON.astype(np.uint32), POOL), {}, TypeError, "winners must be int32, got uint32"),
    ],
    kernels.cross_entropy: [
        ((Z[0], L), {}, ValueError, "logits must be (N, K) of at least one class, got (3,)"),
        ((full(4, 0), L), {}, ValueError, "logits must be (N, K) of at least one class, got (4, 0)"),
        ((Z, [0, 1, 2, 0]), {}, TypeError, "labels must be a numpy.ndarray, got list"),
        ((Z, L.astype(np.int32)), {}, TypeError, "labels must be int64, got int32"),
        ((Z, L[:3]), {}, ValueError, "labels must have the shape (N,), (4,), got (3,)"),
        ((Z, L.view(Elsewhere)), {}, ValueError, "labels must be on the device of logits, cpu, got elsewhere"),
    ],
    kernels.cross_entropy_grad: [
        ((Z, L, full(3)), {}, ValueError, "g must have the shape (N,), (4,), got (3,)"),
        ((Z, L, 1.0), {}, TypeError, "g must be a numpy.ndarray, got float"),
        ((Z, L.astype(float), full(4)), {}, TypeError, "labels must be int64, got float64"),
    ],
    kernels.dropout: [
        ((L, 0.5, S), {}, TypeError, "x must be float32 or float64, got int64"),
        ((A, 0.5, 7), {}, TypeError, "state must be a numpy.ndarray, got int"),
        ((A, 0.5, S.astype(np.int64)), {}, TypeError, "state must be uint64, got int64"),
        ((A, 0.5, full(3, dtype="uint64")), {}, ValueError, "state must have seed and offset, (2,), got (3,)"),
        ((A, 0.5, full(4, dtype="uint64")[::2]), {}, ValueError, "state must be C-contiguous"),
        ((A, 1, S), {}, ValueError, "rate must be a probability in [0, 1), got 1.0"),
        ((A, math.nan, S), {}, ValueError, "rate must be a probability in [0, 1), got nan"),
        ((A, "0.5", S), {}, TypeError, "rate must be a real number, got str"),
        ((A, 0.5, S), {"draw": -1}, ValueError, "draw must be an integer from 0"),
        ((A, 0.5, S), {"draw": 0.5}, TypeError, "draw must be an integer, got 0.5"),
    ],
}


@pytest.mark.parametrize(
    ("function", "args", "how", "error", "message"),
    [pytest.param(f, *case, id=f"{f.__name__}: {case[-1]}") for f, cases in WRONG.items() for case in cases],
)
def test_a_wrong_argument_is_named(monkeypatch, function, args, how, error, message):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    with pytest.raises(error) as raised:
        function(*args, **how)
    assert str(raised.value).startswith(f"{function.__name__}: {message}")
    assert S.tolist() == [1, 1]


@needs_compiler
def test_the_arguments_of_the_wrong_examples_are_right_but_for_one(monkeypatch):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    assert kernels.matmul(A, B, bias=full(2)).tolist() == [[4, 4]] * 4
    assert kernels.maxout(A, 3)[0].shape == (4, 1)
    assert kernels.maxout_grad(G, WON, 2).shape == (2, 8, 2, 3)
    assert kernels.max_pool2d(X, POOL)[0].shape == G.shape
    assert kernels.max_pool2d_grad(G, WON, POOL).shape == X.shape
    assert kernels.cross_entropy(Z, L).shape == (4,)
    assert kernels.cross_entropy_grad(Z, L, full(4)).shape == (4, 3)
    assert kernels.dropout(A, 0.5, S).shape == A.shape


@needs_compiler
def test_strided_arrays_are_read_in_their_own_order(monkeypatch):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 6, 4, 2)).transpose(3, 2, 0, 1)
    for f in (
        lambda a: kernels.maxout(a, 2),
        lambda a: kernels.max_pool2d(a, pool_shapes(a.shape, (2, 3))),
        lambda a: [kernels.dropout(a, 0.5, S)],
    ):
        for got, expected in zip(f(x), f(x.copy(order="C")), strict=True):
            np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(
        kernels.cross_entropy(x[0, 0].T, full(12, dtype="int64")[::2]),
        kernels.cross_entropy(x[0, 0].T.copy(), full(6, dtype="int64")),
    )
