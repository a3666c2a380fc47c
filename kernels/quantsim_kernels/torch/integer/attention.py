"""Softmax on integers, alone or with the product by the values, in torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from quantsim_kernels.torch.integer._quotients import MOST, place_quotients
from quantsim_kernels.torch.integer.products import exact_matmul
from quantsim_kernels.torch.integer.rounding import (
    Constant,
    bounds,
    constant,
    finish,
    narrowest,
    number,
    rounded_division,
    rounded_shift,
)

__all__ = ["exponential", "softmax", "softmax_matmul"]

_FARTHEST = 65535
_EXACT_FLOAT32 = 2**24
_PIECE = 1 << 18
_TABLES = WeakIdKeyDictionary()


@dataclass(frozen=True, eq=False)
class _KnownTable:
    low: Constant
    key: tuple[int, torch.device]
    entries: Tensor
    peak: int


def exponential(
    x: Tensor,
    mask: Tensor | None = None,
    *,
    multiplier: Constant,
    shift: Constant,
    exponential_high: Constant,
    exponential_low: Constant,
    exponential_shift: int,
    bias: Constant | None = None,
) -> Tensor:
    """``exp(x - max)`` over the last dimension; see `quantsim_kernels.reference.integer.exponential`.

    Returns:
        Integers in float32.
    """
    entries = _table(exponential_high, exponential_low, exponential_shift, x.device)[0]
    return _exponential(x, mask, multiplier, shift, entries, bias)


def _exponential(
    x: Tensor, mask: Tensor | None, multiplier: Constant, shift: Constant, entries: Tensor, bias: Constant | None
) -> Tensor:
    """The numerators, from the table of all exponentials; on the CPU piece by piece in the cache."""
    device = x.device
    addend = None if bias is None else constant(bias, device)
    others = [other for other in (mask, addend) if other is not None]
    shape = torch.broadcast_shapes(x.shape, *(other.shape for other in others))
    if device.type != "cpu" or x.numel() <= _PIECE or len(shape) < 2:
        return _numerators(x, mask, addend, multiplier, shift, entries)
    # One row of the leading dimensions after another, as masks and biases broadcast along them.
    leading, kept = shape[:-2], shape[-2:]
    count = max(1, _PIECE // max(1, math.prod(kept)))
    result = torch.empty(math.prod(leading), *kept, dtype=torch.float32)
    operands = [_leading(other, leading, kept) for other in (x, mask, addend)]
    for start in range(0, result.shape[0], count):
        part = [None if other is None else other[start : start + count] for other in operands]
        assert part[0] is not None
        result[start : start + count] = _numerators(part[0], part[1], part[2], multiplier, shift, entries)
    return result.reshape(shape)


def _leading(operand: Tensor | None, leading: tuple[int, ...], kept: tuple[int, ...]) -> Tensor | None:
    """The leading dimensions as one, as a view where nothing has to be copied."""
    if operand is None:
        return None
    own = (1,) * (len(leading) + 2 - operand.dim()) + tuple(operand.shape)
    return operand.expand(*leading, *own[-2:]).reshape(-1, *own[-2:])


def _numerators(
    x: Tensor, mask: Tensor | None, bias: Tensor | None, multiplier: Constant, shift: Constant, entries: Tensor
) -> Tensor:
    scores = _scores(x, multiplier, shift)
    if bias is not None:
        scores = scores.to(torch.int64) + bias
    if mask is None:
        peak = scores.amax(dim=-1, keepdim=True)
    else:
        # Where nothing takes part any peak will do.
        lowest = torch.iinfo(scores.dtype).min >> 1
        peak = torch.where(mask, scores, lowest).amax(dim=-1, keepdim=True)
    distance = (peak - scores).clamp_(0, _FARTHEST)
    result = entries.index_select(0, distance.reshape(-1)).reshape(distance.shape)
    return result if mask is None else result * mask


def softmax(
    x: Tensor,
    mask: Tensor | None = None,
    *,
    multiplier: Constant,
    shift: Constant,
    exponential_high: Constant,
    exponential_low: Constant,
    exponential_shift: int,
    bias: Constant | None = None,
    result_multiplier: Constant,
    result_shift: int,
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """Softmax over the last dimension; see `quantsim_kernels.reference.integer.softmax`."""
    entries, peak = _table(exponential_high, exponential_low, exponential_shift, x.device)
    e = _exponential(x, mask, multiplier, shift, entries, bias)
    return _divide(e, peak, e, result_multiplier, result_shift, zero_point, low, high)


def softmax_matmul(
    x: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *,
    multiplier: Constant,
    shift: Constant,
    exponential_high: Constant,
    exponential_low: Constant,
    exponential_shift: int,
    bias: Constant | None = None,
    zero_point_values: int,
    result_multiplier: Constant,
    result_shift: int,
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """Softmax times values, divided last; see `quantsim_kernels.reference.integer.softmax_matmul`."""
    entries, peak = _table(exponential_high, exponential_low, exponential_shift, x.device)
    e = _exponential(x, mask, multiplier, shift, entries, bias)
    products = exact_matmul(e, values, 0, zero_point_values, (0, peak))
    return _divide(e, peak, products, result_multiplier, result_shift, zero_point, low, high)


def _scores(x: Tensor, multiplier: Constant, shift: Constant) -> Tensor:
    """Scores in the units of the tables, int32 or int64, less than half of the dtype's largest."""
    single, places = number(multiplier), number(shift)
    if x.device.type == "cpu" and single is not None and places is not None:
        reach = (max(map(abs, bounds(x))) * abs(single) >> places) + 1
        if reach < 1 << 29:
            scores = finish(x, 0, single, places, 0, -reach, reach)
            return scores if scores.dtype is torch.int32 else scores.to(torch.int32)
    return rounded_shift(x.to(torch.int64) * constant(multiplier, x.device), shift)


