"""Kernels of quantsim: ops on quantized numbers, and the registry that chooses among their backends."""

from __future__ import annotations

from quantsim_kernels.affine import (
    affine_dequantize,
    affine_dynamic_quantize_dequantize,
    affine_quantize,
    affine_quantize_dequantize,
)
from quantsim_kernels.float_cast import (
    float_cast,
    float_dynamic_quantize_dequantize,
    float_quantize_dequantize,
)
from quantsim_kernels.operands import QuantizedOperand
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

__all__ = [
    "Backend",
    "Decision",
    "Kernel",
    "KernelUnavailableError",
    "QuantizedOperand",
    "Registry",
    "Scheme",
    "affine_dequantize",
    "affine_dynamic_quantize_dequantize",
    "affine_quantize",
    "affine_quantize_dequantize",
    "backends",
    "explain",
    "float_cast",
    "float_dynamic_quantize_dequantize",
    "float_quantize_dequantize",
    "force_backend",
    "forced_backend",
    "has_kernels",
    "ops",
    "register",
    "registry",
    "select",
    "unregister",
]
