"""The codes of floating-point numbers: sign, exponent and fraction fields, and which codes are infinity and NaN.

Sources: IEEE 754-2019 § 3.4; OCP 8-bit Floating Point 1.0 and OCP Microscaling 1.0 (``all_ones``, e8m0); the ``fnuz``
formats of Noune et al., "8-bit numerical formats for deep neural networks" (2022) (``negative_zero``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, NanEncoding
from quantsim_kernels.reference.float_cast import exponent_range

__all__ = ["code_dtype", "decode", "encode", "nan_code"]

_CODE_BITS = {8: torch.uint8, 31: torch.int32}


def code_dtype(format: FloatFormat) -> torch.dtype:
    """The integers that hold a format's codes: uint8 up to 8 bits, int32 up to 31, else int64.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> code_dtype(float_format("e2m1")), code_dtype(float_format("bf16")), code_dtype(float_format("fp32"))
        (torch.uint8, torch.int32, torch.int64)
    """
    return next((dtype for bits, dtype in _CODE_BITS.items() if format.bits <= bits), torch.int64)


def _top_exponent(format: FloatFormat) -> int:
    """The code of +infinity, were there one: all exponent bits set, no fraction bit."""
    return (2**format.exponent_bits - 1) << format.mantissa_bits


def nan_code(format: FloatFormat) -> int | None:
    """The code that stands for NaN (the quiet one of an IEEE format, without its sign), or ``None``.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> (
        ...     hex(nan_code(float_format("e4m3fn"))),
        ...     hex(nan_code(float_format("fp16"))),
        ...     nan_code(float_format("e2m1")),
        ... )
        ('0x7f', '0x7e00', None)
    """
    if format.nan is NanEncoding.IEEE:
        return _top_exponent(format) | (1 << (format.mantissa_bits - 1)) if format.mantissa_bits else None
    if format.nan is NanEncoding.ALL_ONES:
        return 2 ** (format.exponent_bits + format.mantissa_bits) - 1
    if format.nan is NanEncoding.NEGATIVE_ZERO:
        return 2 ** (format.exponent_bits + format.mantissa_bits)
    return None


def _exponent_offset(format: FloatFormat) -> int:
    """What is added to a number's exponent to get its exponent field."""
    return (1 if format.has_zero else 0) - exponent_range(format)[0]


def encode(values: Tensor, format: FloatFormat) -> Tensor:
    """The codes of numbers of ``format``; what is none of its numbers has no right code, see :func:`float_cast`.

    NaN gets the code of :func:`nan_code` with its sign, 0 in a format without NaN.

    Args:
        values: numbers of the format, floating-point, any shape.
        format: the format.

    Returns:
        Codes in the dtype of :func:`code_dtype`; those of 64 bits have their sign bit as int64's.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> encode(torch.tensor([0.5, -6.0, -0.0]), float_format("e2m1")).tolist()
        [1, 15, 8]
    """
    wide = values.detach().to(torch.float64)
    bits = wide.view(torch.int64)
    lowest, highest = exponent_range(format)
    mantissa = format.mantissa_bits
    fraction = bits & (2**52 - 1)
    exponent = ((bits >> 52) & 0x7FF) - 1023
    # The significand as an integer of 53 bits; float64's own subnormals have no hidden bit.
    significand = torch.where(exponent < -1022, fraction << 1, fraction | 2**52)
    field = exponent.clamp(lowest, highest)
    shift = (52 - mantissa) + (field - exponent)
    steps = torch.where(shift < 63, significand >> shift.clamp(0, 62), torch.zeros_like(significand))
    # A normal number's hidden bit is one step of the exponent field.
    code = steps + ((field + (_exponent_offset(format) - 1)) << mantissa)
    if format.has_infinity:
        code = torch.where(wide.isinf(), torch.full_like(code, _top_exponent(format)), code)
    missing = nan_code(format)
    code = torch.where(wide.isnan(), torch.full_like(code, 0 if missing is None else _low_code(missing, format)), code)
    if format.signed:
        sign = (bits >> 63) & 1
        if format.nan is NanEncoding.NEGATIVE_ZERO:
            sign = torch.where(wide.isnan(), torch.ones_like(sign), sign)
        if missing is None:
            sign = torch.where(wide.isnan(), torch.zeros_like(sign), sign)
        code = code | (sign << (format.exponent_bits + mantissa))
    return code.to(code_dtype(format))


def _low_code(code: int, format: FloatFormat) -> int:
    """A code without its sign bit."""
    return code & (2 ** (format.exponent_bits + format.mantissa_bits) - 1)


def decode(codes: Tensor, format: FloatFormat) -> Tensor:
    """The numbers that codes stand for, exactly.

    Codes of subnormals are zero in a format without subnormals; bits above the format's are ignored, so that signed
    integers serve as well.

    Args:
        codes: integer tensor, any shape.
        format: the format.

    Returns:
        float64 tensor of the shape of ``codes``.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> decode(torch.tensor([1, 15, 8]), float_format("e2m1")).tolist()
        [0.5, -6.0, -0.0]
    """
    code = codes.to(torch.int64)
    mantissa = format.mantissa_bits
    sign = ((code >> (format.exponent_bits + mantissa)) & 1) == 1
    magnitude_code = code & (2 ** (format.exponent_bits + mantissa) - 1)
    field = magnitude_code >> mantissa
    fraction = magnitude_code & (2**mantissa - 1)
    exponent = field - _exponent_offset(format)
    steps = fraction | 2**mantissa
    if format.has_zero:
        small = field == 0
        exponent = torch.where(small, exponent + 1, exponent)
        steps = torch.where(small, fraction if format.has_subnormals else torch.zeros_like(fraction), steps)
    # In halves, because the power of two of the smallest float64 is none itself.
    power = exponent - mantissa
    half = power >> 1
    value = steps.to(torch.float64) * _power_of_two(half) * _power_of_two(power - half)
    if format.nan is NanEncoding.IEEE:
        special = field == 2**format.exponent_bits - 1
        infinite = torch.where(fraction == 0, math.inf if format.has_infinity else math.nan, math.nan)
        value = torch.where(special, infinite.to(torch.float64), value)
    elif format.nan is NanEncoding.ALL_ONES:
        value = torch.where(magnitude_code == nan_code(format), torch.full_like(value, math.nan), value)
    if not format.signed:
        return value
    value = torch.where(sign, -value, value)
    if format.nan is NanEncoding.NEGATIVE_ZERO:
        return torch.where(sign & (magnitude_code == 0), torch.full_like(value, math.nan), value)
    return value if format.has_negative_zero else value + 0.0


def _power_of_two(exponent: Tensor) -> Tensor:
    """``2**exponent`` as float64, exact for -1022..1023."""
    return ((exponent + 1023) << 52).view(torch.float64)
