"""Optical quantization on the CPU, op by op in place on pieces that stay in the cache; the definition's numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels.reference import optical as reference
from quantsim_kernels.reference.noise import NOISE_BITS
from quantsim_kernels.torch._float_noise import NoiseStream

__all__ = ["linear", "matmul", "objection", "piece_elements", "quantize"]

PIECE: Final = 1 << 17
"""Elements that one thread works on at a time: 512 KiB of float32, which its cache holds."""

_SIGN: Final = 2.0**100
"""What makes every level but 0 larger than all levels on its side: none is below 2**-48 of the range's end there."""


def objection(*operands: Any, **arguments: Any) -> str | None:
    """Why these operands need the definition, or ``None``."""
    for each in operands:
        if isinstance(each, Tensor) and (each.device.type != "cpu" or type(each) not in _PLAIN):
            return f"a {type(each).__name__} on {each.device}, expected plain tensors on the CPU"
    return None


_PLAIN: Final = (Tensor, torch.nn.Parameter)


def piece_elements() -> int:
    """Elements of a piece: what all threads hold, and where there are several, twice that, as each op wakes them."""
    threads = torch.get_num_threads()
    return PIECE if threads == 1 else 2 * PIECE * threads


def quantize(
    x: Tensor,
    range: Tensor,
    levels: int,
    *,
    lut: float | None = None,
    noise: OpticalNoise = OpticalNoise.NONE,
    seed: Tensor | None = None,
    photons: float | None = None,
    owned: bool = False,
) -> Tensor:
    """Optical levels of ``x``; arguments and result as the definition's, but that ``x`` may be overwritten if owned."""
    if noise is OpticalNoise.SHOT:
        return reference.quantize(x, range, levels, lut=lut, noise=noise, seed=seed, photons=photons)
    if range.dim() != 1:
        if noise is OpticalNoise.NONE:
            return _quantize_parts(x, range, levels - 1, lut)
        return reference.quantize(x, range, levels, lut=lut, noise=noise, seed=seed)
    lo, hi = range.detach().to(torch.float32).unbind()
    width = hi - lo
    divisor = width + reference.RANGE_FLOOR
    last = torch.round(width / divisor * (levels - 1))
    # Numbers of float32 that ops take back without loss; on the CPU nothing waits for them.
    numbers = torch.stack([lo, hi, width, divisor, last]).tolist()
    if not 0.0 <= numbers[2] < math.inf:
        return reference.quantize(x, range, levels, lut=lut, noise=noise, seed=seed)
    thresholds = torch.stack([-(lut * lo.abs()), lut * hi]).tolist() if lut else None
    stream = None if noise is OpticalNoise.NONE or seed is None else NoiseStream(seed)
    source = (x.detach() if x.requires_grad and torch.is_grad_enabled() else x).to(torch.float32)
    order = None if stream is not None else _memory_order(source)
    if order is None:
        source = source.contiguous()
        order = [*_axes(source)]
    # A copy made on the way here is nobody else's. No result is a view: autograd lets nobody change those.
    shares = source.data_ptr() == x.data_ptr()
    result = source if owned or not shares else torch.empty_like(source)
    flat, levels_of = source.permute(order).view(-1), result.permute(order).view(-1)
    # Fresh memory costs more than what is done in it, so that all pieces share this.
    scratch = () if thresholds is None else tuple(torch.empty_like(flat[: piece_elements()]) for _ in "12")
    for start, stop in _pieces(flat.numel()):
        piece = levels_of[start:stop]
        if stream is None:
            _to_levels(flat[start:stop], piece, numbers, levels - 1)
        else:
            _to_noisy_levels(flat[start:stop], piece, numbers, levels - 1, stream)
        if thresholds is not None:
            _raise_to_lut(piece, thresholds, *(each[: piece.numel()] for each in scratch))
    return result.to(x.dtype)


def _axes(x: Tensor) -> Iterator[int]:
    return iter(range(x.dim()))


def _memory_order(x: Tensor) -> list[int] | None:
    """The axes from the largest stride down if they leave no gaps in memory, ``None`` where they do."""
    order = sorted(_axes(x), key=lambda axis: -x.stride(axis))
    return order if x.permute(order).is_contiguous() else None


def _pieces(count: int) -> Iterator[tuple[int, int]]:
    step = piece_elements()
    return ((start, min(start + step, count)) for start in range(0, count, step))


def _to_levels(x: Tensor, y: Tensor, numbers: list[float], top: int) -> None:
    """Levels of ``x`` into ``y``, clipped after rounding: each step before it keeps the order of numbers."""
    lo, _, width, divisor, last = numbers
    torch.sub(x, lo, out=y)
    y.div_(divisor).mul_(top).round_().clamp_(0, last)
    y.div_(top).mul_(width).add_(lo)


