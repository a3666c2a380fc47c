"""Rounding to any floating-point format: the one definition of its numbers.

A cast takes three steps, each written once here: the *quantum* (the spacing of the format's numbers at ``x``), rounding
to a multiple of it, and what happens beyond the largest number. They run in float64, where every step is exact for
formats of up to 8 exponent and 23 fraction bits; another law of rounding replaces the second step alone.

Sources: IEEE 754-2019 (rounding to nearest, ties to even; subnormals; overflow), OCP 8-bit Floating Point 1.0 and OCP
Microscaling 1.0 (formats without infinities, saturation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, NanEncoding
from quantsim_kernels.reference.operand_layout import blocked_shapes

__all__ = [
    "MAX_EXPONENT_BITS",
    "MAX_MANTISSA_BITS",
    "check_format",
    "dynamic_float_scale",
    "dynamic_quantize_dequantize",
    "exponent_range",
    "float_cast",
    "quantize_dequantize",
    "quantize_dequantize_backward",
]

MAX_EXPONENT_BITS = 8
MAX_MANTISSA_BITS = 23

# Rows of zeros take this scale: the smallest normal float32, so that no ratio overflows and zero stays zero.
_SMALLEST_SCALE = 2.0**-126


def exponent_range(format: FloatFormat) -> tuple[int, int]:
    """Exponents of the smallest normal and of the largest number.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> exponent_range(float_format("e4m3fn")), exponent_range(float_format("fp16"))
        ((-6, 8), (-14, 15))
    """
    return format.min_exponent, format.max_exponent


def check_format(format: FloatFormat, dtype: torch.dtype, saturate: bool) -> None:
    """Raise where ``format`` cannot be simulated on tensors of ``dtype``.

    Raises:
        TypeError: ``format`` is no :class:`FloatFormat`, or ``dtype`` is not floating-point.
        ValueError: the format is wider than the definition covers, or reaches beyond ``dtype``'s exponents, or neither
            saturates nor has a code for what is too large.
    """
    if not isinstance(format, FloatFormat):
        raise TypeError(
            f"format: got {type(format).__name__}, expected a FloatFormat, for instance float_format('e4m3fn')"
        )
    if not dtype.is_floating_point:
        raise TypeError(f"x: got {dtype}, expected a floating-point tensor; convert it with x.float()")
    if format.exponent_bits > MAX_EXPONENT_BITS or format.mantissa_bits > MAX_MANTISSA_BITS:
        raise ValueError(
            f"format: got {format.exponent_bits} exponent and {format.mantissa_bits} fraction bits, expected at most "
            f"{MAX_EXPONENT_BITS} and {MAX_MANTISSA_BITS}"
        )
    lowest, highest = exponent_range(format)
    if lowest - format.mantissa_bits < -149 or highest > 127:
        raise ValueError(
            f"format: got numbers from {format.tiny:g} to {format.max:g}, expected none that float32 cannot hold; "
            "use a bias nearer to the default"
        )
    if not saturate and not format.has_infinity and format.nan is NanEncoding.NONE:
        raise ValueError(
            "saturate=False: the format has neither infinities nor NaN for numbers that are too large; "
            "use saturate=True"
        )


def _power_of_two(exponent: Tensor) -> Tensor:
    """``2**exponent`` as float64, exact for -1022..1023 (exp2 and ldexp are not, on every backend)."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def _quantum_exponent(magnitude: Tensor, format: FloatFormat) -> Tensor:
    """Exponent of the spacing of the format's numbers at ``magnitude`` (float64, finite or not).

    Below the normal numbers the spacing stays; above the largest it does too, which is enough to see the overflow.
    """
    lowest, highest = exponent_range(format)
    exponent = ((magnitude.view(torch.int64) >> 52) & 0x7FF) - 1023
    return exponent.clamp(lowest, highest) - format.mantissa_bits


