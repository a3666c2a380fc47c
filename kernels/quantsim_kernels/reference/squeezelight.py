"""SqueezeLight: a linear layer made of microring resonators, each driven by a block of operands.

A weight matrix of ``P x Q`` circulant blocks of size ``k`` needs only the first column ``w`` of each block. One ring
takes the ``k`` operands of a block at once: the light that the squared inputs leave detunes it, and what it transmits
is the (non-linear) product::

    phase[p, q, i] = sum over j of w[p, q, (i - j) mod k] * x[q, j] ** 2
    T(phase)       = (a**2 + r**2 - 2 a r cos(phase)) / (1 + a**2 r**2 - 2 a r cos(phase))
    y[p, i]        = sum over q of s[q] * T(phase[p, q, i])

``a`` is what the ring attenuates in a round trip, ``r`` its coupling to the waveguide, and ``s`` the balancing factors,
which come in pairs of opposite sign (two photodetectors, one subtracted from the other). Light knows no sign: an input
and its negative are the same, and weights are not negative.

Inputs are padded with zeros to whole blocks, the results of the last block cropped. Float16 and bfloat16 compute in
float32.

Sources: Gu et al., "SqueezeLight: Towards Scalable Optical Neural Networks with Multi-Operand Ring Resonators", DATE
2021, and the parameters of its authors' simulator; quantization as in Zhou et al., "DoReFa-Net", arXiv 1606.06160.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from quantsim_kernels.reference.normal_noise import normal_noise

__all__ = [
    "ATTENUATION",
    "COUPLING",
    "PASS_THROUGH_BITS",
    "compute_dtype",
    "crosstalk_factor",
    "differential_scale",
    "operand_blocks",
    "operand_weight",
    "phase_index",
    "quantized_weight",
    "resonance_width",
    "scale_count",
    "squeezelight_linear",
    "transmission",
]

ATTENUATION: Final = 0.8578
"""Amplitude left after one round trip in the ring of 20 micrometres."""

COUPLING: Final = 0.8985
"""Self-coupling of its waveguide."""

PASS_THROUGH_BITS: Final = 16
"""From this width on nothing is quantized."""


def resonance_width(
    radius: float = 20e3, index: float = 2.35, wavelength: float = 1554.252, bandwidth: float = 0.67908
) -> float:
    """Full width at half maximum of a ring's resonance as a round-trip phase, in radians.

    ``4 pi**2 R n (1 / (wavelength - bandwidth / 2) - 1 / wavelength)``

    Args:
        radius: radius of the ring, in nanometres as all lengths here.
        index: effective refractive index.
        wavelength: wavelength of the resonance.
        bandwidth: full width at half maximum as a difference of wavelengths.

    Example:
        >>> round(resonance_width(), 4)
        0.2609
    """
    return 4 * math.pi**2 * radius * index * (1 / (wavelength - bandwidth / 2) - 1 / wavelength)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that the rings are computed in: float64 for float64, else float32."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def transmission(phase: Tensor, attenuation: float = ATTENUATION, coupling: float = COUPLING) -> Tensor:
    """The part of the light's intensity that passes an all-pass ring.

    Args:
        phase: round-trip phase away from the resonance, in radians, any shape.
        attenuation: ``a``, from 0 to 1.
        coupling: ``r``, from 0 to 1.

    Returns:
        ``(a**2 + r**2 - 2 a r cos(phase)) / (1 + a**2 r**2 - 2 a r cos(phase))``, in the shape of ``phase``.

    Example:
        >>> [round(value, 4) for value in transmission(torch.tensor([0.0, 0.2609, 3.1416])).tolist()]
        [0.0315, 0.5139, 0.9838]
    """
    squares = attenuation**2 + coupling**2
    product = (attenuation * coupling) ** 2
    interference = 2 * attenuation * coupling * torch.cos(phase)
    return (squares - interference) / (1 + product - interference)


def crosstalk_factor(miniblock: int, crosstalk: float, drop: float = 0.0) -> float:
    """How much the heaters beside an operand's own strengthen each weight.

    Args:
        miniblock: ``k``, operands of a ring.
        crosstalk: coupling between neighbouring heaters, from 0 to 1.
        drop: fraction of the operands that is pruned.

    Returns:
        ``1 + max(3, k (1 - drop) - 1) * crosstalk``

    Example:
        >>> crosstalk_factor(8, 0.25), crosstalk_factor(4, 0.0)
        (2.75, 1.0)
    """
    return 1 + max(3, miniblock * (1 - drop) - 1) * crosstalk


class _RoundToLevels(torch.autograd.Function):
    """``round(x n) / n``, ties to even; the gradient passes straight through, clipped to one where asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int, clip: bool) -> Tensor:
        ctx.clip = clip
        return torch.round(x * steps) / steps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].clamp(-1, 1) if ctx.clip else gradients[0], None, None


