"""Operations without a rule of their own: values against NumPy's, derivatives against differences, and their errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from primitive_table import check
from strategies import arrays, axes, distinct, seeds, smooth

import npadv
from npadv import Tensor, grad, ops
from npadv.testing import check_grads

ranked = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3)
solid = hnp.array_shapes(min_dims=1, max_dims=3, max_side=3)


@st.composite
def along_axis(draw, values=smooth, **settings):
    """Return a call with one axis, and further settings."""
    x = draw(arrays(solid, values))
    return (x,), {"axis": draw(st.integers(-x.ndim, x.ndim - 1)), **{k: draw(v) for k, v in settings.items()}}


@st.composite
def reductions(draw, **settings):
    x = draw(arrays(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)))
    kwargs = {"axis": draw(axes(x.shape, empty=True)), "keepdims": draw(st.booleans())}
    return (x,), {**kwargs, **{k: draw(v) for k, v in settings.items()}}


@st.composite
def spreads(draw):
    """Return a call of var and std with at least two elements that differ."""
    x = draw(arrays(hnp.array_shapes(min_dims=1, max_dims=3, min_side=2, max_side=3), distinct))
    axis = draw(axes(x.shape, empty=False))
    axis = None if axis == () else axis
    return (x / 4,), {"axis": axis, "ddof": draw(st.sampled_from([0, 1])), "keepdims": draw(st.booleans())}


@st.composite
def products_with_zeros(draw):
    (x,), kwargs = draw(reductions())
    rng = np.random.default_rng(draw(seeds))
    return (np.where(rng.random(x.shape) < draw(st.sampled_from([0.0, 0.3, 0.7])), 0.0, x),), kwargs


@st.composite
def squeezes(draw):
    x = draw(arrays())
    ones = [a - x.ndim * draw(st.booleans()) for a, n in enumerate(x.shape) if n == 1]
    some = tuple(draw(st.lists(st.sampled_from(ones), unique=True))) if ones else ()
    return (x,), {"axis": draw(st.sampled_from([None, some, *ones[:1]]))}


@st.composite
def two_axes(draw):
    x = draw(arrays(ranked))
    return (x, *(draw(st.integers(-x.ndim, x.ndim - 1)) for _ in range(2))), {}


@st.composite
def moves(draw):
    x = draw(arrays(ranked))
    several = st.lists(st.sampled_from(range(x.ndim)), unique=True, min_size=1, max_size=x.ndim)
    source = draw(several)
    destination = draw(st.permutations(range(x.ndim)))[: len(source)]
    return (x, tuple(a - x.ndim * draw(st.booleans()) for a in source), tuple(destination)), {}


@st.composite
def splits(draw):
    x = draw(arrays(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    n = x.shape[axis]
    equal = st.sampled_from([k for k in range(1, 5) if n % k == 0])
    return (x, draw(st.one_of(equal, st.lists(st.integers(-2, 5), max_size=3)))), {"axis": axis}


@st.composite
def rolls(draw):
    x = draw(arrays(ranked))
    shift = st.integers(-4, 4)
    some = draw(st.lists(st.integers(-x.ndim, x.ndim - 1), min_size=1, max_size=3))
    calls = [
        (draw(shift), None),
        (draw(shift), some[0]),
        (draw(shift), tuple(some)),
        (tuple(draw(shift) for _ in some), tuple(some)),
    ]
    shift, axis = draw(st.sampled_from(calls))
    return (x, shift), {"axis": axis}


@st.composite
def repeats(draw):
    x = draw(arrays(ranked))
    axis = draw(st.one_of(st.none(), st.integers(-x.ndim, x.ndim - 1)))
    n = x.size if axis is None else x.shape[axis]
    each = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    return (x, draw(st.one_of(st.integers(0, 3), each))), {"axis": axis}


@st.composite
def flips(draw):
    x = draw(arrays())
    return (x,), {"axis": draw(axes(x.shape, empty=True))}


tiles = st.tuples(
    st.tuples(arrays(), st.one_of(st.integers(0, 2), st.lists(st.integers(0, 2), max_size=4))), st.just({})
)


@st.composite
def tensordots(draw):
    a = draw(arrays(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
    k = draw(st.integers(0, a.ndim))
    further = draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=2))
    if draw(st.booleans()):
        return (a, draw(arrays((*a.shape[a.ndim - k :], *further))), k), {}
    in_a = draw(st.permutations(range(a.ndim)))[:k]
    b = draw(arrays((*further, *(a.shape[i] for i in in_a))))
    return (a, b, (in_a, [i - k for i in range(k)])), {}


@st.composite
def dots(draw):
    n = draw(st.integers(0, 3))
    some = hnp.array_shapes(min_dims=0, max_dims=2, min_side=1, max_side=2)
    a = draw(st.sampled_from([(), (n,), (*draw(some), n)]))
    b = draw(st.sampled_from([(), (n,), (*draw(some), n, draw(st.integers(1, 2)))]))
    return (draw(arrays(a)), draw(arrays(b))), {}


SUBSCRIPTS = {
    "ij,jk->ik": [(2, 3), (3, 2)],
    "ij,jk": [(2, 3), (3, 2)],
    "ba": [(2, 3)],
    "ii->i": [(3, 3)],
    "ii": [(3, 3)],
    "iij->ji": [(2, 2, 3)],
    "iiji->ij": [(2, 2, 3, 2)],
    "ij->j": [(2, 3)],
    "ij->": [(2, 3)],
    "i,j": [(2,), (3,)],
    "i,i,i->": [(3,), (3,), (3,)],
    "ij,kl->il": [(2, 3), (2, 2)],
    "...ij,...jk->...ik": [(4, 1, 2, 3), (2, 3, 2)],
    "...i,i": [(2, 3), (3,)],
    "i...->...": [(3, 2)],
    "i...,...": [(3, 2), (2, 2)],
    "...,...": [(2, 1), (3,)],
    "ij,ij->ij": [(1, 3), (2, 1)],
    "ij,ij": [(1, 3), (2, 1)],
    "iij,jk,lk->il": [(2, 2, 3), (3, 2), (4, 2)],
    ",i->i": [(), (3,)],
    " i j , j -> i ": [(2, 3), (3,)],
    "...ii": [(3, 2, 2)],
}


@st.composite
def einsums(draw):
    subscripts = draw(st.sampled_from(sorted(SUBSCRIPTS)))
    return (subscripts, *(draw(arrays(shape)) for shape in SUBSCRIPTS[subscripts])), {}


pairs = st.tuples(st.tuples(arrays(), arrays()), st.just({}))

COMPOSITIONS = {
    "cumsum": (ops.cumsum, along_axis(), np.cumsum),
    "dot": (ops.dot, dots(), np.dot),
    "einsum": (ops.einsum, einsums(), np.einsum),
    "flip": (ops.flip, flips(), np.flip),
    "moveaxis": (ops.moveaxis, moves(), np.moveaxis),
    "outer": (ops.outer, pairs, np.outer),
    "prod": (ops.prod, reductions(), np.prod),
    "prod, of zeros": (ops.prod, products_with_zeros(), np.prod),
    "ravel": (ops.ravel, st.tuples(st.tuples(arrays()), st.just({})), np.ravel),
    "repeat": (ops.repeat, repeats(), np.repeat),
    "roll": (ops.roll, rolls(), np.roll),
    "sort": (ops.sort, along_axis(distinct), np.sort),
    "squeeze": (ops.squeeze, squeezes(), np.squeeze),
    "std": (ops.std, spreads(), np.std),
    "swapaxes": (ops.swapaxes, two_axes(), np.swapaxes),
    "tensordot": (ops.tensordot, tensordots(), np.tensordot),
    "tile": (ops.tile, tiles, np.tile),
    "var": (ops.var, spreads(), np.var),
}
every_composition = pytest.mark.parametrize("name", COMPOSITIONS)


@every_composition
@settings(max_examples=40)
@given(data=st.data())
def test_values_are_numpys(name, data):
    function, calls, numpys = COMPOSITIONS[name]
    args, kwargs = data.draw(calls)
    expected = np.asarray(numpys(*args, **kwargs))
    np.testing.assert_allclose(np.asarray(function(*args, **kwargs)), expected, rtol=1e-12, atol=1e-12, strict=True)


@every_composition
@settings(max_examples=40)
@given(data=st.data())
def test_first_and_second_derivatives_agree_with_differences(name, data):
    function, calls, _ = COMPOSITIONS[name]
    args, kwargs = data.draw(calls)
    check(function, args, kwargs)


@every_composition
@settings(max_examples=40)
@given(data=st.data())
def test_float32_stays_float32(name, data):
    function, calls, _ = COMPOSITIONS[name]
    args, kwargs = data.draw(calls)
    xs = [
        Tensor(a.astype(np.float32), requires_grad=True) if isinstance(a, np.ndarray) and a.dtype == float else a
        for a in args
    ]
    y = function(*xs, **kwargs)
    wrt = [x for x in xs if isinstance(x, Tensor)]
    gradients = grad(y, wrt, np.ones(y.shape, np.float32), create_graph=True, unused="zeros")
    assert {y.dtype, *(g.dtype for g in gradients)} == {np.dtype(np.float32)}


@given(call=splits())
def test_split_is_numpys_and_its_gradient_right(call):
    (x, parts), kwargs = call
    expected = np.split(x, parts, **kwargs)
    got = ops.split(x, parts, **kwargs)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    check(
        lambda x: ops.concatenate(
            [ops.tanh(p) * (k + 1) for k, p in enumerate(ops.split(x, parts, **kwargs))], kwargs["axis"]
        ),
        (x,),
        {},
    )


@given(call=along_axis(distinct), data=st.data())
def test_topk_is_the_end_of_the_sorted_array(call, data):
    (x,), kwargs = call
    axis = kwargs["axis"]
    k = data.draw(st.integers(0, x.shape[axis]))
    values, indices = ops.topk(x, k, axis)
    expected = np.flip(np.sort(x, axis), axis)
    np.testing.assert_array_equal(values, np.take(expected, range(k), axis), strict=True)
    np.testing.assert_array_equal(values, np.take_along_axis(x, indices, axis))
    check(lambda x: ops.topk(x, k, axis)[0], (x,), {})


# Ties, zeros and indices ----------------------------------------------------------------------------------------------


def test_of_equal_elements_the_first_comes_first():
    x = Tensor([1.0, 3.0, 3.0, 1.0], requires_grad=True)
    values, indices = ops.topk(x, 2)
    assert (values.data.tolist(), indices.tolist()) == ([3, 3], [1, 2])
    assert grad(ops.topk(x, 1)[0].sum(), x).tolist() == [0, 1, 0, 0]
    assert grad(ops.sort(x), x, [1.0, 2.0, 3.0, 4.0]).tolist() == [1, 3, 4, 2]
    assert ops.argsort(x).tolist() == [0, 3, 1, 2]
    assert (int(ops.argmax(x)), int(ops.argmin(x))) == (1, 0)
    assert ops.topk(np.array([0, 255, 1, 255], np.uint8), 3)[1].tolist() == [1, 3, 2]


def test_indices_of_extremes_are_plain_arrays():
    x = Tensor([[1.0, 5.0], [7.0, 2.0]], requires_grad=True)
    for got, expected in (
        (ops.argmax(x, axis=1), [1, 0]),
        (x.argmin(axis=0), [0, 1]),
        (x.argsort(0), [[0, 1], [1, 0]]),
    ):
        assert isinstance(got, np.ndarray)
        assert got.tolist() == expected
    assert x.argmax(axis=1, keepdims=True).tolist() == [[1], [0]]
    assert x.argmax() == 2


def test_the_gradient_of_a_product_is_the_product_of_the_others():
    x = Tensor([2.0, 0.0, 5.0], requires_grad=True)
    first = grad(x.prod(), x, create_graph=True)
    assert first.data.tolist() == [0, 10, 0]
    assert grad(first, x, [1.0, 0.0, 0.0]).tolist() == [0, 5, 0]
    two_zeros = Tensor([0.0, 0.0, 5.0], requires_grad=True)
    assert npadv.hvp(two_zeros.prod(), two_zeros, np.array([1.0, 0.0, 0.0])).tolist() == [0, 5, 0]
    assert ops.prod(np.zeros((0, 2))).tolist() == 1
    assert isinstance(ops.prod(x[:0]), Tensor)
    assert ops.prod(np.zeros(0, np.float32)).dtype == np.float32
    assert ops.prod(np.ones((0, 2)), axis=0).tolist() == [1, 1]


def test_integers_and_float16_are_numpys():
    for dtype in (np.uint8, np.int8, np.bool_, np.int64, np.float16):
        x = np.array([[3, 5, 100], [1, 2, 100]]).astype(dtype)
        for name in ("prod", "cumsum", "var", "std", "ravel", "sort", "argmax"):
            for axis in (0, 1) if name != "ravel" else (0,):
                given = {} if name == "ravel" else {"axis": axis}
                got, expected = getattr(ops, name)(x, **given), getattr(np, name)(x, **given)
                rtol = 1e-3 if dtype is np.float16 else 1e-15
                np.testing.assert_allclose(got, expected, rtol=rtol, strict=True)
    assert ops.std(np.array([0, 400], np.float16)) == 200  # in NumPy, the sum of the squares overflows


# Errors ---------------------------------------------------------------------------------------------------------------

X = np.ones((2, 3))
WRONG = {
    "squeeze an axis of three": (lambda: ops.squeeze(X, 1), ValueError, "axes of length 1, got an array of shape"),
    "squeeze an axis twice": (lambda: ops.squeeze(np.ones((1, 2)), (0, -2)), ValueError, "repeated axis"),
    "an axis out of range": (lambda: ops.flip(X, 2), np.exceptions.AxisError, "out of bounds"),
    "swapaxes out of range": (lambda: ops.swapaxes(X, 0, 2), np.exceptions.AxisError, "out of bounds"),
    "moveaxis to fewer": (lambda: ops.moveaxis(X, (0, 1), (0,)), ValueError, "as many destinations"),
    "cumsum out of range": (lambda: ops.cumsum(X, 2), np.exceptions.AxisError, "out of bounds"),
    "sort out of range": (lambda: ops.sort(X, -3), np.exceptions.AxisError, "out of bounds"),
    "topk of too many": (lambda: ops.topk(X, 4), ValueError, "from 0 to 3"),
    "topk of a negative number": (lambda: ops.topk(X, -1), ValueError, "from 0 to 3"),
    "unequal parts": (lambda: ops.split(X, 2, axis=1), ValueError, "equal parts of an axis of length 3, got 2"),
    "no parts": (lambda: ops.split(X, 0), ValueError, "equal parts"),
    "negative repeats": (lambda: ops.repeat(X, -1), ValueError, "at least 0, got -1"),
    "var of one with ddof 1": (lambda: ops.var(np.ones(1), ddof=1), ValueError, "more than 1 elements"),
    "tensordot of other lengths": (lambda: ops.tensordot(X, X, 1), ValueError, "lengths of paired axes differ"),
    "tensordot over too many": (lambda: ops.tensordot(X, X, 3), ValueError, "have 2 and 2 axes"),
    "tensordot over unpaired": (lambda: ops.tensordot(X, X, ([0, 1], [0])), ValueError, "as many axes"),
    "einsum without letters": (lambda: ops.einsum(X, [0, 1]), TypeError, "expected subscripts"),
    "einsum without operands": (lambda: ops.einsum("ij"), ValueError, "at least one operand"),
    "einsum of two with one": (lambda: ops.einsum("ij,jk", X), ValueError, r"expected 2 operand\(s\), got 1"),
    "einsum with too few letters": (lambda: ops.einsum("i", X), ValueError, "operand 0 has 2 axes"),
    "einsum with too many letters": (lambda: ops.einsum("ijk", X), ValueError, "operand 0 has 2 axes"),
    "einsum of other lengths": (lambda: ops.einsum("ij,jk", X, X), ValueError, "length 3 in one operand, 2 in another"),
    "einsum's diagonal of other lengths": (lambda: ops.einsum("ii", X), ValueError, r"lengths \[2, 3\]"),
    "einsum to an unknown letter": (lambda: ops.einsum("ij->k", X), ValueError, "must name letters of the operands"),
    "einsum to a letter twice": (lambda: ops.einsum("ij->ii", X), ValueError, "each once"),
    "einsum with digits": (lambda: ops.einsum("i1->i", X), ValueError, "expected letters"),
    "einsum that drops the rest": (lambda: ops.einsum("i...->i", X), ValueError, "lacks the '...'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()


# As ndarray's -----------------------------------------------------------------------------------------------------------

METHODS = {
    "ravel": lambda x: x.ravel(),
    "flatten": lambda x: x.flatten(),
    "squeeze": lambda x: x[:1].squeeze(0),
    "swapaxes": lambda x: x.swapaxes(0, -1),
    "repeat": lambda x: x.repeat(2, axis=1),
    "var": lambda x: x.var(axis=0, ddof=1),
    "std": lambda x: x.std(keepdims=True),
    "prod": lambda x: x.prod(axis=1),
    "cumsum": lambda x: x.cumsum(axis=0),
    "dot": lambda x: x.dot(x.T),
    "clip": lambda x: x.clip(0.2, 1.0),
    "clip from below": lambda x: x.clip(min=0.2),
    "sum of a list": lambda x: x.sum((0, 1)) if isinstance(x, np.ndarray) else x.sum([0, 1]),
    "argmax": lambda x: x.argmax(axis=0),
    "argmin": lambda x: x.argmin(),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_ndarrays(method):
    x = np.random.default_rng(0).normal(size=(2, 3))
    got = METHODS[method](Tensor(x, requires_grad=True))
    np.testing.assert_allclose(
        got.data if isinstance(got, Tensor) else got, METHODS[method](x), rtol=1e-14, strict=True
    )


def test_a_flattened_tensor_has_memory_of_its_own():
    x = Tensor([[1.0, 2.0]])
    y = x.flatten()
    y[0] = 5.0
    assert x.data.tolist() == [[1, 2]]


def test_a_tensor_of_one_element_is_a_number():
    t = Tensor(3.14159, requires_grad=True)
    assert float(t) == 3.14159
    assert int(t) == 3
    assert f"{t:.3f}" == "3.142"
    assert f"{t:>8.2f}|" == "    3.14|"
    assert f"{t}" == str(t) == repr(t)
    assert round(t) == 3
    assert round(t, 2) == 3.14
    assert float(Tensor([[2.5]])) == 2.5
    assert f"{Tensor(7):03d}" == "007"


@pytest.mark.parametrize("number", [float, int, round, "{:.3f}".format])
def test_several_elements_are_no_number(number):
    with pytest.raises(TypeError, match=r"expected a Tensor of one element, got shape \(2,\)"):
        number(Tensor([1.0, 2.0]))


OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
    "@": lambda a, b: a @ b,
}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("symbol", OPERATORS)
def test_a_list_is_an_operand(symbol, swapped):
    x, numbers = np.array([1.5, 2.5]), [2.0, 3.0]

    def apply(a, b):
        return OPERATORS[symbol](b, a) if swapped else OPERATORS[symbol](a, b)

    np.testing.assert_array_equal(apply(Tensor(x), numbers).data, apply(x, np.array(numbers)))
    check_grads(lambda t: apply(t, numbers), [x])


def test_a_list_changed_after_it_was_an_operand_changes_no_gradient():
    t, numbers = Tensor([1.0, 2.0], requires_grad=True), [3.0, 4.0]
    y = (t * numbers).sum()
    numbers[0] = 100.0
    assert grad(y, t).tolist() == [3, 4]
    with pytest.raises(TypeError, match="drop the tensor's history"):
        t * [t[0], t[1]]
