"""Parameters: the tensors that training changes, each with what its layer has to say about how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from npadv.autodiff import Tensor, as_array
from npadv.backend import Array, xp_of
from npadv.fast import faster
from npadv.fast import max_norm as fast
from npadv.fast.memory import aligned


@dataclass(frozen=True)
class MaxNorm:
    """The constraint that no unit's incoming weights are longer than ``limit`` (l2), by shrinking those that are.

    ``axes`` are those that run over one unit's incoming weights: 0 for dense weights (in, out), 1, 2, 3 for filters.
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
        Called by the optimizer after each update on the array, to change it in place: :class:`MaxNorm`, say.
    """

    __slots__ = ("constraint", "step_scale")

    def __init__(self, data: Any, *, step_scale: float = 1.0, constraint: MaxNorm | None = None) -> None:
        super().__init__(aligned(as_array(data)), requires_grad=True)
        self.step_scale = step_scale
        self.constraint = constraint
