"""SqueezeLight rings in few passes over pieces that stay in the cache; the phases are never stored as a whole.

With ``e = (1 + a**2 r**2) / (2 a r)`` and ``kappa = (1 - a**2) (1 - r**2) / (2 a r)``, what a ring transmits is
``1 + kappa / (cos(phase) - e)`` and its slope ``kappa sin(phase) / (cos(phase) - e)**2``: one cosine, one reciprocal.
The backward computes the phases again from the inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from quantsim_kernels.reference import squeezelight as reference
from quantsim_kernels.reference.normal_noise import normal_noise

__all__ = ["objection", "squeezelight_linear"]

CPU_PIECE: Final = 1 << 17
"""Phases of a piece on the CPU: half a MiB of float32, which stays in the cache through all passes."""

DEVICE_PIECE: Final = 1 << 26
"""Phases of a piece elsewhere, where a piece costs its launches."""

ROWS: Final = 16
"""Rows of a piece before it has more blocks: what matrix products need to be efficient."""


def objection(x: Tensor, weight: Tensor, *operands: Any, **arguments: Any) -> str | None:
    """Why these operands need the definition, or ``None``."""
    if x.is_meta or weight.is_meta:
        return "tensors on the meta device have no data to cut into pieces"
    return None


def _pieces(blocks: int, rows: int, outputs: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Slices of blocks and of rows with about as many phases as a piece may have; the rows change faster."""
    phases = CPU_PIECE if device.type == "cpu" else DEVICE_PIECE
    many = min(blocks, max(1, phases // (outputs * max(1, min(rows, ROWS)))))
    step = max(1, phases // (outputs * many))
    for block in range(0, blocks, many):
        for row in range(0, rows, step):
            yield slice(block, min(block + many, blocks)), slice(row, min(row + step, rows))


class _Rings(torch.autograd.Function):
    """``y[b, o] = sum over q of s[q] T(sum over j of power[q, b, j] matrix[q, j, o] + noise)``."""

    @staticmethod
    def forward(
        ctx: Any,
        power: Tensor,
        matrix: Tensor,
        factors: Tensor,
        seed: Tensor | None,
        phase_noise: float,
        shape: tuple[int, int, int],
        attenuation: float,
        coupling: float,
    ) -> Tensor:
        ctx.save_for_backward(power, matrix, factors, seed)
        ctx.arguments = (phase_noise, shape, attenuation, coupling)
        pole, strength = _resonance(attenuation, coupling)
        rows, outputs = power.shape[1], matrix.shape[2]
        y = power.new_zeros(rows, outputs)
        weights = (factors * strength).unsqueeze(0)
        phases = _Phases(power, matrix, seed, phase_noise, shape)
        for q, piece in _pieces(matrix.shape[0], rows, outputs, power.device):
            passed = phases(q, piece)
            passed.cos_().sub_(pole).reciprocal_()
            y[piece].view(1, -1).addmm_(weights[:, q], passed.flatten(1))
        return y.add_(factors.sum())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        power, matrix, factors, seed = ctx.saved_tensors
        phase_noise, shape, attenuation, coupling = ctx.arguments
        pole, strength = _resonance(attenuation, coupling)
        gradient = gradients[0].contiguous()
        rows, outputs = gradient.shape
        wants_power, wants_matrix = ctx.needs_input_grad[:2]
        d_power = torch.empty_like(power) if wants_power else None
        d_matrix = torch.zeros_like(matrix) if wants_matrix else None
        d_factors = torch.zeros_like(factors)
        phases = _Phases(power, matrix, seed, phase_noise, shape)
        scratch = torch.empty_like(phases.scratch)
        for q, piece in _pieces(matrix.shape[0], rows, outputs, power.device):
            phase = phases(q, piece)
            inverse = torch.cos(phase, out=scratch[: phase.numel()].view_as(phase)).sub_(pole).reciprocal_()
            part = gradient[piece]
            d_factors[q].addmv_(inverse.flatten(1), part.view(-1))
            slope = phase.sin_().mul_(inverse).mul_(inverse).mul_(part)
            if d_matrix is not None:
                d_matrix[q].baddbmm_(power[q, piece].transpose(1, 2), slope)
            if d_power is not None:
                d_power[q, piece] = torch.bmm(slope, matrix[q].transpose(1, 2))
        weights = (factors * strength).reshape(-1, 1, 1)
        d_factors = d_factors.mul_(strength).add_(gradient.sum())
        for each in (d_power, d_matrix):
            if each is not None:
                each.mul_(weights)
        return d_power, d_matrix, d_factors, None, None, None, None, None


def _resonance(attenuation: float, coupling: float) -> tuple[float, float]:
    """``e`` and ``kappa`` of this module's text."""
    twice = 2 * attenuation * coupling
    return (1 + (attenuation * coupling) ** 2) / twice, (1 - attenuation**2) * (1 - coupling**2) / twice


class _Phases:
    """Makes the phases of some blocks and rows, shape ``(blocks, rows, outputs)``, in memory that it keeps."""

    def __init__(
        self, power: Tensor, matrix: Tensor, seed: Tensor | None, phase_noise: float, shape: tuple[int, int, int]
    ) -> None:
        self.power, self.matrix, self.seed, self.phase_noise, self.shape = power, matrix, seed, phase_noise, shape
        pieces = _pieces(matrix.shape[0], power.shape[1], matrix.shape[2], power.device)
        q, piece = next(pieces, (slice(0, 0), slice(0, 0)))  # the largest is the first
        self.scratch = power.new_empty((q.stop - q.start) * (piece.stop - piece.start) * matrix.shape[2])

    def __call__(self, q: slice, piece: slice) -> Tensor:
        size = (q.stop - q.start, piece.stop - piece.start, self.matrix.shape[2])
        phase = self.scratch[: size[0] * size[1] * size[2]].view(size)
        torch.bmm(self.power[q, piece], self.matrix[q], out=phase)
        if self.seed is not None:
            index = reference.phase_index(piece.start, size[1], size[2], self.shape, phase.device, q)
            phase.add_(normal_noise(self.seed, index.permute(2, 0, 1), phase.dtype), alpha=self.phase_noise)
        return phase


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
    attenuation: float = reference.ATTENUATION,
    coupling: float = reference.COUPLING,
) -> Tensor:
    """Rings piece by piece, a small matrix product for each block; arguments and result as the definition's."""
    dtype = reference.compute_dtype(x)
    count, blocks, miniblock = weight.shape
    power = reference.operand_blocks(x.to(dtype), miniblock, in_bit).reshape(-1, blocks, miniblock)
    operands = reference.operand_weight(weight.to(dtype), w_bit, weight_gain, factor)
    factors = reference.differential_scale(scale.to(dtype), blocks, w_bit)
    # Row j of block q holds what input j does to each output: the first columns, moved down j places.
    columns = torch.stack([operands.roll(j, -1) for j in range(miniblock)])  # (j, P, Q, i)
    matrix = columns.permute(2, 0, 1, 3).flatten(2)[..., :out_features].contiguous()
    power = power.transpose(0, 1).contiguous()
    seed = seed if phase_noise else None
    with torch.autocast(x.device.type, enabled=False):  # phases need all bits of float32
        y = _Rings.apply(power, matrix, factors, seed, phase_noise, (count, blocks, miniblock), attenuation, coupling)
    if bias is not None:
        y = y + bias.to(dtype)
    return y.reshape((*x.shape[:-1], out_features)).to(x.dtype)
