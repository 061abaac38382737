"""Adversarial machine learning from scratch, on NumPy or CuPy.

>>> import numpy as np
>>> import npadv
>>> x = npadv.Tensor(np.array([1.0, 2.0]), requires_grad=True)
>>> npadv.grad((x * x).sum(), x)
array([2., 4.])
"""

from npadv import ops as ops  # first: it gives Tensor its operators
from npadv.autodiff import Tensor, defvjp, grad, no_record, primitive
from npadv.autodiff.derivatives import hvp, jacobian, jvp
from npadv.fast import memory
from npadv.from_function import from_function
from npadv.replay import Replay

memory.keep_freed()

__version__ = "0.1.0"

__all__ = [
    "Replay",
    "Tensor",
    "__version__",
    "defvjp",
    "from_function",
    "grad",
    "hvp",
    "jacobian",
    "jvp",
    "no_record",
    "ops",
    "primitive",
]
