"""Whether a device multiplies integers in float32 without an error, found out by trying once.

It does wherever products and sums are IEEE's, in whatever order, as long as no sum exceeds 2^24. It may not where
float32 products are computed in a narrower format on request, or convolutions by a transform of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["convolution_is_exact", "matmul_is_exact"]

# 255 * 127 * 518 is just below 2^24.
_LONGEST = 518


def matmul_is_exact(device: torch.device) -> bool:
    """Whether float32 products of 8-bit integers are exact on ``device``, with torch's precision as it is set."""
    return _matmul(device.type, device.index, torch.get_float32_matmul_precision())


def convolution_is_exact(device: torch.device) -> bool:
    """Whether float32 convolutions of 8-bit integers are exact on ``device``, with torch's settings as they are."""
    return _convolution(device.type, device.index, torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled)


@cache
def _matmul(device: str, index: int | None, precision: str) -> bool:
    place = torch.device(device, index) if index is not None else torch.device(device)
    trials = (((64, _LONGEST), (_LONGEST, 48)), ((1, _LONGEST), (_LONGEST, 33)), ((3, 17, 129), (3, 129, 24)))
    return all(_equal(torch.matmul, a, b, place) for shapes in trials for a, b in _operands(*shapes))


@cache
def _convolution(device: str, index: int | None, precision: str, mkldnn: bool) -> bool:
    place = torch.device(device, index) if index is not None else torch.device(device)
    trials = (((2, 57, 15, 15), (32, 57, 3, 3), 1, 1), ((2, 64, 14, 14), (32, 64, 1, 1), 1, 2))
    trials += (((2, 32, 14, 14), (32, 1, 3, 3), 32, 1), ((1, 3, 33, 33), (16, 3, 7, 7), 1, 2))
    for image, weight, groups, stride in trials:
        for a, b in _operands(image, weight):
            if not _equal(lambda x, w, g=groups, s=stride: F.conv2d(x, w, stride=s, padding=1, groups=g), a, b, place):
                return False
    return True


def _operands(a: tuple[int, ...], b: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Extremes and random numbers, of a generator of their own."""
    generator = torch.Generator().manual_seed(0)
    random = (
        torch.randint(-255, 256, a, generator=generator).double(),
        torch.randint(-127, 128, b, generator=generator).double(),
    )
    largest = (torch.full(a, 255.0, dtype=torch.float64), torch.full(b, -127.0, dtype=torch.float64))
    odd = (torch.full(a, 255.0, dtype=torch.float64), torch.randint(126, 128, b, generator=generator).double())
    return [random, largest, odd]


def _equal(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, device: torch.device) -> bool:
    """float64 is exact by far, up to what a transform may round, which rounding to integers takes away."""
    with torch.no_grad():
        expected = function(a, b).round_()
        result = function(a.float().to(device), b.float().to(device)).cpu()
    return torch.equal(result.double(), expected)