def _on_levels(x: Tensor, bits: int, clip: bool) -> Tensor:
    return _RoundToLevels.apply(x, 2**bits - 1, clip)


def _squashed(values: Tensor) -> tuple[Tensor, Tensor]:
    """``tanh`` of the values, and the largest magnitude among the results, a constant for gradients."""
    squashed = torch.tanh(values)
    # Of zeros alone the fraction below is then a half, and the result zero.
    largest = squashed.detach().abs().amax().clamp_min(torch.finfo(squashed.dtype).tiny)
    return squashed, largest


def quantized_weight(weight: Tensor, w_bit: int) -> Tensor:
    """Weights on ``2**w_bit`` levels from 0 to twice the largest ``|tanh w|``.

    With ``t = tanh w``, ``R = max |t|`` and ``n = 2**w_bit - 1``: ``2 R round((t + R) / (2 R) n) / n``. The gradient
    passes straight through the rounding, clipped to the range from -1 to 1.

    Args:
        weight: trained weights of any sign, at least one.
        w_bit: bits, below 16.

    Example:
        >>> quantized_weight(torch.tensor([-1.0, 0.1, 1.0]), 1)
        tensor([0.0000, 1.5232, 1.5232])
    """
    squashed, largest = _squashed(weight)
    return _on_levels((squashed + largest) / (2 * largest), w_bit, True) * (2 * largest)


def operand_weight(weight: Tensor, w_bit: int = 32, gain: Tensor | float | None = None, factor: float = 1.0) -> Tensor:
    """What the rings apply for trained weights: magnitudes, or levels of a quantizer.

    Args:
        weight: trained weights, shape ``(P, Q, k)``.
        w_bit: from 16 on ``|w|``, below :func:`quantized_weight` times ``gain``.
        gain: brings quantized weights back to their first spread, usually ``std(w) / std(quantized w)`` of the weights
            that training began with; ``None`` means 1.
        factor: see :func:`crosstalk_factor`.
    """
    if w_bit >= PASS_THROUGH_BITS:
        effective = weight.abs()
    else:
        effective = quantized_weight(weight, w_bit)
        effective = effective if gain is None else effective * gain
    return effective if factor == 1.0 else effective * factor


