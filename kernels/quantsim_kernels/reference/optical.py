"""The definition of optical numbers: evenly spaced levels, the smallest transmission, and noise before rounding.

In float32, in this order, with ``L`` levels from ``lo`` to ``hi``::

    u = (clip(x, lo, hi) - lo) / ((hi - lo) + 1e-8) * (L - 1)
    u = u + noise
    k = clip(rint(u), 0, L - 1)                  (ties to even)
    y = k / (L - 1) * (hi - lo) + lo
    0 < y < lut * hi          becomes  lut * hi
    -lut * |lo| < y < 0       becomes  -lut * |lo|

Noise is a function of the seed and the element's row-major number, see :mod:`quantsim_kernels.reference.noise`.
Dither is ``U - 1/2`` with ``U = (noise + 1/2) / 2**24``, exact in float32. Shot noise is Gaussian: a signal of ``n``
photons has the variance ``n`` (Poisson statistics, whose Gaussian limit is the standard law of photodetection), so with
``photons`` photons at full scale ``F = max(|lo|, |hi|)`` a value ``x`` has the variance ``|x| F / photons``.

A product of two operands is accumulated in float32 from their dequantized levels, exactly for every shape: nothing is
padded. Source: Anderson, Ma, Wang, Wright and McMahon, "Optical Transformers" (arXiv 2302.10360), for the
quantized products and for counting photons for each multiply-accumulate.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels.reference.noise import NOISE_BITS, element_noise
from quantsim_kernels.reference.normal_noise import normal_noise

__all__ = ["RANGE_FLOOR", "accumulator_range", "dither", "linear", "matmul", "quantize", "raise_to_lut"]

RANGE_FLOOR: Final = 1e-8
"""Added to the width of a range, so that an empty one does not divide by zero."""


def dither(shape: torch.Size, seed: Tensor) -> Tensor:
    """Uniform noise from -1/2 to 1/2 for each element, float32, never either end.

    Example:
        >>> values = dither(torch.Size([1000]), torch.tensor(1))
        >>> bool(values.abs().max() < 0.5), bool(values.mean().abs() < 0.05)
        (True, True)
    """
    centred = element_noise(shape, seed) - 2 ** (NOISE_BITS - 1)
    return (centred.to(torch.float32) + 0.5) * 2.0**-NOISE_BITS


def raise_to_lut(y: Tensor, lo: Tensor, hi: Tensor, lut: float) -> Tensor:
    """Raises magnitudes below the smallest transmission, ``lut`` times the end of the range on their side; 0 stays 0.

    Example:
        >>> raise_to_lut(torch.tensor([-0.5, -0.01, 0.0, 0.01]), torch.tensor(-1.0), torch.tensor(2.0), 0.1)
        tensor([-0.5000, -0.1000,  0.0000,  0.2000])
    """
    above, below = lut * hi, -(lut * lo.abs())
    return torch.where(y > 0, torch.maximum(y, above), torch.where(y < 0, torch.minimum(y, below), y))


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
    """``x`` on the levels of its range, by the law of this module's text.

    Args:
        x: floating-point tensor, any shape.
        range: (lo, hi), shape ``(2,)``, or ``(2, ...)`` with a rest that broadcasts to ``x``.
        levels: number of levels ``L``.
        lut: smallest transmission as a fraction of the ends, ``None``: none.
        noise: noise before rounding.
        seed: 0-d int64 tensor on the device of ``x``, where there is noise.
        photons: photons at full scale, for shot noise.

    Returns:
        Level values in the shape and dtype of ``x``, computed in float32.

    Example:
        >>> quantize(torch.tensor([-3.0, 0.2, 0.3]), torch.tensor([-1.0, 1.0]), 5)
        tensor([-1.0000,  0.0000,  0.5000])
    """
    lo, hi = range.to(torch.float32).unbind(0)
    clipped = torch.minimum(torch.maximum(x.to(torch.float32), lo), hi)
    width = hi - lo
    divisor = width + RANGE_FLOOR
    u = (clipped - lo) / divisor * (levels - 1)
    if noise is OpticalNoise.DITHER:
        assert seed is not None
        u = u + dither(x.shape, seed)
    elif noise is OpticalNoise.SHOT:
        assert seed is not None
        assert photons is not None
        full = torch.maximum(lo.abs(), hi.abs())
        deviation = torch.sqrt(clipped.abs() * full / photons) / divisor * (levels - 1)
        index = torch.arange(x.numel(), dtype=torch.int64, device=x.device).reshape(x.shape)
        u = u + normal_noise(seed, index) * deviation
    k = torch.round(u)
    if noise is not OpticalNoise.NONE:
        # u = L - 1 plus nearly half a level rounds to a tie in float32.
        k = k.clamp(0, levels - 1)
    y = k / (levels - 1) * width + lo
    if lut is not None:
        y = raise_to_lut(y, lo, hi, lut)
    return y.to(x.dtype)


def accumulator_range(accumulator: Tensor) -> Tensor:
    """Smallest and largest value, shape ``(2,)``; NaN if there are none.

    Example:
        >>> accumulator_range(torch.tensor([[1.0, -2.0]]))
        tensor([-2.,  1.])
    """
    if accumulator.numel() == 0:
        return torch.full((2,), float("nan"), dtype=torch.float32, device=accumulator.device)
    return torch.stack(torch.aminmax(accumulator)).to(torch.float32)


def _float32(x: Tensor) -> Tensor:
    return x.to(torch.float32)


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
    """``Q_noise(Q(x) Q(W; lut)^T) + bias`` and the range of the accumulator before it is clipped and biased.

    Args:
        x: inputs, shape ``(..., K)``.
        weight: shape ``(N, K)``.
        bias: shape ``(N,)``, added after the output is quantized.
        x_range: range of ``x``.
        weight_range: range of ``weight``.
        output_range: range of the accumulator; ``None``: it is not quantized, and stays float32.
        levels: number of levels of all three.
        lut: smallest transmission of the weights' modulator.
        noise: noise of the output.
        seed: see :func:`quantize`.
        photons: photons for each multiply-accumulate, so ``K`` times as many for an output at full scale.
        error_map: factor of each quantized weight, in a shape that broadcasts to it.
        weight_codes: for kernels that keep what they made of the weight; here nothing is.

    Returns:
        The result, shape ``(..., N)``, and the float32 range of shape ``(2,)``.
    """
    with torch.autocast(x.device.type, enabled=False):
        operand = quantize(_float32(weight), weight_range, levels, lut=lut)
        if error_map is not None:
            operand = operand * error_map.to(torch.float32)
        accumulator = F.linear(quantize(_float32(x), x_range, levels), operand)
        return _detected(accumulator, bias, output_range, x, weight.shape[-1], levels, noise, seed, photons)


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
    """``Q_noise(Q(a) Q(b; lut))`` and the range of the accumulator before it is clipped.

    Args:
        a: shape ``(..., M, K)``.
        b: shape ``(..., K, N)``; batch dimensions broadcast.
        a_range: range of ``a``, see :func:`quantize`.
        b_range: range of ``b``.
        output_range: see :func:`linear`, as for what follows.
        levels: ...
        lut: smallest transmission of the modulator of ``b``.
        noise: ...
        seed: ...
        photons: ...
        error_map: factor of each element of quantized ``b``.
    """
    with torch.autocast(a.device.type, enabled=False):
        operand = quantize(_float32(b), b_range, levels, lut=lut)
        if error_map is not None:
            operand = operand * error_map.to(torch.float32)
        accumulator = torch.matmul(quantize(_float32(a), a_range, levels), operand)
        return _detected(accumulator, None, output_range, a, a.shape[-1], levels, noise, seed, photons)


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
    """The accumulator after the detector: its range, its levels, the bias."""
    extremes = accumulator_range(accumulator)
    if output_range is None:
        return (accumulator if bias is None else accumulator + bias.to(torch.float32)), extremes
    total = None if photons is None else photons * terms
    y = quantize(accumulator, output_range, levels, noise=noise, seed=seed, photons=total)
    if bias is not None:
        y = y + bias.to(torch.float32)
    return y.to(x.dtype), extremes
