"""The ops of integer graphs in torch, on any device: bit-equal to `quantsim_kernels.reference.integer`.

The functions have the names and parameters of the reference. They take and return tensors of the values' own dtypes
(codes in uint8, int8 or int16, sums in int32) and never change an operand; constants are integer tensors or arrays.
That no intermediate leaves int64, and no sum int32, is the maker's of the graph to see to: it is checked only there.
"""

from __future__ import annotations

from quantsim_kernels.torch.integer.attention import exponential, softmax, softmax_matmul
from quantsim_kernels.torch.integer.elementwise import (
    add,
    clamp,
    multiply,
    negate,
    requantize,
    scale_shift,
    table,
)
from quantsim_kernels.torch.integer.normalization import layer_norm, rms_norm
from quantsim_kernels.torch.integer.pooling import average_pool, max_pool, mean
from quantsim_kernels.torch.integer.products import convolution, linear, matmul
from quantsim_kernels.torch.integer.rounding import rounded_division, rounded_shift, square_root
from quantsim_kernels.torch.integer.structure import (
    concatenate,
    embedding,
    expand,
    pad,
    reshape,
    roll,
    slice,
    take,
    transpose,
)

__all__ = [
    "add",
    "average_pool",
    "clamp",
    "concatenate",
    "convolution",
    "embedding",
    "expand",
    "exponential",
    "layer_norm",
    "linear",
    "matmul",
    "max_pool",
    "mean",
    "multiply",
    "negate",
    "pad",
    "requantize",
    "reshape",
    "rms_norm",
    "roll",
    "rounded_division",
    "rounded_shift",
    "scale_shift",
    "slice",
    "softmax",
    "softmax_matmul",
    "square_root",
    "table",
    "take",
    "transpose",
]
