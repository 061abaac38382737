"""Update rules and the max-norm constraint as kernels, against npadv.optim and MaxNorm to the bit."""

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import every_way, needs_compiler, same_bits
from kernel_mutations import Elsewhere, breaks_without_a_barrier, few_blocks

from npadv import kernels
from npadv.backend import to_numpy
from npadv.nn.parameter import MaxNorm, Parameter
from npadv.optim import SGD, Adam, InverseDecay

reals = st.sampled_from([np.float32, np.float64])
shapes = st.sampled_from([(0,), (1,), (31,), (33,), (5, 52), (3, 0, 2)])
some = settings(max_examples=12)


def agree(xp, got, expected):
    """Equal to the bit where one operation after another is rounded; on a GPU, which fuses some, to rounding."""
    if xp is np:
        assert same_bits(got, expected), (got, expected)
    else:
        rounding = 20 * np.finfo(got.dtype).eps
        np.testing.assert_allclose(got, expected, rtol=rounding, atol=rounding * np.abs(expected).max(initial=0))


@st.composite
def parameters(draw):
    """A parameter, three gradients for it, and a step size with its own scale."""
    real, shape = draw(reals), draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p, *gradients = (rng.normal(size=shape).astype(real) for _ in range(4))
    return p, gradients, draw(st.floats(1e-4, 1)), draw(st.sampled_from([1.0, 0.05]))


def by_optimizer(rule, p, gradients, scale):
    """What npadv.optim makes of it."""
    tensor = Parameter(p.copy(), step_scale=scale)
    optimizer = rule([tensor])
    for g in gradients:
        optimizer.step([g])
    return [tensor.data, *(kept[0] for kept in optimizer.memory.values())]


# ------------------------------------------------------------------------------------------- gradient descent


@some
@given(
    case=parameters(),
    kind=st.sampled_from(
        [{}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}, {"momentum": 0.3, "dampening": 0.3}]
    ),
    weight_decay=st.sampled_from([0.0, 1e-2]),
    few=st.booleans(),
)
def test_sgd_is_the_optimizer_to_the_bit(xp, case, kind, weight_decay, few):
    p, gradients, step_size, scale = case
    rest = {"weight_decay": weight_decay, **{k: v for k, v in kind.items() if k != "momentum"}}
    momentum = {"momentum": kind["momentum"]} if kind else {}
    schedule = InverseDecay(step_size, rate=0.5)

    def run():
        a = xp.asarray(p.copy())
        v = xp.zeros_like(a) if kind else None
        for t, g in enumerate(gradients):
            now = xp.asarray(np.array([schedule(t, 0), *momentum.values()]))
            first = {"dampening": 0.0} if t == 0 and kind else {}  # the velocity starts as the gradient
            assert kernels.sgd(a, xp.asarray(g), now, velocity=v, scale=scale, **(rest | first)) is None
        return (a, v) if kind else (a,)

    with few_blocks() if few else contextlib.nullcontext():
        results = every_way(run, xp)
    expected = by_optimizer(lambda ps: SGD(ps, schedule, **momentum, **rest), p, gradients, scale)
    for got, want in zip(results, expected, strict=True):
        agree(xp, got, want)


# -------------------------------------------------------------------------------------------------------- Adam


@some
@given(case=parameters(), weight_decay=st.sampled_from([0.0, 1e-2]), few=st.booleans())
def test_adam_is_the_optimizer_to_the_bit(xp, case, weight_decay, few):
    p, gradients, step_size, scale = case
    betas = (0.8, 0.99)

    def run():
        a, m, v = xp.asarray(p.copy()), *(xp.zeros(p.shape, p.dtype) for _ in "mv")
        for t, g in enumerate(gradients, start=1):
            now = xp.asarray(np.array([step_size, t, *(1 - beta**t for beta in betas)]))
            rest = {"betas": betas, "epsilon": 1e-6, "weight_decay": weight_decay, "scale": scale}
            assert kernels.adam(a, xp.asarray(g), m, v, now, **rest) is None
        return a, m, v

    with few_blocks() if few else contextlib.nullcontext():
        results = every_way(run, xp)
    rule = {"betas": betas, "epsilon": 1e-6, "weight_decay": weight_decay}
    for got, want in zip(
        results, by_optimizer(lambda ps: Adam(ps, step_size, **rule), p, gradients, scale), strict=True
    ):
        agree(xp, got, want)


def test_a_broken_gradient_breaks_its_own_element_and_decay_of_nothing_breaks_none(xp):
    p, g = xp.asarray(np.array([1.0, 1.0, math.inf])), xp.asarray(np.array([1.0, math.nan, 1.0]))
    kernels.sgd(p, g, xp.asarray(np.array([0.5])))
    np.testing.assert_array_equal(to_numpy(p), [0.5, math.nan, math.inf])


# ----------------------------------------------------------------------------------------------------- max-norm

