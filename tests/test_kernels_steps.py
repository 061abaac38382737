"""The steps of attacks as kernels: steepest ascent by the sign, in l2 and in l1, against npadv.norms."""

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kernel_cases import every_way, needs_compiler
from kernel_mutations import Elsewhere, breaks_without_a_barrier, few_blocks

from npadv import kernels, norms
from npadv.backend import to_numpy

reals = st.sampled_from([np.float32, np.float64])
sizes = st.sampled_from([1, 2, 31, 33, 64, 65, 257])
some = settings(max_examples=12)


def seeded(draw):
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


# ------------------------------------------------------------------------------------------------ by the sign


def naive_sign_step(x, g, eps, lo, hi):
    """One element, spelled out in numbers of the array's precision."""
    if math.isnan(x) or math.isnan(g):
        return math.nan
    v = x if g == 0 else x + eps if g > 0 else x - eps
    return lo if v < lo else hi if v > hi else v


def naive_sign_steps(x, g, eps, bounds):
    """The loop over all elements."""
    real = x.dtype.type
    lo, hi = map(real, bounds or (-math.inf, math.inf))
    return np.array([naive_sign_step(*each, real(eps), lo, hi) for each in zip(x, g, strict=True)], real)


@st.composite
def sign_steps(draw, n):
    """x, g, eps and the bounds of a sign step."""
    real = draw(reals)
    # CuPy compiles with -ftz=true: on a GPU, subnormal float32 numbers are zero.
    numbers = st.floats(-2, 2, width=32 if real is np.float32 else 64, allow_subnormal=False)
    kinks = st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf])
    x = draw(hnp.arrays(real, n, elements=st.one_of(numbers, st.just(math.nan))))
    g = draw(hnp.arrays(real, n, elements=st.one_of(numbers, kinks)))
    lo, hi = sorted((draw(numbers), draw(numbers)))
    return x, g, draw(st.floats(0, 1)), draw(st.sampled_from([None, (lo, hi), (lo, lo), (-math.inf, hi)]))


@given(sign_steps(5))
def test_the_array_expressions_step_is_the_naive_loop(step):
    x, g, eps, bounds = step
    before = x.copy()
    y = norms.sign_step(x, g, eps, bounds)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, naive_sign_steps(x, g, eps, bounds))
    np.testing.assert_array_equal(x, before)


@some
@given(step=st.sampled_from([0, 1, 31, 257]).flatmap(sign_steps), few=st.booleans())
def test_a_sign_step_is_the_naive_loop_to_the_bit(xp, step, few):
    x, g, eps, bounds = step

    def run():
        a = xp.asarray(x.copy())
        assert kernels.sign_step(a, xp.asarray(g), eps, bounds=bounds) is a
        return a

    with few_blocks() if few else contextlib.nullcontext():
        (y,) = every_way(run, xp)
    np.testing.assert_array_equal(y, naive_sign_steps(x, g, eps, bounds))


def test_nan_is_not_taken_for_a_flat_gradient(xp):
    g = xp.asarray(np.array([math.nan, 0.0, -0.0, 1e-30, -math.inf], np.float32))
    x = kernels.sign_step(xp.asarray(np.full(5, 0.5, np.float32)), g, 0.25, bounds=(0, 1))
    assert x.tolist()[1:] == [0.5, 0.5, 0.75, 0.25]
    assert math.isnan(x[0])


# ------------------------------------------------------------------------------------------ in the other norms


def l2_step(x, g, eps, bounds=None):
    """The step by array expressions."""
    moved = x + x.dtype.type(eps) * norms.steepest_ascent_direction(g, "l2")
    return moved if bounds is None else np.clip(moved, *bounds)


def naive_l1_step(x, g, eps, bounds=None):
    """Row by row, the one element that moves; argmax finds the first, and NaN before any number."""
    y = x.copy()
    if not x.size:
        return y
    for row, slopes in zip(y.reshape(len(y), -1), g.reshape(len(g), -1), strict=True):
        k = abs(slopes).argmax()
        moved = row[k] + x.dtype.type(eps) * np.sign(slopes[k])
        row[k] = moved if bounds is None else np.clip(moved, *bounds)
    return y


@st.composite
def row_steps(draw, elements):
    """x and g of one shape (N, ...), g filled by ``elements(rng, shape)`` and in some rows by zeros."""
    real, rng = draw(reals), seeded(draw)
    shape = draw(st.sampled_from([(0, 3), (3, 0), (4,), (2, 1), (1, 31), (3, 33), (2, 255), (2, 3, 4, 25), (1, 1031)]))
    g = elements(rng, shape)
    g[rng.random(len(g)) < 0.2] = 0
    return rng.random(shape).astype(real), g.astype(real)


