"""The CUDA kernels, launched from Python: one function for each, on CuPy's arrays or, to test and to learn, on NumPy's.

The sources are ``kernels/*.cu``. This package finds them (:mod:`~npadv.kernels.sources`), compiles, checks and launches
(:mod:`~npadv.kernels.launch`), and runs them without a GPU (:mod:`~npadv.kernels.cpu`); beside those, a file for each
family of kernels with the functions that the rest of the library calls.
"""

from npadv.kernels.conv import conv2d, conv2d_input_grad, conv2d_weight_grad
from npadv.kernels.layers import (
    cross_entropy,
    cross_entropy_grad,
    cross_entropy_grad_reference,
    cross_entropy_reference,
    matmul,
    matmul_reference,
    max_pool2d,
    max_pool2d_grad,
    max_pool2d_grad_reference,
    max_pool2d_reference,
    maxout,
    maxout_grad,
    maxout_grad_reference,
    maxout_reference,
)
from npadv.kernels.masks import (
    dropout,
    dropout_advance,
    dropout_reference,
    philox_reference,
)
from npadv.kernels.signs import (
    dense_sign_step,
    dense_sign_step_reference,
    l1_step,
    l1_step_reference,
    l2_step,
    l2_step_reference,
    sign_step,
    sign_step_reference,
)
from npadv.kernels.sources import source
from npadv.kernels.updates import (
    adam,
    adam_advance,
    adam_advance_reference,
    adam_reference,
    max_norm,
    max_norm_reference,
    sgd,
    sgd_reference,
)

__all__ = [
    "adam",
    "adam_advance",
    "adam_advance_reference",
    "adam_reference",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "cross_entropy",
    "cross_entropy_grad",
    "cross_entropy_grad_reference",
    "cross_entropy_reference",
    "dense_sign_step",
    "dense_sign_step_reference",
    "dropout",
    "dropout_advance",
    "dropout_reference",
    "l1_step",
    "l1_step_reference",
    "l2_step",
    "l2_step_reference",
    "matmul",
    "matmul_reference",
    "max_norm",
    "max_norm_reference",
    "max_pool2d",
    "max_pool2d_grad",
    "max_pool2d_grad_reference",
    "max_pool2d_reference",
    "maxout",
    "maxout_grad",
    "maxout_grad_reference",
    "maxout_reference",
    "philox_reference",
    "sgd",
    "sgd_reference",
    "sign_step",
    "sign_step_reference",
    "source",
]
