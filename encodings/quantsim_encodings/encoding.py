"""Encodings: the calibrated parameters of one tensor in one format, as plain immutable values.

Arrays are copied, checked and made read-only on construction; equality compares them element by element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantsim_encodings.errors import EncodingsError, Problem
from quantsim_encodings.formats import (
    FixedPointFormat,
    FloatFormat,
    Format,
    IntFormat,
    MXFormat,
    NVFP4Format,
    OpticalFormat,
    RoundingMode,
)
from quantsim_encodings.granularity import Flattened, Granularity, PerChannel, PerTensor

__all__ = [
    "AffineEncoding",
    "DynamicEncoding",
    "Encoding",
    "FixedPointEncoding",
    "FloatEncoding",
    "GroupedBlockEncoding",
    "MXEncoding",
    "OpticalEncoding",
]

RELATIVE_TOLERANCE: Final = 1e-5
"""How far two redundant statements of a number may differ: a few float32 roundings."""


_PER_TENSOR: Final = PerTensor()


def _fail(owner: str, field: str, message: str) -> EncodingsError:
    return EncodingsError(f"invalid {owner}", [Problem(f"$.{field}", message)])


def _real_array(owner: str, field: str, value: ArrayLike) -> NDArray[Any]:
    """Copies to a read-only float32 array if that holds every value exactly, else to float64."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"array of dtype {array.dtype}")
        wide = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise _fail(owner, field, f"got {error}, expected a rectangular array of real numbers") from None
    if not np.isfinite(wide).all():
        raise _fail(owner, field, "got NaN or infinity, expected finite numbers")
    with np.errstate(over="ignore", under="ignore"):
        narrow = wide.astype(np.float32)
    result = narrow if np.array_equal(narrow.astype(np.float64), wide) else wide
    result.setflags(write=False)
    return result


def _positive_array(owner: str, field: str, value: ArrayLike, *, zero_allowed: bool = False) -> NDArray[Any]:
    array = _real_array(owner, field, value)
    if array.size == 0:
        raise _fail(owner, field, "got no number, expected at least one")
    if (array < 0).any() or (not zero_allowed and (array == 0).any()):
        worst = float(array.min())
        expected = "no negative numbers" if zero_allowed else "only positive numbers"
        raise _fail(owner, field, f"got {worst!r}, expected {expected}")
    return array


def _integer_array(owner: str, field: str, value: ArrayLike) -> NDArray[np.int64]:
    array = _real_array(owner, field, value)
    if (np.abs(array) >= 2.0**63).any() or not np.array_equal(array, np.rint(array)):
        raise _fail(owner, field, "got a number that is no 64-bit integer, expected integers")
    exact = np.asarray(value)
    result = exact.astype(np.int64) if exact.dtype.kind in "iu" else array.astype(np.int64)
    result.setflags(write=False)
    return result


