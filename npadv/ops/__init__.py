"""The operations: every primitive with its gradient rule, and functions composed of them.

elementwise        arithmetic, functions of each element, choices
shape              operations that move elements; their rules are their adjoints
reduce             sums, means, maxima, the softmax cross-entropy
linalg, einsum     matrix products, products over named axes
conv, pool         convolution and pooling of images (N, C, H, W)
maxout, dropout    the two operations of maxout networks
chunked            sums over more rows than memory should hold
rearrange, sort, statistics    compositions of the above under NumPy's names
operators          gives Tensor its operators and methods
numpy_protocol     lets NumPy's functions take Tensors
"""

from npadv.ops import numpy_protocol as numpy_protocol  # lets NumPy's functions take Tensors
from npadv.ops import operators as operators  # gives Tensor its operators
from npadv.ops.chunked import log_kernel_sum, sum_over_blocks
from npadv.ops.conv import conv2d, conv_transpose2d, winograd
from npadv.ops.dropout import DeviceRandom, dropout
from npadv.ops.einsum import einsum
from npadv.ops.elementwise import (
    abs,
    add,
    astype,
    clip,
    cos,
    divide,
    erf,
    exp,
    expm1,
    log,
    log1p,
    maximum,
    minimum,
    multiply,
    negative,
    power,
    relu,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    square,
    subtract,
    tanh,
    where,
)
from npadv.ops.linalg import affine, dot, matmul, outer, tensordot
from npadv.ops.maxout import maxout
from npadv.ops.pool import avg_pool2d, max_pool2d
from npadv.ops.rearrange import flip, moveaxis, ravel, repeat, roll, split, squeeze, swapaxes, tile
from npadv.ops.reduce import logsumexp, max, mean, min, softmax, softmax_cross_entropy, sum
from npadv.ops.shape import (
    broadcast_to,
    concatenate,
    expand_dims,
    getitem,
    pad,
    reshape,
    scatter_add,
    stack,
    sum_to,
    take_along_axis,
    transpose,
)
from npadv.ops.sort import argmax, argmin, argsort, sort, topk
from npadv.ops.statistics import cumsum, prod, std, var

__all__ = [
    "DeviceRandom",
    "abs",
    "add",
    "affine",
    "argmax",
    "argmin",
    "argsort",
    "astype",
    "avg_pool2d",
    "broadcast_to",
    "clip",
    "concatenate",
    "conv2d",
    "conv_transpose2d",
    "cos",
    "cumsum",
    "divide",
    "dot",
    "dropout",
    "einsum",
    "erf",
    "exp",
    "expand_dims",
    "expm1",
    "flip",
    "getitem",
    "log",
    "log1p",
    "log_kernel_sum",
    "logsumexp",
    "matmul",
    "max",
    "max_pool2d",
    "maximum",
    "maxout",
    "mean",
    "min",
    "minimum",
    "moveaxis",
    "multiply",
    "negative",
    "outer",
    "pad",
    "power",
    "prod",
    "ravel",
    "relu",
    "repeat",
    "reshape",
    "roll",
    "scatter_add",
    "sigmoid",
    "sign",
    "sin",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "sort",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "subtract",
    "sum",
    "sum_over_blocks",
    "sum_to",
    "swapaxes",
    "take_along_axis",
    "tanh",
    "tensordot",
    "tile",
    "topk",
    "transpose",
    "var",
    "where",
    "winograd",
]
