"""The tape: arrays that remember how they were made, and the backward pass that turns the records into gradients.

Read ``tensor.py`` (an array and its record), ``primitive.py`` (functions that leave records, and their gradient rules) and
``gradient.py`` (the chain rule along the records), in this order. ``derivatives.py`` builds Jacobians and Hessian products
on them; ``checks.py`` holds the checks of arguments, ``copies.py`` copies and pickles tensors, and ``program.py`` writes a tape
out as a Python program.
"""

from npadv.autodiff.checks import one_like
from npadv.autodiff.derivatives import hvp, jacobian, jvp
from npadv.autodiff.gradient import ancestors, as_gradient, grad
from npadv.autodiff.primitive import (
    PRIMITIVES,
    Operation,
    defvjp,
    no_record,
    operation_of,
    positional_parameters,
    primitive,
    recording,
)
from npadv.autodiff.tensor import Tensor, as_array, plain_index, value_of

__all__ = [
    "PRIMITIVES",
    "Operation",
    "Tensor",
    "ancestors",
    "as_array",
    "as_gradient",
    "defvjp",
    "grad",
    "hvp",
    "jacobian",
    "jvp",
    "no_record",
    "one_like",
    "operation_of",
    "plain_index",
    "positional_parameters",
    "primitive",
    "recording",
    "value_of",
]
