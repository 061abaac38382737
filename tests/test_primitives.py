"""Every primitive: its gradient rules against differences, its dtypes, its kinks, and its values where they are not NumPy's.

``TABLE`` says how each primitive is called. One test per property walks it, a test of the registry finds who is missing,
and wrong rules are planted in each primitive to see the walk catch them.
"""

import importlib
import pkgutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.signal import correlate2d
from scipy.special import expit
from strategies import (
    IMAGE_LAYOUTS,
    arrays,
    axes,
    broadcastable,
    distinct,
    images,
    joined,
    laid_out,
    near_halves,
    near_integers,
    nonzero,
    positive,
    seeds,
    shapes,
    shrunk,
    smooth,
)

import npadv
from npadv import Tensor, grad, ops
from npadv.autodiff import PRIMITIVES, Operation, primitive, value_of
from npadv.ops.conv import conv2d_forward, conv2d_input_grad, conv2d_weight_grad, conv_geometry, output_shape
from npadv.ops.pool import windows
from npadv.testing import check_grads

# The table: for each primitive, a strategy that draws (args, kwargs). Arrays of float64 among the args are
# differentiated; everything else is a setting. -----------------------------------------------------------------------


def unary(values):
    return joined(arrays(values=values))


def binary(*values):
    return st.tuples(broadcastable(*values), st.just({}))


@st.composite
def powers(draw):
    if draw(st.booleans()):
        return draw(broadcastable(positive, smooth)), {}
    return (draw(arrays(values=nonzero)), draw(st.sampled_from([-1, 0, 1, 2, 3, 2.0, -0.0]))), {}


@st.composite
def choices(draw):
    condition, a, b = draw(broadcastable(smooth, smooth, smooth))
    return (condition > 0, a, b), {}


@st.composite
def products(draw):
    drawn = draw(hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, min_side=0, max_side=3))
    return tuple(draw(arrays(shape)) for shape in drawn.input_shapes), {}


@st.composite
def reductions(draw, values, *, empty):
    x = draw(arrays(values=values))
    return (x,), {"axis": draw(axes(x.shape, empty=empty)), "keepdims": draw(st.booleans())}


@st.composite
def reshapes(draw):
    x = draw(arrays())
    return (x,), {"shape": draw(st.sampled_from([(-1,), (1, x.size), x.shape[::-1]]))}


@st.composite
def transposes(draw):
    x = draw(arrays())
    order = [axis - x.ndim if draw(st.booleans()) else axis for axis in draw(st.permutations(range(x.ndim)))]
    return (x,), {"axes": draw(st.sampled_from([None, tuple(order)]))}


@st.composite
def broadcasts(draw):
    shape = draw(shapes)
    return (draw(arrays(draw(shrunk(shape)))),), {"shape": shape}


@st.composite
def sums_to(draw):
    x = draw(arrays())
    return (x,), {"shape": draw(shrunk(x.shape))}


@st.composite
def indices(draw):
    """Return a shape and an index into it, of every kind."""
    kind = draw(st.sampled_from(["basic", "integers", "mixed", "mask"]))
    if kind == "basic":
        shape = draw(shapes)
        return shape, draw(hnp.basic_indices(shape, allow_newaxis=True))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=3))
    if kind == "integers":
        return shape, draw(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)))
    if kind == "mixed":
        return shape, (..., draw(hnp.arrays(np.int64, 4, elements=st.integers(-shape[-1], shape[-1] - 1))))
    return shape, draw(hnp.arrays(np.bool_, shape))


@st.composite
def picks(draw):
    shape, index = draw(indices())
    return (draw(arrays(shape)),), {"index": index}


@st.composite
def scatters(draw):
    shape, index = draw(indices())
    return (draw(arrays(np.zeros(shape)[index].shape)),), {"index": index, "shape": shape}


