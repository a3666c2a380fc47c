"""Encodings of evenly spaced grids: affine, and low-power blockwise (LPBQ)."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantsim_encodings._arrays import (
    check_granularity,
    checked_block_size,
    extent,
    fail,
    integer_array,
    offset_array,
    positive_array,
)
from quantsim_encodings._encoding_base import Encoding
from quantsim_encodings.formats import IntFormat
from quantsim_encodings.granularity import Flattened, Granularity, PerBlock, PerBlocks

__all__ = ["AffineEncoding", "GroupedBlockEncoding", "UnplacedGroupedBlockEncoding"]

RELATIVE_TOLERANCE: Final = 1e-5
"""How far two redundant statements of a number may differ: a few float32 roundings."""


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
        EncodingsError: If a scale is not finite and positive, or so large that the grid is not finite, or shapes or
            granularity contradict each other.

    Example:
        >>> from quantsim_encodings.granularity import PerTensor
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
            raise fail(owner, "format", f"got {self.format!r}, expected an IntFormat")
        scale = positive_array(owner, "scale", self.scale)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "offset", offset_array(owner, self.offset, scale.shape))
        object.__setattr__(self, "block_size", checked_block_size(owner, self.block_size, scale.shape))
        object.__setattr__(self, "symmetric", bool(self.symmetric))
        if not math.isfinite(self.zero_point_shift):
            raise fail(owner, "zero_point_shift", f"got {self.zero_point_shift!r}, expected a finite number")
        check_granularity(owner, self.granularity, scale.shape)
        with np.errstate(over="ignore"):
            reaches = np.isfinite(self.min) & np.isfinite(self.max)
        if not reaches.all():
            raise fail(
                owner, "scale", f"got {extent(scale)}, expected a scale whose grid ends before the largest real number"
            )

    @property
    def min(self) -> NDArray[Any]:
        """Real number of ``qmin``: ``scale * (offset + zero_point_shift + qmin)``, as the scale's type and shape."""
        return self._real(self.format.qmin)

    @property
    def max(self) -> NDArray[Any]:
        """Real number of ``qmax``: ``scale * (offset + zero_point_shift + qmax)``."""
        return self._real(self.format.qmax)

    @property
    def zero_point(self) -> NDArray[Any]:
        """Integer that stands for zero, ``-offset``."""
        return -self.offset

    def _real(self, code: int) -> NDArray[Any]:
        return np.asarray(self.scale * np.asarray(self.offset + (code + self.zero_point_shift), dtype=self.scale.dtype))


@dataclass(frozen=True, eq=False)
class GroupedBlockEncoding(AffineEncoding):
    """Low-power blockwise grid (LPBQ): the scale of a block is a small integer times the scale of its channel.

    ``scale`` holds the products; :meth:`from_scales` computes them.

    Args:
        decompressed_bits: Bits of the integers after multiplication by the block's integer scale.
        per_channel_scale: Scale of each channel, broadcastable to ``scale``. Kept with one entry along an axis that is
            cut into blocks if all blocks share it, and with ``scale``'s size along the others.
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
        channel = positive_array(owner, "per_channel_scale", self.per_channel_scale)
        integers = _block_integers(owner, self.per_block_int_scale, self.format, self.decompressed_bits)
        product = _product(owner, channel, integers)
        object.__setattr__(self, "per_channel_scale", _one_per_channel(channel, product.shape, self.granularity))
        object.__setattr__(self, "per_block_int_scale", integers)
        if product.shape != self.scale.shape or integers.shape != self.scale.shape:
            raise fail(owner, "scale", f"got shape {self.scale.shape}, expected that of the products, {product.shape}")
        if not np.allclose(product, self.scale, rtol=RELATIVE_TOLERANCE, atol=0.0):
            raise fail(owner, "scale", "differs from per_channel_scale * per_block_int_scale, expected the products")

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
        channel = positive_array(cls.__name__, "per_channel_scale", per_channel_scale)
        integers = _block_integers(cls.__name__, per_block_int_scale, format, decompressed_bits)
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


def _block_integers(owner: str, value: ArrayLike, format: IntFormat, wide: int) -> NDArray[np.int64]:
    if isinstance(wide, bool) or not isinstance(wide, int) or not format.bits <= wide <= 64:
        raise fail(owner, "decompressed_bits", f"got {wide!r}, expected an integer from {format.bits} to 64")
    integers = integer_array(owner, "per_block_int_scale", value)
    limit = 2 ** (wide - format.bits)
    if integers.size == 0 or integers.min() < 1 or integers.max() > limit:
        raise fail(owner, "per_block_int_scale", f"got {extent(integers)}, expected integers from 1 to {limit}")
    return integers


def _one_per_channel(channel: NDArray[Any], shape: tuple[int, ...], granularity: Granularity) -> NDArray[Any]:
    result = np.broadcast_to(channel, shape)
    if isinstance(granularity, PerBlock):
        cut = [granularity.axis % len(shape)] if -len(shape) <= granularity.axis < len(shape) else []
    else:
        sizes = granularity.block_size if isinstance(granularity, PerBlocks) else ()
        cut = [axis for axis, size in enumerate(sizes) if size != 1 and axis < len(shape)]
    for axis in cut:
        first = result.take([0], axis=axis)
        if (result == first).all():
            result = first
    result = np.array(result)
    result.setflags(write=False)
    return result


def _product(owner: str, channel: NDArray[Any], integers: NDArray[np.int64]) -> NDArray[Any]:
    try:
        return np.asarray(channel * integers.astype(channel.dtype))
    except ValueError:
        raise fail(
            owner,
            "per_channel_scale",
            f"got shape {channel.shape}, expected one that broadcasts to per_block_int_scale's {integers.shape}",
        ) from None


@dataclass(frozen=True, eq=False)
class UnplacedGroupedBlockEncoding(Encoding):
    """Low-power blockwise grid (LPBQ) as AIMET's 1.0.0 lists it: without saying which block is in which channel.

    The block scales follow once the tensor is known, see ``quantsim_encodings.place``.

    Args:
        format: The integers of the tensor; signed, with offset 0.
        granularity: ``Flattened``, with the block size.
        decompressed_bits: Bits of the integers after multiplication by the block's integer scale.
        per_channel_scale: Scale of each channel, one dimension.
        per_block_int_scale: Integer of each block in the tensor's row-major order, one dimension.

    Raises:
        EncodingsError: If the integers are out of range or no multiple of the channels.
    """

    format: IntFormat  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrowing is safe
    granularity: Flattened  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrowing is safe
    decompressed_bits: int
    per_channel_scale: NDArray[Any]
    per_block_int_scale: NDArray[Any]

    def __post_init__(self) -> None:
        owner = type(self).__name__
        channel = positive_array(owner, "per_channel_scale", self.per_channel_scale)
        integers = _block_integers(owner, self.per_block_int_scale, self.format, self.decompressed_bits)
        if channel.ndim != 1 or integers.ndim != 1 or integers.size % channel.size:
            raise fail(
                owner,
                "per_block_int_scale",
                f"got shape {integers.shape} for {channel.shape} channels, expected a multiple of them",
            )
        object.__setattr__(self, "per_channel_scale", channel)
        object.__setattr__(self, "per_block_int_scale", integers)
