"""Update rules: gradient descent with momentum, and Adam.

An optimizer holds parameters. ``optimizer.step(gradients)`` changes each of them in place by the rule's equation. The step
size and the momentum are numbers or schedules (``schedules.py``). All rules share the loop over the parameters, weight decay,
constraints and state, which ``optimizer.py`` defines. An optimizer computes no gradients: ``npadv.grad`` does.
"""

from __future__ import annotations

from collections.abc import Sequence

from npadv import optim_on_device
from npadv.autodiff import Tensor
from npadv.backend import Array, xp_of
from npadv.fast.updates import in_halves
from npadv.optimizer import Optimizer, check_setting
from npadv.schedules import ExponentialDecay, InverseDecay, Linear, Schedule, StepDecay

__all__ = ["SGD", "Adam", "ExponentialDecay", "InverseDecay", "Linear", "Optimizer", "Schedule", "StepDecay"]


# The equations of both rules. ``in_halves`` divides large arrays between two threads.


@in_halves
def momentum_step(
    p: Array, v: Array, g: Array, *, step_size: float, momentum: float, dampening: float, nesterov: bool
) -> None:
    """Take a step of gradient descent with momentum: change a parameter p and its velocity v in place."""
    v *= momentum
    v += (1 - dampening) * g if dampening else g
    p -= step_size * (g + momentum * v if nesterov else v)


@in_halves
def adam_step(
    p: Array, m: Array, v: Array, g: Array, *, step_size: float, betas: tuple[float, float], t: int, epsilon: float
) -> None:
    """Take the t-th step of Adam: change a parameter p and the averages m of g and v of g^2 in place."""
    b1, b2 = betas
    m *= b1
    m += (1 - b1) * g
    v *= b2
    v += (1 - b2) * g * g
    p -= (step_size / (1 - b1**t)) * m / (xp_of(v).sqrt(v / (1 - b2**t)) + epsilon)


class SGD(Optimizer):
    """Gradient descent with momentum.

    With gradient g (weight decay included), velocity v and step size s,

        v <- momentum * v + (1 - dampening) * g,        p <- p - s * v        (Nesterov: p - s * (g + momentum * v)).

    In the first update v = g, without dampening. With dampening equal to the momentum, v is then an average of gradients.
    PyTorch starts in the same way, and so does Torch7, on which the published code of [SYN] runs.

    Parameters
    ----------
    parameters : sequence of Tensor
        The tensors to change.
    step_size, momentum : float or Schedule
        s and the share of the velocity that is kept; numbers, or functions of the number of updates and epochs.
    dampening : float
        The share of each gradient that is left out of the velocity.
    nesterov : bool
        Use Nesterov's form; needs momentum and no dampening.
    weight_decay : float
        This multiple of a parameter is added to its gradient.

    Examples
    --------
    >>> import numpy as np
    >>> p = Tensor(np.array([1.0]), requires_grad=True)
    >>> SGD([p], 0.5).step([np.array([1.0])])
    >>> p.data
    array([0.5])
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        step_size: float | Schedule,
        *,
        momentum: float | Schedule = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, step_size, weight_decay)
        check_setting("dampening", dampening)
        if nesterov and (dampening or momentum == 0):
            raise ValueError("SGD(nesterov=True): expected momentum and no dampening")
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov

    def update(self, i: int, p: Array, g: Array, step_size: float) -> None:
        """Apply the rule above."""
        if self.momentum == 0:
            p -= step_size * g
        else:
            v = self.memory["velocity"][i]
            momentum, dampening = self.now(self.momentum), self.present_dampening
            momentum_step(p, v, g, step_size=step_size, momentum=momentum, dampening=dampening, nesterov=self.nesterov)

    @property
    def momentum(self) -> float | Schedule:
        """The share of the velocity that is kept in an update; it may be changed between updates."""
        return self._momentum

    @momentum.setter
    def momentum(self, momentum: float | Schedule) -> None:
        check_setting("momentum", momentum, below=1)
        self._momentum = momentum
        if momentum != 0 and "velocity" not in self.memory:
            self.remember("velocity")
            self._velocity_start = self.updates

    @property
    def present_dampening(self) -> float:
        """The dampening of the next update: 0 in the first update with a velocity, so that v = g."""
        return 0.0 if self.updates == self._velocity_start else self.dampening

    _velocity_start = 0  # the number of updates made before momentum was set

    # The same rule as a kernel, for captured steps.
    settings, update_on_device = optim_on_device.sgd_settings, optim_on_device.sgd


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1): steps of about the step size, for gradients of any scale.

    With gradient g (weight decay included), step size s and t = 1, 2, ...,

        m <- b1 m + (1 - b1) g,     v <- b2 v + (1 - b2) g^2,
        p <- p - s * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon).

    Parameters
    ----------
    parameters : sequence of Tensor
        The tensors to change.
    step_size : float or Schedule
        s.
    betas : (float, float)
        b1 and b2, in [0, 1).
    epsilon : float
        Keeps the denominator from being 0.
    weight_decay : float
        This multiple of a parameter is added to its gradient.

    Examples
    --------
    >>> import numpy as np
    >>> p = Tensor(np.array([1.0]), requires_grad=True)
    >>> Adam([p], 0.5).step([np.array([1e-3])])
    >>> p.data.round(4)
    array([0.5])
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        step_size: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, step_size, weight_decay)
        for beta in betas:
            check_setting("betas", beta, below=1)
        self.betas, self.epsilon = betas, epsilon
        self.remember("mean", "square")

    def update(self, i: int, p: Array, g: Array, step_size: float) -> None:
        """Apply the rule above."""
        m, v = self.memory["mean"][i], self.memory["square"][i]
        adam_step(p, m, v, g, step_size=step_size, betas=self.betas, t=self.updates + 1, epsilon=self.epsilon)

    # The same rule as a kernel, for captured steps.
    settings, update_on_device = optim_on_device.adam_settings, optim_on_device.adam