def scale_count(blocks: int) -> int:
    """How many balancing factors are trained for ``Q`` blocks: ``max(1, Q // 2) + 1``.

    Example:
        >>> scale_count(6), scale_count(7), scale_count(1)
        (4, 4, 2)
    """
    return max(1, blocks // 2) + 1


def differential_scale(scale: Tensor, blocks: int, w_bit: int = 32) -> Tensor:
    """The balancing factor of each block, in pairs of opposite sign.

    Without quantization the mean is taken off; with it, ``s`` becomes ``2 R round((t / (2 R) + 1/2) n) / n - R`` where
    ``t = tanh s`` and ``R = max |t|``, the gradient clipped as that of weights. Then, with ``h`` all but the last of
    them: ``[h, -h]`` for an even number of blocks, ``[s, -h]`` for an odd one, the last one alone for a single block.

    Args:
        scale: trained factors, shape ``(scale_count(blocks),)``.
        blocks: ``Q``.
        w_bit: bits.

    Returns:
        Shape ``(blocks,)``.

    Example:
        >>> differential_scale(torch.tensor([1.0, 2.0, 6.0]), 4)
        tensor([-2., -1.,  2.,  1.])
        >>> differential_scale(torch.tensor([1.0, 2.0, 6.0]), 5)
        tensor([-2., -1.,  3.,  2.,  1.])
    """
    if w_bit >= PASS_THROUGH_BITS:
        balanced = scale - scale.mean()
    else:
        squashed, largest = _squashed(scale)
        balanced = _on_levels(squashed / (2 * largest) + 0.5, w_bit, True) * (2 * largest) - largest
    if blocks == 1:
        return balanced[-1:]
    first = balanced[:-1]
    return torch.cat([first if blocks % 2 == 0 else balanced, -first])


def operand_blocks(x: Tensor, miniblock: int, in_bit: int = 32) -> Tensor:
    """The power that each operand puts into its ring: inputs quantized, squared, padded and cut into blocks.

    Args:
        x: inputs, shape ``(..., in_features)``.
        miniblock: ``k``.
        in_bit: from 16 on as they are; below, clipped to the range from 0 to 1 and rounded to ``2**in_bit`` levels,
            with a gradient where they are not clipped.

    Returns:
        Shape ``(..., Q, k)``.

    Example:
        >>> operand_blocks(torch.tensor([0.5, -1.0, 2.0]), 2).tolist()
        [[0.25, 1.0], [4.0, 0.0]]
        >>> operand_blocks(torch.tensor([0.6, -1.0, 2.0]), 2, in_bit=1).tolist()
        [[1.0, 0.0], [1.0, 0.0]]
    """
    if in_bit < PASS_THROUGH_BITS:
        x = _on_levels(x.clamp(0, 1), in_bit, False)
    power = x * x
    missing = -power.shape[-1] % miniblock
    if missing:
        power = functional.pad(power, (0, missing))
    return power.unflatten(-1, (power.shape[-1] // miniblock, miniblock))


def phase_index(
    start: int,
    rows: int,
    outputs: int,
    shape: tuple[int, int, int],
    device: torch.device | None = None,
    wanted: slice | None = None,
) -> Tensor:
    """The element numbers of phases: rows, ``p``, ``q`` and ``i`` counted, each slower than the next.

    Args:
        start: first row.
        rows: number of rows, those of all leading dimensions counted together.
        outputs: how many outputs ``p k + i`` of each row are wanted, from the first.
        shape: ``(P, Q, k)``.
        device: where the numbers are made.
        wanted: which blocks ``q``, from a start to a stop; ``None``: all.

    Returns:
        int64, shape ``(rows, outputs, Q)``.

    Example:
        >>> phase_index(0, 1, 3, (2, 2, 2)).tolist()
        [[[0, 2], [1, 3], [4, 6]]]
        >>> phase_index(0, 1, 3, (2, 2, 2), wanted=slice(1, 2)).tolist()
        [[[2], [3], [6]]]
    """
    count, blocks, miniblock = shape
    first, last = (0, blocks) if wanted is None else (wanted.start, wanted.stop)
    output = torch.arange(outputs, device=device)
    within = (output // miniblock * (blocks * miniblock) + output % miniblock).unsqueeze(1)
    within = within + miniblock * torch.arange(first, last, device=device)
    row = torch.arange(start, start + rows, device=device) * (count * blocks * miniblock)
    return row.reshape(-1, 1, 1) + within


def squeezelight_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    out_features: int,
    weight_gain: Tensor | float | None = None,
    w_bit: int = 32,
    in_bit: int = 32,
    factor: float = 1.0,
    phase_noise: float = 0.0,
    seed: Tensor | None = None,
    attenuation: float = ATTENUATION,
    coupling: float = COUPLING,
) -> Tensor:
    """The definition: all phases at once, differentiable by autograd.

    Args:
        x: inputs, shape ``(..., in_features)``.
        weight: trained weights, shape ``(P, Q, k)``, ``P = ceil(out_features / k)``, ``Q = ceil(in_features / k)``.
        scale: trained balancing factors, shape ``(scale_count(Q),)``.
        bias: added to the result, shape ``(out_features,)``.
        out_features: outputs, what is beyond them in the last block is cropped.
        weight_gain: see :func:`operand_weight`.
        w_bit: bits of weights and balancing factors.
        in_bit: bits of inputs.
        factor: see :func:`crosstalk_factor`.
        phase_noise: standard deviation of what is added to each phase, in radians.
        seed: 0-d int64 tensor, the seed of that noise, see
            :func:`quantsim_kernels.reference.normal_noise.normal_noise` and :func:`phase_index`.
        attenuation: ``a`` of :func:`transmission`.
        coupling: ``r`` of :func:`transmission`.

    Returns:
        Shape ``(..., out_features)``, in the dtype of ``x``.
    """
    dtype = compute_dtype(x)
    count, blocks, miniblock = weight.shape
    power = operand_blocks(x.to(dtype), miniblock, in_bit)
    operands = operand_weight(weight.to(dtype), w_bit, weight_gain, factor)
    factors = differential_scale(scale.to(dtype), blocks, w_bit)
    power = power.reshape(-1, 1, blocks, miniblock)
    # Column j of a circulant matrix is its first column, moved down j places. A sum of k products of elements, which a
    # compiler can compute together with all that follows.
    phase = operands.unsqueeze(0) * power[..., :1]
    for j in range(1, miniblock):
        phase = phase + operands.roll(j, -1).unsqueeze(0) * power[..., j : j + 1]
    if phase_noise and seed is not None:
        index = phase_index(0, power.shape[0], count * miniblock, (count, blocks, miniblock), x.device)
        index = index.unflatten(1, (count, miniblock)).transpose(-1, -2)
        phase = phase + phase_noise * normal_noise(seed, index, dtype)
    passed = transmission(phase, attenuation, coupling)
    y = (passed * factors.reshape(1, 1, -1, 1)).sum(2).reshape(-1, count * miniblock)[:, :out_features]
    if bias is not None:
        y = y + bias.to(dtype)
    return y.reshape((*x.shape[:-1], out_features)).to(x.dtype)
