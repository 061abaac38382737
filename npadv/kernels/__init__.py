"""The CUDA kernels, launched from Python: one function for each, on CuPy's arrays or, to test and to learn, on NumPy's.

The sources are ``kernels/*.cu``. This package finds them (:mod:`~npadv.kernels.sources`), compiles, checks and launches
them (:mod:`~npadv.kernels.launch`), and runs them without a GPU (:mod:`~npadv.kernels.cpu`). Each family of kernels has a
file with the functions that the rest of the library calls.
"""

from npadv.kernels.checks import takes
from npadv.kernels.conv import conv2d, conv2d_input_grad, conv2d_weight_grad
from npadv.kernels.dropout import dropout
from npadv.kernels.layers import (
    cross_entropy,
    cross_entropy_grad,
    max_pool2d,
    max_pool2d_grad,
    maxout,
    maxout_grad,
)
from npadv.kernels.matmul import matmul
from npadv.kernels.sources import source
from npadv.kernels.steps import l1_step, l2_step, sign_step
from npadv.kernels.updates import adam, max_norm, sgd

__all__ = [
    "adam",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "cross_entropy",
    "cross_entropy_grad",
    "dropout",
    "l1_step",
    "l2_step",
    "matmul",
    "max_norm",
    "max_pool2d",
    "max_pool2d_grad",
    "maxout",
    "maxout_grad",
    "sgd",
    "sign_step",
    "source",
    "takes",
]
