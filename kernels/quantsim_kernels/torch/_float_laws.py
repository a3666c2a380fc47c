"""Rounding float32 to any signed format in float32 and int32 alone, functionally: what a compiler fuses into one pass.

Above the smallest normal number the ``k`` lowest of float32's 23 fraction bits are dropped, whatever the exponent.
With ``mask = 2**k - 1`` every law of rounding is one number added to the bits of the magnitude before they are masked,
``(bits + addend) & ~mask``, and a carry moves into the exponent as it must. Below, where the quantum stays, adding and
subtracting ``C = quantum * 2**23`` rounds to nearest (ties to even) in the adder; the other laws correct that result by
its error, which is exact. Formats with float32's own exponents have their subnormals where float32 has them, and need
the first half only.

Tested against the reference on all float16, all bfloat16 and random float32 bit patterns.
"""

from __future__ import annotations

import math
import struct

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, RoundingMode
from quantsim_kernels.reference.noise import NOISE_BITS
from quantsim_kernels.reference.rounding import STAYS_FINITE

__all__ = ["bit_addend", "has_fast_law", "round_float32"]

_MAGNITUDE = 0x7FFFFFFF
_SIGN = -0x80000000
_INFINITY = 0x7F800000
_NAN = 0x7FC00000
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -126, 127


def has_fast_law(format: FloatFormat, dtype: torch.dtype, rounding: RoundingMode = RoundingMode.NEAREST_EVEN) -> bool:
    """Whether :func:`round_float32` covers ``format`` on tensors of ``dtype``.

    It covers every signed format with a zero whose numbers float32 holds, in all ten modes, except where the scaling
    of its subnormals would leave float32's range (``min_exponent - mantissa_bits < -103``, and exponents narrower than
    float32's). float64 tensors need the reference.

    Args:
        format: the format.
        dtype: dtype of the tensor.
        rounding: how it rounds; all modes are covered alike.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> (
        ...     has_fast_law(float_format("e4m3fn"), torch.bfloat16),
        ...     has_fast_law(float_format("e8m0"), torch.float32),
        ... )
        (True, False)
    """
    del rounding
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return False
    if not (format.signed and format.has_zero) or format.mantissa_bits > 23:
        return False
    lowest, highest = format.min_exponent, format.max_exponent
    if highest > _LARGEST_EXPONENT or lowest < _SMALLEST_EXPONENT:
        return False
    # 2**24 quanta per unit must be a finite float32.
    return lowest == _SMALLEST_EXPONENT or format.mantissa_bits - lowest + NOISE_BITS <= _LARGEST_EXPONENT


def _code_parity(magnitude: Tensor, format: FloatFormat) -> Tensor:
    """0 or 1: the last bit of the code at or below each normal magnitude (int32 bits)."""
    last = (magnitude >> (23 - format.mantissa_bits)) & 1
    # Without fraction bits it is the exponent's own, whose bias may differ from float32's by an odd number.
    return last ^ 1 if format.mantissa_bits == 0 and format.min_exponent % 2 else last


def bit_addend(
    bits: Tensor, magnitude: Tensor, format: FloatFormat, rounding: RoundingMode, noise: Tensor | None
) -> Tensor | int:
    """What is added to the bits of a float32 before its ``k`` lowest are cleared, ``k = 23 - mantissa_bits > 0``.

    Args:
        bits: int32.
        magnitude: the same without their sign, or with it.
        format: the format.
        rounding: the law.
        noise: 24 random bits each, int32, for the stochastic laws.

    Returns:
        int32 tensor, or one number for all.
    """
    k = 23 - format.mantissa_bits
    mask, half = (1 << k) - 1, 1 << (k - 1)
    match rounding:
        case RoundingMode.NEAREST_EVEN:
            return _code_parity(magnitude, format) + (half - 1)
        case RoundingMode.NEAREST_ODD:
            return half - _code_parity(magnitude, format)
        case RoundingMode.NEAREST_AWAY:
            return half
        case RoundingMode.NEAREST_ZERO:
            return half - 1
        case RoundingMode.TOWARD_ZERO:
            return 0
        case RoundingMode.UP:
            return ~(bits >> 31) & mask
        case RoundingMode.DOWN:
            return (bits >> 31) & mask
        case RoundingMode.ODD:
            return (_code_parity(magnitude, format) - 1) & mask
        case RoundingMode.STOCHASTIC:
            assert noise is not None
            # noise + 1/2 < rest * 2**(24 - k), in the k bits that the rest has.
            return mask - (noise >> (NOISE_BITS - k))
        case RoundingMode.STOCHASTIC_EQUAL:
            assert noise is not None
            return (noise >> (NOISE_BITS - 1)) * mask


