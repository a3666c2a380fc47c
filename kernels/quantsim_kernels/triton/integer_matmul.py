"""Integer linear layers, convolutions and matrix products in Triton, bit-equal to `quantsim_kernels.reference.integer`.

Products are those of int8 tensor cores, summed in int32, and put on the grid of the result before they are stored.
Operands are codes of 8 bits; others go to `quantsim_kernels.torch.integer`, whose functions these stand in for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from quantsim_kernels.torch import integer
from quantsim_kernels.torch.integer._weights import prepared_weight
from quantsim_kernels.torch.integer.rounding import Constant, constant, narrowest
from quantsim_kernels.triton._integer_kernels import integer_matmul_kernel
from quantsim_kernels.triton.availability import is_interpreted

__all__ = ["convolution", "linear", "matmul"]

_INT32_LOW, _INT32_HIGH = -(2**31), 2**31 - 1
_CODES = (torch.int8, torch.uint8)
_ALIGNMENT = 16
# Some tensor cores do not wrap around but stop at 2^31, which 128 * 128 times so many products do not reach.
_LONGEST = (1 << 17) - 1


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

    Args:
        x: codes, shape ``(..., I)``, on a CUDA device (or any under Triton's interpreter).
        weight: shape ``(O, I)``, as the other parameters on the device of ``x`` to be fast.
        bias: shape ``(O,)``, in steps of the sum.
        multiplier: one number or one for each output; ``None``: the sums are returned as they are.
        shift: likewise.
        zero_point: the integer of the result that stands for 0.
        low: smallest result.
        high: largest result.
    """
    matrix = torch.as_tensor(weight, device=x.device)
    grid: dict[str, Any] = {"multiplier": multiplier, "shift": shift}
    grid.update(zero_point=zero_point, low=low, high=high)
    if not _are_codes(x, matrix):
        return integer.linear(x, weight=matrix, bias=bias, **grid)
    rows, zero = _signed(x.reshape(-1, x.shape[-1]))
    addend = constant(bias, x.device).reshape(-1)
    if zero:
        addend = addend - zero * prepared_weight(matrix).sums
    addend = _wrapped(addend.expand(matrix.shape[0]))
    result = _product(rows[None], matrix[None], addend, 0, 0, **grid)
    return result.reshape(*x.shape[:-1], matrix.shape[0])


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
    grid: dict[str, Any] = {"multiplier": multiplier, "shift": shift}
    grid.update(zero_point=zero_point, low=low, high=high)
    if not _are_codes(a, b):
        return integer.matmul(a, b, zero_point_a=zero_point_a, zero_point_b=zero_point_b, **grid)
    (left, zero_left), (right, zero_right) = _signed(a), _signed(b)
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left = left.expand(*batch, *left.shape[-2:]).reshape(-1, *left.shape[-2:])
    columns = right.transpose(-2, -1).expand(*batch, right.shape[-1], right.shape[-2])
    columns = columns.reshape(-1, *columns.shape[-2:])
    result = _product(left, columns, None, zero_point_a + zero_left, zero_point_b + zero_right, **grid)
    return result.reshape(*batch, a.shape[-2], b.shape[-1])


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
    """A convolution put on the grid of the result; see `quantsim_kernels.reference.integer.convolution`.

    It is one product of the unfolded image; convolutions of several groups are torch's.
    """
    kernel = torch.as_tensor(weight, device=x.device)
    grid: dict[str, Any] = {"multiplier": multiplier, "shift": shift}
    grid.update(zero_point=zero_point, low=low, high=high)
    if groups > 1 or not _are_codes(x, kernel) or not _holds(x.dtype, zero_point_in):
        geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return integer.convolution(x, weight=kernel, bias=bias, zero_point_in=zero_point_in, **geometry, **grid)
    images = F.pad(x, [size for pair in reversed(padding) for size in pair], value=zero_point_in)
    rank = kernel.dim() - 2
    for axis in range(rank):
        reach = (kernel.shape[2 + axis] - 1) * dilation[axis] + 1
        images = images.unfold(2 + axis, reach, stride[axis])[..., :: dilation[axis]]
    positions = images.shape[2 : 2 + rank]
    order = (0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
    rows = images.permute(order).reshape(-1, math.prod(kernel.shape[1:]))
    result = linear(rows, weight=kernel.reshape(kernel.shape[0], -1), bias=bias, **grid)
    return result.reshape(x.shape[0], *positions, kernel.shape[0]).movedim(-1, 1).contiguous()


def _are_codes(x: Tensor, other: Tensor) -> bool:
    on_device = x.is_cuda or is_interpreted()
    codes = x.dtype in _CODES and other.dtype in _CODES and x.numel() > 0 and other.numel() > 0
    return on_device and codes and x.shape[-1] <= _LONGEST


def _holds(dtype: torch.dtype, value: int) -> bool:
    return torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max


def _signed(codes: Tensor) -> tuple[Tensor, int]:
    """Codes in int8, and what was added to them: -128 to unsigned ones, whose top bit is flipped."""
    return (codes, 0) if codes.dtype is torch.int8 else ((codes ^ 128).view(torch.int8), -128)


def _wrapped(values: Tensor) -> Tensor:
    """The low 32 bits, which is all that sums modulo 2^32 need."""
    return values.to(torch.int64).contiguous().view(torch.int32)[..., ::2].contiguous()


def _along_depth(operand: Tensor) -> Tensor:
    """``(batch, rows, K)`` with K contiguous; rows that begin at multiples of 16 bytes are loaded faster."""
    step = operand.stride(1) if operand.shape[1] > 1 else operand.shape[2]
    if operand.stride(2) == 1 and step % _ALIGNMENT == 0 and step >= operand.shape[2]:
        return operand
    if operand.shape[2] % _ALIGNMENT == 0 or operand.numel() < 1 << 16:
        return operand.contiguous()
    return F.pad(operand, (0, -operand.shape[2] % _ALIGNMENT))[..., : operand.shape[2]]


def _tiles(rows: int, columns: int) -> dict[str, int]:
    """Lengths of a tile, warps and stages of the pipeline."""
    if is_interpreted():
        return _options(32, 32, 32, 4, 2)
    if rows <= 64 or columns <= 64:
        return _options(64, 64, 128, 4, 4)
    if rows * columns < 1 << 20:
        return _options(64, 128, 128, 4, 4)
    # A wider tile would need more registers than there are: rescaling takes 64 bits for each of its elements.
    return _options(128, 128, 128, 8, 3)


def _options(rows: int, columns: int, depth: int, warps: int, stages: int) -> dict[str, int]:
    return {
        "ROWS": rows,
        "COLUMNS": columns,
        "DEPTH": depth,
        "GROUP": 8,
        "num_warps": warps,
        "num_stages": stages,
    }


def _product(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    zero_point_a: int,
    zero_point_b: int,
    *,
    multiplier: Constant | None,
    shift: Constant | None,
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """``(a - zero_point_a) @ (b - zero_point_b).T + bias`` of int8 ``(batch, rows, K)`` and ``(batch, columns, K)``."""
    device, (batch, rows), columns = a.device, a.shape[:2], b.shape[1]
    rescaled = multiplier is not None and shift is not None
    dtype = narrowest(low, high) if rescaled else torch.int32
    result = torch.empty(batch, rows, columns, dtype=dtype, device=device)
    unused = result if result.dtype is torch.int32 else torch.empty(1, dtype=torch.int32, device=device)
    factor = places = unused
    step = 0
    if multiplier is not None and shift is not None:
        factor, places = (constant(value, device).reshape(-1).to(torch.int32) for value in (multiplier, shift))
        step = int(max(factor.numel(), places.numel()) > 1)
        factor, places = factor.expand(columns if step else 1), places.expand(columns if step else 1)
        factor, places = factor.contiguous(), places.contiguous()
    row_sums = a.sum(2, dtype=torch.int32) if zero_point_b else unused
    column_sums = b.sum(2, dtype=torch.int32) if zero_point_a else unused
    a, b = _along_depth(a), _along_depth(b)
    depth, tiles = a.shape[2], _tiles(rows, columns)
    constants: dict[str, Any] = {
        "HAS_BIAS": bias is not None,
        "HAS_ROW_SUMS": bool(zero_point_b),
        "HAS_COLUMN_SUMS": bool(zero_point_a),
        "RESCALED": rescaled,
        "WHOLE": depth % tiles["DEPTH"] == 0,
        **tiles,
    }
    grid = (triton.cdiv(rows, tiles["ROWS"]) * triton.cdiv(columns, tiles["COLUMNS"]), batch)
    integer_matmul_kernel[grid](
        a,
        b,
        result,
        unused if bias is None else bias,
        factor,
        places,
        row_sums,
        column_sums,
        rows,
        columns,
        depth,
        a.stride(0),
        a.stride(1),
        b.stride(0),
        b.stride(1),
        step,
        zero_point_a,
        zero_point_b,
        zero_point,
        low,
        high,
        **constants,
    )
    return result
