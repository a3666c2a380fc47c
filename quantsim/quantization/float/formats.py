"""The float formats a quantizer can be asked for: by exponent and mantissa bits, or by torch dtype."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch

from quantsim.errors import ConfigurationError
from quantsim_encodings.formats import NAMED_FLOAT_FORMATS, FloatFormat, NanEncoding, float_format

__all__ = [
    "DTYPE_FORMATS",
    "choose_format",
    "describe_format",
    "dtype_of",
    "format_from_settings",
    "format_of_bits",
    "format_of_dtype",
    "format_settings",
]


def _fnuz(exponent_bits: int, mantissa_bits: int, name: str | None = None) -> FloatFormat:
    """Finite, one zero, the code of -0 is NaN, and the bias one larger than usual."""
    return FloatFormat(
        exponent_bits,
        mantissa_bits,
        bias=2 ** (exponent_bits - 1),
        has_infinity=False,
        nan=NanEncoding.NEGATIVE_ZERO,
        has_negative_zero=False,
        name=name,
    )


DTYPE_FORMATS: Final[Mapping[torch.dtype, FloatFormat]] = MappingProxyType(
    {
        torch.float32: float_format("fp32"),
        torch.float16: float_format("fp16"),
        torch.bfloat16: float_format("bf16"),
        torch.float8_e4m3fn: float_format("e4m3fn"),
        torch.float8_e5m2: float_format("e5m2"),
        torch.float8_e4m3fnuz: _fnuz(4, 3, "e4m3fnuz"),
        torch.float8_e5m2fnuz: _fnuz(5, 2, "e5m2fnuz"),
    }
)
"""Formats of torch's floating-point dtypes."""


def format_of_dtype(dtype: torch.dtype) -> FloatFormat:
    """Returns the format of a torch dtype.

    Raises:
        ConfigurationError: If it is none of `DTYPE_FORMATS`.

    Example:
        >>> format_of_dtype(torch.float8_e4m3fn).max
        448.0
    """
    try:
        return DTYPE_FORMATS[dtype]
    except KeyError:
        raise ConfigurationError(
            "no such float format",
            where="dtype",
            got=str(dtype),
            expected="one of " + ", ".join(str(known) for known in DTYPE_FORMATS),
            fix="give exponent_bits and mantissa_bits",
        ) from None


def dtype_of(format: FloatFormat) -> torch.dtype | None:
    """Returns the torch dtype that has this format, or ``None``."""
    return next((dtype for dtype, known in DTYPE_FORMATS.items() if known == format), None)


def format_of_bits(exponent_bits: int, mantissa_bits: int, finite: bool, unsigned_zero: bool) -> FloatFormat:
    """Returns the format of that many bits.

    Args:
        exponent_bits: Width of the exponent field.
        mantissa_bits: Width of the stored fraction.
        finite: Whether there is no infinity (``fn``): the top exponent holds numbers. The OCP formats of 6 and 4 bits
            then have no NaN either; others keep the code with all bits set for it.
        unsigned_zero: Whether -0 is taken for NaN (``fnuz``); needs ``finite``.

    Raises:
        ConfigurationError: If the bits make no format.

    Example:
        >>> (
        ...     format_of_bits(4, 3, True, False).max,
        ...     format_of_bits(2, 1, True, False).max,
        ...     format_of_bits(4, 3, False, False).max,
        ... )
        (448.0, 6.0, 240.0)
    """
    try:
        if unsigned_zero:
            if not finite:
                raise ValueError("a format with an unsigned zero has no infinity: set finite=True")
            return _fnuz(exponent_bits, mantissa_bits)
        if not finite:
            return FloatFormat(exponent_bits, mantissa_bits)
        for known in NAMED_FLOAT_FORMATS.values():
            widths = (known.exponent_bits, known.mantissa_bits)
            if widths == (exponent_bits, mantissa_bits) and known.signed and known.nan is NanEncoding.NONE:
                return known
        return FloatFormat(exponent_bits, mantissa_bits, has_infinity=False, nan=NanEncoding.ALL_ONES)
    except ValueError as error:
        raise ConfigurationError(
            str(error),
            where="float format",
            got=f"exponent_bits={exponent_bits}, mantissa_bits={mantissa_bits}, finite={finite}, "
            f"unsigned_zero={unsigned_zero}",
        ) from None


def choose_format(
    owner: str,
    exponent_bits: int | None,
    mantissa_bits: int | None,
    finite: bool | None,
    unsigned_zero: bool | None,
    dtype: torch.dtype | None,
    format: FloatFormat | str | None,
) -> FloatFormat:
    """Returns the one format that a quantizer's arguments say.

    Raises:
        ConfigurationError: If they say none, several, or half of one, or ``format`` names none.
    """
    widths = (exponent_bits, mantissa_bits, finite, unsigned_zero)
    ways = [any(width is not None for width in widths), dtype is not None, format is not None]
    if sum(ways) == 1:
        if isinstance(format, FloatFormat):
            return format
        if format is not None:
            try:
                return float_format(format)
            except ValueError as error:
                raise ConfigurationError(str(error), where=f"{owner}(format)") from None
        if dtype is not None:
            return format_of_dtype(dtype)
        if exponent_bits is not None and mantissa_bits is not None:
            return format_of_bits(exponent_bits, mantissa_bits, bool(finite), bool(unsigned_zero))
    raise ConfigurationError(
        "exactly one format is needed",
        where=owner,
        got=f"exponent_bits={exponent_bits}, mantissa_bits={mantissa_bits}, finite={finite}, "
        f"unsigned_zero={unsigned_zero}, dtype={dtype}, format={format}",
        expected="exponent_bits and mantissa_bits, or dtype, or format",
    )


def describe_format(format: FloatFormat) -> str:
    """Returns the constructor argument that names a format, for a module's repr."""
    known = dtype_of(format)
    if known is not None:
        return f"dtype={known}"
    flushed = format.has_zero and not format.has_subnormals
    return f"format={format.label}{', subnormal=False' if flushed else ''}"


def format_settings(format: FloatFormat) -> dict[str, Any]:
    """Returns the fields of a format as JSON values, for a state_dict."""
    return {**dataclasses.asdict(format), "nan": format.nan.value}


def format_from_settings(settings: Mapping[str, Any], default: FloatFormat) -> FloatFormat:
    """Returns the format in a quantizer's saved settings: quantsim's own, AIMET's, or ``default`` if there is none."""
    if "format" in settings:
        return FloatFormat(**settings["format"])
    if "unsigned_zero" in settings:
        widths = int(settings["exponent_bits"]), int(settings["mantissa_bits"])
        return format_of_bits(*widths, bool(settings["finite"]), bool(settings["unsigned_zero"]))
    return default