LAYERS = [  # shape, axes of one unit's weights
    ((4, 3), (0,)),
    ((300, 33), (0,)),
    ((7, 65), (1,)),
    ((5, 2, 3, 3), (1, 2, 3)),
    ((3, 40, 31), (1,)),
    ((3, 40, 31), (0, 1)),
    ((6,), (0,)),
    ((6, 1), (0,)),
    ((2, 600), (1,)),
    ((0, 4), (0,)),
    ((4, 0), (0,)),
]


@settings(max_examples=20)
@given(layer=st.sampled_from(LAYERS), real=reals, seed=st.integers(0, 2**32 - 1), few=st.booleans())
def test_max_norm_is_the_constraint_to_the_bit(xp, layer, real, seed, few):
    """Whole numbers: their squares add up exactly in any order."""
    shape, axes = layer
    w = np.random.default_rng(seed).integers(-3, 4, shape).astype(real)
    squares = (w * w).sum(axis=axes)
    limit = float(np.sqrt(np.median(squares))) if squares.size and squares.any() else 1.0

    def run():
        a = xp.asarray(w.copy())
        assert kernels.max_norm(a, limit, axes) is None
        return a

    with few_blocks() if few else contextlib.nullcontext():
        (got,) = every_way(run, xp)
    expected = w.copy()
    MaxNorm(limit, axes)(expected)
    assert same_bits(got, expected)


@pytest.mark.parametrize(("shape", "axes"), [((300, 33), (0,)), ((33, 300), (1,))])
def test_max_norm_shortens_to_the_limit_and_leaves_the_rest_alone(xp, shape, axes):
    w = np.random.default_rng(0).normal(size=shape)
    a = xp.asarray(w.copy())
    kernels.max_norm(a, 17.0, axes)
    before, after = (np.sqrt((u * u).sum(axis=axes)) for u in (w, to_numpy(a)))
    np.testing.assert_allclose(after, np.minimum(before, 17), rtol=1e-14)
    assert (before > 17).any()
    assert (before < 17).any()
    kept = np.moveaxis(w, axes[0], 0)[:, before < 17]
    np.testing.assert_array_equal(np.moveaxis(to_numpy(a), axes[0], 0)[:, before < 17], kept)


@pytest.mark.parametrize("axes", [(0,), (1,)])
def test_a_broken_weight_breaks_its_unit_and_no_other(xp, axes):
    w = np.ones((40, 40))
    w[3, 5], w[7, 9] = math.nan, math.inf
    a = xp.asarray(w.copy())
    kernels.max_norm(a, 1.0, axes)
    expected = w.copy()
    with np.errstate(invalid="ignore"):
        MaxNorm(1.0, axes)(expected)
    np.testing.assert_allclose(to_numpy(a), expected, rtol=1e-14)
    units = np.moveaxis(to_numpy(a), axes[0], 0)
    assert np.isnan(units).all(axis=0).nonzero()[0].tolist() == [5 if axes == (0,) else 3]


@needs_compiler
@pytest.mark.parametrize(("which", "axes"), [(0, (1,)), (1, (1,)), (2, (0,)), (3, (0,))])
def test_no_barrier_of_max_norm_can_be_left_out(which, axes):
    breaks_without_a_barrier("max_norm", which, lambda: kernels.max_norm(np.ones((200, 200)), 1.0, axes))


# ---------------------------------------------------------------------------------------------- wrong arguments


def full(*shape, dtype="float32"):
    return np.full(shape, 0.5, dtype)


