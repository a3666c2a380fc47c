"""Ranges that give an imported scale back to the last bit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["dividend_for"]


def dividend_for(quotient: Tensor, divisor: float) -> Tensor:
    """Returns the float32 number that divided by ``divisor`` gives ``quotient``, exactly where there is one.

    The rounded product ``quotient * divisor`` may be one place off; its neighbours are tried too. A quotient that came
    from such a division always has a dividend; another one may miss by its last bit.

    Args:
        quotient: Positive float32 numbers.
        divisor: Positive number.

    Example:
        >>> scale = torch.tensor([0.1, 0.007])
        >>> bool((dividend_for(scale, 255) / 255 == scale).all())
        True
    """
    product = quotient * divisor
    above = torch.nextafter(product, torch.full_like(product, math.inf))
    below = torch.nextafter(product, torch.zeros_like(product))
    candidates = torch.stack([product, above, below])
    distance = (candidates / divisor - quotient).abs()
    return candidates.gather(0, distance.argmin(0, keepdim=True)).squeeze(0)
