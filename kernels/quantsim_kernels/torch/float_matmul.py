"""Matrix products with low-precision accumulation: the reference's numbers, piece by piece in the cache.

Three things make it faster than the reference. A piece of the accumulator goes through all chunks while it is in the
cache. Where the operands' bits show that no sum can need more than float64's 53, nothing has to be rounded to odd.
And rounding to nearest-even is the sum and difference with a large power of two, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, RoundingMode
from quantsim_kernels.reference import float_cast as cast
from quantsim_kernels.reference.accumulation import step_seed, sum_to_odd

__all__ = ["accumulated_matmul"]

_PIECE_ELEMENTS = 2**16
_EXPONENT_MASK = 0x7FF0000000000000
_EXACT_BITS = 52


def accumulated_matmul(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    format: FloatFormat,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    chunk: int | None = 1,
    inner: FloatFormat | None = None,
    saturate: bool = False,
    inner_saturate: bool = False,
    seed: Tensor | None = None,
) -> Tensor:
    """In pieces of the result; arguments, result and errors as the reference's function of this name."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.detach(), b.detach()
    length = a.shape[-1]
    size = max(1, length if chunk is None else chunk)
    accumulate = _Accumulator(format, rounding, size, inner, saturate, inner_saturate, seed)
    accumulate.exact = _is_exact_in_float64(a, b, [format] if inner is None else [format, inner], length, size)
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*batch, a.shape[-2], b.shape[-1])
    addend = None if bias is None else bias.detach().to(torch.float64).expand(shape)
    wide_a, wide_b = a.to(torch.float64), b.to(torch.float64)
    if b.dim() == 2:  # one matrix for all: the rows of the whole batch are its rows
        wide_a = wide_a.expand(*batch, *a.shape[-2:]).reshape(1, -1, length)
        wide_b = wide_b[None]
    else:
        wide_a = wide_a.expand(*batch, *a.shape[-2:]).reshape(-1, *a.shape[-2:])
        wide_b = wide_b.expand(*batch, *b.shape[-2:]).reshape(-1, *b.shape[-2:])
    rows = (wide_a.shape[0], wide_a.shape[1], shape[-1])
    addend = None if addend is None else addend.reshape(rows)
    if a.device.type != "cpu" or rounding.is_stochastic or math.prod(rows) <= _PIECE_ELEMENTS:
        # Noise is numbered over the whole result, and other devices want large pieces.
        return accumulate(wide_a, wide_b, addend).reshape(shape).to(dtype)
    result = torch.empty(rows, dtype=dtype)
    for batches, lines in _pieces(rows):
        piece = None if addend is None else addend[batches, lines]
        result[batches, lines] = accumulate(wide_a[batches, lines], wide_b[batches], piece).to(dtype)
    return result.reshape(shape)


