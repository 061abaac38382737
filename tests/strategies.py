"""Strategies for arrays: Hypothesis draws a shape, a memory layout and a seed; the values are random numbers of that seed.

There are several kinds of values (``smooth``, ``positive``, ...). Each kind avoids the points where certain functions have a
kink, a tie or a pole.
"""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

seeds = st.integers(0, 2**32 - 1)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)

# Values ---------------------------------------------------------------------------------------------------------------


def smooth(rng, shape):
    return rng.uniform(-2, 2, shape)


def positive(rng, shape):
    return rng.uniform(0.3, 2, shape)


def nonzero(rng, shape):
    return positive(rng, shape) * rng.choice([-1.0, 1.0], shape)


def distinct(rng, shape):
    """Return numbers that differ from each other by at least 0.1."""
    size = int(np.prod(shape))
    return (0.2 * rng.permutation(size) + rng.uniform(-0.05, 0.05, size)).reshape(shape) - 0.1 * size


def near_integers(rng, shape):
    return rng.integers(-3, 4, shape) + rng.uniform(-0.2, 0.2, shape)


def near_halves(rng, shape):
    """Return numbers that differ by at least 0.1 from all numbers in ``near_integers``."""
    return near_integers(rng, shape) + 0.5


# Layouts --------------------------------------------------------------------------------------------------------------


def laid_out(array, order, steps):
    """Return a copy of the array with other strides: its axes in memory in the given order, each with the given step."""
    memory = np.zeros([array.shape[axis] * abs(steps[axis]) for axis in order], dtype=array.dtype)
    view = memory.transpose(np.argsort(order).astype(int))[(*(slice(None, None, step) for step in steps), ...)]
    view[...] = array
    return view


@st.composite
def layouts(draw, ndim):
    order = draw(st.permutations(range(ndim)))
    return order, draw(st.tuples(*[st.sampled_from([1, 2, -1])] * ndim))


IMAGE_LAYOUTS = {
    "NCHW": ((0, 1, 2, 3), (1, 1, 1, 1)),
    "NHWC": ((0, 2, 3, 1), (1, 1, 1, 1)),
    "HWNC": ((2, 3, 0, 1), (1, 1, 1, 1)),
    "sliced": ((0, 1, 2, 3), (1, 2, 2, 1)),
    "flipped": ((0, 1, 2, 3), (1, 1, 1, -1)),
}

# Arrays ---------------------------------------------------------------------------------------------------------------


@st.composite
def arrays(draw, shape=shapes, values=smooth):
    shape = shape if isinstance(shape, tuple) else draw(shape)
    array = np.asarray(values(np.random.default_rng(draw(seeds)), shape))
    return laid_out(array, *draw(layouts(len(shape))))


@st.composite
def images(draw, shape, values=smooth):
    """Return images (N, C, H, W) in one of ``IMAGE_LAYOUTS``."""
    array = values(np.random.default_rng(draw(seeds)), shape)
    return laid_out(array, *IMAGE_LAYOUTS[draw(st.sampled_from(sorted(IMAGE_LAYOUTS)))])


@st.composite
def broadcastable(draw, *values):
    """Return one array for each kind of values, with shapes that broadcast with each other."""
    drawn = draw(hnp.mutually_broadcastable_shapes(num_shapes=len(values), max_dims=3, min_side=0, max_side=3))
    return tuple(draw(arrays(shape, kind)) for shape, kind in zip(drawn.input_shapes, values, strict=True))


@st.composite
def shrunk(draw, shape):
    """Return a shape that broadcasts to the given one."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple(1 if draw(st.booleans()) else n for n in kept)


@st.composite
def axes(draw, shape, *, empty):
    """Return an axis, a tuple of axes or None, as reductions take them; with ``empty``, also axes of length 0."""
    allowed = [axis for axis, n in enumerate(shape) if n or empty]
    some = draw(st.lists(st.sampled_from(allowed), unique=True)) if allowed else []
    some = [axis - len(shape) if draw(st.booleans()) else axis for axis in some]
    return draw(st.sampled_from([tuple(some), *some[:1], *[None] * (len(allowed) == len(shape))]))


def joined(*parts, **settings):
    """Return the strategy of a call: a tuple of arguments and a dict of settings, drawn independently."""
    return st.tuples(st.tuples(*parts), st.fixed_dictionaries(settings))
