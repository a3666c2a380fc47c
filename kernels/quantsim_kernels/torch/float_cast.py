"""Casts to any floating-point format on the CPU: the reference's numbers, bit for bit, in about six passes.

Adding and subtracting ``1.5 * 2**(23 - m)`` times the power of two at or below ``|x|`` rounds a float32 to ``m``
fraction bits, ties to even: the sum's own last bit then weighs one quantum. Clamping that power of two from below gives
subnormals, from above it keeps the sum finite. Formats with float32's exponents leave no room above, so they are
rounded on the integer bits instead, which also carries into the exponent as it must. Tested against the reference on
all float16, all bfloat16 and random float32 bit patterns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from quantsim_encodings.formats import FloatFormat, float_format
from quantsim_kernels.reference import affine as affine_reference
from quantsim_kernels.reference import float_cast as reference
from quantsim_kernels.torch import _pieces
from quantsim_kernels.torch._pieces import apply_in_pieces

__all__ = ["dynamic_quantize_dequantize", "float_cast", "objection", "quantize_dequantize"]

_PLAIN_TENSORS = (Tensor, Parameter)
_EXPONENT_MASK = 0x7F800000
_FLOAT32_EXPONENTS = (-126, 127)
_NATIVE = {float_format("fp16"): torch.float16, float_format("bf16"): torch.bfloat16}


def objection(x: Tensor, *operands: Any, **arguments: Any) -> str | None:
    """Why these kernels cannot run: they want an ordinary CPU tensor and a format with a fast law."""
    if not x.is_cpu:
        return "it serves CPU tensors only"
    if type(x) not in _PLAIN_TENSORS:
        return f"it serves plain tensors only, not {type(x).__name__}"
    if x.dtype is torch.float64:
        return "it computes in float32, and x is float64"
    for operand in operands:
        if isinstance(operand, FloatFormat):
            return None if _law(operand) is not None else "the format has no fast law; only the reference covers it"
    return "no format was given"


def _law(format: FloatFormat) -> Any:
    """The fast rounding that is exact for ``format``, or ``None``."""
    if format in _NATIVE:
        return _round_by_conversion
    if not (format.signed and format.has_zero and format.has_subnormals and format.mantissa_bits >= 1):
        return None
    lowest, highest = reference.exponent_range(format)
    if lowest >= -126 and format.mantissa_bits <= 21 and highest + 24 - format.mantissa_bits <= 127:
        return _round_by_sum
    if (lowest, highest) == _FLOAT32_EXPONENTS and format.mantissa_bits <= 22:
        return _round_by_bits
    return None


def _round_by_conversion(x: Tensor, format: FloatFormat, out: Tensor | None) -> Tensor:
    """Rounded by torch's own conversion, which is exact; what is too large becomes infinity."""
    y = x.to(_NATIVE[format])
    return y.to(torch.float32) if out is None else out.copy_(y)


def _round_by_sum(x: Tensor, format: FloatFormat, out: Tensor | None) -> Tensor:
    """Rounded without overflow; zeros lose their sign. Leaves infinities and NaN alone."""
    lowest, highest = reference.exponent_range(format)
    power = torch.bitwise_and(x.view(torch.int32), _EXPONENT_MASK).view(torch.float32)
    power.clamp_(2.0**lowest, 2.0**highest)
    factor = 1.5 * 2.0 ** (23 - format.mantissa_bits)
    # Both products are exact: `power` is a power of two and the factor has two significant bits.
    shifted = torch.add(x, power, alpha=factor)
    return torch.sub(shifted, power, alpha=factor, out=shifted if out is None else out)


def _round_by_bits(x: Tensor, format: FloatFormat, out: Tensor | None) -> Tensor:
    """Rounded on the bits, for formats with the exponents of float32; what carries too far becomes infinity."""
    dropped = 23 - format.mantissa_bits
    bits = x.view(torch.int32)
    rounded = torch.bitwise_right_shift(bits, dropped)
    # Half a quantum less one, plus the last bit that stays: ties go up only from an odd number.
    rounded.bitwise_and_(1).add_(bits).add_((1 << (dropped - 1)) - 1).bitwise_and_(-(1 << dropped))
    result = rounded.view(torch.float32)
    # A NaN's payload can carry into the sign or vanish into infinity's code.
    return torch.where(x != x, x, result) if out is None else torch.where(x != x, x, result, out=out)


