"""Reshaping, fast: the gradient is put into the memory order of the values, with which the next rule combines it."""

from __future__ import annotations

from typing import Any

from npadv.autodiff import defvjp, primitive, value_of


@primitive
def arrange(x: Any, *, axes: tuple[int, ...]) -> Any:
    """Return a copy of x whose memory order is the given order of its axes: the last axis is contiguous."""
    inverse = tuple(sorted(range(len(axes)), key=axes.__getitem__))
    return x.transpose(axes).copy().transpose(inverse)


defvjp(arrange, lambda g, y, x, axes: arrange(g, axes=axes))


def reshape_back(g: Any, x: Any) -> Any:
    """Return g in x's shape and in x's memory order."""
    g, x = g.reshape(x.shape), value_of(x)
    if x.flags.c_contiguous:
        return g
    return arrange(g, axes=tuple(sorted(range(x.ndim), key=lambda axis: -x.strides[axis])))
