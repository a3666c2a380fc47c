"""Granularities, and how they map to a quantizer's shape and block size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from quantsim.errors import ConfigurationError, ShapeError
from quantsim_encodings.granularity import (
    Flattened,
    Granularity,
    PerBlock,
    PerBlocks,
    PerChannel,
    PerTensor,
    PerToken,
)

__all__ = [
    "Flattened",
    "Granularity",
    "PerBlock",
    "PerBlocks",
    "PerChannel",
    "PerTensor",
    "PerToken",
    "granularity_of",
    "shape_for",
]


def shape_for(granularity: Granularity, tensor_shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Returns the ``shape`` and ``block_size`` of a quantizer of that granularity for tensors of ``tensor_shape``.

    Args:
        granularity: Which elements share a set of parameters.
        tensor_shape: Shape of the tensor to be quantized.

    Raises:
        ShapeError: If the axis does not exist or the blocks do not divide the dimension.
        ConfigurationError: If the granularity has no fixed shape (per token).

    Example:
        >>> (
        ...     shape_for(PerChannel(0), (10, 5)),
        ...     shape_for(PerBlock(1, 32), (8, 64)),
        ...     shape_for(PerTensor(), (8, 64)),
        ... )
        (((10, 1), None), ((8, 2), (1, 32)), ((), None))
    """
    lengths = tuple(tensor_shape)
    match granularity:
        case PerTensor():
            return (), None
        case PerChannel(axis=axis):
            position = _position(granularity, axis, lengths)
            return tuple(length if index == position else 1 for index, length in enumerate(lengths)), None
        case PerBlock(axis=axis, block_size=size):
            position = _position(granularity, axis, lengths)
            return _tile(granularity, lengths, tuple(size if index == position else 1 for index in range(len(lengths))))
        case PerBlocks(block_size=sizes):
            if len(sizes) != len(lengths):
                raise ShapeError(
                    "wrong number of block sizes",
                    where=repr(granularity),
                    got=f"a tensor of shape {lengths}",
                    expected=f"{len(sizes)} dimensions",
                )
            return _tile(granularity, lengths, sizes)
        case _:
            raise ConfigurationError(
                "this granularity has no fixed shape",
                where="granularity",
                got=repr(granularity),
                expected="PerTensor, PerChannel, PerBlock or PerBlocks",
                fix="use a dynamic quantizer for PerToken",
            )


def granularity_of(shape: Sequence[int], block_size: Sequence[int] | None) -> Granularity:
    """Returns the granularity of a quantizer; inverts `shape_for` where dimensions correspond.

    Args:
        shape: Shape of the parameters.
        block_size: Elements of a block in each dimension, or ``None``.

    Example:
        >>> granularity_of((10, 1), None), granularity_of((8, 2), (1, 32))
        (PerChannel(axis=0), PerBlock(axis=1, block_size=32))
    """
    if block_size is None:
        long = [index for index, length in enumerate(shape) if length > 1]
        if not long:
            return PerTensor()
        if len(long) == 1:
            return PerChannel(long[0])
        return PerBlocks(tuple(1 if length > 1 else -1 for length in shape))
    long = [index for index, size in enumerate(block_size) if size != 1]
    if len(long) == 1:
        return PerBlock(long[0], block_size[long[0]])
    return PerBlocks(tuple(block_size))


def _position(granularity: Granularity, axis: int, lengths: tuple[int, ...]) -> int:
    if not -len(lengths) <= axis < len(lengths):
        raise ShapeError(
            "no such dimension",
            where=repr(granularity),
            got=f"a tensor of shape {lengths}",
            expected=f"an axis from {-len(lengths)} to {len(lengths) - 1}",
        )
    return axis % len(lengths)


def _tile(
    granularity: Granularity, lengths: tuple[int, ...], sizes: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    whole = tuple(length if size == -1 else size for length, size in zip(lengths, sizes, strict=True))
    if math.prod(lengths) == 0 or any(length % size for length, size in zip(lengths, whole, strict=True)):
        raise ShapeError(
            "the blocks do not tile the tensor",
            where=repr(granularity),
            got=f"a tensor of shape {lengths}",
            expected="block sizes that divide each dimension",
            fix="choose another block size, or pad the tensor",
        )
    return tuple(length // size for length, size in zip(lengths, whole, strict=True)), whole
