"""One step of an accumulator of limited precision: the exact sum, rounded once.

``accumulator = cast(accumulator + addend)`` needs the sum before it was rounded to anything. It is computed in float64
and *rounded to odd*: where float64 cannot hold it, the neighbour with an odd last bit is taken. Casting that to a
format with at least two bits less gives what casting the exact sum gives, under every rounding law: a sum rounded to
odd never lies on a number of the format, or half way between two, unless the exact sum does (Boldo and Melquiond,
"Emulation of FMA and correctly rounded sums", 2008). The lost part comes from Knuth's two-sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, RoundingMode
from quantsim_kernels.reference import float_cast as cast

__all__ = ["chunk_sum", "rounded_sum", "step_seed", "sum_to_odd"]

# Odd, so that no two steps share a seed; quantizers advance their seeds by another constant.
_STEP = 0xD1342543DE82EF95


def sum_to_odd(a: Tensor, b: Tensor) -> Tensor:
    """``a + b`` in float64, rounded to odd.

    Args:
        a: float64, any shape.
        b: float64, same shape.

    Example:
        >>> a, b = torch.tensor(1.0, dtype=torch.float64), torch.tensor(2.0**-80, dtype=torch.float64)
        >>> sum_to_odd(a, b).item() == 1 + 2**-52, sum_to_odd(a, -b).item() == 1 - 2**-53
        (True, True)
    """
    total = a + b
    b_share = total - a
    lost = (a - (total - b_share)) + (b - b_share)
    inexact = lost.abs() > 0  # false for the NaN that infinities leave here
    toward_zero = inexact & (lost.signbit() != total.signbit())
    bits = total.view(torch.int64) - toward_zero.to(torch.int64)
    return (bits | inexact.to(torch.int64)).view(torch.float64)


def rounded_sum(
    accumulator: Tensor,
    addend: Tensor,
    format: FloatFormat,
    rounding: RoundingMode,
    saturate: bool,
    seed: Tensor | None,
) -> Tensor:
    """``cast(accumulator + addend)`` with one rounding of the exact sum.

    Args:
        accumulator: float64 numbers of ``format``.
        addend: float64 numbers, same shape.
        format: format of the accumulator, at most 8 exponent and 23 fraction bits.
        rounding: rounding law.
        saturate: what is too large becomes the largest number; else infinity, or NaN in a format without.
        seed: seed of the noise, a 0-d int64 tensor; ``None`` for deterministic laws.

    Returns:
        float64 numbers of ``format``.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> a, b = torch.tensor(2048.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
        >>> rounded_sum(a, b, float_format("fp16"), RoundingMode.NEAREST_EVEN, False, None).item()
        2048.0
    """
    return cast.float_cast(sum_to_odd(accumulator, addend), format, rounding=rounding, saturate=saturate, seed=seed)


def chunk_sum(a: Tensor, b: Tensor) -> Tensor:
    """Sums of the products of one chunk: ``a @ b`` in float64, a lone product as it is (with the sign of its zero).

    Products of float32 numbers are exact. So are sums of several while they span less than 53 bits; beyond that the
    order of the sum, which is the library's, may show in the last bit.

    Args:
        a: float64, shape ``(..., M, chunk)``.
        b: float64, shape ``(..., chunk, N)``.
    """
    return a * b if a.shape[-1] == 1 else a @ b


def step_seed(seed: Tensor | None, step: int) -> Tensor | None:
    """The seed of one rounding among those of an op, so that each step's noise is independent.

    Args:
        seed: the op's seed, a 0-d int64 tensor, or ``None`` for deterministic laws.
        step: number of the rounding.
    """
    if seed is None:
        return None
    offset = ((step + 1) * _STEP) % 2**64
    return seed + (offset - 2**64 if offset >= 2**63 else offset)
