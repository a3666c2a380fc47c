"""Linear layers, convolutions and matrix products on integers, in torch: exact sums, rounded once.

torch has no fast integer products on CPUs. float32's are exact as long as no partial sum exceeds 2^24, so K is cut into
blocks for which that is certain, whose sums are added as integers; else float64's are exact up to 2^53. A self-test of
the device decides whether float32 is used at all. On CUDA, products of 8-bit operands are ``torch._int_mm``'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_kernels.torch.integer import _exactness
from quantsim_kernels.torch.integer._weights import EXACT_FLOAT32, EXACT_FLOAT64, prepared_weight
from quantsim_kernels.torch.integer.rounding import Constant, bounds, constant, finish

__all__ = ["convolution", "exact_matmul", "linear", "matmul"]

_INT32_LOW, _INT32_HIGH = -(2**31), 2**31 - 1
_SHORTEST = 96
_INT_MM_ROWS, _INT_MM_MULTIPLE = 17, 8
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def linear(
    x: Tensor,
    *,
    weight: Constant,
    bias: Constant,
    multiplier: Constant | None = None,
    shift: Constant | None = None,
    zero_point: int = 0,
    low: int = _INT32_LOW,
    high: int = _INT32_HIGH,
) -> Tensor:
    """``x @ weight.T + bias``, put on the grid of the result; see `quantsim_kernels.reference.integer.linear`.

    What is prepared of the weight is kept as long as the tensor that was passed.

    Example:
        >>> x = torch.tensor([[5, 6]], dtype=torch.uint8)
        >>> linear(x, weight=torch.tensor([[1, 2], [3, -4]], dtype=torch.int8), bias=torch.tensor([10, 0]))
        tensor([[27, -9]], dtype=torch.int32)
    """
    matrix = torch.as_tensor(weight, device=x.device)
    rows = x.reshape(-1, x.shape[-1])
    if _takes_int_mm(rows, matrix):
        sums, addend = _int_mm_linear(rows, matrix, bias)
    else:
        low_in, high_in = bounds(rows)
        pieces = prepared_weight(matrix).float_pieces(low_in, high_in, _exactness.matmul_is_exact(x.device))
        sums, addend = _sum_of_pieces(rows, pieces), bias
    sums = sums.reshape(*x.shape[:-1], matrix.shape[0])
    return _finished(sums, addend, multiplier, shift, zero_point, low, high, sums.dim() - 1)


def convolution(
    x: Tensor,
    *,
    weight: Constant,
    bias: Constant,
    multiplier: Constant | None = None,
    shift: Constant | None = None,
    zero_point_in: int = 0,
    zero_point: int = 0,
    low: int = _INT32_LOW,
    high: int = _INT32_HIGH,
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """A convolution put on the grid of the result; see `quantsim_kernels.reference.integer.convolution`."""
    kernel = torch.as_tensor(weight, device=x.device)
    prepared = prepared_weight(kernel)
    low_in, high_in = bounds(x)
    if groups == 1 and low_in <= zero_point_in <= high_in and _takes_int_mm(x, kernel):
        return _unfolded_convolution(
            x, kernel, bias, multiplier, shift, zero_point_in, zero_point, low, high, stride, padding, dilation
        )
    # Less its zero point an image is padded with zeros; the sums that this leaves out come back with the bias.
    addend = constant(bias, x.device) + zero_point_in * prepared.sums
    float32 = x.device.type == "cpu" and _exactness.convolution_is_exact(x.device)
    pieces = prepared.float_pieces(low_in - zero_point_in, high_in - zero_point_in, float32, divisible=groups == 1)
    settings = (tuple(stride), tuple(dilation), groups)
    total: Tensor | None = None
    for (start, stop), part in pieces:
        images = x if stop - start == x.shape[1] or groups > 1 else x[:, start:stop]
        sums = _convolve(images, part, zero_point_in, padding, *settings)
        total = sums if total is None else total.to(torch.float64).add_(sums)
    assert total is not None
    return _finished(total, addend, multiplier, shift, zero_point, low, high, 1)


def matmul(
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
    """``(a - zero_point_a) @ (b - zero_point_b)``; see `quantsim_kernels.reference.integer.matmul`."""
    sums = exact_matmul(a, b, zero_point_a, zero_point_b)
    return _finished(sums, 0, multiplier, shift, zero_point, low, high, None)


def exact_matmul(
    a: Tensor, b: Tensor, zero_point_a: int, zero_point_b: int, bounds_a: tuple[int, int] | None = None
) -> Tensor:
    """``(a - zero_point_a) @ (b - zero_point_b)``: integers in float32 or float64.

    Args:
        a: integers, shape ``(..., M, K)``, in any dtype.
        b: integers in an integer dtype, shape ``(..., K, N)``.
        zero_point_a: taken from ``a``.
        zero_point_b: taken from ``b``.
        bounds_a: what no element of ``a`` lies below or above, where the dtype does not say it.

    Raises:
        OverflowError: not even float64 holds the sums.
    """
    peak = _reach(bounds_a or bounds(a), zero_point_a) * _reach(bounds(b), zero_point_b)
    length = a.shape[-1]
    if peak * length >= EXACT_FLOAT64:
        raise OverflowError(f"matmul: sums may reach {peak * length}, expected less than 2^53")
    block = EXACT_FLOAT32 // max(peak, 1)
    in_float32 = block >= min(length, _SHORTEST) and _exactness.matmul_is_exact(a.device)
    dtype = torch.float32 if in_float32 else torch.float64
    left, right = _centred(a, zero_point_a, dtype), _centred(b, zero_point_b, dtype)
    if not in_float32 or block >= length:
        return torch.matmul(left, right)
    sums: Tensor | None = None
    for start in range(0, length, block):
        part = torch.matmul(left[..., start : start + block], right[..., start : start + block, :])
        sums = part.to(torch.float64) if sums is None else sums.add_(part)
    assert sums is not None
    return sums


def _finished(
    sums: Tensor,
    bias: Constant,
    multiplier: Constant | None,
    shift: Constant | None,
    zero_point: int,
    low: int,
    high: int,
    axis: int | None,
) -> Tensor:
    if multiplier is not None and shift is not None:
        return finish(sums, bias, multiplier, shift, zero_point, low, high, axis)
    accumulator = sums.to(torch.int64, copy=True)
    addend = constant(bias, sums.device).reshape(-1)
    accumulator += addend.reshape(-1, *(1,) * (sums.dim() - 1 - axis)) if axis is not None else addend
    if accumulator.device.type == "cpu" and accumulator.numel():
        smallest, largest = (int(limit) for limit in torch.aminmax(accumulator))
        if smallest < _INT32_LOW or largest > _INT32_HIGH:
            raise OverflowError(f"sums from {smallest} to {largest} do not fit int32; use fewer bits or a shorter sum")
    return accumulator.to(torch.int32)


def _centred(x: Tensor, zero_point: int, dtype: torch.dtype) -> Tensor:
    values = x.to(dtype, copy=True)
    return values.sub_(zero_point) if zero_point else values


def _reach(limits: tuple[int, int], zero_point: int) -> int:
    return max(abs(limit - zero_point) for limit in limits)


def _sum_of_pieces(rows: Tensor, pieces: Sequence[tuple[tuple[int, int], Tensor]]) -> Tensor:
    """Products with the pieces of a weight; integers in float32 or float64."""
    total: Tensor | None = None
    for (start, stop), part in pieces:
        sums = rows[:, start:stop].to(part.dtype) @ part.t()
        total = sums if total is None else total.to(torch.float64).add_(sums)
    assert total is not None
    return total


def _takes_int_mm(rows: Tensor, matrix: Tensor) -> bool:
    return rows.is_cuda and matrix.dtype is torch.int8 and rows.dtype in (torch.int8, torch.uint8)


def _int_mm_linear(rows: Tensor, matrix: Tensor, bias: Constant) -> tuple[Tensor, Constant]:
    """int32 sums, and the bias that goes with them: unsigned codes are multiplied less 128."""
    if rows.dtype is torch.int8:
        return _int_mm(rows, matrix), bias
    signed = (rows ^ 128).view(torch.int8)
    return _int_mm(signed, matrix), constant(bias, rows.device) + 128 * prepared_weight(matrix).sums


def _int_mm(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows @ matrix.T`` in int32, padded with zeros to the sizes that the function takes."""
    count, length, columns = rows.shape[0], rows.shape[1], matrix.shape[0]
    more_rows = max(_INT_MM_ROWS - count, 0)
    more_length, more_columns = -length % _INT_MM_MULTIPLE, -columns % _INT_MM_MULTIPLE
    left = F.pad(rows, (0, more_length, 0, more_rows)) if more_rows or more_length else rows.contiguous()
    right = F.pad(matrix, (0, more_length, 0, more_columns)) if more_columns or more_length else matrix.contiguous()
    return torch.ops.aten._int_mm.default(left, right.t())[:count, :columns]


