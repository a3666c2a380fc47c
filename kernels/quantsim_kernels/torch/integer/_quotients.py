"""Quotients rounded half away from zero, in float64 where that tells which integer is next.

A float64 quotient is off by a few 2^-53 of itself. Unless it lies within 2^-24 of a half, rounding it gives the rounded
exact quotient; the rare others are divided again as integers. Integer division is several times slower.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quantsim_kernels.torch.integer.rounding import narrowest

__all__ = ["MOST", "place_quotients"]

MOST = 2**24
"""Quotients up to this magnitude, also those that sum up to one, may be rounded by `place_quotients`."""

_SURE = 0.5 - 2.0**-24


def place_quotients(
    quotients: Tensor,
    exact: Callable[[tuple[Tensor, ...]], Tensor],
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """``clamp(round(quotients) + zero_point, low, high)`` in the narrowest dtype.

    Args:
        quotients: float64, off by less than 2^-24 where they are no larger than `MOST`; changed.
        exact: the rounded exact quotients at given indices, int64.
        zero_point: added after rounding.
        low: smallest result; ``|low - zero_point|`` is less than `MOST`, as for the largest.
        high: largest result.

    Example:
        >>> halves = lambda places: torch.tensor([3])
        >>> place_quotients(torch.tensor([2.5, -0.7], dtype=torch.float64), halves, 10, 0, 255)
        tensor([13,  9], dtype=torch.uint8)
    """
    rounded = quotients.round()
    distance = quotients.sub_(rounded).abs_()
    if distance.numel() and bool(distance.max() > _SURE):
        places = (distance > _SURE).nonzero(as_tuple=True)
        rounded[places] = exact(places).to(torch.float64)
    if zero_point:
        rounded += zero_point
    return rounded.clamp_(low, high).to(narrowest(low, high))
