"""Wrong gradient rules, planted in every primitive: ``check_grads`` catches each of them."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from primitive_table import TABLE, VARIABLE, check, function_of
from strategies import arrays, distinct, joined

from npadv import ops
from npadv.autodiff import PRIMITIVES, value_of
from npadv.ops.conv import conv2d_input_grad

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
        lambda g, y, x, w, shapes: conv2d_input_grad(
            g, ops.getitem(w, index=(..., slice(None, None, -1))), shapes=shapes
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
