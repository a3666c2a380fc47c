"""Encodings of floating-point grids, of blocks with a shared scale, and of scales computed at run time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from quantsim_encodings._arrays import check_granularity, checked_block_size, fail, positive_array
from quantsim_encodings._encoding_base import Encoding
from quantsim_encodings.formats import FloatFormat, IntFormat, MXFormat, NVFP4Format, RoundingMode
from quantsim_encodings.granularity import Granularity, PerTensor

__all__ = ["DynamicEncoding", "FloatEncoding", "MXEncoding"]

_PER_TENSOR: Final = PerTensor()


@dataclass(frozen=True, eq=False)
class FloatEncoding(Encoding):
    """Floating-point grid, with a scale (``x_hat = cast(x / scale) * scale``) or without.

    Args:
        format: The floating-point numbers.
        scale: Positive scales in the quantizer's shape, or ``None`` for a plain cast.
        granularity: Which elements share a scale.
        block_size: Extent of a block in each dimension (-1: whole), or ``None`` without blocks.
        saturate: Whether magnitudes beyond the largest number become it rather than infinity or NaN.
        rounding: How values between two numbers are rounded.

    Raises:
        EncodingsError: If a scale is not finite and positive, or shapes or granularity contradict each other.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> FloatEncoding(float_format("e4m3fn"), 0.5).scale.shape
        ()
    """

    format: FloatFormat  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrowing is safe
    scale: NDArray[Any] | None = None
    granularity: Granularity = _PER_TENSOR
    block_size: tuple[int, ...] | None = None
    saturate: bool = True
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if not isinstance(self.format, FloatFormat):
            raise fail(owner, "format", f"got {self.format!r}, expected a FloatFormat")
        object.__setattr__(self, "rounding", RoundingMode(self.rounding))
        shape: tuple[int, ...] = ()
        if self.scale is not None:
            scale = positive_array(owner, "scale", self.scale)
            object.__setattr__(self, "scale", scale)
            shape = scale.shape
        object.__setattr__(self, "block_size", checked_block_size(owner, self.block_size, shape))
        check_granularity(owner, self.granularity, shape)


@dataclass(frozen=True, eq=False)
class MXEncoding(Encoding):
    """Blocks that share a scale which the values themselves determine (MX, NVFP4).

    Args:
        format: MX or NVFP4.
        granularity: Where the blocks lie.
        scale: Scales of the blocks where they are fixed (a weight), else ``None``: they follow from the values.
        tensor_scale: Float32 scale of the whole tensor (two-level NVFP4), else ``None``.
        block_size: Extent of a block in each dimension, or ``None`` where ``granularity`` says it.
        rounding: How elements between two numbers are rounded; the scales follow the format's own rule.

    Raises:
        EncodingsError: If a scale is negative or not finite, or shapes or granularity contradict each other.
    """

    format: MXFormat | NVFP4Format  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrowing is safe
    granularity: Granularity
    scale: NDArray[Any] | None = None
    tensor_scale: float | None = None
    block_size: tuple[int, ...] | None = None
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN

    def __post_init__(self) -> None:
        owner = type(self).__name__
        object.__setattr__(self, "rounding", RoundingMode(self.rounding))
        if not isinstance(self.format, (MXFormat, NVFP4Format)):
            raise fail(owner, "format", f"got {self.format!r}, expected an MXFormat or NVFP4Format")
        shape: tuple[int, ...] = ()
        if self.scale is not None:
            scale = positive_array(owner, "scale", self.scale, zero_allowed=isinstance(self.format, NVFP4Format))
            object.__setattr__(self, "scale", scale)
            shape = scale.shape
        if self.tensor_scale is not None:
            value = float(self.tensor_scale)
            if not (math.isfinite(value) and value > 0):
                raise fail(owner, "tensor_scale", f"got {value!r}, expected a finite positive number")
            object.__setattr__(self, "tensor_scale", value)
            if not (isinstance(self.format, NVFP4Format) and self.format.two_level):
                raise fail(owner, "tensor_scale", "got a number, expected none: only two-level NVFP4 has one")
        object.__setattr__(self, "block_size", checked_block_size(owner, self.block_size, shape))
        check_granularity(owner, self.granularity, shape)


@dataclass(frozen=True, eq=False)
class DynamicEncoding(Encoding):
    """Scales that are computed from each tensor at run time; nothing is calibrated.

    Args:
        format: Integers or floating-point numbers.
        granularity: Which elements share a scale.
        symmetric: Whether an integer grid is symmetric around zero.
        rounding: How values between two numbers are rounded.

    Raises:
        EncodingsError: If the format is neither an IntFormat nor a FloatFormat.
    """

    format: IntFormat | FloatFormat  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrowing is safe
    granularity: Granularity
    symmetric: bool
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN

    def __post_init__(self) -> None:
        owner = type(self).__name__
        object.__setattr__(self, "rounding", RoundingMode(self.rounding))
        if not isinstance(self.format, (IntFormat, FloatFormat)):
            raise fail(owner, "format", f"got {self.format!r}, expected an IntFormat or a FloatFormat")
        if not isinstance(self.granularity, Granularity):
            raise fail(owner, "granularity", f"got {self.granularity!r}, expected a Granularity")
