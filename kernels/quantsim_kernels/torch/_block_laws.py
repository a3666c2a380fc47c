"""Block scales and casts of float32 on its own bits, functionally: what a compiler fuses into one pass.

The largest magnitude of a block is the largest of its magnitudes' bits, taken as integers, with NaN above infinity
above all numbers. The exponent of a scale follows from those bits, and the bits of the scale from the exponent, as
:func:`quantsim_kernels.reference.mx.shared_exponent` says; the tests compare the two on every exponent and rule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantsim_encodings.formats import BlockFormat, FloatFormat, MXFormat, MXScaleRule, NVFP4Format, RoundingMode
from quantsim_kernels.reference.mx import (
    E8M0_BIAS,
    SMALLEST_TENSOR_SCALE,
    ElementGrid,
    element_grid,
)
from quantsim_kernels.torch._float_laws import has_fast_law, round_float32

__all__ = [
    "cast_elements",
    "has_fast_block_law",
    "keep_inexact",
    "magnitude_bits",
    "mx_scales",
    "nvfp4_scales",
    "nvfp4_tensor_scale",
    "round_blocks",
]

_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000
_NAN = 0x7FC00000
_FRACTION = 0x007FFFFF
_SMALLEST_POWER = 0x00400000
"""The bits of 2**-127, the one power in reach that float32 holds as a subnormal number."""

_SUBNORMAL_BIAS = 149
"""What a subnormal's fraction, taken as an integer, has too much in its exponent code."""

_SEES_ANY_REST = (RoundingMode.UP, RoundingMode.DOWN, RoundingMode.ODD, RoundingMode.STOCHASTIC_EQUAL)
"""The modes in which a number far below the smallest of a format may become that one."""


def has_fast_block_law(format: BlockFormat, dtype: torch.dtype, rounding: RoundingMode) -> bool:
    """Whether :func:`round_blocks` gives the reference's numbers for ``format`` on tensors of ``dtype``."""
    return has_fast_law(element_grid(format.element).format, dtype, rounding)


def magnitude_bits(x: Tensor) -> Tensor:
    """The bits of ``|x|``, int32, ordered as the magnitudes are."""
    return x.view(torch.int32) & _MAGNITUDE


def _power_bits(code: Tensor) -> Tensor:
    """The bits of ``2**(code - 127)``, ``code`` from 0 to 254."""
    return (code << 23).clamp(min=_SMALLEST_POWER)


def mx_scales(largest: Tensor, rule: MXScaleRule, grid: ElementGrid) -> tuple[Tensor, Tensor]:
    """``(1 / scale, scale)`` of blocks from the bits of their largest magnitudes; a NaN block's scale is NaN.

    Args:
        largest: int32.
        rule: how scales follow.
        grid: the grid of the elements.

    Returns:
        float32, in the shape of ``largest``.
    """
    exponent = largest >> 23
    fraction = largest & _FRACTION
    if grid.exponent < 1:
        # Only then may the scale of a block of subnormal numbers be another than the smallest.
        normalised = fraction.to(torch.float32).view(torch.int32)
        small = exponent == 0
        exponent = torch.where(small, (normalised >> 23) - _SUBNORMAL_BIAS, exponent)
        fraction = torch.where(small, normalised & _FRACTION, fraction)
    match rule:
        case MXScaleRule.FLOOR:
            pass
        case MXScaleRule.CEIL:
            exponent = exponent + (fraction > 0)
        case MXScaleRule.EVEN:
            exponent = exponent + (fraction >= (1 << 23) - ((1 << 22) >> grid.fraction_bits))
        case MXScaleRule.RCEIL:
            exponent = exponent + (fraction > int((grid.high / 2.0**grid.exponent - 1.0) * 2.0**23))
    code = (exponent - grid.exponent).clamp(0, 2 * E8M0_BIAS)
    scale = torch.where(largest > _INFINITY, _NAN, _power_bits(code))
    return _power_bits(2 * E8M0_BIAS - code).view(torch.float32), scale.view(torch.float32)


def nvfp4_tensor_scale(largest: Tensor, format: NVFP4Format) -> Tensor:
    """:func:`quantsim_kernels.reference.mx.nvfp4_tensor_scale` from the largest finite magnitude (float32)."""
    scale = (largest / (format.scale_format.max * format.element.max)).clamp(min=SMALLEST_TENSOR_SCALE)
    return torch.where(largest > 0, scale, 1.0)


