"""The codes of block formats: element codes and scale codes, one to an entry, as they would be packed.

Sources: OCP Microscaling v1.0 (e8m0 scales, whose code 255 is NaN; integers in two's complement with the point behind
the second bit), NVFP4 (e4m3 scales).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantsim_encodings.formats import BlockFormat, FloatFormat, IntFormat, MXFormat
from quantsim_kernels.reference import float_codes
from quantsim_kernels.reference.mx import BlockCast, element_grid, spread_over_blocks

__all__ = ["decode", "element_code_dtype", "encode"]


def element_code_dtype(element: FloatFormat | IntFormat) -> torch.dtype:
    """The integers that hold an element's codes.

    Example:
        >>> element_code_dtype(IntFormat(-128, 127)), element_code_dtype(IntFormat(0, 255))
        (torch.int8, torch.uint8)
    """
    if isinstance(element, FloatFormat):
        return float_codes.code_dtype(element)
    if element.bits > 8:
        return torch.int32
    return torch.int8 if element.signed else torch.uint8


def encode(cast: BlockCast, format: BlockFormat, axis: int) -> tuple[Tensor, Tensor]:
    """``(element codes, scale codes)``; elements of NaN blocks get the code of zero.

    Args:
        cast: what :func:`quantsim_kernels.reference.mx.quantize` gave.
        format: the block format.
        axis: along which blocks lie.

    Example:
        >>> from quantsim_encodings.formats import mx_format
        >>> from quantsim_kernels.reference.mx import quantize
        >>> codes, scales = encode(
        ...     quantize(torch.tensor([1.1, -7.0]), mx_format("mxfp4")), mx_format("mxfp4"), 0
        ... )
        >>> codes.tolist(), scales.tolist()
        ([2, 15], [127])
    """
    missing = spread_over_blocks(cast.scale.isnan(), format.block_size, axis, cast.elements.shape[axis])
    elements = torch.where(missing, torch.zeros_like(cast.elements), cast.elements)
    scale_codes = float_codes.encode(cast.scale, format.scale_format)
    if isinstance(format.element, FloatFormat):
        return float_codes.encode(elements, format.element), scale_codes
    steps = elements * 2.0 ** element_grid(format.element).fraction_bits
    return steps.to(element_code_dtype(format.element)), scale_codes


def decode(
    codes: Tensor, scale_codes: Tensor, tensor_scale: Tensor | None, format: BlockFormat, dtype: torch.dtype
) -> BlockCast:
    """Undoes :func:`encode`, for results in ``dtype``.

    Args:
        codes: element codes.
        scale_codes: scale codes.
        tensor_scale: float32 scale of the tensor, or ``None``.
        format: the block format.
        dtype: in which the tensor was, or will be.
    """
    # In which the arithmetic is defined, see quantsim_kernels.reference.mx.
    wide = torch.float64 if isinstance(format, MXFormat) else torch.promote_types(dtype, torch.float32)
    if isinstance(format.element, FloatFormat):
        elements = float_codes.decode(codes, format.element)
    else:
        elements = codes.to(torch.float64) * 2.0 ** -element_grid(format.element).fraction_bits
    scale = float_codes.decode(scale_codes, format.scale_format)
    return BlockCast(elements.to(wide), scale.to(wide), tensor_scale)