def _round_to_quantum(magnitude: Tensor, format: FloatFormat) -> Tensor:
    """``magnitude`` rounded to the nearest multiple of its quantum, ties to the even code."""
    exponent = _quantum_exponent(magnitude, format)
    steps = magnitude * _power_of_two(-exponent)
    rounded = steps.round()
    if format.mantissa_bits == 0:
        # Without fraction bits the code's last bit is the exponent's: 1.5 quanta lie between the codes of this exponent
        # and of the next, and the even one of the two wins.
        tie = (steps == 1.5) & ((exponent + _code_bias(format)) % 2 == 0)
        rounded = torch.where(tie, torch.ones_like(rounded), rounded)
    return rounded * _power_of_two(exponent)


def _code_bias(format: FloatFormat) -> int:
    """What is added to a number's exponent to get its exponent code."""
    lowest, _ = exponent_range(format)
    return (1 if format.has_zero else 0) - lowest


def float_cast(x: Tensor, format: FloatFormat, saturate: bool = True, saturate_infinity: bool = False) -> Tensor:
    """``x`` rounded to the nearest number of ``format``, ties to even, without a gradient of its own.

    * NaN stays NaN. -0 stays -0, and what rounds to zero keeps its sign, where the format has a -0.
    * A finite number that rounds beyond the largest one becomes that one (``saturate``), else infinity, else NaN.
    * Infinity stays where the format has it, unless ``saturate_infinity``; else it is treated as too large.
    * Without subnormals, what would be subnormal becomes zero.
    * In an unsigned format negative numbers are out of range: zero (or the smallest number) if ``saturate``, else NaN.

    Args:
        x: floating-point tensor, any shape.
        format: the format, at most 8 exponent and 23 fraction bits.
        saturate: what is too large becomes the largest number.
        saturate_infinity: infinities do so too.

    Returns:
        Numbers of the format, in the shape and dtype of ``x``.

    Raises:
        TypeError, ValueError: see :func:`check_format`.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> float_cast(torch.tensor([1.97, 464.0, 465.0, -0.0005]), float_format("e4m3fn")).tolist()
        [2.0, 448.0, 448.0, -0.0]
    """
    check_format(format, x.dtype, saturate)
    wide = x.detach().to(torch.float64)
    magnitude = wide.abs()
    infinite = magnitude == math.inf
    result = _round_to_quantum(magnitude, format)
    if not format.has_subnormals and format.has_zero:
        result = torch.where(result < format.min_normal, torch.zeros_like(result), result)
    overflow = format.max if saturate else (math.inf if format.has_infinity else math.nan)
    result = torch.where((result > format.max) | infinite, torch.full_like(result, overflow), result)
    if format.has_infinity or saturate_infinity:
        result = torch.where(infinite, torch.full_like(result, format.max if saturate_infinity else math.inf), result)
    if not format.has_zero:
        result = torch.where(
            result < format.tiny, torch.full_like(result, format.tiny if saturate else math.nan), result
        )
    if format.signed:
        result = torch.copysign(result, wide)
        if not format.has_negative_zero:
            result = result + 0.0
    else:
        smallest = 0.0 if format.has_zero else format.tiny
        result = torch.where(wide < 0, torch.full_like(result, smallest if saturate else math.nan), result)
    return torch.where(wide.isnan(), wide, result).to(x.dtype)


