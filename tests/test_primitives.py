"""Every primitive: its derivatives against differences, its dtypes, and that none is missing from the registry."""

import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from primitive_table import CONSTANT, INTERNAL, ONCE, TABLE, check, differentiated, function_of

import npadv
from npadv import Tensor, grad, ops
from npadv.autodiff import PRIMITIVES, Operation, primitive

every_primitive = pytest.mark.parametrize("name", sorted(TABLE))


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
    assert complaints(own_primitives(), TABLE | dict.fromkeys(ONCE)) == []


def test_every_primitive_is_exported_or_internal_for_a_reason():
    internal = dict(INTERNAL)
    assert all(reason for reason in internal.values())
    assert own_primitives().keys() - set(ops.__all__) == internal.keys()


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


@pytest.mark.parametrize(("name", "argnum"), sorted(CONSTANT))
def test_a_constant_argument_refuses_to_be_differentiated(name, argnum):
    with pytest.raises(TypeError, match=f"{name} is not differentiable in argument {argnum}"):
        PRIMITIVES[name].rules[argnum](None)
