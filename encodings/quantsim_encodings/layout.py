"""Where the scales of a tensor lie: a normal form of granularities, and moving encodings between layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from quantsim_encodings.encoding import (
    AffineEncoding,
    Encoding,
    FloatEncoding,
    GroupedBlockEncoding,
    UnplacedGroupedBlockEncoding,
)
from quantsim_encodings.errors import EncodingsError, Problem
from quantsim_encodings.granularity import (
    Flattened,
    Granularity,
    PerBlock,
    PerBlocks,
    PerChannel,
    PerTensor,
    PerToken,
)

__all__ = ["place", "transpose"]

ScaledEncoding = TypeVar("ScaledEncoding", AffineEncoding, FloatEncoding)


@dataclass(frozen=True)
class Layout:
    """Normal form of a granularity: at most one axis, cut into blocks or not.

    Args:
        axis: Axis of the channels, or that is cut into blocks; ``None``: one scale, or the axis is not known.
        block_size: Elements in a block along ``axis``, or ``None``.
        known: Whether the layout is known at all (not so for ``Flattened``).
    """

    axis: int | None = None
    block_size: int | None = None
    known: bool = True

    @property
    def per_tensor(self) -> bool:
        """Whether there is one scale."""
        return self.known and self.axis is None


def layout_of(granularity: Granularity, block_size: tuple[int, ...] | None, shape: tuple[int, ...]) -> Layout | None:
    """Finds the normal form, or ``None`` for granularities that have none (tokens, tiles of several dimensions)."""
    if isinstance(granularity, PerTensor):
        return Layout()
    if isinstance(granularity, PerChannel):
        return Layout(axis=granularity.axis)
    if isinstance(granularity, Flattened):
        return Layout(block_size=granularity.block_size, known=False)
    if isinstance(granularity, PerBlock):
        return _single_axis(granularity.axis, granularity.block_size, shape)
    if isinstance(granularity, PerBlocks):
        return _tiles(granularity.block_size, shape)
    return None


def _single_axis(axis: int, size: int, shape: tuple[int, ...]) -> Layout | None:
    if size == -1:  # The whole axis is one block: one scale for each index of the others.
        others = [index for index in range(len(shape)) if index != axis % max(len(shape), 1) and shape[index] != 1]
        return Layout(axis=others[0]) if len(others) == 1 else Layout() if not others else None
    return Layout(axis=axis, block_size=size)


def _tiles(sizes: tuple[int, ...], shape: tuple[int, ...]) -> Layout | None:
    cut = [axis for axis, size in enumerate(sizes) if size > 1]
    single = [axis for axis, size in enumerate(sizes) if size == 1]
    whole = [axis for axis, size in enumerate(sizes) if size == -1]
    if len(cut) == 1 and not whole and len(shape) == len(sizes):
        return Layout(axis=cut[0], block_size=sizes[cut[0]])
    if not cut and len(single) == 1:
        return Layout(axis=single[0])
    if not cut and not single:
        return Layout()
    return None


def place(
    encoding: Encoding, granularity: Granularity, shape: Sequence[int], block_size: tuple[int, ...] | None = None
) -> Encoding:
    """Puts scales read from a file without layout where they belong.

    Args:
        encoding: An encoding whose granularity is ``Flattened``; any other is returned if it already has ``shape``.
        granularity: What the tensor's quantizer says.
        shape: Shape of the scales, the quantizer's; the file lists them in row-major order.
        block_size: Extent of a block in each dimension, or ``None``.

    Returns:
        The encoding with scales of that shape.

    Raises:
        EncodingsError: If the number of scales does not fit.

    Example:
        >>> from quantsim_encodings import AffineEncoding, Flattened, IntFormat
        >>> flat = AffineEncoding(IntFormat(-8, 7), [0.5, 0.25], 0, True, Flattened())
        >>> place(flat, PerChannel(0), (2, 1)).scale.shape
        (2, 1)
    """
    target = tuple(shape)
    count = int(np.prod(target, dtype=np.int64))
    if isinstance(encoding, UnplacedGroupedBlockEncoding):
        return _place_grouped(encoding, granularity, target, block_size)
    scale = getattr(encoding, "scale", None)
    if not isinstance(encoding, (AffineEncoding, FloatEncoding)) or scale is None:
        return encoding
    if scale.size != count:
        raise _no_place(f"got {scale.size} scales, expected {count} for the quantizer's shape {target}", "$.scale")
    changes = {"scale": scale.reshape(target), "granularity": granularity, "block_size": block_size}
    if isinstance(encoding, AffineEncoding):
        changes["offset"] = encoding.offset.reshape(target)
    if isinstance(encoding, GroupedBlockEncoding) and encoding.scale.shape != target:
        raise _no_place(f"got shape {encoding.scale.shape}, expected the quantizer's {target}", "$.scale")
    return replace(encoding, **changes)


def _place_grouped(
    encoding: UnplacedGroupedBlockEncoding,
    granularity: Granularity,
    shape: tuple[int, ...],
    block_size: tuple[int, ...] | None,
) -> GroupedBlockEncoding:
    integers, channels = encoding.per_block_int_scale, encoding.per_channel_scale
    layout = layout_of(granularity, block_size, shape)
    if layout is None or layout.axis is None or integers.size != np.prod(shape, dtype=np.int64):
        raise _no_place(
            f"got {integers.size} block scales of {channels.size} channels for granularity {granularity}, "
            f"expected blocks along one axis in the quantizer's shape {shape}",
            "$.per_block_int_scale",
        )
    channel_shape = tuple(1 if axis == layout.axis % len(shape) else size for axis, size in enumerate(shape))
    if np.prod(channel_shape, dtype=np.int64) != channels.size:
        raise _no_place(f"got {channels.size} channels, expected shape {channel_shape}", "$.per_channel_scale")
    return GroupedBlockEncoding.from_scales(
        format=encoding.format,
        per_channel_scale=channels.reshape(channel_shape),
        per_block_int_scale=integers.reshape(shape),
        decompressed_bits=encoding.decompressed_bits,
        granularity=granularity,
        block_size=block_size,
    )


def _no_place(message: str, path: str) -> EncodingsError:
    return EncodingsError("encoding does not fit the quantizer", [Problem(path, message)])


def transpose(encoding: ScaledEncoding, permutation: Sequence[int]) -> ScaledEncoding:
    """Follows a tensor whose dimensions are permuted, as exporters do to the weight of a matrix product.

    Args:
        encoding: Encoding of the tensor before; its scales have the tensor's rank, or it is per tensor or channel.
        permutation: Old dimension of each new one, as in ``numpy.transpose``.

    Returns:
        Encoding of the tensor after, with the right axis and block size.

    Raises:
        EncodingsError: If it is no permutation, or the layout of the scales is not known.

    Example:
        >>> from quantsim_encodings import AffineEncoding, IntFormat
        >>> encoding = AffineEncoding(IntFormat(-8, 7), [[0.5, 0.25]], 0, True, PerBlock(0, 4), (4, 1))
        >>> moved = transpose(encoding, (1, 0))
        >>> moved.granularity, moved.scale.shape, moved.block_size
        (PerBlock(axis=1, block_size=4), (2, 1), (1, 4))
    """
    order = tuple(permutation)
    rank = len(order)
    if sorted(order) != list(range(rank)):
        raise _no_transpose(f"got {order}, expected a permutation of 0 to {rank - 1}")
    granularity = encoding.granularity
    if isinstance(granularity, (Flattened, PerToken)) or (
        isinstance(granularity, PerBlocks) and len(granularity.block_size) != rank
    ):
        raise _no_transpose(f"got granularity {granularity}, expected one with a known axis in {rank} dimensions")
    new_granularity = granularity
    if isinstance(granularity, (PerChannel, PerBlock)):
        if not -rank <= granularity.axis < rank:
            raise _no_transpose(f"got axis {granularity.axis}, expected one of {rank} dimensions")
        new_granularity = replace(granularity, axis=order.index(granularity.axis % rank))
    elif isinstance(granularity, PerBlocks):
        new_granularity = PerBlocks(tuple(granularity.block_size[axis] for axis in order))
    changes: dict[str, object] = {"granularity": new_granularity}
    if encoding.block_size is not None:
        if len(encoding.block_size) != rank:
            raise _no_transpose(f"got block size {encoding.block_size}, expected {rank} sizes")
        changes["block_size"] = tuple(encoding.block_size[axis] for axis in order)
    for field in ("scale", "offset", "per_channel_scale", "per_block_int_scale"):
        array = getattr(encoding, field, None)
        if array is not None and array.ndim > 1:
            if array.ndim != rank:
                raise _no_transpose(f"got {field} of {array.ndim} dimensions, expected {rank}")
            changes[field] = array.transpose(order)
    return replace(encoding, **changes)


def _no_transpose(message: str) -> EncodingsError:
    return EncodingsError("cannot transpose the encoding", [Problem("$", message)])