def _operands(x: Tensor, scale: Tensor | None, block_size: Sequence[int] | None) -> tuple[Tensor, Tensor | None]:
    """Tensor and scale in the shapes in which they broadcast, in float32 (float64 for float64)."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if scale is None:
        return x.to(dtype), None
    view, scale_view = blocked_shapes(x.shape, scale.shape, block_size)
    return x.reshape(view).to(dtype), scale.reshape(scale_view).to(dtype=dtype, device=x.device)


def quantize_dequantize(
    x: Tensor,
    scale: Tensor | None,
    format: FloatFormat,
    block_size: Sequence[int] | None = None,
) -> Tensor:
    """``cast(x / s) * s`` with saturation; ``cast(x)`` without a scale. No gradient of its own.

    Args:
        x: floating-point tensor.
        scale: positive scales that broadcast to ``x``, or one for each block; ``None`` means 1.
        format: the format.
        block_size: see :mod:`quantsim_kernels.reference.affine`.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> quantize_dequantize(torch.tensor([0.3, 9.0]), torch.tensor(0.5), float_format("e2m1")).tolist()
        [0.25, 3.0]
    """
    values, s = _operands(x, scale, block_size)
    if s is None:
        return float_cast(values, format).to(x.dtype)
    return (float_cast(values / s, format) * s).to(x.dtype).reshape(x.shape)


def quantize_dequantize_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor | None,
    format: FloatFormat,
    block_size: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of :func:`quantize_dequantize`, the rounding passed straight through.

    With ``t = x / s`` and inside meaning ``|t| <= max``::

        dx = g                     inside, 0 outside
        ds = g * (cast(t) - t)     inside, g * cast(t) outside

    Args:
        grad: gradient of the result, in the shape of ``x``.
        x: as given to :func:`quantize_dequantize`, like all that follow.
        scale: scales or ``None``.
        format: the format.
        block_size: block sizes or ``None``.

    Returns:
        ``(dx, dscale)``, the second in the shape of ``scale``.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> x, scale = torch.tensor([0.3, 9.0]), torch.tensor(0.5)
        >>> dx, dscale = quantize_dequantize_backward(torch.ones(2), x, scale, float_format("e2m1"))
        >>> dx.tolist(), round(float(dscale), 4)
        ([1.0, 0.0], 5.9)
    """
    values, s = _operands(x, scale, block_size)
    g = grad.reshape(values.shape).to(values.dtype)
    ratio = values if s is None else values / s
    inside = (ratio >= (-format.max if format.signed else 0.0)) & (ratio <= format.max)
    dx = torch.where(inside, g, torch.zeros_like(g)).to(x.dtype).reshape(x.shape)
    if scale is None or s is None:
        return dx, None
    rounded = float_cast(ratio, format)
    dscale = (g * torch.where(inside, rounded - ratio, rounded)).sum_to_size(s.shape)
    return dx, dscale.reshape(scale.shape).to(scale.dtype)


def dynamic_float_scale(x: Tensor, format: FloatFormat) -> Tensor:
    """Scale of each row of the last dimension: its largest magnitude over the format's largest number.

    Args:
        x: floating-point tensor, shape ``(..., n)``.
        format: the format.

    Returns:
        float32, shape ``(..., 1)``.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> dynamic_float_scale(torch.tensor([[1.0, -12.0], [0.0, 0.0]]), float_format("e2m1")).tolist()[0]
        [2.0]
    """
    largest = x.abs().amax(dim=-1, keepdim=True).to(torch.float32)
    return (largest / format.max).clamp(min=_SMALLEST_SCALE)


def dynamic_quantize_dequantize(x: Tensor, format: FloatFormat) -> Tensor:
    """:func:`quantize_dequantize` with :func:`dynamic_float_scale`. No gradient of its own.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> dynamic_quantize_dequantize(torch.tensor([[1.1, -12.0]]), float_format("e2m1")).tolist()
        [[1.0, -12.0]]
    """
    if x.numel() == 0:
        return x.clone()
    if x.dim() == 0:
        return dynamic_quantize_dequantize(x.reshape(1), format).reshape(())
    return quantize_dequantize(x, dynamic_float_scale(x.detach(), format), format)


class FloatCastFunction(torch.autograd.Function):
    """Straight through: the gradient of the cast is the identity, or is clipped to the format's range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cast: Any, low: float, high: float, clip_gradient: bool) -> Tensor:
        ctx.range = (low, high)
        ctx.clip_gradient = clip_gradient
        if clip_gradient:
            ctx.save_for_backward(x)
        return cast(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        grad = gradients[0]
        if ctx.clip_gradient:
            (x,) = ctx.saved_tensors
            low, high = ctx.range
            grad = torch.where((x >= low) & (x <= high), grad, torch.zeros_like(grad))
        return grad, None, None, None, None


class FloatQuantizeDequantizeFunction(torch.autograd.Function):
    """Saves only its inputs; the backward recomputes. ``forward_function`` is a backend's forward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor | None, format: FloatFormat, block_size: Any, forward_function: Any
    ) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.arguments = (format, block_size)
        return forward_function(x, scale, format, block_size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, scale = ctx.saved_tensors
        dx, dscale = quantize_dequantize_backward(gradients[0], x, scale, *ctx.arguments)
        return dx, dscale if ctx.needs_input_grad[1] else None, None, None, None
