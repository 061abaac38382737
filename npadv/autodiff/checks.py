"""The checks of ``grad``: its arguments are valid, and no tensor was changed in place after it was recorded."""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv.autodiff.tensor import Tensor, last_change
from npadv.backend import Array, xp_of


def check_targets(y: Any, targets: list[Any], unused: str) -> None:
    """Raise an error unless ``y`` and everything to differentiate by are Tensors that were recorded."""
    if unused not in ("raise", "zeros"):
        raise ValueError(f"grad(unused=...): expected 'raise' or 'zeros', got {unused!r}")
    if not isinstance(y, Tensor):
        raise TypeError(f"grad(y): expected a Tensor, got {type(y).__name__}")
    for k, w in enumerate(targets):
        if not isinstance(w, Tensor):
            raise TypeError(f"grad(wrt[{k}]): expected a Tensor, got {type(w).__name__}")
        if not w.requires_grad:
            raise ValueError(f"grad(wrt[{k}]): this tensor was not recorded; make it with requires_grad=True")
    if not y.requires_grad and unused == "raise":
        raise ValueError("grad(y): y was not recorded; no tensor it was made from has requires_grad=True")


def checked_cotangent(y: Tensor, cotangent: Any) -> Any:
    """Return the cotangent of ``y`` as an array or Tensor of its shape: 1 where none was given."""
    if cotangent is None:
        if y.data.size != 1:
            raise ValueError(f"grad(y): y has shape {y.shape}; give a cotangent of that shape, or reduce y to a scalar")
        return one_like(y.data)
    if not isinstance(cotangent, Tensor):
        cotangent = xp_of(y.data).asarray(cotangent, dtype=y.dtype)
    if cotangent.shape != y.shape:
        raise ValueError(f"grad(cotangent): expected y's shape {y.shape}, got {cotangent.shape}")
    return cotangent


def one_like(y: Array) -> Array:
    """Return the cotangent of a result of one element: 1, in its shape and dtype."""
    return np.array(1, y.dtype, ndmin=y.ndim) if type(y) is np.ndarray else xp_of(y).ones_like(y)


def unused_gradient(w: Tensor, k: int, unused: str) -> Array:
    """Return zeros, the gradient with respect to a target that ``y`` does not depend on, or raise a ValueError."""
    if unused == "raise":
        raise ValueError(f"grad(wrt[{k}]): y does not depend on this tensor; pass unused='zeros' if that is expected")
    return xp_of(w.data).zeros_like(w.data)


def check_unchanged(path: list[Tensor]) -> None:
    """Raise a RuntimeError if a result, or one of its arguments, was changed in place after it was recorded."""
    if not path or last_change() < path[0]._order:  # nothing at all was changed since the first of them was recorded
        return
    for node in path:
        tensors = [node, *(a for a in node._args if isinstance(a, Tensor))]
        if any(tensor._version[0] > node._order for tensor in tensors):
            name = node._operation.name  # type: ignore[union-attr]
            shapes = [a.shape for a in node._args if isinstance(a, Tensor)]
            raise RuntimeError(
                f"grad: an argument of {name} (recorded with shapes {shapes}), or its result, was changed in place after it "
                "was recorded; its gradient can no longer be computed. Take the gradient before the change, or recompute"
            )
