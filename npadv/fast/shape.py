"""Reshaping, fast: a gradient that lies in memory as the values do is combined with them at full speed."""

from __future__ import annotations

from typing import Any

from npadv.autodiff import defvjp, primitive, value_of


@primitive
def arrange(x: Any, *, axes: tuple[int, ...]) -> Any:
    """Return x unchanged, laid out in memory by the given order of its axes, the last one's elements side by side."""
    inverse = tuple(sorted(range(len(axes)), key=axes.__getitem__))
    return x.transpose(axes).copy().transpose(inverse)


defvjp(arrange, lambda g, y, x, axes: arrange(g, axes=axes))


def reshape_back(g: Any, x: Any) -> Any:
    """Return g in x's shape, and in x's order in memory: the next rule combines it with x."""
    g, x = g.reshape(x.shape), value_of(x)
    if x.flags.c_contiguous:
        return g
    return arrange(g, axes=tuple(sorted(range(x.ndim), key=lambda axis: -x.strides[axis])))