def _table(high: Constant, low: Constant, shift: int, device: torch.device) -> tuple[Tensor, int]:
    """The exponential of every distance, in float32, and the largest; kept as long as the table ``high``."""
    known = cast("_KnownTable | None", _TABLES.get(high))
    if known is not None and known.low is low and known.key == (shift, device):
        return known.entries, known.peak
    coarse, fine = constant(high, device).reshape(-1, 1), constant(low, device)
    entries = rounded_shift((coarse * fine).reshape(-1), shift).to(torch.float32)
    peak = int(entries.max())
    if isinstance(high, Tensor):
        _TABLES[high] = _KnownTable(low=low, key=(shift, device), entries=entries, peak=peak)
    return entries, peak


def _divide(
    e: Tensor, peak: int, numerator: Tensor, multiplier: Constant, shift: int, zero_point: int, low: int, high: int
) -> Tensor:
    dtype = torch.float32 if peak * e.shape[-1] <= _EXACT_FLOAT32 else torch.float64
    total = e.sum(dim=-1, keepdim=True, dtype=dtype).to(torch.int64)
    # Rows without any weight have a numerator of 0 too.
    total = (total << shift).clamp_(min=1)
    single = number(multiplier)
    small = max(abs(low - zero_point), abs(high - zero_point)) < MOST
    if e.device.type == "cpu" and single is not None and small and numerator.numel():
        return _divide_in_float64(numerator, total, single, zero_point, low, high)
    quotient = rounded_division(numerator.to(torch.int64) * constant(multiplier, e.device), total)
    quotient += zero_point
    return quotient.clamp_(low, high).to(narrowest(low, high))


def _divide_in_float64(
    numerator: Tensor, total: Tensor, multiplier: int, zero_point: int, low: int, high: int
) -> Tensor:
    columns = numerator.shape[-1]
    rows, divisors = numerator.reshape(-1, columns), total.expand(*numerator.shape[:-1], 1).reshape(-1, 1)
    factors = divisors.to(torch.float64).reciprocal_().mul_(multiplier)
    count = max(1, _PIECE // columns)
    results = []
    for start in range(0, rows.shape[0], count):
        part, divisor = rows[start : start + count], divisors[start : start + count]

        def exact(places: tuple[Tensor, ...], part: Tensor = part, divisor: Tensor = divisor) -> Tensor:
            return rounded_division(part[places].to(torch.int64) * multiplier, divisor[places[0], 0])

        quotients = part.to(torch.float64) * factors[start : start + count]
        results.append(place_quotients(quotients, exact, zero_point, low, high))
    return torch.cat(results).reshape(numerator.shape)
