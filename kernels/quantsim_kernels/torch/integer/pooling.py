"""Means and poolings on integers, in torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_kernels.torch.integer.rounding import Constant, bounds, finish
from quantsim_kernels.torch.integer.structure import pad

__all__ = ["average_pool", "max_pool", "mean"]

_EXACT_FLOAT32 = 2**24


def mean(
    x: Tensor,
    *,
    axes: Sequence[int],
    keepdim: bool,
    zero_point_in: int,
    multiplier: Constant,
    shift: Constant,
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """Mean over some dimensions; see `quantsim_kernels.reference.integer.mean`."""
    count = math.prod(x.shape[axis] for axis in axes)
    total = x.sum(dim=tuple(axes), keepdim=keepdim, dtype=torch.int64)
    return finish(total, -count * zero_point_in, multiplier, shift, zero_point, low, high)


def average_pool(
    x: Tensor,
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    zero_point_in: int,
    multiplier: Constant,
    shift: Constant,
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """Average pooling; see `quantsim_kernels.reference.integer.average_pool`."""
    images = _padded(x, padding, zero_point_in)
    low_in, high_in = bounds(images)
    if max(abs(low_in), abs(high_in)) * math.prod(kernel) <= _EXACT_FLOAT32:
        images = images.to(torch.float32)
    else:
        images = images.to(torch.float64)
    # Sums of integers that the dtype holds are exact, in whatever order. Pooling needs two dimensions here.
    total = F.avg_pool2d(_as_images(images), _two(kernel), _two(stride), divisor_override=1)
    total = total if len(kernel) == 2 else total.squeeze(2)
    return finish(total, -math.prod(kernel) * zero_point_in, multiplier, shift, zero_point, low, high)


def max_pool(
    x: Tensor,
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    lowest: int,
) -> Tensor:
    """Max pooling on a grid that stays; see `quantsim_kernels.reference.integer.max_pool`."""
    images = _padded(x, padding, lowest)
    dtype = torch.float32 if x.dtype in (torch.uint8, torch.int8, torch.int16) else torch.float64
    images = _as_images(images.to(dtype))
    largest = F.max_pool2d(images, _two(kernel), _two(stride), dilation=_two(dilation))
    return (largest if len(kernel) == 2 else largest.squeeze(2)).to(x.dtype)


def _padded(x: Tensor, padding: Sequence[Sequence[int]], value: int) -> Tensor:
    return pad(x, widths=((0, 0), (0, 0), *padding), value=value) if any(map(any, padding)) else x


def _as_images(x: Tensor) -> Tensor:
    return x if x.dim() == 4 else x.unsqueeze(2)


def _two(sizes: Sequence[int]) -> tuple[int, int]:
    return (sizes[0], sizes[1]) if len(sizes) == 2 else (1, sizes[0])
