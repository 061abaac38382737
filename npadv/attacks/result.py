"""What every attack takes and gives: checked inputs, and a result that holds what was counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from npadv.autodiff import Tensor, grad, no_record, value_of
from npadv.backend import Array, is_array, like, xp_of
from npadv.functional import check_labels
from npadv.norms import check_norm, norm

Model = Callable[[Any], Any]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class AttackResult:
    """The outcome of an attack on N examples; arrays live where the examples did.

    Attributes
    ----------
    x_adv : (N, ...)
        The adversarial examples: shape and dtype of the input, within budget and box.
    success : (N,) bool
        Misclassified; for a targeted attack, classified as the target.
    distance : (N,)
        Size of the perturbation in the attack's norm.
    queries : (N,) int
        How often the model was evaluated on each example, gradients included.
    prediction : (N,) int
        The class the model gives each adversarial example.
    flags : mapping of str to (N,) bool
        What to know of an example: ``already_wrong`` (success before the attack), ``zero_gradient``,
        ``non_finite_gradient``, ``not_converged``, where the attack can tell.
    """

    x_adv: Array
    success: Array
    distance: Array
    queries: Array
    prediction: Array
    flags: Mapping[str, Array]


@dataclass(frozen=True)
class LossResult(AttackResult):
    """An attack's result on a loss of the caller's own: success is a loss that rose (fell, if targeted).

    ``prediction`` holds the outputs of the model on ``x_adv``, whatever they are; ``already_wrong`` is always false.

    Attributes
    ----------
    loss_before, loss : (N,)
        The loss of each example, and of what became of it.
    """

    loss_before: Array
    loss: Array


def first_predictions(model: Model, x: Array, y: Any, *, targeted: bool) -> tuple[Array, Array, Array]:
    """Look at the examples once: return the logits, the labels and the predicted classes."""
    with no_record():
        logits = check_first_logits(model(x), len(x))
    return logits, check_targets(y, logits, targeted=targeted), logits.argmax(axis=1)


def column(values: Array, x: Array) -> Array:
    """Return one number an example (N,) in a shape (N, 1, ...) that broadcasts with x."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def make_result(
    model: Model,
    x: Array,
    x_adv: Array,
    y: Array,
    *,
    kind: str,
    targeted: bool,
    queries: Any,
    before: Array,
    flags: Mapping[str, Array],
) -> AttackResult:
    """Classify the adversarial examples (one more query each) and return the result."""

    def hit(prediction: Array) -> Array:
        return prediction == y if targeted else prediction != y

    prediction = predict(model, x_adv)
    return AttackResult(
        x_adv=x_adv,
        success=hit(prediction),
        distance=norm(x_adv - x, kind),
        queries=xp_of(x).zeros(len(x), dtype=int) + queries + 1,
        prediction=prediction,
        flags={"already_wrong": hit(before), **flags},
    )


def predict(model: Model, x: Array) -> Array:
    """Return the class the model gives each example: (N,) integers."""
    with no_record():
        return check_logits(model(x), len(x)).argmax(axis=1)


# Checks ---------------------------------------------------------------------------------------------------------------


def check_inputs(x: Any, *, eps: float | None = None, kind: str = "linf", bounds: Bounds = (0.0, 1.0)) -> None:
    """Raise a ValueError that names what is wrong with an attack's arguments."""
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
    """Raise a ValueError unless an argument is an array (N, ...) of one example or more."""
    if isinstance(x, Tensor) or not is_array(x):
        raise ValueError(f"{name}: expected a NumPy or CuPy array, got {type(x).__name__}")
    if x.ndim < 2:
        raise ValueError(
            f"{name}: expected a batch (N, ...) of examples, got shape {x.shape}; one example is {name}[None]"
        )
    if x.size == 0:
        raise ValueError(f"{name}: expected at least one example, got an empty batch of shape {x.shape}")