def nvfp4_scales(largest: Tensor, format: NVFP4Format, tensor_scale: Tensor | None) -> Tensor:
    """The scales that elements are divided by, from the bits of blocks' largest magnitudes (int32)."""
    scale = largest.view(torch.float32) / format.element.max
    if tensor_scale is not None:
        scale = scale / tensor_scale
    numbers = format.scale_format
    # Both bounds are numbers of the format, so that clamping before the rounding is the same as after it.
    scale = _round_in_range(scale.clamp(numbers.tiny, numbers.max), numbers)
    return scale if tensor_scale is None else scale * tensor_scale


def _can_round_in_range(format: FloatFormat) -> bool:
    """Whether :func:`_round_in_range` is exact: the sums stay finite and their last bit is a float32's."""
    return (
        format.signed
        and format.has_subnormals
        and 1 <= format.mantissa_bits <= 21
        and format.min_exponent > -126
        and format.max_exponent + 24 - format.mantissa_bits <= 127
    )


def _round_in_range(x: Tensor, format: FloatFormat) -> Tensor:
    """Numbers not beyond the largest one, rounded to nearest, ties to even; zeros lose their sign, NaN stays NaN.

    Adding ``1.5 * 2**(23 - m)`` times the power of two at or below ``|x|`` leaves ``m`` fraction bits, rounded so in
    the adder. A fixed smallest power gives subnormals their fixed quantum.
    """
    power = (x.view(torch.int32) & _INFINITY).view(torch.float32).clamp(min=format.min_normal)
    shift = power * (1.5 * 2.0 ** (23 - format.mantissa_bits))
    return (x + shift) - shift


def keep_inexact(ratio: Tensor, x: Tensor, rounding: RoundingMode) -> Tensor:
    """``ratio = x / scale``, but not 0 where ``x`` is not, in the modes that would round it away from zero.

    Only a scale above 1 can make a number vanish, and then it lies far below the smallest of the element format.
    """
    if rounding not in _SEES_ANY_REST:
        return ratio
    vanished = (ratio == 0) & (x != 0)
    return torch.where(vanished, torch.copysign(torch.full_like(ratio, 2.0**-126), x), ratio)


def cast_elements(ratio: Tensor, grid: ElementGrid, rounding: RoundingMode, noise: Tensor | None) -> Tensor:
    """Elements over their scale, rounded and saturated."""
    if rounding is RoundingMode.NEAREST_EVEN and _can_round_in_range(grid.format):
        y = _round_in_range(ratio.clamp(grid.low, grid.high), grid.format)
        if not grid.format.has_negative_zero:
            return y
        return (y.view(torch.int32) | (ratio.view(torch.int32) & ~_MAGNITUDE)).view(torch.float32)
    y = round_float32(ratio, grid.format, rounding, True, True, noise)
    return y.clamp(grid.low, grid.high) if grid.is_integer else y


def round_blocks(
    x: Tensor,
    format: BlockFormat,
    axis: int,
    rounding: RoundingMode,
    tensor_scale: Tensor | None,
    noise: Tensor | None,
) -> Tensor:
    """There and back on whole blocks.

    Args:
        x: float32; each entry of dimension ``axis`` is one element of a block, the other dimensions number the blocks.
        format: the format, see :func:`has_fast_block_law`.
        axis: the dimension within which all elements share their scale.
        rounding: how elements are rounded.
        tensor_scale: float32, for two-level NVFP4.
        noise: 24 random bits for each element in the stochastic modes (int32), else ``None``.

    Returns:
        float32 in the shape of ``x``.
    """
    # Compiled, a reduction of floating-point numbers is five times as fast as one of integers. The NaN that it passes
    # on may have any bits.
    largest = magnitude_bits(x.abs().amax(axis, keepdim=True))
    grid = element_grid(format.element)
    if isinstance(format, MXFormat):
        inverse, scale = mx_scales(largest, format.scale_rule, grid)
        ratio = keep_inexact(x * inverse, x, rounding)
    else:
        scale = nvfp4_scales(largest, format, tensor_scale)
        ratio = x / scale
    return cast_elements(ratio, grid, rounding, noise) * scale
