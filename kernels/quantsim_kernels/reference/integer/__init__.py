"""The numeric law of integer graphs: NumPy int64 functions, one for each op; every executor is tested against these.

All of them take and return int64 arrays. Constants (weights, multipliers, tables) are int64 arrays too, attributes
plain numbers. A real ratio is ``multiplier / 2^shift``; sums and products are exact, and each value is rounded once,
half away from zero. Where a number could leave int64 they raise `OverflowError` instead of wrapping.
"""

from __future__ import annotations

from quantsim_kernels.reference.integer.arithmetic import (
    Integers,
    rounded_division,
    rounded_shift,
    square_root,
)
from quantsim_kernels.reference.integer.attention import exponential, softmax, softmax_matmul
from quantsim_kernels.reference.integer.elementwise import (
    add,
    clamp,
    multiply,
    negate,
    requantize,
    scale_shift,
    table,
)
from quantsim_kernels.reference.integer.normalization import layer_norm, rms_norm
from quantsim_kernels.reference.integer.pooling import average_pool, max_pool, mean
from quantsim_kernels.reference.integer.products import convolution, linear, matmul
from quantsim_kernels.reference.integer.structure import (
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
    "Integers",
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
