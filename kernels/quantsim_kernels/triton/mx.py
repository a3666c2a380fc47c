"""Block formats (MX, NVFP4) in Triton: which tensors the kernel takes, and its launch. Bit-equal to the reference."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, MXFormat, MXScaleRule, NVFP4Format, RoundingMode
from quantsim_kernels.reference import mx as reference
from quantsim_kernels.reference.float_cast import exponent_range
from quantsim_kernels.triton._mx_kernels import mx_kernel
from quantsim_kernels.triton.availability import block_format_objection
from quantsim_kernels.triton.float_cast import PRECISION, WIDE_ELEMENTS, kernel_tensor, seed_argument, tile_elements

__all__ = ["block_format_constants", "quantize_dequantize"]

_SCALE_RULES = {MXScaleRule.FLOOR: 0, MXScaleRule.CEIL: 1, MXScaleRule.EVEN: 2, MXScaleRule.RCEIL: 3}
_NVFP4 = 4


def block_format_constants(format: MXFormat | NVFP4Format, rounding: RoundingMode) -> dict[str, int]:
    """The compile-time constants that the kernel takes for a block format, see :mod:`._mx_kernels`.

    Example:
        >>> from quantsim_encodings.formats import mx_format
        >>> constants = block_format_constants(mx_format("mxint8"), RoundingMode.NEAREST_EVEN)
        >>> constants["LARGEST"], constants["LARGEST_NEGATIVE"], constants["LOWEST"] - constants["MANTISSA"]
        (127, 128, -6)
    """
    grid = reference.element_grid(format.element)
    lowest, highest = exponent_range(grid.format)
    mantissa = grid.format.mantissa_bits
    if isinstance(format.element, FloatFormat):
        largest = largest_negative = int(math.ldexp(grid.high, mantissa - highest))
    else:
        # The first binade of the element's float format is all there is; its steps are those of the integers.
        highest = lowest
        largest, largest_negative = format.element.qmax, max(0, -format.element.qmin)
    return {
        "LOWEST": lowest,
        "HIGHEST": highest,
        "MANTISSA": mantissa,
        "LARGEST": largest,
        "LARGEST_NEGATIVE": largest_negative,
        "TOP_EXPONENT": grid.exponent,
        "TOP_SIGNIFICAND": int(math.ldexp(grid.high, 23 - grid.exponent)),
        "FRACTION_BITS": grid.fraction_bits,
        "INTEGER": int(grid.is_integer),
        "SIGNED": int(grid.format.signed),
        "SUBNORMALS": int(grid.format.has_subnormals),
        "NEGATIVE_ZERO": int(grid.format.has_negative_zero),
        "SCALE_RULE": _NVFP4 if isinstance(format, NVFP4Format) else _SCALE_RULES[format.scale_rule],
        "ROUNDING": rounding.number,
    }


def quantize_dequantize(
    x: Tensor,
    format: MXFormat | NVFP4Format,
    axis: int = -1,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """Scales and elements in one Triton kernel, one pass over memory (NVFP4 with two levels: a second to read).

    The reference computes what the kernel does not cover, see :func:`.availability.block_format_objection`.

    Arguments, result and errors as :func:`quantsim_kernels.reference.mx.quantize_dequantize`; gradients are the
    caller's.
    """
    reference.check_block_format(format, x.dtype)
    source = x.detach().contiguous()
    y = source if inplace and x.is_contiguous() else torch.empty_like(source)
    count = source.numel()
    if not count:
        return y
    shape = source.shape or (1,)
    axis = axis % len(shape)
    length, inner = shape[axis], math.prod(shape[axis + 1 :])
    if x.dtype not in PRECISION or block_format_objection(format, length) is not None:
        return reference.quantize_dequantize(x, format, axis, rounding, seed)
    block = min(format.block_size, length)
    per_line = triton.cdiv(length, block)
    lines = count // length * per_line
    columns = triton.next_power_of_2(block)
    in_tile = max(1, tile_elements(count) // columns)
    tensor_scale = None
    if isinstance(format, NVFP4Format):
        if format.two_level:
            tensor_scale = reference.nvfp4_tensor_scale(source, format)
        else:
            tensor_scale = torch.ones((), dtype=torch.float32, device=source.device)
    launch: Any = mx_kernel[(triton.cdiv(lines, in_tile),)]
    # Triton launches on the current device, which need not be the tensor's.
    with torch.cuda.device_of(source):
        launch(
            kernel_tensor(source),
            seed_argument(seed, rounding, "mx_quantize_dequantize", source.device),
            source if tensor_scale is None else tensor_scale,
            kernel_tensor(y),
            lines,
            length,
            inner,
            per_line,
            block,
            **block_format_constants(format, rounding),
            PRECISION=PRECISION[source.dtype],
            LAST=inner == 1,
            WIDE_INDEX=count >= WIDE_ELEMENTS,
            LINES=in_tile,
            COLUMNS=columns,
            enable_fp_fusion=False,
        )
    return y
