"""Whether a Triton kernel may be launched, found out without importing Triton."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from quantsim_encodings.formats import IntFormat, MXFormat, NVFP4Format
from quantsim_kernels.operands import DeferredOperand, QuantizedOperand

__all__ = [
    "LARGEST_BLOCK",
    "block_format_objection",
    "float_cast_objection",
    "float_matmul_objection",
    "is_installed",
    "is_interpreted",
    "launch_objection",
    "mx_objection",
    "optical_objection",
]

LARGEST_BLOCK = 4096
"""Elements of a block that one program of the block-format kernel holds."""

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_BITS_BELOW = 22


@cache
def is_installed() -> bool:
    """Whether the ``triton`` package can be imported (it is not imported)."""
    return importlib.util.find_spec("triton") is not None


@cache
def is_interpreted() -> bool:
    """Whether Triton runs in its interpreter, on CPU tensors; read once, as Triton itself does."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def launch_objection(x: Tensor, *operands: Any, zero_point_shift: float = 0.0, **arguments: Any) -> str | None:
    """Why the Triton kernels cannot run on ``x``, or ``None`` when they can."""
    if not x.is_cuda and not (x.is_cpu and is_interpreted()):
        return "it serves CUDA tensors only (CPU tensors under TRITON_INTERPRET=1)"
    if not is_installed():
        return "the package triton is not installed"
    if zero_point_shift:
        return "it has no zero_point_shift"
    return None


def float_cast_objection(x: Tensor, *operands: Any, **arguments: Any) -> str | None:
    """Why the Triton casts to float formats cannot run on ``x``, or ``None`` when they can."""
    if x.dtype not in _DTYPES:
        return f"it computes in float32, and x is {str(x.dtype).removeprefix('torch.')}"
    return launch_objection(x)


def block_format_objection(format: MXFormat | NVFP4Format, length: int) -> str | None:
    """Why the Triton cast cannot serve blocks of ``format`` along a dimension of ``length``, or ``None``."""
    size = min(format.block_size, length)
    if size > LARGEST_BLOCK:
        return f"it takes blocks of at most {LARGEST_BLOCK} elements, and these have {size}"
    element = format.element
    if isinstance(format, MXFormat):
        # With the smallest scale, 2**-127, an element's last bit must still be a float32's.
        below = element.bits - 2 if isinstance(element, IntFormat) else element.mantissa_bits - element.min_exponent
        if below > _MOST_BITS_BELOW:
            return "the elements are finer than float32 holds with the smallest scale"
        if isinstance(element, IntFormat) and element.qmin > 0:
            return "its integer elements include 0"
    return None


def mx_objection(
    x: Tensor, format: MXFormat | NVFP4Format, axis: int = -1, *operands: Any, **arguments: Any
) -> str | None:
    """Why the Triton cast to block formats cannot run on ``x``, or ``None`` when it can."""
    return float_cast_objection(x) or block_format_objection(format, x.shape[axis] if x.dim() else 1)


def float_matmul_objection(*operands: Any, **arguments: Any) -> str | None:
    """Why the Triton products cannot run on these operands (tensors or quantized operands), or ``None``."""
    for operand in operands:
        tensor = operand
        if isinstance(operand, DeferredOperand):
            tensor = operand.source
        elif isinstance(operand, QuantizedOperand):
            tensor = operand.values
        if isinstance(tensor, Tensor):
            objection = float_cast_objection(tensor)
            if objection is not None:
                return objection
    return None


def optical_objection(x: Tensor, *operands: Any, **arguments: Any) -> str | None:
    """Why the Triton kernels of optical levels and products cannot run on these operands, or ``None``."""
    for operand in (x, *operands):
        if isinstance(operand, Tensor):
            objection = float_cast_objection(operand)
            if objection is not None:
                return objection
            if operand.device != x.device:
                return f"operands are on {x.device} and {operand.device}, expected one device"
    return None