def _subnormal(
    bits: Tensor, magnitude: Tensor, format: FloatFormat, rounding: RoundingMode, noise: Tensor | None
) -> Tensor:
    """Magnitudes (float32) below the smallest normal number, rounded to multiples of the smallest number."""
    quantum = math.ldexp(1.0, format.min_exponent - format.mantissa_bits)
    shift = quantum * 2.0**23
    nearest = (magnitude + shift) - shift
    if rounding is RoundingMode.NEAREST_EVEN:
        return nearest
    if rounding in (RoundingMode.NEAREST_AWAY, RoundingMode.NEAREST_ZERO, RoundingMode.NEAREST_ODD):
        error = magnitude - nearest
        half = 0.5 * quantum
        if rounding is RoundingMode.NEAREST_AWAY:
            return torch.where(error == half, nearest + quantum, nearest)
        if rounding is RoundingMode.NEAREST_ZERO:
            return torch.where(error == -half, nearest - quantum, nearest)
        return torch.where(error.abs() == half, nearest + 2.0 * error, nearest)
    below = torch.where(nearest > magnitude, nearest - quantum, nearest)
    match rounding:
        case RoundingMode.TOWARD_ZERO:
            return below
        case RoundingMode.UP:
            upward = (magnitude > below) & (bits >= 0)
        case RoundingMode.DOWN:
            upward = (magnitude > below) & (bits < 0)
        case RoundingMode.ODD:
            upward = (magnitude > below) & (((below + shift).view(torch.int32) & 1) == 0)
        case RoundingMode.STOCHASTIC:
            assert noise is not None
            # Fraction of the quantum in units of 2**-24. The difference is exact wherever it is near 1/2.
            fraction = (magnitude - below) * (2.0**NOISE_BITS / quantum)
            upward = fraction - noise.to(torch.float32) > 0.5
        case _:
            assert noise is not None
            upward = (magnitude > below) & (noise >= 1 << (NOISE_BITS - 1))
    return torch.where(upward, below + quantum, below)


def _float32_bits(value: float) -> int:
    """The bits of a float32 that is not negative."""
    return (
        _NAN
        if math.isnan(value)
        else _INFINITY
        if math.isinf(value)
        else int(struct.unpack("<i", struct.pack("<f", value))[0])
    )


def _overflow(
    y: Tensor,
    bits: Tensor,
    magnitude: Tensor,
    format: FloatFormat,
    rounding: RoundingMode,
    saturate: bool,
    saturate_infinity: bool,
) -> Tensor:
    """Rounded magnitudes with what is too large, and what was infinite, put in its place."""
    largest = format.max
    beyond = math.inf if format.has_infinity else math.nan
    infinite = beyond
    if saturate or rounding in STAYS_FINITE:
        y = y.clamp(max=largest)
        too_large = largest
    elif rounding in (RoundingMode.UP, RoundingMode.DOWN):
        # The largest number on the side that is rounded inward, chosen by the sign bit: cheaper than by a mask.
        outward = ~(bits >> 31) if rounding is RoundingMode.UP else bits >> 31
        code, code_beyond = (_float32_bits(value) for value in (largest, beyond))
        limit = ((outward & (code_beyond - code)) + code).view(torch.float32)
        y = torch.where(y > largest, limit, y)
        too_large = None
    else:
        y = torch.where(y > largest, beyond, y)
        too_large = beyond
    if saturate_infinity or (saturate and not format.has_infinity):
        infinite = largest
    if infinite is too_large:
        return y
    return torch.where(magnitude == _INFINITY, infinite, y)


def round_float32(
    x: Tensor,
    format: FloatFormat,
    rounding: RoundingMode,
    saturate: bool,
    saturate_infinity: bool,
    noise: Tensor | None,
) -> Tensor:
    """The whole cast of a float32 tensor, without a gradient, a mutation or a pass over memory of its own.

    Args:
        x: float32, any shape.
        format: a format with a fast law, see :func:`has_fast_law`.
        rounding: how it rounds.
        saturate: what is too large becomes the largest number.
        saturate_infinity: infinities do so too.
        noise: the 24 random bits of each element for the stochastic modes (int32, shape of ``x``), else ``None``.

    Returns:
        float32 in the shape of ``x``.
    """
    bits = x.view(torch.int32)
    magnitude = bits & _MAGNITUDE
    k = 23 - format.mantissa_bits
    if k:
        addend = bit_addend(bits, magnitude, format, rounding, noise)
        y = ((magnitude + addend) & -(1 << k)).view(torch.float32)
    else:
        y = magnitude.view(torch.float32)
    if format.min_exponent > _SMALLEST_EXPONENT:
        size = magnitude.view(torch.float32)
        y = torch.where(size < format.min_normal, _subnormal(bits, size, format, rounding, noise), y)
    if not format.has_subnormals:
        y = torch.where(y < format.min_normal, 0.0, y)
    y = _overflow(y, bits, magnitude, format, rounding, saturate, saturate_infinity)
    y = (y.view(torch.int32) | (bits & _SIGN)).view(torch.float32)
    if not format.has_negative_zero:
        y = y + 0.0
    # The payload of a NaN may have been rounded to infinity's code, or carried into the sign.
    return torch.where(x != x, x, y)
