"""Checks of an attack's arguments and of a model's output. Each raises a ValueError that names the argument and its value."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from npadv.autodiff import Tensor, value_of
from npadv.backend import Array, is_array, like, xp_of
from npadv.functional import check_labels
from npadv.norms import check_norm

# Arguments ------------------------------------------------------------------------------------------------------------


NOT_GIVEN: Any = object()
"""The eps of an attack that has none."""


def check_inputs(
    x: Any,
    *,
    eps: Any = NOT_GIVEN,
    kind: str = "linf",
    bounds: Any = (0.0, 1.0),
    eps_per_example: bool = False,
) -> tuple[Any, tuple[float, float]]:
    """Check the examples, the radius, the norm and the box; return the radius and the box as Python's numbers.

    In arithmetic with x these take the dtype of x, as NumPy's own scalars do not. With ``eps_per_example`` the radius may
    be an array (N,), which is returned in the dtype of x and in a shape (N, 1, ...) that broadcasts with it.
    """
    check_norm(kind)
    box = check_bounds(bounds)
    if eps is not NOT_GIVEN and not (eps_per_example and is_array(eps) and eps.ndim):
        eps = check_positive("eps", eps, zero=True)
    check_batch("x", x)
    if x.dtype.kind != "f":
        raise ValueError(f"x: expected floating-point values in {box}, got dtype {x.dtype}")
    check_in_box("x", x, box)
    if eps is not NOT_GIVEN:
        eps = _check_radius(eps, x)
    return eps, box


def check_bounds(bounds: Any) -> tuple[float, float]:
    """Check that the box is two numbers, the first below the second, and return them as Python's."""
    expected = "bounds: expected (low, high) with low < high, two numbers for all pixels"
    if not isinstance(bounds, tuple | list | np.ndarray) or len(bounds) != 2:
        raise ValueError(f"{expected}, got {_shown(bounds)}")
    low, high = (_as_number(end) for end in bounds)
    if low is None or high is None:
        raise ValueError(f"{expected}, got {_shown(bounds[0])} and {_shown(bounds[1])}")
    if not low < high:
        raise ValueError(f"bounds: expected (low, high) with low < high, got {(low, high)!r}")
    return low, high


def _check_radius(eps: Any, x: Array) -> Any:
    """Check that a radius, or one radius for each example, is small enough for the dtype of x to hold its square."""
    most = float(np.finfo(x.dtype).max) ** 0.5
    if not is_array(eps):
        if eps > most:
            raise ValueError(f"eps: expected a number whose square {x.dtype} can hold, at most {most:.3g}, got {eps!r}")
        return eps
    if eps.shape != (len(x),) or eps.dtype.kind not in "fiu":
        raise ValueError(f"eps: expected a number or an array of numbers of shape ({len(x)},), got {_shown(eps)}")
    if not bool(((eps >= 0) & (eps <= most)).all()):
        raise ValueError(
            f"eps: expected numbers from 0 to {most:.3g}, got {float(eps.min()):g} to {float(eps.max()):g}"
        )
    return like(eps, x).astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


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
    check_flag("targeted", targeted)
    if y is None:
        if targeted:
            raise ValueError("y: a targeted attack needs the target classes, got None")
        return logits.argmax(axis=1)
    y = value_of(y)
    if is_array(y) and not y.dtype.isnative:  # CuPy knows no other byte order
        y = y.astype(y.dtype.newbyteorder("="))
    labels = check_labels(like(y, logits), logits.shape[1], logits.shape[0], name="y")
    return labels.astype(np.intp, copy=False)  # arithmetic with uint64 would give floats


def check_flag(name: str, value: Any) -> None:
    """Check that an argument is True or False: a text like "False" would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: expected True or False, got {_shown(value)}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Check that an argument is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {_shown(value)}")


def check_positive(name: str, value: Any, *, zero: bool = False) -> float:
    """Check that an argument is a finite number above 0, or at least 0 where ``zero`` allows it; return it as Python's."""
    number = _as_number(value)
    if number is None or not (number >= 0 if zero else number > 0) or number == float("inf"):
        raise ValueError(
            f"{name}: expected a {'finite number of at least 0' if zero else 'positive number'}, got {_shown(value)}"
        )
    return number


def check_share(name: str, value: Any) -> float:
    """Check that an argument is a number from 0 to 1; return it as Python's."""
    number = _as_number(value)
    if number is None or not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {_shown(value)}")
    return number


def check_number(name: str, value: Any) -> float:
    """Check that an argument is a finite number; return it as Python's."""
    number = _as_number(value)
    if number is None or not abs(number) < float("inf"):
        raise ValueError(f"{name}: expected a finite number, got {_shown(value)}")
    return number


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Check that an argument is one of a few names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {_shown(value)}")


def check_rng(rng: Any) -> None:
    """Check that an argument is a random generator."""
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")


def _as_number(value: Any) -> float | None:
    """Return a number, or an array without dimensions, as a Python number; None for anything else."""
    if is_array(value) and value.ndim == 0:
        value = value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _shown(value: Any) -> str:
    """Return a value as an error shows it: an array by its shape, anything else shortened."""
    if is_array(value) and not isinstance(value, np.generic):
        return f"an array of shape {value.shape}"
    return reprlib.repr(value.item() if isinstance(value, np.generic) else value)


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