def check_in_box(name: str, x: Array, bounds: Bounds) -> None:
    """Raise a ValueError unless an argument's values are finite and within the box."""
    low, high = bounds
    if not bool(xp_of(x).isfinite(x).all()):
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    if x.min() < low or x.max() > high:  # compared in x's precision, in which the nearest number to 0.3 is 0.3
        raise ValueError(
            f"{name}: expected values in the box [{low}, {high}], got {float(x.min()):g} to {float(x.max()):g}"
        )


def check_logits(output: Any, n: int) -> Array:
    """Return a model's output as an array (N, K) of logits, or raise a ValueError that says what it is instead."""
    logits = value_of(output)
    if getattr(logits, "ndim", None) != 2 or logits.shape[0] != n or logits.shape[1] < 2:
        raise ValueError(
            f"model: expected logits (N, K) = ({n}, 2 or more), got shape {getattr(logits, 'shape', None)}"
        )
    if not bool(xp_of(logits).isfinite(logits).all()):
        raise ValueError("model: expected finite logits, got NaN or infinity")
    return logits


def check_first_logits(output: Any, n: int) -> Array:
    """Return what ``check_logits`` does, and refuse probabilities.

    Only the examples themselves are looked at in this way: among the many points an attack visits, some have logits that
    happen to sum to 1.
    """
    logits = check_logits(output, n)
    tolerance = 1e-6 * logits.shape[1]  # probabilities in float32 sum to 1 within this
    if bool((logits >= 0).all()) and bool((xp_of(logits).abs(logits.sum(axis=1) - 1) < tolerance).all()):
        raise ValueError("model: expected logits, got probabilities (rows are non-negative and sum to 1)")
    return logits


def check_targets(y: Any, logits: Array, *, targeted: bool) -> Array:
    """Return the labels, on the logits' device; ``None`` stands for the model's own predictions where that has a meaning."""
    if y is None:
        if targeted:
            raise ValueError("y: a targeted attack needs the target classes, got None")
        return logits.argmax(axis=1)
    y = value_of(y)
    return check_labels(like(y, logits), logits.shape[1], logits.shape[0], name="y")


def input_gradient(
    loss: Any, x: Tensor, cotangent: Array | None = None, *, expected: str = "model: expected logits"
) -> Array:
    """Return the loss's gradient in x, or raise a ValueError if the model left the tape on the way from one to the other.

    With a ``cotangent``, ``loss`` may be any output, weighted by it; ``expected`` says in the error what it should be.
    """
    try:
        return grad(loss, x, cotangent)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{expected} computed from the Tensor x by npadv's operations, not from its data ({error})"
        ) from error


def check_gradient(g: Array) -> tuple[Array, dict[str, Array]]:
    """Return a gradient (N, ...) with its non-finite elements set to 0, and flags that tell where it was of no use."""
    xp = xp_of(g)
    finite = xp.isfinite(g)
    clean = g if bool(finite.all()) else xp.where(finite, g, xp.zeros_like(g))
    examples = tuple(range(1, g.ndim))
    return clean, {
        "zero_gradient": (clean == 0).all(axis=examples),
        "non_finite_gradient": ~finite.all(axis=examples),
    }


def check_losses(losses: Any, n: int) -> Array:
    """Return a loss's values as an array (N,), or raise a ValueError that says what came instead."""
    values = value_of(losses)
    if getattr(values, "shape", None) != (n,):
        raise ValueError(
            f"loss: expected one number an example, shape ({n},), got shape {getattr(values, 'shape', None)}"
        )
    if not bool(xp_of(values).isfinite(values).all()):
        raise ValueError("loss: expected finite losses, got NaN or infinity")
    return values


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise a ValueError unless an argument is an integer, and large enough."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")


def check_positive(name: str, value: float, *, zero: bool = False) -> None:
    """Raise a ValueError unless an argument is a finite number above 0, or at least 0 where ``zero`` allows it."""
    if not (value >= 0 if zero else value > 0) or value == float("inf"):
        raise ValueError(
            f"{name}: expected a {'finite number of at least 0' if zero else 'positive number'}, got {value!r}"
        )
