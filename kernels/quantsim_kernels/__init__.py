"""Kernels of quantsim: ops on quantized numbers, and the registry that chooses among their backends."""

from __future__ import annotations

from quantsim_kernels import fixed_point, integer
from quantsim_kernels.accumulation import Accumulation
from quantsim_kernels.affine import (
    affine_dequantize,
    affine_dynamic_quantize_dequantize,
    affine_quantize,
    affine_quantize_dequantize,
)
from quantsim_kernels.float_cast import (
    float_cast,
    float_cast_gradient,
    float_dynamic_quantize_dequantize,
    float_quantize_dequantize,
)
from quantsim_kernels.float_codes import float_decode, float_encode
from quantsim_kernels.float_matmul import (
    accumulated_attention,
    accumulated_convolution,
    accumulated_linear,
    accumulated_matmul,
)
from quantsim_kernels.mx import MXCodes, mx_dequantize, mx_quantize, mx_quantize_dequantize
from quantsim_kernels.operands import DeferredOperand, OperandCast, QuantizedOperand
from quantsim_kernels.optical import (
    OpticalGradient,
    optical_accumulate,
    optical_linear,
    optical_matmul,
    optical_quantize,
)
from quantsim_kernels.optical_attention import optical_attention
from quantsim_kernels.random_seeds import manual_seed, next_seed, rounding_noise
from quantsim_kernels.registry import (
    Backend,
    Decision,
    Kernel,
    KernelUnavailableError,
    Registry,
    Scheme,
    backends,
    explain,
    force_backend,
    forced_backend,
    has_kernels,
    ops,
    register,
    registry,
    select,
    unregister,
)
from quantsim_kernels.squeezelight import squeezelight_linear
from quantsim_kernels.torch.compilation import compiled_kernels

__all__ = [
    "Accumulation",
    "Backend",
    "Decision",
    "DeferredOperand",
    "Kernel",
    "KernelUnavailableError",
    "MXCodes",
    "OperandCast",
    "OpticalGradient",
    "QuantizedOperand",
    "Registry",
    "Scheme",
    "accumulated_attention",
    "accumulated_convolution",
    "accumulated_linear",
    "accumulated_matmul",
    "affine_dequantize",
    "affine_dynamic_quantize_dequantize",
    "affine_quantize",
    "affine_quantize_dequantize",
    "backends",
    "compiled_kernels",
    "explain",
    "fixed_point",
    "float_cast",
    "float_cast_gradient",
    "float_decode",
    "float_dynamic_quantize_dequantize",
    "float_encode",
    "float_quantize_dequantize",
    "force_backend",
    "forced_backend",
    "has_kernels",
    "integer",
    "manual_seed",
    "mx_dequantize",
    "mx_quantize",
    "mx_quantize_dequantize",
    "next_seed",
    "ops",
    "optical_accumulate",
    "optical_attention",
    "optical_linear",
    "optical_matmul",
    "optical_quantize",
    "register",
    "registry",
    "rounding_noise",
    "select",
    "squeezelight_linear",
    "unregister",
]
