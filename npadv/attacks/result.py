"""The result of an attack, and the questions that attacks put to a model: its predictions and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from npadv import ops
from npadv.attacks.checks import check_first_logits, check_logits, check_targets
from npadv.autodiff import Tensor, grad, no_record, recording
from npadv.backend import Array, like, to_numpy, xp_of
from npadv.norms import norm

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Model = Callable[[Any], Any]
Bounds = tuple[float, float]
Flags = dict[str, Array]


@dataclass(frozen=True)
class AttackResult:
    """The result of an attack on N examples. Its arrays are on the device of the examples.

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
        Remarks on single examples: ``already_wrong`` (success before the attack), ``zero_gradient``,
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
    """The result of an attack on a loss of the caller's: success is a loss that rose (fell, if targeted).

    ``prediction`` holds the outputs of the model on ``x_adv``, of any shape; ``already_wrong`` is always false.

    Attributes
    ----------
    loss_before, loss : (N,)
        The loss of each example before and after the attack.
    """

    loss_before: Array
    loss: Array


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
    prediction = predict(model, x_adv)
    return AttackResult(
        x_adv=x_adv,
        success=goal_reached(prediction, y, targeted),
        distance=norm(x_adv - x, kind),
        queries=xp_of(x).zeros(len(x), dtype=int) + queries + 1,
        prediction=prediction,
        flags={"already_wrong": goal_reached(before, y, targeted), **flags},
    )


def goal_reached(prediction: Array, y: Array, targeted: bool) -> Array:
    """Return for which examples the predicted class is the attack's goal: y if targeted, else any class but y."""
    return prediction == y if targeted else prediction != y


def records(attack: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let an attack, which needs gradients, also run inside ``npadv.no_record()``."""

    @wraps(attack)
    def recorded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with recording(True):
            return attack(*args, **kwargs)

    return recorded


def column(values: Array, x: Array) -> Array:
    """Return one number an example (N,) in a shape (N, 1, ...) that broadcasts with x."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def indices_of(mask: Array) -> Array:
    """Return the indices of the examples that a mask (N,) selects, on its device."""
    return like(np.flatnonzero(to_numpy(mask)), mask)


# Predictions ----------------------------------------------------------------------------------------------------------


def first_predictions(model: Model, x: Array, y: Any, *, targeted: bool) -> tuple[Array, Array, Array]:
    """Evaluate the model on the examples: return its logits, the checked labels and the predicted classes."""
    with no_record():
        logits = check_first_logits(model(x), len(x))
    return logits, check_targets(y, logits, targeted=targeted), logits.argmax(axis=1)


def predict(model: Model, x: Array) -> Array:
    """Return the class the model gives each example: (N,) integers."""
    with no_record():
        return check_logits(model(x), len(x)).argmax(axis=1)


# Gradients ------------------------------------------------------------------------------------------------------------


def loss_gradient(model: Model, x: Array, y: Array) -> tuple[Array, Flags]:
    """Return grad_x J(x, y), the gradient of each example's cross-entropy, and its flags (see ``check_gradient``).

    The losses are summed, not averaged, so that the gradient of one example does not depend on the rest of the batch.
    The labels are those that ``first_predictions`` has checked.
    """
    inputs = Tensor(x, requires_grad=True)
    loss = ops.softmax_cross_entropy(model(inputs), labels=y, reduction="sum")
    return check_gradient(input_gradient(loss, inputs))


def input_gradient(
    loss: Any, x: Tensor, cotangent: Array | None = None, *, expected: str = "model: expected logits"
) -> Array:
    """Return the gradient of a loss in x, or raise a ValueError if the model computed it outside the tape.

    With a ``cotangent``, ``loss`` may be any output, weighted by it. ``expected`` begins the error.
    """
    try:
        return grad(loss, x, cotangent)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{expected} computed from the Tensor x by npadv's operations, not from its data ({error})"
        ) from error


def check_gradient(g: Array) -> tuple[Array, Flags]:
    """Return a gradient (N, ...) with its non-finite elements set to 0, and which examples had none or such elements."""
    xp = xp_of(g)
    finite = xp.isfinite(g)
    clean = g if bool(finite.all()) else xp.where(finite, g, xp.zeros_like(g))
    examples = tuple(range(1, g.ndim))
    return clean, {
        "zero_gradient": (clean == 0).all(axis=examples),
        "non_finite_gradient": ~finite.all(axis=examples),
    }


def add_flags(flags: Flags | None, later: Flags) -> Flags:
    """Return the flags of an iteration: its first gradient was zero, any of its gradients was not finite."""
    if flags is None:
        return later
    return {**flags, "non_finite_gradient": flags["non_finite_gradient"] | later["non_finite_gradient"]}
