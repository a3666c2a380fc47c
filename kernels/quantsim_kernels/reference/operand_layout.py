"""In which shape and dtype a tensor and its scale meet: the one definition, for all schemes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

__all__ = ["blocked_shapes", "computation_dtype"]


def computation_dtype(dtype: torch.dtype, qmin: int, qmax: int) -> torch.dtype:
    """The dtype in which a grid is computed for inputs of ``dtype``.

    The input's own where the grid is exact in it with room for rounding (``eps <= 0.25 / n`` and every integer of the
    grid representable: 4 bits for bfloat16, 8 for float16, 21 for float32), else the next of float32 and float64.

    Example:
        >>> computation_dtype(torch.bfloat16, -8, 7), computation_dtype(torch.bfloat16, -128, 127)
        (torch.bfloat16, torch.float32)
    """
    steps, largest = qmax - qmin, max(abs(qmin), abs(qmax))
    for candidate in (dtype, torch.float32):
        eps = torch.finfo(candidate).eps
        if steps * eps <= 0.25 and largest * eps <= 2.0:
            return candidate
    return torch.float64


def blocked_shapes(
    shape: Sequence[int], scale_shape: Sequence[int], block_size: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes in which a tensor and its scale broadcast, and the check that they fit.

    Without ``block_size`` the two shapes themselves; with it, each of the tensor's last dimensions is split in
    (number of blocks, block size) and each dimension of the scale in (number of blocks, 1).

    Args:
        shape: shape of the tensor.
        scale_shape: shape of the scale.
        block_size: one entry for each dimension of the scale, -1 for "the dimension divided evenly"; or ``None``.

    Raises:
        ValueError: the scale would not broadcast to the tensor's shape, or the blocks do not tile it.

    Example:
        >>> blocked_shapes((8, 64), (8, 2), (1, 32))
        ((8, 1, 2, 32), (8, 1, 2, 1))
    """
    # A lone number fits every tensor, 0-d tensors included.
    if block_size is None:
        if len(scale_shape) > len(shape) and math.prod(scale_shape) == 1:
            return tuple(shape), ()
        fits = len(scale_shape) <= len(shape) and all(
            scale in (1, size) for size, scale in zip(reversed(shape), reversed(scale_shape), strict=False)
        )
        if not fits:
            raise ValueError(
                f"scale: got shape {tuple(scale_shape)} for a tensor of shape {tuple(shape)}, expected a shape that "
                "broadcasts to the tensor's without enlarging it; give one scale, (channels, 1, ...) for one a "
                "channel, or block_size for blocks"
            )
        return tuple(shape), tuple(scale_shape)
    if len(block_size) != len(scale_shape) or len(scale_shape) > len(shape):
        raise ValueError(
            f"block_size: got {tuple(block_size)} with a scale of shape {tuple(scale_shape)} and a tensor of shape "
            f"{tuple(shape)}, expected one entry for each dimension of the scale, at most as many as the tensor has"
        )
    lead = len(shape) - len(scale_shape)
    view, scale_view = list(shape[:lead]), []
    for size, blocks, width in zip(shape[lead:], scale_shape, block_size, strict=True):
        if (width == -1 and blocks and size % blocks == 0) or (width > 0 and width * blocks == size):
            view += [blocks, size // blocks if blocks else width]
            scale_view += [blocks, 1]
        else:
            raise ValueError(
                f"block_size: got {tuple(block_size)} with a scale of shape {tuple(scale_shape)} and a tensor of "
                f"shape {tuple(shape)}, expected number of blocks x block size = tensor size in each dimension "
                f"({blocks} x {width} != {size}); -1 means the dimension divided evenly"
            )
    return tuple(view), tuple(scale_view)