@some
@given(
    case=row_steps(lambda rng, shape: rng.normal(size=shape) * 10.0 ** rng.integers(-30, 30)),
    bounds=st.sampled_from([None, (0.2, 0.9)]),
    few=st.booleans(),
)
def test_an_l2_step_is_that_of_the_array_expressions(xp, case, bounds, few):
    x, g = case

    def run():
        a = xp.asarray(x.copy())
        assert kernels.l2_step(a, xp.asarray(g), 0.5, bounds=bounds) is a
        return a

    with few_blocks() if few else contextlib.nullcontext():
        (y,) = every_way(run, xp)
    # Another order of additions, so not the same bits: a few roundings of a number of about 1.
    tolerance = 8 * np.finfo(x.dtype).eps
    np.testing.assert_allclose(y, l2_step(x, g, 0.5, bounds), rtol=0, atol=tolerance)
    assert y.dtype == x.dtype
    if bounds is None and x.size:
        flat = (g == 0).reshape(len(g), -1).all(axis=1)
        np.testing.assert_array_equal(y[flat], x[flat])
        moved = np.linalg.norm((y - x).reshape(len(x), -1), axis=1)
        np.testing.assert_allclose(moved[~flat], 0.5, rtol=1e-5)


@some
@given(
    case=row_steps(lambda rng, shape: rng.choice([-2.0, -1.0, 0.0, 1.0, 2.0, math.inf, math.nan], shape)),
    bounds=st.sampled_from([None, (0.0, 1.0)]),
    few=st.booleans(),
)
def test_an_l1_step_is_the_naive_loop_to_the_bit_ties_and_nan_included(xp, case, bounds, few):
    x, g = case

    def run():
        a = xp.asarray(x.copy())
        assert kernels.l1_step(a, xp.asarray(g), 0.5, bounds=bounds) is a
        return a

    with few_blocks() if few else contextlib.nullcontext():
        (y,) = every_way(run, xp)
    np.testing.assert_array_equal(y, naive_l1_step(x, g, 0.5, bounds))
    if x.size:
        assert ((y != x).reshape(len(x), -1).sum(axis=1) <= 1).all()


def test_of_equal_gradients_the_first_is_stepped_along_whichever_thread_holds_it(xp):
    g = np.zeros((3, 1000))
    g[0, [40, 700]] = -3  # two warps
    g[1, [300, 301]] = 3  # neighbours
    g[2, [10, 266]] = 3, -3  # one thread, twice
    y = kernels.l1_step(xp.asarray(np.zeros(g.shape)), xp.asarray(g), 1.0)
    assert [(int(n), int(k)) for n, k in np.argwhere(to_numpy(y))] == [(0, 40), (1, 300), (2, 10)]


def test_a_broken_gradient_shows_in_its_own_row_only(xp):
    g = np.ones((4, 300))
    g[1, 200], g[2, 7] = math.nan, math.inf
    y = to_numpy(kernels.l2_step(xp.asarray(np.zeros(g.shape)), xp.asarray(g), 1.0))
    assert np.isnan(y[[1, 2]]).all()
    np.testing.assert_allclose(y[[0, 3]], 1 / math.sqrt(300), rtol=1e-14)


def test_the_l2_step_neither_overflows_nor_underflows(xp):
    for size in (1e-37, 1e-30, 3e38):  # their squares are 0 or inf
        g = np.full((1, 4), size, np.float32)
        y = kernels.l2_step(xp.asarray(np.zeros((1, 4), np.float32)), xp.asarray(g), 1.0)
        assert y.tolist() == [[0.5] * 4]


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_a_step_of_one_from_nowhere_is_the_direction_of_steepest_ascent(xp, kind):
    g = np.random.default_rng(0).normal(size=(5, 3, 7))
    kernel = {"l1": kernels.l1_step, "l2": kernels.l2_step}[kind]
    d = kernel(xp.asarray(np.zeros(g.shape)), xp.asarray(g), 1.0)
    np.testing.assert_allclose(to_numpy(d), norms.steepest_ascent_direction(g, kind), rtol=1e-14)


# --------------------------------------------------------------------------------------------------- barriers


@needs_compiler
@pytest.mark.parametrize("which", [0, 1])
def test_no_barrier_of_the_row_steps_can_be_left_out(which):
    x, g = np.zeros((3, 300)), np.ones((3, 300))
    breaks_without_a_barrier("steepest_step", which, lambda: kernels.l2_step(x, g, 1.0))
    breaks_without_a_barrier("steepest_step", which, lambda: kernels.l1_step(x, g, 1.0))


# ---------------------------------------------------------------------------------------------- wrong arguments


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


