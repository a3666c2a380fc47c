"""How formats and encodings are put into words in a report."""

from __future__ import annotations

from quantsim_encodings import (
    Encoding,
    FloatFormat,
    Format,
    GroupedBlockEncoding,
    IntFormat,
    MXFormat,
    MXScaleRule,
    NVFP4Format,
    RoundingMode,
)
from quantsim_encodings.granularity import Granularity, PerBlock, PerBlocks, PerChannel, PerTensor, PerToken

__all__ = ["describe_encoding", "describe_format", "describe_granularity"]


def describe_format(format: Format) -> str:
    """A format's short name.

    Example:
        >>> (
        ...     describe_format(IntFormat(-8, 7)),
        ...     describe_format(IntFormat(-7, 7)),
        ...     describe_format(IntFormat(0, 255)),
        ... )
        ('int4', 'int4 in -7..7', 'uint8')
    """
    match format:
        case IntFormat():
            name = f"{'int' if format.signed else 'uint'}{format.bits}"
            whole = IntFormat.from_bits(format.bits, signed=format.signed)
            return name if format == whole else f"{name} in {format.qmin}..{format.qmax}"
        case FloatFormat():
            return format.label
        case MXFormat():
            name = format.name or f"MX of {describe_format(format.element)}"
            return name if format.scale_rule is MXScaleRule.FLOOR else f"{name}, scale by {format.scale_rule.value}"
        case NVFP4Format():
            return "nvfp4" if format.two_level else "nvfp4 without tensor scale"
        case _:
            return type(format).__name__.removesuffix("Format")


def describe_granularity(granularity: Granularity) -> str:
    """A granularity in two or three words.

    Example:
        >>> describe_granularity(PerBlock(axis=1, block_size=32))
        'per block of 32'
    """
    match granularity:
        case PerTensor():
            return "per tensor"
        case PerChannel():
            return "per channel"
        case PerBlock(block_size=size):
            return f"per block of {size}"
        case PerBlocks(block_size=sizes):
            return "per block of " + "×".join("all" if size == -1 else str(size) for size in sizes)
        case PerToken():
            return "per token, at run time"
        case _:
            return type(granularity).__name__


def describe_encoding(encoding: Encoding) -> str:
    """Format, symmetry and granularity of an encoding.

    Example:
        >>> from quantsim_encodings import AffineEncoding
        >>> describe_encoding(
        ...     AffineEncoding(IntFormat(0, 255), 0.5, -3, symmetric=False, granularity=PerTensor())
        ... )
        'uint8 asymmetric, per tensor'
    """
    words = describe_format(encoding.format)
    if isinstance(encoding, GroupedBlockEncoding):
        words += f" (LPBQ to {encoding.decompressed_bits} bit)"
    symmetric = getattr(encoding, "symmetric", None)
    if isinstance(encoding.format, IntFormat) and symmetric is not None:
        words += " symmetric" if symmetric else " asymmetric"
    rounding = getattr(encoding, "rounding", RoundingMode.NEAREST_EVEN)
    if rounding is not RoundingMode.NEAREST_EVEN:
        words += f" rounded {rounding.value.replace('_', ' ')}"
    return f"{words}, {describe_granularity(encoding.granularity)}"