P, G, V, M = (full(4, 3) for _ in "PGVM")
ONE, TWO, FOUR = full(1, dtype="float64"), full(2, dtype="float64"), full(4, dtype="float64")
WRONG = {
    kernels.sgd: [
        ((None, G, ONE), {}, TypeError, "p must be a numpy.ndarray, got NoneType"),
        ((P, G.astype(float), ONE), {}, TypeError, "g must have the dtype of p, float32, got float64"),
        ((P, G.T, ONE), {}, ValueError, "g must have the shape of p, (4, 3), got (3, 4)"),
        ((P, P, ONE), {}, ValueError, "g must not share memory with p"),
        ((P.T, G.T, ONE), {}, ValueError, "p must be C-contiguous"),
        ((P, G, 0.1), {}, TypeError, "settings must be a numpy.ndarray, got float"),
        ((P, G, ONE.astype(np.float32)), {}, TypeError, "settings must be float64, got float32"),
        ((P, G, ONE.view(Elsewhere)), {}, ValueError, "settings must be on the device of p, cpu, got elsewhere"),
        ((P, G, TWO), {}, ValueError, "settings must have the shape, (1,), got (2,)"),
        ((P, G, ONE), {"velocity": V}, ValueError, "settings must have the shape, (2,), got (1,)"),
        ((P, G, TWO), {"velocity": V[:3]}, ValueError, "velocity must have the shape of p, (4, 3), got (3, 3)"),
        ((P, G, TWO), {"velocity": P}, ValueError, "velocity must not share memory with p"),
        ((P, G, TWO), {"velocity": G}, ValueError, "g must not share memory with velocity"),
        ((P, G, ONE), {"nesterov": True}, ValueError, "velocity must be given with nesterov or dampening, got None"),
        ((P, G, ONE), {"dampening": 0.5}, ValueError, "velocity must be given with nesterov or dampening, got None"),
        (
            (P, G, TWO),
            {"velocity": V, "nesterov": True, "dampening": 0.5},
            ValueError,
            "dampening must be 0 with nesterov, got 0.5",
        ),
        ((P, G, TWO), {"velocity": V, "dampening": -1}, ValueError, "dampening must be at least 0"),
        ((P, G, ONE), {"weight_decay": -1}, ValueError, "weight_decay must be at least 0"),
        ((P, G, ONE), {"weight_decay": 1e300}, ValueError, "weight_decay must be at least 0 and finite in float32"),
        ((P, G, ONE), {"scale": "1"}, TypeError, "scale must be a real number, got str"),
    ],
    kernels.adam: [
        ((P, G, M, None, FOUR), {}, TypeError, "square must be a numpy.ndarray, got NoneType"),
        ((P, G, M[:1], V, FOUR), {}, ValueError, "mean must have the shape of p, (4, 3), got (1, 3)"),
        ((P, G, V, V, FOUR), {}, ValueError, "square must not share memory with mean"),
        ((P, G, M, np.ones((4, 6), "float32")[:, ::2], FOUR), {}, ValueError, "square must be C-contiguous"),
        ((P, G, M, V, TWO), {}, ValueError, "settings must have the shape, (4,), got (2,)"),
        ((P, G, M, V, FOUR), {"betas": 0.9}, TypeError, "betas must be a pair (b1, b2), got 0.9"),
        ((P, G, M, V, FOUR), {"betas": (0.9, 1)}, ValueError, "betas must be at least 0 and below 1, got (0.9, 1)"),
        (
            (P, G, M, V, FOUR),
            {"betas": (-1, 0.9)},
            ValueError,
            "betas must be at least 0 and finite in float64, got -1",
        ),
        ((P, G, M, V, FOUR), {"epsilon": -1}, ValueError, "epsilon must be at least 0"),
        ((P, G, M, V, FOUR), {"scale": math.nan}, ValueError, "scale must be at least 0"),
    ],
    kernels.max_norm: [
        ((full(3, dtype="int64"), 1, (0,)), {}, TypeError, "w must be float32 or float64, got int64"),
        ((P.T, 1, (0,)), {}, ValueError, "w must be C-contiguous"),
        ((P, 0, (0,)), {}, ValueError, "limit must be above 0 in float32, got 0"),
        ((P, 1e-60, (0,)), {}, ValueError, "limit must be above 0 in float32, got 1e-60"),
        ((P, math.inf, (0,)), {}, ValueError, "limit must be at least 0 and finite in float32, got inf"),
        ((P, 1, 0), {}, TypeError, "axes must be a tuple of at least one axis, got 0"),
        ((P, 1, ()), {}, TypeError, "axes must be a tuple of at least one axis, got ()"),
        ((P, 1, (2,)), {}, ValueError, "axes must be an integer from 0 to 1, got 2"),
        ((P, 1, (0.0,)), {}, TypeError, "axes must be an integer, got 0.0"),
        ((P, 1, (1, 0)), {}, ValueError, "axes must be neighbours in ascending order, got (1, 0)"),
        ((full(2, 2, 2), 1, (0, 2)), {}, ValueError, "axes must be neighbours in ascending order, got (0, 2)"),
    ],
}


@pytest.mark.parametrize(
    ("function", "args", "how", "error", "message"),
    [pytest.param(f, *case, id=f"{f.__name__}: {case[-1]}") for f, cases in WRONG.items() for case in cases],
)
def test_a_wrong_argument_is_named_and_nothing_happens(monkeypatch, function, args, how, error, message):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    with pytest.raises(error) as raised:
        function(*args, **how)
    assert str(raised.value).startswith(f"{function.__name__}: {message}")
    assert all((a == 0.5).all() for a in (P, G, V, M, ONE, TWO, FOUR))


@needs_compiler
def test_the_arguments_of_the_wrong_examples_are_right_but_for_one(monkeypatch):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    kernels.sgd(P.copy(), G, ONE, weight_decay=0.5, scale=0)
    kernels.sgd(P.copy(), np.ones((3, 4), np.float32).T, TWO, velocity=V.copy(), dampening=0.5)
    kernels.adam(P.copy(), G, M.copy(), V.copy(), FOUR, betas=[0.5, 0], epsilon=0)
    kernels.max_norm(P.copy(), 1, [0, 1])