@st.composite
def lookups(draw, *, scattering=False):
    """Return a call of take_along_axis, or of its adjoint; indices and elements broadcast but for the axis."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=3))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    several = [1 if draw(st.booleans()) else n for n in shape]
    several[axis] = draw(st.integers(0, 4))
    named = draw(hnp.arrays(np.int64, tuple(several), elements=st.integers(0, shape[axis] - 1)))
    if not scattering:
        return (draw(arrays(shape)), named), {"axis": axis}
    read = np.take_along_axis(np.zeros(shape), named, axis).shape
    return (draw(arrays(read)), named), {"axis": axis, "shape": shape}


@st.composite
def pads(draw):
    x = draw(arrays())
    some = st.integers(0, 2)
    return (x,), {
        "widths": tuple((draw(some), draw(some)) for _ in x.shape),
        "value": draw(st.sampled_from([0.0, 1.5])),
    }


@st.composite
def joins(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    lengths = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    along = axis % len(shape)
    parts = [draw(arrays((*shape[:along], n, *shape[along + 1 :]))) for n in lengths]
    return tuple(parts), {"axis": axis}


@st.composite
def convolutions(draw, of=("x", "w")):
    """Return a call of the convolution, or with g of one of its gradients."""
    groups, stride, padding, dilation = (
        draw(st.integers(1, 2)),
        *(draw(st.tuples(side, side)) for side in (st.integers(1, 2), st.integers(0, 2), st.integers(1, 2))),
    )
    geometry = conv_geometry(stride, padding, dilation, groups)
    channels, filters = draw(st.integers(1, 2)), draw(st.integers(1, 2)) * groups
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = [n + draw(st.integers(0, 3)) for n in least]
    shape = {"x": (draw(st.integers(0, 2)), channels * groups, *size), "w": (filters, channels, *kernel)}
    whole = output_shape(shape["x"], shape["w"], geometry)[2:]
    geometry = geometry._replace(crop=tuple(draw(st.integers(0, min(1, n - 1))) for n in whole))
    shape["g"] = output_shape(shape["x"], shape["w"], geometry)
    (missing,) = {"x", "w", "g"} - {*of}
    kwargs = {"geometry": geometry} | ({} if missing == "g" else {"shape": shape[missing]})
    return tuple(draw(images(shape[name])) for name in of), kwargs


@st.composite
def rows(draw):
    """Return x (N, D), w (D, K) and a row b (K,)."""
    n, d, k = (draw(st.integers(0, 3)) for _ in range(3))
    return tuple(draw(arrays(shape)) for shape in ((n, d), (d, k), (k,))), {}


@st.composite
def arrangements(draw):
    x = draw(arrays())
    return (x,), {"axes": tuple(draw(st.permutations(range(x.ndim))))}


@st.composite
def softmaxes(draw):
    x = draw(arrays(hnp.array_shapes(min_dims=1, max_dims=3, max_side=3)))
    return (x,), {"axis": draw(st.integers(-x.ndim, x.ndim - 1))}


@st.composite
def classifications(draw):
    reduction = draw(st.sampled_from(["none", "sum", "mean"]))
    n, k = draw(st.integers(reduction == "mean", 3)), draw(st.integers(1, 4))
    labels = draw(hnp.arrays(draw(st.sampled_from([np.int64, np.uint8])), n, elements=st.integers(0, k - 1)))
    return (draw(arrays((n, k))),), {"labels": labels, "reduction": reduction}


@st.composite
def poolings(draw, *, of="x", maximum=False):
    """Return a call of a pooling's primitive: of an image x, of a cotangent g, or of an image u to read at x's maxima."""
    size = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    stride = draw(st.one_of(st.none(), st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in size)
    ceil_mode = maximum and draw(st.booleans())
    shape = (draw(st.integers(0, 2)), draw(st.integers(1, 2)), *(k + draw(st.integers(0, 3)) for k in size))
    where = windows(shape, size, stride, padding, ceil_mode)
    x = draw(images(shape, distinct))
    out = (*shape[:2], *where.out)
    winners = [PRIMITIVES["max_pool2d_forward"].forward_with_residuals(x, where=where)[1]] if maximum else []
    if of == "x":
        return (x,), {"where": where}
    if of == "g":
        return (draw(images(out)), *winners), {"where": where, "shape": shape}
    return (draw(images(shape)), *winners), {"where": where}


def masks(seed):
    random = ops.DeviceRandom(seed, np.zeros(1))
    return random.draw()


@st.composite
def kernel_sums(draw):
    """Return x (N, D), and points of a few columns in blocks of uneven length."""
    sizes = draw(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=2), min_size=1, max_size=3))
    ends = np.cumsum([size for column in sizes for size in column]).tolist()
    columns = [k for k, column in enumerate(sizes) for _ in column]
    x = draw(arrays((draw(st.integers(0, 3)), draw(st.integers(1, 3)))))
    points = np.random.default_rng(draw(seeds)).uniform(-1, 1, (ends[-1], x.shape[1])).astype(np.float32)
    blocks = list(zip(columns, [0, *ends[:-1]], ends, strict=True))
    return (x,), {"points": points, "centre": points[-1], "blocks": blocks, "gamma": draw(st.sampled_from([0.2, 0.7]))}


def bent(block, a, b):
    return ops.tanh(block * a) * b + block * b * b


TABLE = {
    "abs": unary(nonzero),
    "add": binary(smooth, smooth),
    "affine": rows(),
    "arrange": arrangements(),
    "astype": joined(arrays(), dtype=st.just(np.dtype(np.float64))),
    "avg_pool2d_forward": poolings(),
    "avg_unpool2d": poolings(of="g"),
    "broadcast_to": broadcasts(),
    "clip": joined(arrays(values=near_integers), st.sampled_from([-1.5, 0.5]), st.just(1.5)),
    "concatenate_args": joins(),
    "conv2d_forward": convolutions(),
    "conv2d_input_grad": convolutions(of=("g", "w")),
    "conv2d_weight_grad": convolutions(of=("x", "g")),
    "divide": binary(smooth, nonzero),
    "dropout": joined(
        arrays(), rate=st.sampled_from([0.0, 0.3, 0.5]), draw=st.builds(masks, seeds), rescale=st.booleans()
    ),
    "exp": unary(smooth),
    "getitem": picks(),
    "log": unary(positive),
    "log_kernel_sum": kernel_sums(),
    "logsumexp": reductions(smooth, empty=False),
    "matmul": products(),
    "max": reductions(distinct, empty=False),
    "max_pick2d": poolings(of="u", maximum=True),
    "max_pool2d_forward": poolings(maximum=True),
    "max_unpool2d": poolings(of="g", maximum=True),
    "maximum": binary(near_integers, near_halves),
    "mean": reductions(smooth, empty=False),
    "minimum": binary(near_integers, near_halves),
    "multiply": binary(smooth, smooth),
    "negative": unary(smooth),
    "pad": pads(),
    "power": powers(),
    "relu": unary(nonzero),
    "reshape": reshapes(),
    "scatter_add": scatters(),
    "scatter_along_axis": lookups(scattering=True),
    "sigmoid": unary(smooth),
    "sign": unary(nonzero),
    "softmax": softmaxes(),
    "softmax_cross_entropy": classifications(),
    "softplus": unary(smooth),
    "sqrt": unary(positive),
    "square": unary(smooth),
    "subtract": binary(smooth, smooth),
    "sum": reductions(smooth, empty=True),
    "sum_over_blocks": st.tuples(
        broadcastable(smooth, smooth),
        st.fixed_dictionaries({"function": st.just(bent), "blocks": st.just([0.5, -1.0, 2.0])}),
    ),
    "sum_to": sums_to(),
    "take_along_axis": lookups(),
    "tanh": unary(smooth),
    "transpose": transposes(),
    "where": choices(),
}

every_primitive = pytest.mark.parametrize("name", sorted(TABLE))


def function_of(name):
    """Return the primitive itself: the registry keeps what stands behind it."""
    return getattr(sys.modules[PRIMITIVES[name].forward.__module__], name)


def differentiated(args):
    return [i for i, a in enumerate(args) if isinstance(a, np.ndarray) and a.dtype.kind == "f"]


def check(function, args, kwargs, order=2):
    """``check_grads`` in those arguments that are differentiated."""
    places = differentiated(args)

    def f(*xs):
        return function(*[xs[places.index(i)] if i in places else a for i, a in enumerate(args)], **kwargs)

    check_grads(f, [args[i] for i in places], order=order)


@every_primitive
@given(data=st.data())
def test_first_and_second_derivatives_agree_with_differences(name, data):
    check(function_of(name), *data.draw(TABLE[name]))


@pytest.mark.parametrize(
    "name", ["conv2d_forward", "conv2d_input_grad", "conv2d_weight_grad", "matmul", "power", "tanh"]
)
@settings(max_examples=10)
@given(data=st.data())
def test_third_derivatives_agree_with_differences(name, data):
    check(function_of(name), *data.draw(TABLE[name]), order=3)


PROMISES = {
    "no axes": ("tanh", lambda x: x.ndim == 0),
    "no elements": ("tanh", lambda x: x.size == 0),
    "broadcasting both ways": ("add", lambda a, b: (y := a + b).shape not in (a.shape, b.shape) and y.size),
    "backward strides": ("tanh", lambda x: any(step < 0 for step in x.strides)),
    "every second element": ("tanh", lambda x: x.size > 1 and x.strides == (16,)),
    "permuted axes": ("tanh", lambda x: x.ndim > 1 and min(x.shape) > 1 and x.strides[0] < x.strides[1]),
    "NHWC memory, convolution": ("conv2d_forward", lambda x, w: x.shape[1] > 1 and x.strides[1] == 8 < x.strides[3]),
    "NHWC memory, pooling": ("max_pool2d_forward", lambda x: x.shape[1] > 1 and x.strides[1] == 8 < x.strides[3]),
    "stacks of matrices": ("matmul", lambda a, b: a.ndim == 3 and b.ndim == 2),
}


@pytest.mark.parametrize("promise", PROMISES)
def test_the_table_draws_what_it_promises(promise):
    name, kept = PROMISES[promise]
    find(
        TABLE[name],
        lambda call: kept(*call[0]),
        settings=settings(max_examples=2000, database=None, derandomize=True, phases=[Phase.generate]),
    )


# float32 --------------------------------------------------------------------------------------------------------------


def value_and_kept(op, args, kwargs):
    if op.forward_with_residuals is None:
        return np.asarray(op.forward(*args, **kwargs)), {}
    value, kept = op.forward_with_residuals(*args, **kwargs)
    np.testing.assert_array_equal(value, op.forward(*args, **kwargs))
    return np.asarray(value), {"residuals": kept}


@every_primitive
@given(data=st.data())
def test_float32_stays_float32_and_agrees_with_float64(name, data):
    args, kwargs = data.draw(TABLE[name])
    op, places = PRIMITIVES[name], differentiated(args)
    single = [a.astype(np.float32) if i in places else a for i, a in enumerate(args)]
    double = [a.astype(np.float64) if i in places else a for i, a in enumerate(single)]
    (y32, kept32), (y64, kept64) = (value_and_kept(op, some, kwargs) for some in (single, double))
    assert y32.dtype == kwargs.get("dtype", np.float32)
    g = np.random.default_rng(0).standard_normal(y64.shape)
    for i in places:
        got = op.rules[i](g.astype(y32.dtype), y32, *single, **kwargs, **kept32)
        expected = op.rules[i](g.astype(y32.dtype).astype(np.float64), y64, *double, **kwargs, **kept64)
        assert (got.dtype, got.shape) == (np.float32, args[i].shape)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(initial=1))


BINARY = {
    "add": ops.add,
    "subtract": ops.subtract,
    "multiply": ops.multiply,
    "divide": ops.divide,
    "power": ops.power,
    "maximum": ops.maximum,
    "minimum": ops.minimum,
    "where": lambda a, b: ops.where(np.array([True, False, True]), a, b),
}
NUMBERS = {
    "an integer": 2,
    "a float": 2.0,
    "zero": 0.0,
    "a float32 scalar": np.float32(2),
    "a float32 array of no axes": np.array(2, np.float32),
    "a float32 tensor of no axes": Tensor(np.float32(2)),
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_number_beside_float32_leaves_it_float32(name, number, shape, swapped):
    x = Tensor(np.full(shape, 3, np.float32), requires_grad=True)
    pair = (NUMBERS[number], x) if swapped else (x, NUMBERS[number])
    if name == "divide" and not swapped and number == "zero":
        pair = (x, 0.5)
    y = BINARY[name](*pair)
    op, args, values, settings = y._operation, y._args, y._values, y._kwargs
    rule = op.rules[next(i for i, a in enumerate(args) if a is x)]
    contribution = rule(np.ones(y.shape, np.float32), y.data, *values, **settings)
    assert y.dtype == contribution.dtype == grad(y, x, np.ones(y.shape), create_graph=True).dtype == np.float32


def test_astype_brings_the_gradient_back_in_its_arguments_type():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    y = x.astype(np.float64)
    assert y.dtype == np.float64
    assert grad(y.sum(), x).dtype == np.float32


# The registry ---------------------------------------------------------------------------------------------------------

PACKAGE = Path(npadv.__file__).parent


def own_primitives():
    """Return the primitives written in npadv's files, and those its modules hold: not the ones of tests, nor of doctests."""
    names = [module.name for module in pkgutil.walk_packages(npadv.__path__, "npadv.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    held = [id(getattr(value, "operation", None)) for module in modules for value in vars(module).values()]

    def is_own(op):
        code = getattr(op.forward, "__code__", None)  # a ufunc has none
        return id(op) in held or (code is not None and PACKAGE in Path(code.co_filename).parents)

    return {name: op for name, op in PRIMITIVES.items() if is_own(op)}


def complaints(primitives, table):
    found = [f"{name} has no entry in TABLE" for name in primitives.keys() - table.keys()]
    found += [f"TABLE has an entry for {name}, which is no primitive" for name in table.keys() - primitives.keys()]
    for op in primitives.values():
        try:
            op.rules[0]
        except NotImplementedError as error:
            found.append(str(error))
    return found


def test_every_primitive_has_a_rule_and_an_entry_in_the_table():
    assert complaints(own_primitives(), TABLE) == []


def test_the_registry_misses_nothing():
    planted = Operation("planted", lambda x: x)
    assert sorted(complaints({"planted": planted}, {"stale": None})) == [
        "TABLE has an entry for stale, which is no primitive",
        "planted has no entry in TABLE",
        "planted has no gradient rule: give it one with defvjp(planted, ...)",
    ]
    assert complaints({"planted": PRIMITIVES["tanh"]}, {"planted": None}) == []


def test_a_primitive_of_a_test_is_not_the_librarys():
    @primitive
    def made_in_a_test(x):
        return x

    primitive(np.arctan2)
    assert {"made_in_a_test", "arctan2"} <= PRIMITIVES.keys()
    assert not {"made_in_a_test", "arctan2"} & own_primitives().keys()
    del PRIMITIVES["made_in_a_test"], PRIMITIVES["arctan2"]


CONSTANT = {("clip", 1), ("clip", 2), ("where", 0), ("take_along_axis", 1), ("scatter_along_axis", 1)}
CONSTANT |= {("max_unpool2d", 1), ("max_pick2d", 1)}
VARIABLE = [
    (name, i)
    for name in sorted(TABLE)
    for i in range(2 if name in ("concatenate_args", "sum_over_blocks") else len(PRIMITIVES[name].rules))
    if (name, i) not in CONSTANT
]


@pytest.mark.parametrize(("name", "argnum"), sorted(CONSTANT))
def test_a_constant_argument_refuses_to_be_differentiated(name, argnum):
    with pytest.raises(TypeError, match=f"{name} is not differentiable in argument {argnum}"):
        PRIMITIVES[name].rules[argnum](None)


# Wrong rules ----------------------------------------------------------------------------------------------------------

WRONG = {
    "sign flipped": lambda rule: lambda *args, **kwargs: -rule(*args, **kwargs),
    "a thousandth too large": lambda rule: lambda *args, **kwargs: 1.001 * rule(*args, **kwargs),
    "detached": lambda rule: lambda *args, **kwargs: rule(*map(value_of, args), **kwargs),
    "of the wrong dtype": lambda rule: lambda *args, **kwargs: ops.astype(rule(*args, **kwargs), dtype=np.float32),
}


class Planted:
    """An operation's rules, one of them replaced."""

    def __init__(self, rules, argnum, wrong):
        self.rules, self.argnum, self.wrong = rules, argnum, wrong

    def __getitem__(self, argnum):
        return self.wrong if argnum == self.argnum else self.rules[argnum]


@pytest.fixture
def is_caught(monkeypatch):
    """Plant a wrong rule, and expect ``check`` to fail on some call of the table, and for the right reason."""

    def plant(name, argnum, wrong, calls=None):
        monkeypatch.setattr(PRIMITIVES[name], "rules", Planted(PRIMITIVES[name].rules, argnum, wrong))

        @settings(
            # more than ever needed: what is drawn differs between versions of Hypothesis, and the first fault ends the search
            max_examples=5000,
            phases=[Phase.generate],
            database=None,
            derandomize=True,
            report_multiple_bugs=False,
        )
        @given(call=TABLE[name] if calls is None else calls)
        def walk(call):
            check(function_of(name), *call)

        with pytest.raises(AssertionError, match=r"order [12], argument \d of shape"):
            walk()

    return plant


@pytest.mark.parametrize("mistake", WRONG)
@pytest.mark.parametrize(("name", "argnum"), [place for place in VARIABLE if place[0] != "sign"])
def test_a_wrong_rule_is_caught(name, argnum, mistake, is_caught):
    is_caught(name, argnum, WRONG[mistake](PRIMITIVES[name].rules[argnum]))


MISTAKES = {
    "add: never summed back": ("add", 0, lambda g, y, a, b: g),
    "multiply: never summed back": ("multiply", 1, lambda g, y, a, b: g * a),
    "broadcast_to: never summed back": ("broadcast_to", 0, lambda g, y, x, shape: g),
    "mean: not divided": (
        "mean",
        0,
        lambda g, y, x, axis, keepdims: PRIMITIVES["sum"].rules[0](g, y, x, axis=axis, keepdims=keepdims),
    ),
    "transpose: not inverted": ("transpose", 0, lambda g, y, x, axes: ops.transpose(g, axes=axes)),  # right for a swap
    "tanh: not squared": ("tanh", 0, lambda g, y, x: g * (1 - y)),
    "sqrt: the second order alone": ("sqrt", 0, lambda g, y, x: g * 0.5 / value_of(y)),
    "softplus: the second order alone": ("softplus", 0, lambda g, y, x: g * value_of(ops.sigmoid(x))),
    "power: the exponent is missing": ("power", 0, lambda g, y, a, b: PRIMITIVES["divide"].rules[0](g * y, y, a, b)),
    "sign: passed straight through": ("sign", 0, lambda g, y, x: g),
    "conv2d: the filter upside down": (
        "conv2d_forward",
        0,
        lambda g, y, x, w, geometry: conv2d_input_grad(
            g, ops.getitem(w, index=(..., slice(None, None, -1))), shape=x.shape, geometry=geometry
        ),
    ),
}
SQUARE = arrays((3, 3))
ON_SQUARES = {  # mistakes that leave shapes as they should be where all sides are equal
    "matmul: left not transposed": ("matmul", 0, lambda g, y, a, b: g @ b, joined(SQUARE, SQUARE)),
    "matmul: right not transposed": ("matmul", 1, lambda g, y, a, b: a @ g, joined(SQUARE, SQUARE)),
    "matmul: right in the wrong order": ("matmul", 1, lambda g, y, a, b: g @ a.T, joined(SQUARE, SQUARE)),
    "sum: spread along the next axis": (
        "sum",
        0,
        lambda g, y, x, axis: ops.broadcast_to(ops.reshape(g, shape=(3, 1)), shape=(3, 3)),
        joined(SQUARE, axis=st.just(0)),
    ),
    "max: found along the next axis": (
        "max",
        0,
        lambda g, y, x, axis, right=PRIMITIVES["max"].rules[0]: right(g, y, x, axis=1),
        joined(arrays((3, 3), distinct), axis=st.just(0)),
    ),
    "getitem: off by one": (
        "getitem",
        0,
        lambda g, y, x, index: ops.scatter_add(g, index=slice(0, 2), shape=x.shape),
        joined(SQUARE, index=st.just(slice(1, 3))),
    ),
    "pad: off by one": (
        "pad",
        0,
        lambda g, y, x, widths: ops.getitem(g, index=(slice(1, 4), slice(0, 3))),
        joined(SQUARE, widths=st.just(((1, 1), (1, 1)))),
    ),
    "concatenate: always the first part": (
        "concatenate_args",
        1,
        lambda g, y, *xs, axis: ops.getitem(g, index=slice(0, 3)),
        joined(SQUARE, SQUARE, axis=st.just(0)),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES | ON_SQUARES)
def test_a_mistake_people_make_is_caught(mistake, is_caught):
    is_caught(*(MISTAKES | ON_SQUARES)[mistake])


# Values ---------------------------------------------------------------------------------------------------------------


def added_at(index, values, shape):
    out = np.zeros(shape)
    np.add.at(out, index, values)
    return out


def added_along(values, indices, axis, shape):
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return added_at(np.take_along_axis(numbers, indices, axis), values, numbers.size).reshape(shape)


NUMPYS = {
    "astype": lambda x, dtype: x.astype(dtype),
    "broadcast_to": lambda x, shape: np.broadcast_to(x, shape),
    "clip": np.clip,
    "concatenate_args": lambda *xs, axis: np.concatenate(xs, axis),
    "divide": np.divide,
    "getitem": lambda x, index: x[index],
    "logsumexp": lambda x, axis, keepdims: np.log(np.exp(x).sum(axis, keepdims=keepdims)),
    "matmul": np.matmul,
    "max": np.max,
    "maximum": np.maximum,
    "mean": np.mean,
    "minimum": np.minimum,
    "pad": lambda x, widths, value: np.pad(x, widths, constant_values=value) if x.ndim else x,
    "power": np.power,
    "relu": lambda x: np.where(x > 0, x, 0),
    "scatter_add": lambda values, index, shape: added_at(index, values, shape),
    "scatter_along_axis": added_along,
    "sigmoid": expit,
    "sign": np.sign,
    "softplus": lambda x: np.logaddexp(0, x),
    "sum": np.sum,
    "sum_to": lambda x, shape: x.sum(tuple(range(x.ndim - len(shape)))).sum(
        tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True
    ),
    "take_along_axis": lambda x, indices, axis: np.take_along_axis(x, indices, axis),
    "transpose": np.transpose,
    "where": np.where,
}


@pytest.mark.parametrize("name", NUMPYS)
@given(data=st.data())
def test_values_are_numpys(name, data):
    args, kwargs = data.draw(TABLE[name])
    expected = NUMPYS[name](*args, **kwargs)
    np.testing.assert_allclose(function_of(name)(*args, **kwargs), expected, rtol=1e-13, atol=1e-13, strict=True)


def test_logsumexp_takes_infinities():
    for infinite, expected in (([-np.inf, 3.0], 3.0), ([np.inf, 3.0], np.inf)):
        assert ops.logsumexp(np.array(infinite)) == expected
    x = Tensor([-np.inf, 3.0], requires_grad=True)
    assert grad(ops.logsumexp(x), x).tolist() == [0, 1]
    with np.errstate(divide="ignore"):  # as numpy.log of 0
        assert ops.logsumexp(np.array([-np.inf, -np.inf])) == -np.inf


# Kinks and ties: one rule each ----------------------------------------------------------------------------------------


def slope(f, x):
    x = Tensor(np.array(x, dtype=float), requires_grad=True)
    return grad(f(x).sum(), x).tolist()


def test_at_a_kink_the_slope_is_the_one_written_down():
    assert slope(ops.relu, [-1, 0, 1]) == [0, 0, 1]
    assert slope(ops.abs, [-1, 0, 1]) == [-1, 0, 1]
    assert slope(ops.sign, [-1, 0, 1]) == [0, 0, 0]
    assert slope(lambda x: ops.clip(x, -1, 1), [-1.1, -1, 0, 1, 1.1]) == [0, 1, 1, 1, 0]


def test_ties_go_to_the_first():
    a, b = (Tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    for choose in (ops.maximum, ops.minimum):
        first, second = grad(choose(a, b).sum(), [a, b])
        assert (first.tolist(), second.tolist()) == ([1, 1], [0, 0])
        assert slope(lambda x, choose=choose: choose(x, x), [1, 2]) == [1, 1]
    for choose in (ops.max, ops.min):
        assert slope(choose, [[1, 1], [1, 1]]) == [[1, 0], [0, 0]]
        assert slope(lambda x, choose=choose: choose(x, axis=0), [[1, 1], [1, 1]]) == [[1, 1], [0, 0]]
        assert slope(lambda x, choose=choose: choose(x, axis=(1, 0)), [[1, 1], [1, 1]]) == [[1, 0], [0, 0]]
    assert slope(lambda x: ops.max_pool2d(x, 2), np.ones((1, 1, 2, 2))) == [[[[1, 0], [0, 0]]]]


def test_the_slope_of_sqrt_at_0_is_infinite():
    with np.errstate(divide="ignore"):
        assert slope(ops.sqrt, [0.0]) == [np.inf]


def test_powers_of_0_have_their_limits_slopes():
    assert [slope(lambda x, b=b: x**b, [0.0]) for b in (0, 0.0, 1, 2, 2.5)] == [[0], [0], [1], [0], [0]]
    assert slope(lambda b: np.zeros(3) ** b, [0.0, 1.0, 2.0]) == [0, 0, 0]
    assert slope(lambda b: 0.0**b, [1.0, 2.0]) == [0, 0]
    assert slope(lambda a: a ** np.array([0.0, 1.0, 2.0]), [0.0, 0.0, 0.0]) == [0, 1, 0]


def test_the_branch_not_taken_contributes_nothing_even_where_its_slope_is_infinite():
    with np.errstate(divide="ignore"):
        x = Tensor([0.0, 4.0], requires_grad=True)
        a = Tensor([0.0, 0.0], requires_grad=True)
        assert grad(ops.where(np.array([True, False]), a, ops.sqrt(x)), a, [np.inf, np.inf]).tolist() == [np.inf, 0]
        assert grad(ops.where(True, x, 2 * x).sum(), x).tolist() == [1, 1]


# Convolution ----------------------------------------------------------------------------------------------------------


def naive_conv2d(x, w, geometry):
    """The formula at the head of npadv/ops/conv.py, word for word."""
    (sh, sw), (ph, pw), (dh, dw), groups, *_ = geometry
    y = np.zeros(output_shape(x.shape, w.shape, geometry))
    for n, k, a, b in np.ndindex(y.shape):
        for c, i, j in np.ndindex(w.shape[1:]):
            row, column = a * sh + i * dh - ph, b * sw + j * dw - pw
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                channel = k // (len(w) // groups) * w.shape[1] + c
                y[n, k, a, b] += w[k, c, i, j] * x[n, channel, row, column]
    return y


@settings(max_examples=30)
@given(call=convolutions())
def test_conv2d_is_its_formula(call):
    (x, w), settings = call
    expected = naive_conv2d(x, w, **settings)
    np.testing.assert_allclose(conv2d_forward(x, w, **settings), expected, rtol=1e-12, atol=1e-12)


def test_conv2d_is_scipys_correlation():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 7, 6)), rng.standard_normal((4, 3, 3, 2))
    for mode, padding in (("valid", 0), ("full", (2, 1))):
        expected = [
            [sum(correlate2d(*pair, mode) for pair in zip(image, taps, strict=True)) for taps in w] for image in x
        ]
        np.testing.assert_allclose(ops.conv2d(x, w, padding=padding), expected, rtol=1e-12, atol=1e-12)


@given(call=convolutions(), seed=seeds)
def test_the_gradients_of_a_convolution_are_its_adjoints(call, seed):
    (x, w), settings = call
    y = conv2d_forward(x, w, **settings)
    g = np.random.default_rng(seed).standard_normal(y.shape)
    expected = pytest.approx(np.vdot(g, y), rel=1e-12, abs=1e-11)
    assert np.vdot(conv2d_input_grad(g, w, shape=x.shape, **settings), x) == expected
    assert np.vdot(conv2d_weight_grad(x, g, shape=w.shape, **settings), w) == expected


@given(call=convolutions(), seed=seeds)
def test_conv_transpose2d_is_the_adjoint_of_conv2d(call, seed):
    (x, w), settings = call
    settings = settings["geometry"]._asdict()
    del settings["crop"], settings["winograd"]  # what is left out, no transposed convolution could put back
    y = ops.conv2d(x, w, **settings)
    g = np.random.default_rng(seed).standard_normal(y.shape)
    smallest = ops.conv_transpose2d(g, w, **settings).shape
    extra = tuple(a - b for a, b in zip(x.shape[2:], smallest[2:], strict=True))  # what the stride stepped over
    back = ops.conv_transpose2d(g, w, output_padding=extra, **settings)
    assert back.shape == x.shape
    assert np.vdot(back, x) == pytest.approx(np.vdot(g, y), rel=1e-12, abs=1e-11)


@pytest.mark.parametrize("layout", IMAGE_LAYOUTS)
@pytest.mark.parametrize("kind", ["convolution", "pooling"])
def test_the_layout_in_memory_changes_nothing(layout, kind):
    x = distinct(np.random.default_rng(0), (2, 4, 5, 6))
    w = np.random.default_rng(1).standard_normal((3, 4, 2, 2))
    f = {"convolution": lambda x: ops.conv2d(x, w, padding=1), "pooling": lambda x: ops.max_pool2d(x, 2)}[kind]
    plain, moved = (Tensor(a, requires_grad=True) for a in (x, laid_out(x, *IMAGE_LAYOUTS[layout])))
    np.testing.assert_allclose(f(moved).data, f(plain).data, rtol=1e-12)
    g = np.random.default_rng(2).standard_normal(f(plain).shape)
    np.testing.assert_allclose(grad(f(moved), moved, g), grad(f(plain), plain, g), rtol=1e-12)
    check_grads(f, [moved.data])


@pytest.mark.parametrize(
    ("x", "w", "settings", "message"),
    [
        ((3, 4, 4), (1, 3, 2, 2), {}, r"conv2d\(x\): expected images \(N, C, H, W\), got shape \(3, 4, 4\)"),
        ((1, 3, 4, 4), (3, 2, 2), {}, r"conv2d\(w\): expected filters \(K, C/groups, KH, KW\), got shape \(3, 2, 2\)"),
        ((1, 3, 4, 4), (1, 2, 2, 2), {}, "need 2 channels and a multiple of 1 filters; got images of 3 channels"),
        ((1, 4, 4, 4), (3, 2, 2, 2), {"groups": 2}, "3 filters over 2 channels in 2 group"),
        ((1, 1, 2, 2), (1, 1, 3, 3), {}, "larger than the image"),
        ((1, 1, 4, 4), (1, 1, 2, 2), {"stride": 0}, "stride: expected an integer of at least 1, or two of them, got 0"),
        ((1, 1, 4, 4), (1, 1, 2, 2), {"padding": (1, -1)}, r"padding: .* at least 0.*got \(1, -1\)"),
        ((1, 1, 4, 4), (1, 1, 2, 2), {"dilation": 1.5}, "dilation: .* got 1.5"),
        ((1, 1, 4, 4), (1, 1, 2, 2), {"groups": 0}, "groups: expected an integer of at least 1, got 0"),
    ],
)
def test_a_convolution_that_does_not_fit_says_so(x, w, settings, message):
    with pytest.raises(ValueError, match=message):
        ops.conv2d(np.zeros(x), np.zeros(w), **settings)


def test_a_transposed_convolution_that_does_not_fit_says_so():
    x, w = np.zeros((1, 2, 3, 3)), np.zeros((2, 1, 2, 2))
    with pytest.raises(ValueError, match=r"conv_transpose2d: expected x \(N, K, H, W\)"):
        ops.conv_transpose2d(x[0], w)
    with pytest.raises(ValueError, match="output_padding: expected less than the stride or the dilation, got 2"):
        ops.conv_transpose2d(x, w, stride=2, output_padding=2)


# Pooling --------------------------------------------------------------------------------------------------------------


def naive_pool(reduce, x, size, stride, padding, ceil_mode=False):
    """Apply ``reduce`` to what each window sees of the image."""
    rounded = np.ceil if ceil_mode else np.floor
    out = [int(rounded((n + 2 * p - k) / s)) + 1 for n, k, s, p in zip(x.shape[2:], size, stride, padding, strict=True)]
    starts = [
        [i * s - p for i in range(m) if i * s - p < n]  # the last window must see something
        for m, n, s, p in zip(out, x.shape[2:], stride, padding, strict=True)
    ]
    seen = [[x[:, :, max(a, 0) : a + size[0], max(b, 0) : b + size[1]] for b in starts[1]] for a in starts[0]]
    return np.array([[reduce(window) for window in row] for row in seen]).transpose(2, 3, 0, 1)


sides = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(size=sides, stride=sides, extra=sides, padded=st.booleans(), ceil_mode=st.booleans(), seed=seeds)
def test_pooling_is_its_formula(size, stride, extra, padded, ceil_mode, seed):
    padding = tuple(k // 2 * padded for k in size)
    shape = (2, 2, *(k + e - 1 for k, e in zip(size, extra, strict=True)))
    x = np.random.default_rng(seed).standard_normal(shape)
    highest = naive_pool(lambda window: window.max(axis=(2, 3)), x, size, stride, padding, ceil_mode)
    assert ops.max_pool2d(x, size, stride=stride, padding=padding, ceil_mode=ceil_mode).tolist() == highest.tolist()
    means = naive_pool(lambda window: window.sum(axis=(2, 3)) / np.prod(size), x, size, stride, padding)
    np.testing.assert_allclose(ops.avg_pool2d(x, size, stride=stride, padding=padding), means, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("place", range(4))
def test_a_maximum_that_is_no_number_has_no_winner(place):
    x = Tensor(np.arange(8.0).reshape(1, 1, 2, 4), requires_grad=True)
    x.data[0, 0, place // 2, place % 2] = np.nan
    y = ops.max_pool2d(x, 2)
    assert np.isnan(y.data).tolist() == [[[[True, False]]]]
    assert grad(y, x, np.ones(y.shape)).tolist() == [[[[0, 0, 0, 0], [0, 0, 0, 1]]]]


def test_the_stride_of_a_pooling_is_its_size_by_default():
    x = np.random.default_rng(0).standard_normal((1, 1, 6, 6))
    for pool in (ops.max_pool2d, ops.avg_pool2d):
        assert pool(x, (3, 2)).tolist() == pool(x, (3, 2), stride=(3, 2)).tolist()


@pytest.mark.parametrize(
    ("shape", "size", "settings", "message"),
    [
        ((1, 4, 4), 2, {}, r"expected images \(N, C, H, W\), got shape \(1, 4, 4\)"),
        ((1, 1, 4, 4), 0, {}, "size: expected an integer of at least 1, or two of them, got 0"),
        ((1, 1, 4, 4), 2, {"stride": -1}, "stride: .* at least 1.* got -1"),
        ((1, 1, 4, 4), 2, {"padding": 2}, r"padding: expected at most half the window \(2, 2\), got \(2, 2\)"),
        ((1, 1, 2, 2), 3, {}, r"a window of \(3, 3\) is larger than the image \(2, 2\)"),
    ],
)
def test_a_pooling_that_does_not_fit_says_so(shape, size, settings, message):
    for pool in (ops.max_pool2d, ops.avg_pool2d):
        with pytest.raises(ValueError, match=message):
            pool(np.zeros(shape), size, **settings)
