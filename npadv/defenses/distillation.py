"""Distillation: a student learns the probabilities that a teacher gives the classes, instead of the labels.

    p^T(x) = softmax(z(x) / T)                              z: the logits, T: the temperature
    teacher:   minimise  - log p_teacher^T(y | x)                                    [WG] 1.2.7
    student:   minimise  KL(p_teacher^T(x) || p_student^T(x))                        [WG] 1.2.7
    test:      softmax(z_student(x)), at temperature 1

At T = 1 this is plain distillation. Defensive distillation (Papernot et al. 2016) has a high T in both trainings, for example
20, and T = 1 at test. To predict at temperature T, the networks learn logits about T times as large. At test these saturate
the softmax: p(y) rounds to 1, and the gradient of the loss to 0.

This hides the gradients and does not remove the adversarial examples. An attack that divides the logits by T, or that
maximises a difference of logits, finds them as before (Carlini and Wagner 2016). So report such an attack beside the fast
gradient sign method.

References: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network"; Papernot et al. 2016, "Distillation
as a defense to adversarial perturbations against deep neural networks"; Carlini and Wagner 2016, "Defensive distillation is
not robust to adversarial examples"; Warde-Farley and Goodfellow [WG], section 1.2.7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.autodiff import Tensor, no_record, value_of
from npadv.functional import cross_entropy, kl_divergence


def defensive_distillation(
    build: Callable[[], Any], train: Callable[[Any, Callable[..., Tensor]], Any], *, temperature: float = 20.0
) -> tuple[Any, Any]:
    """Train a teacher on the labels, then a student of the same kind on the teacher's probabilities.

    Parameters
    ----------
    build : callable
        Returns a new network.
    train : callable
        ``train(model, loss)`` trains a network in place, for example with ``fit``.
    temperature : float
        T of both trainings, above 0. The gradients are smaller by about T than in plain training: plain gradient descent needs
        a larger step size.

    Returns
    -------
    (student, teacher)
        The two networks. The student is the defended one; it predicts at temperature 1.

    Raises
    ------
    ValueError
        ``temperature`` is not as described.

    Examples
    --------
    >>> from npadv import nn, optim
    >>> from npadv.train import gradient_update
    >>> rng = np.random.default_rng(0)
    >>> x, y = np.array([[0.2, 0.8], [0.9, 0.1]], np.float32), np.array([0, 1])
    >>> def train(model, loss):
    ...     optimizer = optim.SGD(model.parameters(), 5.0)
    ...     for _ in range(200):
    ...         gradient_update(model, loss, optimizer, x, y, rng=rng)
    >>> student, teacher = defensive_distillation(lambda: nn.Dense(2, 2, rng=rng), train, temperature=10.0)
    >>> student(x).data.argmax(axis=1)
    array([0, 1])
    """
    teacher = build()
    train(teacher, at_temperature(temperature))
    student = build()
    train(student, distillation(teacher, temperature=temperature))
    return student, teacher


def at_temperature(temperature: float) -> Callable[..., Tensor]:
    """Return the teacher's loss: the mean of - log p^T(y | x). The parameter is that of ``distillation``."""
    temperature = _check_temperature(temperature)

    def loss(model: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
        return cross_entropy(model(x, train=True, rng=rng) / temperature, y)

    return loss


def distillation(teacher: Any, *, temperature: float = 1.0) -> Callable[..., Tensor]:
    """Return the student's loss, for ``fit``: the mean of KL(p_teacher^T(x) || p_student^T(x)).

    Parameters
    ----------
    teacher : callable
        Maps a batch (N, ...) to logits (N, K). It is called in inference and does not change.
    temperature : float
        T, above 0; at 1, plain distillation.

    Returns
    -------
    callable
        ``loss(model, x, y, *, rng)`` with x (N, ...) returns a scalar, in nats; the labels y are not used. Its gradient in the
        student's logits is (p_student^T - p_teacher^T) / (T N).

    Raises
    ------
    ValueError
        ``temperature`` is not as described.

    Examples
    --------
    >>> student = lambda x, **mode: Tensor(2 * x)
    >>> loss = distillation(lambda x: x, temperature=2.0)
    >>> round(loss(student, np.array([[0.0, 4.0]]), None, rng=None).item(), 4)  # of softmax(0, 2) and softmax(0, 4)
    0.1296
    """
    temperature = _check_temperature(temperature)

    def loss(model: Any, x: Any, y: Any, *, rng: np.random.Generator) -> Any:
        with no_record():
            soft_targets = value_of(teacher(x)) / temperature
        return kl_divergence(soft_targets, model(x, train=True, rng=rng) / temperature)

    return loss


def _check_temperature(temperature: Any) -> float:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature: expected a finite number above 0, got {temperature!r}")
    return float(temperature)