P, Q, SHARED = zeros(4, 3), zeros(4, 3), zeros(13)
WRONG = {
    kernels.sign_step: [
        ((P, [0.0], 1), {}, TypeError, "g must be a numpy.ndarray, got list"),
        ((zeros(3, dtype="int32"), Q, 1), {}, TypeError, "x must be float32 or float64, got int32"),
        ((P, zeros(4, 3, dtype="float64"), 1), {}, TypeError, "g must have the dtype of x, float32, got float64"),
        ((P, Q.view(Elsewhere), 1), {}, ValueError, "g must be on the device of x, cpu, got elsewhere"),
        ((P, zeros(12), 1), {}, ValueError, "g must have the shape of x, (4, 3), got (12,)"),
        ((P, P, 1), {}, ValueError, "g must not share memory with x"),
        ((SHARED[1:], SHARED[:-1], 1), {}, ValueError, "g must not share memory with x"),
        ((zeros(3, 4).T, Q, 1), {}, ValueError, "x must be C-contiguous"),
        ((P, Q, -1), {}, ValueError, "eps must be at least 0 and finite in float32, got -1"),
        ((P, Q, math.nan), {}, ValueError, "eps must be at least 0 and finite in float32, got nan"),
        ((P, Q, 1e300), {}, ValueError, "eps must be at least 0 and finite in float32, got 1e+300"),
        ((P, Q, "1"), {}, TypeError, "eps must be a real number, got str"),
        ((P, Q, 1), {"bounds": 1}, TypeError, "bounds must be None or a pair (lo, hi), got 1"),
        ((P, Q, 1), {"bounds": (1, 0)}, ValueError, "bounds must be (lo, hi) with lo <= hi, got (1, 0)"),
        ((P, Q, 1), {"bounds": (0, math.nan)}, ValueError, "bounds must be (lo, hi) with lo <= hi, got (0, nan)"),
        ((P, Q, 1), {"bounds": (0, None)}, TypeError, "bounds must be a real number, got NoneType"),
    ],
    kernels.l2_step: [
        ((P, None, 1), {}, TypeError, "g must be a numpy.ndarray, got NoneType"),
        ((P, zeros(3, 4), 1), {}, ValueError, "g must have the shape of x, (4, 3), got (3, 4)"),
        ((np.zeros(()), np.zeros(()), 1), {}, ValueError, "x must be a batch (N, ...), got a scalar"),
        ((P, P, 1), {}, ValueError, "g must not share memory with x"),
        ((P.T, Q.T, 1), {}, ValueError, "x must be C-contiguous"),
        ((P, Q, math.inf), {}, ValueError, "eps must be at least 0 and finite in float32, got inf"),
        ((P, Q, 1), {"bounds": (1, 0)}, ValueError, "bounds must be (lo, hi) with lo <= hi, got (1, 0)"),
    ],
    kernels.l1_step: [
        ((P.astype(np.float16), Q, 1), {}, TypeError, "x must be float32 or float64, got float16"),
        ((P, zeros(4), 1), {}, ValueError, "g must have the shape of x, (4, 3), got (4,)"),
        ((P, P, 1), {}, ValueError, "g must not share memory with x"),
        ((P, Q, -1), {}, ValueError, "eps must be at least 0 and finite in float32, got -1"),
    ],
}


@pytest.mark.parametrize(
    ("function", "args", "how", "error", "message"),
    [pytest.param(f, *case, id=f"{f.__name__}: {case[-1]}") for f, cases in WRONG.items() for case in cases],
)
def test_a_wrong_argument_is_named_and_nothing_happens(monkeypatch, function, args, how, error, message):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    for a in (P, Q):
        a[...] = 0.5
    with pytest.raises(error) as raised:
        function(*args, **how)
    assert str(raised.value).startswith(f"{function.__name__}: {message}")
    assert all((a == 0.5).all() for a in (P, Q))


@needs_compiler
def test_the_arguments_of_the_wrong_examples_are_right_but_for_one(monkeypatch):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    kernels.sign_step(P.copy(), Q, 1, bounds=(0, 1e300))
    kernels.l2_step(P.copy(), Q, 1, bounds=[0, 1])
    kernels.l1_step(P.copy(), Q, 1)


@needs_compiler
def test_strided_gradients_are_read_in_the_order_of_x(monkeypatch):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    g = np.random.default_rng(0).normal(size=(5, 7))
    np.testing.assert_array_equal(kernels.sign_step(np.zeros((7, 5)), g.T, 1.0), np.sign(g.T))
    np.testing.assert_array_equal(
        kernels.l1_step(np.zeros((7, 5)), g.T, 1.0), kernels.l1_step(np.zeros((7, 5)), g.T.copy(), 1.0)
    )