def _pieces(shape: tuple[int, int, int]) -> Iterator[tuple[slice, slice]]:
    """Slices of batch and rows, with about ``_PIECE_ELEMENTS`` elements each."""
    batch, rows, columns = shape
    lines = max(1, _PIECE_ELEMENTS // max(1, columns))
    matrices = max(1, _PIECE_ELEMENTS // max(1, rows * columns))
    for first in range(0, batch, matrices):
        for line in range(0, rows, lines):
            yield slice(first, first + matrices), slice(line, line + lines)


class _Accumulator:
    """Runs all chunks of one piece; the arguments are those of the entry, resolved."""

    exact = False
    """Whether float64 holds every sum of this call."""

    def __init__(
        self,
        format: FloatFormat,
        rounding: RoundingMode,
        size: int,
        inner: FloatFormat | None,
        saturate: bool,
        inner_saturate: bool,
        seed: Tensor | None,
    ) -> None:
        self.format, self.rounding, self.size, self.inner = format, rounding, size, inner
        self.saturate, self.inner_saturate, self.seed = saturate, inner_saturate, seed
        self._power = torch.empty(0, dtype=torch.int64)

    def __call__(self, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        """``a`` of (B, M, K), ``b`` of (B, K, N) and ``bias`` of (B, M, N), all float64, to float64 (B, M, N)."""
        accumulator = a.new_zeros(a.shape[0], a.shape[1], b.shape[-1])
        # Fresh memory costs more than what is computed in it, so all steps share three tensors.
        products, self._power = torch.empty_like(accumulator), torch.empty_like(accumulator, dtype=torch.int64)
        columns = a.mT.contiguous().mT  # a step reads columns
        step = 0
        for start in range(0, a.shape[-1], self.size):
            left, right = columns[..., start : start + self.size], b[..., start : start + self.size, :]
            # The same as the reference's chunk_sum.
            torch.mul(left, right, out=products) if left.shape[-1] == 1 else torch.matmul(left, right, out=products)
            addend = products
            if self.inner is not None:
                addend = self._cast(addend, self.inner, self.inner_saturate, step + 1, torch.empty_like(products))
            total = addend.add_(accumulator) if self.exact else sum_to_odd(accumulator, addend)
            accumulator = self._cast(total, self.format, self.saturate, step, accumulator)
            step += 2
        if bias is not None:
            accumulator = self._cast(sum_to_odd(accumulator, bias), self.format, self.saturate, step, accumulator)
        return accumulator

    def _cast(self, x: Tensor, format: FloatFormat, saturate: bool, step: int, out: Tensor) -> Tensor:
        """``x`` cast, perhaps in ``out``, which is no longer needed."""
        if self.rounding is RoundingMode.NEAREST_EVEN and _has_fast_law(format):
            return _round_to_nearest_even(x, format, saturate, self._power, out)
        seed = step_seed(self.seed, step)
        return cast.float_cast(x, format, rounding=self.rounding, saturate=saturate, seed=seed)


def _has_fast_law(format: FloatFormat) -> bool:
    return format.signed and format.has_zero and format.has_negative_zero and format.mantissa_bits >= 1


def _round_to_nearest_even(x: Tensor, format: FloatFormat, saturate: bool, bits: Tensor, y: Tensor) -> Tensor:
    """The cast of float64 numbers into ``y``: the sum with ``1.5 * 2**(52 - m)`` powers rounds to ``m`` bits.

    ``bits`` is int64 memory of the same shape.
    """
    lowest, highest = cast.exponent_range(format)
    power = torch.bitwise_and(x.view(torch.int64), _EXPONENT_MASK, out=bits).view(torch.float64)
    power.clamp_(2.0**lowest, 2.0**highest)
    factor = 1.5 * 2.0 ** (52 - format.mantissa_bits)
    torch.add(x, power, alpha=factor, out=y)
    torch.sub(y, power, alpha=factor, out=y)
    if not format.has_subnormals:
        y.masked_fill_(y.abs() < format.min_normal, 0.0)
    if saturate and not format.has_infinity:
        y.clamp_(-format.max, format.max)
    elif saturate:
        torch.where(x.isinf(), x, y.clamp_(-format.max, format.max), out=y)
    elif format.has_infinity:
        # What is too large for the format is at least twice its top power: scaled up, that overflows and nothing else.
        y.mul_(2.0 ** (1023 - highest)).mul_(2.0 ** (highest - 1023))
    else:
        y.masked_fill_(y.abs() > format.max, math.nan)
    return torch.copysign(y, x, out=y)


def _is_exact_in_float64(a: Tensor, b: Tensor, formats: Sequence[FloatFormat], length: int, size: int) -> bool:
    """Whether no sum of products and accumulator can need more bits than float64 has.

    All of them are multiples of the product of the operands' last bits: rounding a multiple gives a multiple, since
    each power of two up to the largest number's own last bit divides all coarser ones. What they cannot exceed is
    bounded by the largest magnitudes. Reads the operands once; never asked of other devices.
    """
    if a.device.type != "cpu" or a.numel() == 0 or b.numel() == 0:
        return False
    # The accumulator's format comes first, then that of a chunk's sum.
    top = min(cast.exponent_range(format)[1] - format.mantissa_bits for format in formats)
    last = min(_last_bit(a) * _last_bit(b), 2.0**top)
    product = float(a.abs().amax()) * float(b.abs().amax())
    if not (last > 0.0 and math.isfinite(product)):
        return False
    growth = 2 * length * max(math.log1p(2.0**-format.mantissa_bits) for format in formats)
    largest = formats[0].max
    if growth < 600:
        tiny = sum(format.tiny for format in formats)
        largest = min(largest, length * (product + tiny) * math.exp(growth))
    bound = 2.0 * (largest + 2.0 * size * product)
    return bound <= last * 2.0**_EXACT_BITS


def _last_bit(x: Tensor) -> float:
    """The largest power of two that all elements are multiples of; 1 if all are zero, 0 if that is not known."""
    if x.dtype is torch.float64:
        return 0.0
    fraction, exponent = torch.frexp(x.to(torch.float32))
    if not torch.isfinite(fraction).all():
        return 0.0
    digits = (fraction * 2.0**24).to(torch.int32)
    lowest = (digits & -digits).to(torch.float64)
    # Not torch.ldexp, which takes its power of two in float32.
    bits = lowest * ((exponent.to(torch.int64) - 24 + 1023) << 52).view(torch.float64)
    smallest = float(torch.where(digits == 0, math.inf, bits).amin())
    return 1.0 if smallest == math.inf else smallest
