"""Checks of an attack's arguments and of a model's output. Each raises a ValueError that names the argument and its value."""

from __future__ import annotations

from typing import Any

import numpy as np

from npadv.autodiff import Tensor, value_of
from npadv.backend import Array, is_array, like, xp_of
from npadv.functional import check_labels
from npadv.norms import check_norm

# Arguments ------------------------------------------------------------------------------------------------------------


def check_inputs(
    x: Any, *, eps: float | None = None, kind: str = "linf", bounds: tuple[float, float] = (0.0, 1.0)
) -> None:
    """Check the examples, the radius, the norm and the box."""
    check_norm(kind)
    if eps is not None and not 0 <= eps < float("inf"):
        raise ValueError(f"eps: expected a finite number of at least 0, got {eps!r}")
    low, high = bounds
    if not low < high:
        raise ValueError(f"bounds: expected (low, high) with low < high, got {bounds!r}")
    check_batch("x", x)
    if x.dtype.kind != "f":
        raise ValueError(f"x: expected floating-point values in {bounds}, got dtype {x.dtype}")
    check_in_box("x", x, bounds)


def check_batch(name: str, x: Any) -> None:
    """Check that an argument is an array (N, ...) of at least one example."""
    if isinstance(x, Tensor) or not is_array(x):
        raise ValueError(f"{name}: expected a NumPy or CuPy array, got {type(x).__name__}")
    if x.ndim < 2:
        raise ValueError(
            f"{name}: expected a batch (N, ...) of examples, got shape {x.shape}; one example is {name}[None]"
        )
    if x.size == 0:
        raise ValueError(f"{name}: expected at least one example, got an empty batch of shape {x.shape}")


def check_in_box(name: str, x: Array, bounds: tuple[float, float]) -> None:
    """Check that all values are finite and within the box."""
    low, high = bounds
    if not bool(xp_of(x).isfinite(x).all()):
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    # Compared in the precision of x: the float32 nearest to 0.3 counts as 0.3.
    if x.min() < low or x.max() > high:
        raise ValueError(
            f"{name}: expected values in the box [{low}, {high}], got {float(x.min()):g} to {float(x.max()):g}"
        )


def check_targets(y: Any, logits: Array, *, targeted: bool) -> Array:
    """Return the labels on the logits' device. Without labels, an untargeted attack takes the model's predictions."""
    if y is None:
        if targeted:
            raise ValueError("y: a targeted attack needs the target classes, got None")
        return logits.argmax(axis=1)
    y = value_of(y)
    return check_labels(like(y, logits), logits.shape[1], logits.shape[0], name="y")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Check that an argument is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")


def check_positive(name: str, value: float, *, zero: bool = False) -> None:
    """Check that an argument is a finite number above 0, or at least 0 where ``zero`` allows it."""
    if not (value >= 0 if zero else value > 0) or value == float("inf"):
        raise ValueError(
            f"{name}: expected a {'finite number of at least 0' if zero else 'positive number'}, got {value!r}"
        )


# The model's output ---------------------------------------------------------------------------------------------------


def check_logits(output: Any, n: int) -> Array:
    """Return a model's output as an array (N, K) of finite logits."""
    logits = value_of(output)
    if getattr(logits, "ndim", None) != 2 or logits.shape[0] != n or logits.shape[1] < 2:
        raise ValueError(
            f"model: expected logits (N, K) = ({n}, 2 or more), got shape {getattr(logits, 'shape', None)}"
        )
    if not bool(xp_of(logits).isfinite(logits).all()):
        raise ValueError("model: expected finite logits, got NaN or infinity")
    return logits


def check_first_logits(output: Any, n: int) -> Array:
    """Return a model's output on the unperturbed examples as logits, and refuse probabilities.

    Points that an attack visits later are not tested for this: among so many, the logits of some sum to 1 by chance.
    """
    logits = check_logits(output, n)
    tolerance = 1e-6 * logits.shape[1]  # probabilities in float32 sum to 1 within this
    if bool((logits >= 0).all()) and bool((xp_of(logits).abs(logits.sum(axis=1) - 1) < tolerance).all()):
        raise ValueError("model: expected logits, got probabilities (rows are non-negative and sum to 1)")
    return logits


def check_losses(losses: Any, n: int) -> Array:
    """Return the values of a loss as an array (N,)."""
    values = value_of(losses)
    if getattr(values, "shape", None) != (n,):
        raise ValueError(
            f"loss: expected one number an example, shape ({n},), got shape {getattr(values, 'shape', None)}"
        )
    if not bool(xp_of(values).isfinite(values).all()):
        raise ValueError("loss: expected finite losses, got NaN or infinity")
    return values
