"""Gaussian noise, counter-based: a function of a seed and an element's number, like the bits that it is made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantsim_kernels.reference.noise import NOISE_BITS, noise

__all__ = ["normal_noise"]


def normal_noise(seed: int | Tensor, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A number of the standard normal distribution for each element number, by Box and Muller's transform.

    ``sqrt(-2 ln u) cos(2 pi v)`` with ``u = (noise(seed, 2 index) + 1/2) / 2**24`` and ``v`` the same of
    ``2 index + 1``. No magnitude exceeds 5.9.

    Args:
        seed: 64-bit integer, or a 0-d int64 tensor on the device of ``index``.
        index: element numbers, int64, not negative, any shape.
        dtype: float32 or float64.

    Example:
        >>> values = normal_noise(1, torch.arange(10000))
        >>> bool(values.mean().abs() < 0.03), bool((values.std() - 1).abs() < 0.03)
        (True, True)
    """
    first = (noise(seed, 2 * index).to(dtype) + 0.5) * 2.0**-NOISE_BITS
    second = (noise(seed, 2 * index + 1).to(dtype) + 0.5) * 2.0**-NOISE_BITS
    return torch.sqrt(-2 * torch.log(first)) * torch.cos(2 * math.pi * second)