def _offset_array(owner: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Integer offsets as int64; offsets with a fraction (zero-point shift) as floats; broadcast to ``shape``."""
    array = _real_array(owner, "offset", value)
    if np.array_equal(array, np.rint(array)) and (np.abs(array) < 2.0**63).all():
        array = _integer_array(owner, "offset", value)
    try:
        array = np.array(np.broadcast_to(array, shape))
    except ValueError:
        raise _fail(owner, "offset", f"got shape {array.shape}, expected the scale's {shape}") from None
    array.setflags(write=False)
    return array


def _block_size(owner: str, value: Sequence[int] | None, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if value is None:
        return None
    sizes = tuple(value)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or not (size == -1 or 1 <= size < 2**31):
            raise _fail(owner, "block_size", f"got {size!r}, expected positive integers, or -1 for the whole dimension")
    if len(sizes) < len(shape):
        raise _fail(owner, "block_size", f"got {len(sizes)} sizes, expected one for each of {len(shape)} dimensions")
    return sizes


def _check_granularity(owner: str, granularity: Granularity, shape: tuple[int, ...]) -> None:
    if not isinstance(granularity, Granularity):
        raise _fail(owner, "granularity", f"got {granularity!r}, expected a Granularity")
    if isinstance(granularity, PerTensor) and math.prod(shape) != 1:
        raise _fail(owner, "granularity", f"got per tensor with a scale of shape {shape}, expected one scale")
    if isinstance(granularity, PerChannel) and sum(size != 1 for size in shape) > 1:
        raise _fail(owner, "granularity", f"got per channel with a scale of shape {shape}, expected one long dimension")
    if isinstance(granularity, Flattened) and len(shape) != 1:
        raise _fail(owner, "granularity", f"got flattened with a scale of shape {shape}, expected one dimension")


class Encoding:
    """Base of all encodings: a format, the granularity, and (in subclasses) what was calibrated.

    Subclasses are frozen dataclasses; these two annotations are no fields of the base, so that each can order its own.
    """

    format: Format
    granularity: Granularity

    @property
    def label(self) -> str:
        """Name of the kind of encoding, for messages."""
        return type(self).__name__

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in _field_names(self))

    def __hash__(self) -> int:
        values = (getattr(self, name) for name in _field_names(self))
        return hash((type(self), *(value for value in values if not isinstance(value, np.ndarray))))


def _field_names(encoding: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(encoding))


def _same(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.shape == right.shape and np.array_equal(left, right)
    return left == right


@dataclass(frozen=True, eq=False)
class AffineEncoding(Encoding):
    """Evenly spaced grid: ``q = clamp(rint(x / scale) - offset, qmin, qmax)``, ``x_hat = (q + offset) * scale``.

    Args:
        format: The integers ``q``.
        scale: Positive step sizes, in the quantizer's shape: ``()`` or ``(1,)``, ``(C, 1)``, ``(C, blocks)``, ...
            Kept as float32 where that is exact.
        offset: Where the grid lies, broadcast to the scale's shape; 0 for symmetric signed grids. It is the negative
            of the zero point. Kept as int64 where integral.
        symmetric: Whether the range was meant to be symmetric around zero.
        granularity: Which elements share a scale.
        block_size: Extent of a block in each dimension of the tensor (-1: whole), or ``None`` without blocks.
        zero_point_shift: Constant shift of the grid in steps (0 or 0.5).

    Raises:
        EncodingsError: If a scale is not finite and positive, or shapes or granularity contradict each other.

    Example:
        >>> encoding = AffineEncoding(
        ...     IntFormat.from_bits(8, signed=False),
        ...     scale=0.5,
        ...     offset=-2,
        ...     symmetric=False,
        ...     granularity=PerTensor(),
        ... )
        >>> float(encoding.min), float(encoding.max), int(encoding.zero_point)
        (-1.0, 126.5, 2)
    """

    format: IntFormat  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrowing is safe
    scale: NDArray[Any]
    offset: NDArray[Any]
    symmetric: bool
    granularity: Granularity
    block_size: tuple[int, ...] | None = None
    zero_point_shift: float = 0.0

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if not isinstance(self.format, IntFormat):
            raise _fail(owner, "format", f"got {self.format!r}, expected an IntFormat")
        scale = _positive_array(owner, "scale", self.scale)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "offset", _offset_array(owner, self.offset, scale.shape))
        object.__setattr__(self, "block_size", _block_size(owner, self.block_size, scale.shape))
        object.__setattr__(self, "symmetric", bool(self.symmetric))
        if not math.isfinite(self.zero_point_shift):
            raise _fail(owner, "zero_point_shift", f"got {self.zero_point_shift!r}, expected a finite number")
        _check_granularity(owner, self.granularity, scale.shape)

    @property
    def min(self) -> NDArray[Any]:
        """Real number of ``qmin``: ``scale * (offset + qmin)``, in the scale's shape and precision."""
        return self._real(self.format.qmin)

    @property
    def max(self) -> NDArray[Any]:
        """Real number of ``qmax``: ``scale * (offset + qmax)``."""
        return self._real(self.format.qmax)

    @property
    def zero_point(self) -> NDArray[Any]:
        """Integer that stands for zero, ``-offset``."""
        return -self.offset

    def _real(self, code: int) -> NDArray[Any]:
        return np.asarray(self.scale * np.asarray(self.offset + float(code), dtype=self.scale.dtype))


@dataclass(frozen=True, eq=False)
class GroupedBlockEncoding(AffineEncoding):
    """Low-power blockwise grid (LPBQ): the scale of a block is a small integer times the scale of its channel.

    ``scale`` holds the products; :meth:`from_scales` computes them.

    Args:
        decompressed_bits: Bits of the integers after multiplication by the block's integer scale.
        per_channel_scale: Scale of each channel, broadcastable to ``scale``.
        per_block_int_scale: Integer of each block, from 1 to ``2**(decompressed_bits - bits)``, in ``scale``'s shape.

    Raises:
        EncodingsError: If the integers are out of range or the products do not equal ``scale``.

    Example:
        >>> from quantsim_encodings.granularity import PerBlocks
        >>> encoding = GroupedBlockEncoding.from_scales(
        ...     format=IntFormat.from_bits(4, signed=True),
        ...     per_channel_scale=[[0.5], [0.25]],
        ...     per_block_int_scale=[[16, 9], [1, 16]],
        ...     decompressed_bits=8,
        ...     granularity=PerBlocks((1, 2)),
        ...     block_size=(1, 2),
        ... )
        >>> encoding.scale.tolist()
        [[8.0, 4.5], [0.25, 4.0]]
    """

    _: KW_ONLY
    decompressed_bits: int
    per_channel_scale: NDArray[Any]
    per_block_int_scale: NDArray[Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        bits, wide = self.format.bits, self.decompressed_bits
        if isinstance(wide, bool) or not isinstance(wide, int) or not bits <= wide <= 64:
            raise _fail(owner, "decompressed_bits", f"got {wide!r}, expected an integer from {bits} to 64")
        channel = _positive_array(owner, "per_channel_scale", self.per_channel_scale)
        integers = _integer_array(owner, "per_block_int_scale", self.per_block_int_scale)
        limit = 2 ** (wide - bits)
        if integers.size == 0 or integers.min() < 1 or integers.max() > limit:
            raise _fail(owner, "per_block_int_scale", f"got {_extent(integers)}, expected integers from 1 to {limit}")
        object.__setattr__(self, "per_channel_scale", channel)
        object.__setattr__(self, "per_block_int_scale", integers)
        product = _product(owner, channel, integers)
        if product.shape != self.scale.shape or integers.shape != self.scale.shape:
            raise _fail(owner, "scale", f"got shape {self.scale.shape}, expected that of the products, {product.shape}")
        if not np.allclose(product, self.scale, rtol=RELATIVE_TOLERANCE, atol=0.0):
            raise _fail(owner, "scale", "differs from per_channel_scale * per_block_int_scale, expected the products")

    @classmethod
    def from_scales(
        cls,
        *,
        format: IntFormat,
        per_channel_scale: ArrayLike,
        per_block_int_scale: ArrayLike,
        decompressed_bits: int,
        granularity: Granularity,
        block_size: tuple[int, ...] | None = None,
        offset: ArrayLike = 0,
        symmetric: bool = True,
        zero_point_shift: float = 0.0,
    ) -> GroupedBlockEncoding:
        """Builds the encoding with ``scale = per_channel_scale * per_block_int_scale`` in float32."""
        channel = _positive_array(cls.__name__, "per_channel_scale", per_channel_scale)
        integers = _integer_array(cls.__name__, "per_block_int_scale", per_block_int_scale)
        return cls(
            format=format,
            scale=_product(cls.__name__, channel, integers),
            offset=np.asarray(offset),
            symmetric=symmetric,
            granularity=granularity,
            block_size=block_size,
            zero_point_shift=zero_point_shift,
            decompressed_bits=decompressed_bits,
            per_channel_scale=channel,
            per_block_int_scale=integers,
        )


def _extent(array: NDArray[Any]) -> str:
    return f"{array.min()} to {array.max()}" if array.size else "none"


def _product(owner: str, channel: NDArray[Any], integers: NDArray[np.int64]) -> NDArray[Any]:
    try:
        return np.asarray(channel * integers.astype(channel.dtype))
    except ValueError:
        raise _fail(
            owner,
            "per_channel_scale",
            f"got shape {channel.shape}, expected one that broadcasts to per_block_int_scale's {integers.shape}",
        ) from None


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
            raise _fail(owner, "format", f"got {self.format!r}, expected a FloatFormat")
        object.__setattr__(self, "rounding", RoundingMode(self.rounding))
        shape: tuple[int, ...] = ()
        if self.scale is not None:
            scale = _positive_array(owner, "scale", self.scale)
            object.__setattr__(self, "scale", scale)
            shape = scale.shape
        object.__setattr__(self, "block_size", _block_size(owner, self.block_size, shape))
        _check_granularity(owner, self.granularity, shape)


@dataclass(frozen=True, eq=False)
class MXEncoding(Encoding):
    """Blocks that share a scale which the values themselves determine (MX, NVFP4).

    Args:
        format: MX or NVFP4.
        granularity: Where the blocks lie.
        scale: Scales of the blocks where they are fixed (a weight), else ``None``: they follow from the values.
        tensor_scale: Float32 scale of the whole tensor (two-level NVFP4), else ``None``.
        block_size: Extent of a block in each dimension, or ``None`` where ``granularity`` says it.

    Raises:
        EncodingsError: If a scale is negative or not finite, or shapes or granularity contradict each other.
    """

    format: MXFormat | NVFP4Format  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrowing is safe
    granularity: Granularity
    scale: NDArray[Any] | None = None
    tensor_scale: float | None = None
    block_size: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if not isinstance(self.format, (MXFormat, NVFP4Format)):
            raise _fail(owner, "format", f"got {self.format!r}, expected an MXFormat or NVFP4Format")
        shape: tuple[int, ...] = ()
        if self.scale is not None:
            scale = _positive_array(owner, "scale", self.scale, zero_allowed=isinstance(self.format, NVFP4Format))
            object.__setattr__(self, "scale", scale)
            shape = scale.shape
        if self.tensor_scale is not None:
            value = float(self.tensor_scale)
            if not (math.isfinite(value) and value > 0):
                raise _fail(owner, "tensor_scale", f"got {value!r}, expected a finite positive number")
            object.__setattr__(self, "tensor_scale", value)
            if not (isinstance(self.format, NVFP4Format) and self.format.two_level):
                raise _fail(owner, "tensor_scale", "got a number, expected none: only two-level NVFP4 has one")
        object.__setattr__(self, "block_size", _block_size(owner, self.block_size, shape))
        _check_granularity(owner, self.granularity, shape)


@dataclass(frozen=True, eq=False)
class OpticalEncoding(Encoding):
    """Range of an optical modulator's levels, and the state that observes it.

    Args:
        format: The levels.
        minimum: Real number of the lowest level, in the quantizer's shape.
        maximum: Real number of the highest level; not below ``minimum``.
        granularity: Which elements share a range.
        seed: Seed of the noise.
        smooth_factor: Weight of the old range when a batch updates it, 0 to 1.
        quantiles: Quantiles that give a batch's range, or ``None`` for its smallest and largest value.

    Raises:
        EncodingsError: If a range is not finite or empty, or a field is out of bounds.
    """

    format: OpticalFormat  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrowing is safe
    minimum: NDArray[Any]
    maximum: NDArray[Any]
    granularity: Granularity = _PER_TENSOR
    seed: int = 0
    smooth_factor: float = 0.9
    quantiles: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if not isinstance(self.format, OpticalFormat):
            raise _fail(owner, "format", f"got {self.format!r}, expected an OpticalFormat")
        low, high = _real_array(owner, "minimum", self.minimum), _real_array(owner, "maximum", self.maximum)
        if low.shape != high.shape:
            raise _fail(owner, "maximum", f"got shape {high.shape}, expected minimum's {low.shape}")
        if low.size == 0 or (low > high).any():
            raise _fail(owner, "maximum", "got a maximum below its minimum or none, expected minimum <= maximum")
        object.__setattr__(self, "minimum", low)
        object.__setattr__(self, "maximum", high)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not -(2**63) <= self.seed < 2**64:
            raise _fail(owner, "seed", "got no 64-bit integer, expected one")
        if not 0.0 <= self.smooth_factor <= 1.0:
            raise _fail(owner, "smooth_factor", f"got {self.smooth_factor!r}, expected a number from 0 to 1")
        if self.quantiles is not None:
            quantiles = tuple(float(value) for value in self.quantiles)
            if len(quantiles) != 2 or not 0.0 <= quantiles[0] < quantiles[1] <= 1.0:
                raise _fail(owner, "quantiles", f"got {quantiles!r}, expected two rising numbers from 0 to 1")
            object.__setattr__(self, "quantiles", quantiles)
        _check_granularity(owner, self.granularity, low.shape)


@dataclass(frozen=True, eq=False)
class FixedPointEncoding(Encoding):
    """Integer requantisation: ``clamp(round(acc * multiplier / 2**shift) + zero_point, qmin, qmax)``.

    Args:
        format: Widths, rounding, and the integers that come out.
        multiplier: Positive integers below ``2**format.multiplier_bits``, top bit set if the format is normalised.
        shift: Right shifts, 0 to 63, broadcast to the multiplier's shape; ``format.fraction_bits`` if that is given.
        zero_point: Added after the shift, broadcast to the multiplier's shape.
        granularity: Which elements share a multiplier.

    Raises:
        EncodingsError: If a number is out of these bounds, or shapes or granularity contradict each other.
    """

    format: FixedPointFormat  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrowing is safe
    multiplier: NDArray[Any]
    shift: NDArray[Any]
    zero_point: NDArray[Any]
    granularity: Granularity = _PER_TENSOR

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if not isinstance(self.format, FixedPointFormat):
            raise _fail(owner, "format", f"got {self.format!r}, expected a FixedPointFormat")
        multiplier = _integer_array(owner, "multiplier", self.multiplier)
        low = 2 ** (self.format.multiplier_bits - 1) if self.format.normalised else 1
        high = 2**self.format.multiplier_bits - 1
        if multiplier.size == 0 or multiplier.min() < low or multiplier.max() > high:
            raise _fail(owner, "multiplier", f"got {_extent(multiplier)}, expected integers from {low} to {high}")
        shift = _broadcast_integers(owner, "shift", self.shift, multiplier.shape)
        if shift.min() < 0 or shift.max() > 63:
            raise _fail(owner, "shift", f"got {_extent(shift)}, expected integers from 0 to 63")
        if self.format.fraction_bits is not None and (shift != self.format.fraction_bits).any():
            raise _fail(owner, "shift", f"got {_extent(shift)}, expected the format's {self.format.fraction_bits}")
        object.__setattr__(self, "multiplier", multiplier)
        object.__setattr__(self, "shift", shift)
        zero_point = _broadcast_integers(owner, "zero_point", self.zero_point, multiplier.shape)
        object.__setattr__(self, "zero_point", zero_point)
        _check_granularity(owner, self.granularity, multiplier.shape)


def _broadcast_integers(owner: str, field: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    array = _integer_array(owner, field, value)
    try:
        result = np.array(np.broadcast_to(array, shape))
    except ValueError:
        raise _fail(owner, field, f"got shape {array.shape}, expected the multiplier's {shape}") from None
    result.setflags(write=False)
    return result


@dataclass(frozen=True, eq=False)
class DynamicEncoding(Encoding):
    """Scales that are computed from each tensor at run time; nothing is calibrated.

    Args:
        format: Integers or floating-point numbers.
        granularity: Which elements share a scale.
        symmetric: Whether an integer grid is symmetric around zero.

    Raises:
        EncodingsError: If the format is neither an IntFormat nor a FloatFormat.
    """

    format: IntFormat | FloatFormat  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrowing is safe
    granularity: Granularity
    symmetric: bool

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if not isinstance(self.format, (IntFormat, FloatFormat)):
            raise _fail(owner, "format", f"got {self.format!r}, expected an IntFormat or a FloatFormat")
        if not isinstance(self.granularity, Granularity):
            raise _fail(owner, "granularity", f"got {self.granularity!r}, expected a Granularity")
