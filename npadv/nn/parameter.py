"""Parameters: the tensors that training changes, with the settings of their updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from npadv.autodiff import Tensor, as_array
from npadv.backend import Array, xp_of
from npadv.fast import faster
from npadv.fast import max_norm as fast
from npadv.fast.memory import aligned


@dataclass(frozen=True)
class MaxNorm:
    """The constraint that the l2 norm of each unit's incoming weights is at most ``limit``; larger norms are reduced to it.

    ``axes`` are those of the incoming weights of one unit: 0 for dense weights (in, out), 1, 2, 3 for filters (K, C, KH, KW).

    >>> import numpy as np
    >>> weights = np.array([[3.0, 0.6], [4.0, 0.8]])
    >>> MaxNorm(2.0, axes=(0,))(weights)
    >>> weights
    array([[1.2, 0.6],
           [1.6, 0.8]])
    """

    limit: float
    axes: tuple[int, ...]

    @faster(fast.max_norm)
    def __call__(self, weights: Array) -> None:
        """Apply the constraint in place."""
        xp = xp_of(weights)
        length = xp.sqrt((weights * weights).sum(axis=self.axes, keepdims=True))
        weights *= xp.minimum(1, self.limit / xp.maximum(length, self.limit))


class Parameter(Tensor):
    """A trainable tensor.

    Parameters
    ----------
    data : array
        Initial values, floating point; copied.
    step_scale : float
        Multiplies the optimizer's step size for this parameter alone.
    constraint : callable, optional
        The optimizer calls it on the array after each update, to change it in place, such as :class:`MaxNorm`.
    """

    __slots__ = ("constraint", "step_scale")

    def __init__(self, data: Any, *, step_scale: float = 1.0, constraint: MaxNorm | None = None) -> None:
        super().__init__(aligned(as_array(data)), requires_grad=True)
        self.step_scale = step_scale
        self.constraint = constraint

    def _refuse(self, other: Any) -> Self:
        raise TypeError(
            "in-place arithmetic on a parameter, such as p -= step, would only rebind the name p and change no parameter; "
            "use optimizer.step(gradients), or p.assign(p.data - step)"
        )

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = _refuse