def _to_noisy_levels(x: Tensor, y: Tensor, numbers: list[float], top: int, stream: NoiseStream) -> None:
    """The same with dither, which has to find the numbers clipped."""
    lo, hi, width, divisor, _ = numbers
    torch.clamp(x, lo, hi, out=y)
    y.sub_(lo).div_(divisor).mul_(top)
    centred = stream.take_centred(y.shape)
    drawn = stream.scratch(0, y.shape)
    drawn.copy_(centred).add_(0.5)
    # The product with a power of two is exact, so it does not matter when it is rounded.
    y.add_(drawn, alpha=2.0**-NOISE_BITS).round_().clamp_(0, top)
    y.div_(top).mul_(width).add_(lo)


def _raise_to_lut(y: Tensor, thresholds: list[float], raised: Tensor, side: Tensor) -> None:
    """Magnitudes below the smallest transmission raised, in place; arithmetic, as masks take several times as long."""
    below, above = thresholds
    torch.clamp_min(y, above, out=raised)  # right for what is positive
    torch.mul(y, _SIGN, out=side)
    y.clamp_max_(below)  # right for what is negative, ``below`` for the rest
    torch.maximum(y, side, out=y)  # what is positive is now larger than its raised value, 0 is 0
    torch.minimum(y, raised, out=y)


def _quantize_parts(x: Tensor, range: Tensor, top: int, lut: float | None) -> Tensor:
    """Levels without noise where each part of ``x`` has a range of its own."""
    lo, hi = range.detach().to(torch.float32).unbind(0)
    width = hi - lo
    y = torch.maximum(x.detach().to(torch.float32), lo)
    torch.minimum(y, hi, out=y)
    y.sub_(lo).div_(width + reference.RANGE_FLOOR).mul_(top).round_().div_(top).mul_(width).add_(lo)
    return (y if lut is None else reference.raise_to_lut(y, lo, hi, lut)).to(x.dtype)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_range: Tensor,
    weight_range: Tensor,
    output_range: Tensor | None,
    *,
    levels: int,
    lut: float | None = None,
    noise: OpticalNoise = OpticalNoise.NONE,
    seed: Tensor | None = None,
    photons: float | None = None,
    error_map: Tensor | None = None,
    weight_codes: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition's, with quantization in pieces and in place; keeps the weight's levels in ``weight_codes``."""
    with torch.autocast("cpu", enabled=False):
        operand = None if weight_codes is None else weight_codes.get(_KEPT)
        if operand is None:
            operand = _stored(weight, weight_range, levels, lut, error_map)
            if weight_codes is not None:
                weight_codes[_KEPT] = operand
        accumulator = F.linear(quantize(_float32(x), x_range, levels), operand)
        return _detected(accumulator, bias, output_range, x, weight.shape[-1], levels, noise, seed, photons)


_KEPT: Final = "torch"


def matmul(
    a: Tensor,
    b: Tensor,
    a_range: Tensor,
    b_range: Tensor,
    output_range: Tensor | None,
    *,
    levels: int,
    lut: float | None = None,
    noise: OpticalNoise = OpticalNoise.NONE,
    seed: Tensor | None = None,
    photons: float | None = None,
    error_map: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition's, with quantization in pieces and in place."""
    with torch.autocast("cpu", enabled=False):
        operand = _stored(b, b_range, levels, lut, error_map)
        accumulator = torch.matmul(quantize(_float32(a), a_range, levels), operand)
        return _detected(accumulator, None, output_range, a, a.shape[-1], levels, noise, seed, photons)


def _float32(x: Tensor) -> Tensor:
    return x.detach().to(torch.float32)


def _stored(x: Tensor, range: Tensor, levels: int, lut: float | None, error_map: Tensor | None) -> Tensor:
    """The operand that a modulator holds."""
    operand = quantize(_float32(x), range, levels, lut=lut)
    return operand if error_map is None else operand.mul_(error_map.to(torch.float32))


def _detected(
    accumulator: Tensor,
    bias: Tensor | None,
    output_range: Tensor | None,
    x: Tensor,
    terms: int,
    levels: int,
    noise: OpticalNoise,
    seed: Tensor | None,
    photons: float | None,
) -> tuple[Tensor, Tensor]:
    """The accumulator, which is overwritten, after the detector: its range, its levels, the bias."""
    extremes = reference.accumulator_range(accumulator)
    if output_range is None:
        return (accumulator if bias is None else accumulator.add_(bias.detach().to(torch.float32))), extremes
    total = None if photons is None else photons * terms
    y = quantize(accumulator, output_range, levels, noise=noise, seed=seed, photons=total, owned=True)
    if bias is not None:
        y = y.add_(bias.detach().to(torch.float32))
    return y.to(x.dtype), extremes
