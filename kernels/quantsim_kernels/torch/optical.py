"""Optical quantization on the CPU, op by op in place on pieces that stay in the cache; the definition's numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels.reference import optical as reference
from quantsim_kernels.reference.noise import NOISE_BITS
from quantsim_kernels.torch._float_noise import NoiseStream

__all__ = ["linear", "matmul", "objection", "quantize"]

PIECE: Final = 1 << 17
"""Elements of a piece: 512 KiB of float32."""


def objection(*operands: Any, **arguments: Any) -> str | None:
    """Why these operands need the definition, or ``None``."""
    for each in operands:
        if isinstance(each, Tensor) and (each.device.type != "cpu" or type(each) not in _PLAIN):
            return f"a {type(each).__name__} on {each.device}, expected plain tensors on the CPU"
    return None


_PLAIN: Final = (Tensor, torch.nn.Parameter)


def quantize(
    x: Tensor,
    range: Tensor,
    levels: int,
    *,
    lut: float | None = None,
    noise: OpticalNoise = OpticalNoise.NONE,
    seed: Tensor | None = None,
    photons: float | None = None,
) -> Tensor:
    """Optical levels of ``x``; arguments and result as the definition's."""
    if range.dim() != 1 or noise is OpticalNoise.SHOT:
        return reference.quantize(x, range, levels, lut=lut, noise=noise, seed=seed, photons=photons)
    lo, hi = range.detach().to(torch.float32).unbind()
    width = hi - lo
    # Numbers of float32 that ops take back without loss; on the CPU nothing waits for them.
    numbers = torch.stack([lo, hi, width, width + reference.RANGE_FLOOR]).tolist()
    if not math.isfinite(numbers[2]):
        return reference.quantize(x, range, levels, lut=lut, noise=noise, seed=seed)
    thresholds = None if lut is None else torch.stack([-(lut * lo.abs()), lut * hi]).tolist()
    source = x.detach().to(torch.float32).contiguous().view(-1)
    result = torch.empty_like(source)
    stream = None if noise is OpticalNoise.NONE or seed is None else NoiseStream(seed)
    # Fresh memory costs more than what is done in it, so that all pieces share this.
    scratch = () if thresholds is None else (torch.empty_like(source[:PIECE]), torch.empty_like(source[:PIECE]))
    for start in _starts(source.numel()):
        piece = result[start : start + PIECE]
        _to_levels(source[start : start + PIECE], piece, numbers, levels - 1, stream)
        if thresholds is not None:
            _raise_to_lut(piece, thresholds, *(each[: piece.numel()] for each in scratch))
    return result.view(x.shape).to(x.dtype)


def _starts(count: int) -> Iterable[int]:
    return range(0, count, PIECE)


def _to_levels(x: Tensor, y: Tensor, numbers: list[float], top: int, stream: NoiseStream | None) -> None:
    """Levels of ``x`` into ``y``."""
    lo, hi, width, divisor = numbers
    torch.clamp(x, lo, hi, out=y)
    y.sub_(lo).div_(divisor).mul_(top)
    if stream is not None:
        centred = stream.take_centred(y.shape)
        drawn = stream.scratch(0, y.shape)
        drawn.copy_(centred).add_(0.5).mul_(2.0**-NOISE_BITS)
        y.add_(drawn).round_().clamp_(0, top)
    else:
        y.round_()
    y.div_(top).mul_(width).add_(lo)


def _raise_to_lut(y: Tensor, thresholds: list[float], positive: Tensor, negative: Tensor) -> None:
    """Magnitudes below the smallest transmission raised, in place; arithmetic, as masks take several times as long."""
    below, above = thresholds
    # The positive part, 0 elsewhere, and the negative part, 0 elsewhere: their sum is exact.
    torch.gt(y, 0.0, out=positive)
    torch.lt(y, 0.0, out=negative)
    torch.maximum(y, positive.mul_(above), out=positive)
    torch.minimum(y, negative.mul_(below), out=negative)
    torch.add(positive, negative, out=y)


linear = partial(reference.linear, quantize=quantize)
"""The definition's, with quantization in pieces."""

matmul = partial(reference.matmul, quantize=quantize)
"""The definition's, with quantization in pieces."""