def _convolve(
    x: Tensor,
    weight: Tensor,
    zero_point: int,
    padding: Sequence[Sequence[int]],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    images = _centred(x, zero_point, weight.dtype)
    sides = tuple(before for before, _ in padding)
    if any(before != after for before, after in padding):
        images = F.pad(images, [size for pair in reversed(padding) for size in pair])
        sides = (0,) * len(sides)
    function = _CONVOLUTIONS[weight.dim() - 2]
    sums = function(images, weight, stride=stride, padding=sides, dilation=dilation, groups=groups)
    # A float64 convolution may go through a transform, whose errors are far below a half.
    return sums.round_() if weight.dtype is torch.float64 else sums


def _unfolded_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Constant,
    multiplier: Constant | None,
    shift: Constant | None,
    zero_point_in: int,
    zero_point: int,
    low: int,
    high: int,
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
) -> Tensor:
    """A convolution as one integer product: K runs over the channels, then over the kernel."""
    images = F.pad(x, [size for pair in reversed(padding) for size in pair], value=zero_point_in)
    rank = weight.dim() - 2
    for axis in range(rank):
        reach = (weight.shape[2 + axis] - 1) * dilation[axis] + 1
        images = images.unfold(2 + axis, reach, stride[axis])[..., :: dilation[axis]]
    positions = images.shape[2 : 2 + rank]
    order = (0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
    rows = images.permute(order).reshape(-1, math.prod(weight.shape[1:]))
    sums, addend = _int_mm_linear(rows, weight.reshape(weight.shape[0], -1), bias)
    result = _finished(sums, addend, multiplier, shift, zero_point, low, high, 1)
    return result.reshape(x.shape[0], *positions, weight.shape[0]).movedim(-1, 1).contiguous()
