"""Ops on each element, in torch: requantization, sums, products, tables."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quantsim_kernels.torch.integer.rounding import Constant, constant, finish, narrowest, number, rounded_shift

__all__ = ["add", "clamp", "multiply", "negate", "requantize", "scale_shift", "table"]

_PIECE = 1 << 18


def requantize(
    x: Tensor,
    *,
    multiplier: Constant,
    shift: Constant,
    zero_point_in: int,
    zero_point: int,
    low: int,
    high: int,
    axis: int | None = None,
) -> Tensor:
    """From one grid to another; see `quantsim_kernels.reference.integer.requantize`.

    Example:
        >>> x, grid = torch.tensor([0, 3, 5], dtype=torch.uint8), {"zero_point": -128, "low": -128, "high": 127}
        >>> requantize(x, multiplier=1 << 30, shift=31, zero_point_in=0, **grid)
        tensor([-128, -126, -125], dtype=torch.int8)
    """
    return finish(x, -zero_point_in, multiplier, shift, zero_point, low, high, axis)


def add(
    a: Tensor,
    b: Tensor,
    *,
    multiplier_a: Constant,
    multiplier_b: Constant,
    shift: Constant,
    zero_point_a: int,
    zero_point_b: int,
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """Sum of two grids, rounded once; see `quantsim_kernels.reference.integer.add`."""
    scale_a, scale_b = _scalar(multiplier_a, a.device), _scalar(multiplier_b, a.device)
    zeros = zero_point_a * scale_a + zero_point_b * scale_b
    narrow = _are_narrow(a, b)

    def combine(left: Tensor, right: Tensor) -> Tensor:
        dtype = torch.float64 if narrow else torch.int64
        total = left.to(dtype) * scale_a + right.to(dtype) * scale_b
        total -= zeros
        return finish(total, 0, 1, shift, zero_point, low, high, held_by_float64=narrow)

    return _in_pieces(combine, a, b)


def multiply(
    a: Tensor,
    b: Tensor,
    *,
    zero_point_a: int,
    zero_point_b: int,
    multiplier: Constant,
    shift: Constant,
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """Product of two grids; see `quantsim_kernels.reference.integer.multiply`."""
    dtype = torch.float64 if _are_narrow(a, b) else torch.int64

    def combine(left: Tensor, right: Tensor) -> Tensor:
        product = (left.to(dtype) - zero_point_a) * (right.to(dtype) - zero_point_b)
        return finish(product, 0, multiplier, shift, zero_point, low, high)

    return _in_pieces(combine, a, b)


def scale_shift(
    x: Tensor,
    *,
    multiplier: Constant,
    offset: Constant,
    shift: Constant,
    axis: int,
    zero_point_in: int,
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """An affine map of each channel; see `quantsim_kernels.reference.integer.scale_shift`."""
    axis %= x.dim()

    def along(value: Constant) -> Tensor:
        values = constant(value, x.device).reshape(-1)
        return values.reshape(-1, *(1,) * (x.dim() - axis - 1))

    total = (x.to(torch.int64) - zero_point_in) * along(multiplier)
    total += along(offset)
    result = rounded_shift(total, along(shift))
    result += zero_point
    return result.clamp_(low, high).to(narrowest(low, high))


def table(x: Tensor, *, table: Constant, first: int) -> Tensor:
    """Any function of one operand, tabulated: ``table[x - first]``, in the table's dtype.

    Raises:
        IndexError: an operand has no entry (on the CPU; other devices raise their own error).

    Example:
        >>> table(torch.tensor([-2, 1]), table=torch.tensor([4, 1, 0, 1], dtype=torch.uint8), first=-2)
        tensor([4, 1], dtype=torch.uint8)
    """
    entries = torch.as_tensor(table, device=x.device)
    index = x.reshape(-1).to(torch.int64)
    if first:
        index -= first
    return entries.index_select(0, index).reshape(x.shape)


def clamp(x: Tensor, *, low: int, high: int) -> Tensor:
    """``x``, at least ``low`` and at most ``high``, in its own dtype.

    Example:
        >>> clamp(torch.tensor([-3, 4, 9], dtype=torch.int8), low=0, high=1000)
        tensor([0, 4, 9], dtype=torch.int8)
    """
    limits = torch.iinfo(x.dtype)
    return x.clamp(min(max(low, limits.min), limits.max), min(max(high, limits.min), limits.max))


def negate(x: Tensor, *, total: int) -> Tensor:
    """``total - x``, in a dtype that holds all that may come out.

    Example:
        >>> negate(torch.tensor([0, 128, 255], dtype=torch.uint8), total=255)
        tensor([255, 127,   0], dtype=torch.uint8)
    """
    limits = torch.iinfo(x.dtype)
    dtype = narrowest(total - limits.max, total - limits.min)
    return (total - x.to(torch.int64)).to(dtype)


def _are_narrow(*operands: Tensor) -> bool:
    """Whether sums of two operands times multipliers, and products of two, are certain to be held by float64."""
    narrow = (torch.uint8, torch.int8, torch.int16)
    return all(operand.device.type == "cpu" and operand.dtype in narrow for operand in operands)


def _in_pieces(combine: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """``combine(a, b)``, on the CPU piece by piece in the cache."""
    if a.device.type != "cpu" or max(a.numel(), b.numel()) <= _PIECE:
        return combine(a, b)
    a, b = torch.broadcast_tensors(a, b)
    pieces = zip(a.reshape(-1).split(_PIECE), b.reshape(-1).split(_PIECE), strict=True)
    return torch.cat([combine(left, right) for left, right in pieces]).reshape(a.shape)


def _scalar(value: Constant, device: torch.device) -> int | Tensor:
    single = number(value)
    return constant(value, device).reshape(()) if single is None else single
