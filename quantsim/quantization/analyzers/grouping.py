"""How the elements of a tensor fall into groups that share one set of quantization parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from quantsim.errors import ShapeError

__all__ = ["arrange", "flatten_groups", "normalise_shape", "resolve_block_size"]


def normalise_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """Returns ``shape`` as a tuple of positive ints.

    Raises:
        ShapeError: If an entry is no positive integer.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ShapeError("not a quantizer shape", where="shape", got=repr(shape), expected="positive integers")
    return sizes


def resolve_block_size(tensor_shape: Sequence[int], shape: Sequence[int], block_size: Sequence[int]) -> tuple[int, ...]:
    """Replaces -1 by the size it stands for, and checks that ``shape`` blocks of that size tile the tensor.

    The blocks lie in the last ``len(shape)`` dimensions; all dimensions before them share their parameters.

    Raises:
        ShapeError: If they do not tile it.
    """
    trailing = tuple(tensor_shape)[len(tensor_shape) - len(shape) :]
    if len(block_size) == len(shape) == len(trailing):
        sizes = tuple(
            length // blocks if size == -1 else size
            for length, blocks, size in zip(trailing, shape, block_size, strict=True)
        )
        if all(blocks * size == length for blocks, size, length in zip(shape, sizes, trailing, strict=True)):
            return sizes
    raise ShapeError(
        "the blocks do not tile the tensor",
        where=f"shape={tuple(shape)}, block_size={tuple(block_size)}",
        got=f"a tensor of shape {tuple(tensor_shape)}",
        expected="blocks times block size equal to the tensor's size in each of the last dimensions",
        fix="choose a block size that divides the dimension and shape = dimension / block size",
    )


def arrange(x: Tensor, shape: Sequence[int], block_size: Sequence[int] | None) -> tuple[Tensor, tuple[int, ...]]:
    """Views ``x`` such that each group is reduced over the same dimensions.

    Args:
        x: Tensor of any shape.
        shape: Shape of the parameters.
        block_size: Elements of a block in each dimension, or ``None``.

    Returns:
        A view of ``x`` and the dimensions to reduce; the others, in order, run over the groups in row-major order.

    Raises:
        ShapeError: If ``x`` does not fit.

    Example:
        >>> import torch
        >>> view, dimensions = arrange(torch.ones(4, 6), (4, 2), (1, 3))
        >>> view.amax(dimensions).shape
        torch.Size([4, 2])
    """
    if block_size is not None:
        sizes = resolve_block_size(x.shape, shape, block_size)
        leading = tuple(x.shape[: x.dim() - len(shape)])
        interleaved = [size for pair in zip(shape, sizes, strict=True) for size in pair]
        view = x.reshape(*leading, *interleaved)
        groups = {len(leading) + 2 * position for position in range(len(shape))}
        return view, tuple(dimension for dimension in range(view.dim()) if dimension not in groups)
    padded = (1,) * (x.dim() - len(shape)) + tuple(shape)
    while len(padded) > x.dim() and padded[0] == 1:
        padded = padded[1:]
    if len(padded) != x.dim() or any(size not in (1, length) for size, length in zip(padded, x.shape, strict=False)):
        raise ShapeError(
            "the tensor does not fit the quantizer",
            where=f"shape={tuple(shape)}",
            got=f"a tensor of shape {tuple(x.shape)}",
            expected="a tensor that the quantizer's shape broadcasts to",
            fix="give the channel dimension its size and all other dimensions 1, e.g. (C, 1, 1, 1) for a Conv2d weight",
        )
    return x, tuple(dimension for dimension, size in enumerate(padded) if size == 1)


def flatten_groups(x: Tensor, shape: Sequence[int], block_size: Sequence[int] | None) -> Tensor:
    """Rearranges ``x`` to (groups, elements of a group); a view where that is possible.

    Raises:
        ShapeError: If ``x`` does not fit.
    """
    count = math.prod(shape)
    if count == 1 and block_size is None:
        return x.reshape(1, -1)
    view, reduced = arrange(x, shape, block_size)
    kept = [dimension for dimension in range(view.dim()) if dimension not in reduced]
    return view.permute(*kept, *reduced).reshape(count, -1)
