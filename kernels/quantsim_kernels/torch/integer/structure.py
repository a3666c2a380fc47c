"""Ops that move integers and change none, in torch. Results may be views of their operands."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_kernels.torch.integer.rounding import Constant, constant, narrowest

__all__ = ["concatenate", "embedding", "expand", "pad", "reshape", "roll", "slice", "take", "transpose"]


def embedding(ids: Tensor, *, table: Constant) -> Tensor:
    """Rows of a table, in its dtype.

    Raises:
        IndexError: an id is no row number (on the CPU; other devices raise their own error).

    Example:
        >>> embedding(
        ...     torch.tensor([2, 0]), table=torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=torch.int8)
        ... ).tolist()
        [[5, 6], [1, 2]]
    """
    entries = torch.as_tensor(table, device=ids.device)
    rows = entries.index_select(0, ids.reshape(-1).to(torch.int64))
    return rows.reshape(*ids.shape, *entries.shape[1:])


def reshape(x: Tensor, *, shape: Sequence[int]) -> Tensor:
    """The same elements in row-major order, in another shape; one length may be -1."""
    return x.reshape(tuple(shape))


def transpose(x: Tensor, *, order: Sequence[int]) -> Tensor:
    """Dimensions in another order: dimension ``i`` of the result is ``order[i]`` of ``x``."""
    return x.permute(tuple(order))


def slice(x: Tensor, *, axis: int, start: int, stop: int | None, step: int = 1) -> Tensor:
    """Every ``step``-th index of a dimension from ``start`` up to but without ``stop``, as Python slices.

    Example:
        >>> slice(torch.arange(5), axis=0, start=-1, stop=None, step=-2)
        tensor([4, 2, 0])
    """
    part = builtins.slice(start, stop, step)
    if step > 0:
        return x[(builtins.slice(None),) * (axis % x.dim()) + (part,)]
    indices = torch.tensor(range(x.shape[axis])[part], dtype=torch.int64, device=x.device)
    return x.index_select(axis, indices)


def take(x: Tensor, *, axis: int, indices: Constant) -> Tensor:
    """Chosen indices of a dimension, in the given order; a single number removes the dimension.

    Example:
        >>> take(torch.tensor([[1, 2, 3]]), axis=1, indices=-1)
        tensor([3])
    """
    chosen = constant(indices, x.device)
    axis %= x.dim()
    flat = torch.where(chosen < 0, chosen + x.shape[axis], chosen).reshape(-1)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *chosen.shape, *x.shape[axis + 1 :])


def concatenate(*xs: Tensor, axis: int) -> Tensor:
    """Tensors of one dtype, one after another along a dimension."""
    return torch.cat(xs, dim=axis)


def expand(x: Tensor, *, shape: Sequence[int]) -> Tensor:
    """Dimensions of length 1 repeated to the lengths of ``shape``; a length of -1 keeps the one that is there."""
    return x.expand(tuple(shape))


def pad(x: Tensor, *, widths: Sequence[Sequence[int]], value: int) -> Tensor:
    """``value`` added ``(before, after)`` each dimension, in a dtype that holds it.

    Example:
        >>> pad(torch.tensor([[1, 2]], dtype=torch.int8), widths=((0, 0), (1, 2)), value=-7)
        tensor([[-7,  1,  2, -7, -7]], dtype=torch.int8)
    """
    low, high = (0, 1) if x.dtype is torch.bool else (torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max)
    dtype = x.dtype if low <= value <= high else narrowest(min(value, low), max(value, high))
    return F.pad(x.to(dtype), [size for pair in reversed(widths) for size in pair], value=value)


def roll(x: Tensor, *, shifts: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Elements moved along dimensions; what leaves at the end comes back at the start."""
    return torch.roll(x, tuple(shifts), tuple(axes))
