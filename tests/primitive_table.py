"""The table of all primitives: for each, a strategy that draws ``(args, kwargs)`` of a call.

Arrays of float64 among the args are differentiated; everything else is a setting. The tests of derivatives, of float32, of
values and of planted mistakes walk this table, and a test of the registry fails for a primitive that is not in it.
"""

import sys

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import (
    arrays,
    axes,
    broadcastable,
    distinct,
    images,
    joined,
    near_halves,
    near_integers,
    nonzero,
    positive,
    seeds,
    shapes,
    shrunk,
    smooth,
)

from npadv import ops
from npadv.autodiff import PRIMITIVES
from npadv.ops.maxout import winners_of as maxout_winners_of
from npadv.ops.pool import winners_of
from npadv.shapes import conv_shapes, pool_shapes
from npadv.testing import check_grads


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
    channels, filters = draw(st.integers(1, 2)), draw(st.integers(1, 2)) * groups
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = [n + draw(st.integers(0, 3)) for n in least]
    x, w = (draw(st.integers(0, 2)), channels * groups, *size), (filters, channels, *kernel)
    shapes = conv_shapes(x, w, stride, padding, dilation, groups)
    shapes = shapes.cropped(*(draw(st.integers(0, min(1, n - 1))) for n in shapes.y[2:]))
    given = {"x": shapes.x, "w": shapes.w, "g": shapes.y}
    return tuple(draw(images(given[name])) for name in of), {"shapes": shapes}


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
    pooling = pool_shapes(shape, size, stride, padding, ceil_mode)
    x = draw(images(shape, distinct))
    winners = [winners_of(x, pooling)] if maximum else []
    given = {"x": (x,), "g": (draw(images(pooling.y)), *winners), "u": (draw(images(shape)), *winners)}
    return given[of], {"shapes": pooling}


@st.composite
def maxouts(draw, *, of="x"):
    """Return a call of one of maxout's primitives: of x, of a cotangent g, or of u to read at x's maxima."""
    shape, pieces = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3)), draw(st.integers(1, 3))
    axis = draw(st.integers(0, len(shape) - 1))
    whole = (*shape[:axis], pieces * shape[axis], *shape[axis + 1 :])
    x = draw(arrays(whole, distinct))
    winners = list(maxout_winners_of(x, pieces, axis))
    given = {"x": (x,), "g": (draw(arrays(shape)), winners), "u": (draw(arrays(whole)), winners)}
    return given[of], {"pieces": pieces, "axis": axis}


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


@st.composite
def running(draw):
    x = draw(arrays(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3)))
    return (x,), {"axis": draw(st.integers(-x.ndim, x.ndim - 1))}


EINSUMS = ["ij,jk->ik", "ij,ij->", "ab,b->ba", "i,j->ji", ",i->i", "ij->ji", "ij,jk,kl->li", "bi,bj,ij->b"]


@st.composite
def contractions(draw):
    """Return a call of einsum's primitive, some of whose axes are of length one beside longer ones."""
    left, output = draw(st.sampled_from(EINSUMS)).split("->")
    letters = tuple(left.split(","))
    sides = {letter: draw(st.integers(0, 3)) for letter in left if letter != ","}
    shapes = [tuple(1 if draw(st.integers(0, 7)) == 0 else sides[c] for c in own) for own in letters]
    return tuple(draw(arrays(shape)) for shape in shapes), {"letters": letters, "output": output}


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
    "cos": unary(smooth),
    "cumsum_along": running(),
    "divide": binary(smooth, nonzero),
    "dropout": joined(
        arrays(), rate=st.sampled_from([0.0, 0.3, 0.5]), draw=st.builds(masks, seeds), rescale=st.booleans()
    ),
    "einsum_args": contractions(),
    "erf": unary(smooth),
    "exp": unary(smooth),
    "expm1": unary(smooth),
    "getitem": picks(),
    "log": unary(positive),
    "log1p": unary(positive),
    "log_kernel_sum": kernel_sums(),
    "logsumexp": reductions(smooth, empty=False),
    "matmul": products(),
    "max": reductions(distinct, empty=False),
    "max_pick2d": poolings(of="u", maximum=True),
    "max_pool2d_forward": poolings(maximum=True),
    "max_unpool2d": poolings(of="g", maximum=True),
    "maxout": maxouts(),
    "maxout_gather": maxouts(of="u"),
    "maxout_scatter": maxouts(of="g"),
    "maximum": binary(near_integers, near_halves),
    "mean": reductions(smooth, empty=False),
    "min": reductions(distinct, empty=False),
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
    "sin": unary(smooth),
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


def function_of(name):
    """Return the primitive itself: the registry keeps what stands behind it."""
    return getattr(sys.modules[PRIMITIVES[name].forward.__module__], name)


def differentiated(args):
    return [i for i, a in enumerate(args) if isinstance(a, np.ndarray) and a.dtype.kind == "f"]


def check(function, args, kwargs, order=2):
    """Run ``check_grads`` in the arguments that are differentiated."""
    places = differentiated(args)

    def f(*xs):
        return function(*[xs[places.index(i)] if i in places else a for i, a in enumerate(args)], **kwargs)

    check_grads(f, [args[i] for i in places], order=order)


ONCE = ("foreign", "foreign_vjp")
"""The primitives whose derivative has none: their tests are in ``test_from_function.py``."""

INTERNAL = (
    ("arrange", "fast/layout.py chooses an order of the axes in memory with it"),
    ("avg_pool2d_forward", "avg_pool2d checks its arguments"),
    ("avg_unpool2d", "the gradient of average pooling"),
    ("concatenate_args", "concatenate takes a sequence"),
    ("conv2d_forward", "conv2d checks its arguments"),
    ("conv2d_input_grad", "the gradient of convolution in the input; conv_transpose2d checks its arguments"),
    ("conv2d_weight_grad", "the gradient of convolution in the weights"),
    ("cumsum_along", "cumsum checks the axis"),
    ("einsum_args", "einsum parses the letters"),
    ("foreign", "from_function makes models of it"),
    ("foreign_vjp", "the gradient of a model made by from_function"),
    ("max_pick2d", "the gradient of the gradient of max pooling"),
    ("max_pool2d_forward", "max_pool2d checks its arguments"),
    ("max_unpool2d", "the gradient of max pooling"),
    ("maxout_gather", "the gradient of the gradient of maxout"),
    ("maxout_scatter", "the gradient of maxout"),
    ("scatter_along_axis", "the gradient of take_along_axis"),
)
"""The primitives that ``npadv.ops`` does not export, each with the reason."""


# Which arguments are differentiated.

CONSTANT = {("clip", 1), ("clip", 2), ("where", 0), ("take_along_axis", 1), ("scatter_along_axis", 1)}
CONSTANT |= {("max_unpool2d", 1), ("max_pick2d", 1), ("maxout_scatter", 1), ("maxout_gather", 1)}
VARIABLE = [
    (name, i)
    for name in sorted(TABLE)
    for i in range(2 if name in ("concatenate_args", "einsum_args", "sum_over_blocks") else len(PRIMITIVES[name].rules))
    if (name, i) not in CONSTANT
]