def _cast_piece(x: Tensor, format: FloatFormat, saturate: bool, saturate_infinity: bool, out: Tensor | None) -> Tensor:
    """All of a cast on one float32 piece; ``out`` must not share memory with ``x``."""
    law = _law(format)
    y = law(x, format, out)
    if saturate and (saturate_infinity or not format.has_infinity):
        y.clamp_(-format.max, format.max)
    elif saturate:
        # Infinities stay infinite: rare enough to look for first.
        if not -format.max <= y.amin().item() <= y.amax().item() <= format.max:
            finite = y.clamp(-format.max, format.max)
            torch.where(x.isinf(), x, finite, out=y)
    else:
        over = y.abs() > format.max
        if saturate_infinity and format.has_infinity:
            over.logical_and_(x.isinf().logical_not_())
        beyond = math.inf if format.has_infinity else math.nan
        y.masked_fill_(over, beyond)
        if saturate_infinity:
            y.masked_fill_(x.isinf(), format.max)
    if format.has_negative_zero:
        # The sum loses the sign of zero, the filling that of what was too large.
        if law is _round_by_sum or not saturate:
            torch.copysign(y, x, out=y)
    elif law is _round_by_bits:
        y.add_(0.0)
    return y


def float_cast(
    x: Tensor,
    format: FloatFormat,
    saturate: bool = True,
    saturate_infinity: bool = False,
    inplace: bool = False,
) -> Tensor:
    """About six passes on the CPU, in pieces that stay in the cache.

    Arguments, result and errors as :func:`quantsim_kernels.float_cast`; gradients are the caller's.
    """
    reference.check_format(format, x.dtype, saturate)

    def step(source: Tensor, parameters: Sequence[Tensor | None], out: Tensor | None) -> Tensor:
        # Signs are restored from the source, so it may not be overwritten before the end.
        if out is None or inplace or out is source:
            y = _cast_piece(source, format, saturate, saturate_infinity, None)
            return y if out is None else out.copy_(y)
        return _cast_piece(source, format, saturate, saturate_infinity, out)

    source = x.detach()
    done = apply_in_pieces(step, source, (), source.shape, dtype=torch.float32, out_dtype=x.dtype, inplace=inplace)
    return x if inplace else done


def quantize_dequantize(
    x: Tensor,
    scale: Tensor | None,
    format: FloatFormat,
    block_size: Sequence[int] | None = None,
    inplace: bool = False,
) -> Tensor:
    """Division, cast and product on each piece while it is in the cache.

    Arguments, result and errors as :func:`quantsim_kernels.float_quantize_dequantize`; gradients are the caller's.
    """
    if scale is None:
        return float_cast(x, format, inplace=inplace)
    reference.check_format(format, x.dtype, True)
    source = x.detach()
    view, scale_view = affine_reference.blocked_shapes(x.shape, scale.shape, block_size)
    s = scale.detach().reshape(scale_view).to(torch.float32)

    def step(source: Tensor, parameters: Sequence[Tensor | None], out: Tensor | None) -> Tensor:
        (scale_piece,) = parameters
        assert scale_piece is not None
        values = _cast_piece(torch.div(source, scale_piece), format, True, False, None)
        return torch.mul(values, scale_piece, out=values if out is None else out)

    done = apply_in_pieces(step, source, (s,), view, dtype=torch.float32, out_dtype=x.dtype, inplace=inplace)
    return x if inplace else done


def dynamic_quantize_dequantize(x: Tensor, format: FloatFormat, inplace: bool = False) -> Tensor:
    """Range and cast of each piece while it is in the cache.

    Arguments, result and errors as :func:`quantsim_kernels.float_dynamic_quantize_dequantize`; gradients are the
    caller's.
    """
    if x.numel() == 0 or x.dim() == 0:
        return reference.dynamic_quantize_dequantize(x, format)
    source = x.detach()
    done = source if inplace else torch.empty_like(source)

    def rows(piece: Tensor, target: Tensor) -> None:
        # The largest magnitude of a row without a pass for magnitudes.
        largest = torch.maximum(piece.amax(dim=-1, keepdim=True), piece.amin(dim=-1, keepdim=True).neg_())
        scale = reference.dynamic_float_scale(largest, format)
        values = _cast_piece(torch.div(piece.to(torch.float32), scale), format, True, False, None)
        if target.dtype is torch.float32:
            torch.mul(values, scale, out=target)
        else:
            target.copy_(values.mul_(scale))

    if source.numel() <= _pieces.WHOLE_ELEMENTS or not source.is_contiguous():
        rows(source, done)
    else:
        width = x.shape[-1]
        step = max(1, _pieces.PIECE_ELEMENTS // width)
        for piece, target in zip(source.view(-1, width).split(step), done.view(-1, width).split(step), strict=True):
            rows(piece, target)
    return x if inplace else done
