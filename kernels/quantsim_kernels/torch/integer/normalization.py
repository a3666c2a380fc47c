"""LayerNorm and RMSNorm on integers, in torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quantsim_kernels.torch.integer._quotients import MOST, place_quotients
from quantsim_kernels.torch.integer.rounding import (
    Constant,
    bounds,
    constant,
    narrowest,
    rounded_division,
    square_root,
)

__all__ = ["layer_norm", "rms_norm"]

_EXACT_FLOAT64 = 2**53
_PIECE = 1 << 18


def layer_norm(
    x: Tensor,
    *,
    gain: Constant,
    offset: Constant | None = None,
    epsilon: int,
    mean_bits: int,
    root_bits: int,
    gain_bits: int,
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """LayerNorm over the last dimension; see `quantsim_kernels.reference.integer.layer_norm`."""
    length = constant(x.shape[-1], x.device)
    constants = _Constants(gain, offset, epsilon, root_bits, gain_bits, x.device)

    def centre(rows: Tensor, dtype: torch.dtype) -> Tensor:
        mean = rounded_division(rows.sum(dim=-1, keepdim=True, dtype=torch.int64) << mean_bits, length)
        centred = rows.to(dtype, copy=True)
        centred *= 1 << mean_bits
        return centred.sub_(mean)

    lowest, highest = _limits(x)
    reach = (highest - lowest + 1) << mean_bits
    return _normalize(x, centre, reach, constants, zero_point, low, high)


def rms_norm(
    x: Tensor,
    *,
    zero_point_in: int,
    gain: Constant,
    offset: Constant | None = None,
    epsilon: int,
    root_bits: int,
    gain_bits: int,
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """RMSNorm over the last dimension; see `quantsim_kernels.reference.integer.rms_norm`."""
    constants = _Constants(gain, offset, epsilon, root_bits, gain_bits, x.device)

    def centre(rows: Tensor, dtype: torch.dtype) -> Tensor:
        return rows.to(dtype, copy=True).sub_(zero_point_in)

    lowest, highest = _limits(x)
    reach = max(abs(lowest - zero_point_in), abs(highest - zero_point_in))
    return _normalize(x, centre, reach, constants, zero_point, low, high)


class _Constants:
    """Gain, offset, epsilon and fraction bits, which both norms share."""

    def __init__(
        self,
        gain: Constant,
        offset: Constant | None,
        epsilon: int,
        root_bits: int,
        gain_bits: int,
        device: torch.device,
    ) -> None:
        self.gain = constant(gain, device)
        self.offset = None if offset is None else constant(offset, device)
        self.epsilon, self.root_bits, self.gain_bits = epsilon, root_bits, gain_bits

    def root(self, power: Tensor) -> Tensor:
        """From sums of squares, int64; at least 1."""
        power = (power + self.epsilon) << (2 * self.root_bits)
        return square_root(power).clamp_(min=1)

    def are_small(self) -> bool:
        """Whether `place_quotients` may round: ``|D / R|`` is at most 2^(1 - root_bits)."""
        most = 2 * int(self.gain.abs().max()) >> self.root_bits
        most += 0 if self.offset is None else int(self.offset.abs().max())
        return most >> self.gain_bits < MOST


def _normalize(
    x: Tensor,
    centre: Callable[[Tensor, torch.dtype], Tensor],
    reach: int,
    constants: _Constants,
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    """Rows less their means (or zero point), over their root, times gain, plus offset.

    Args:
        x: codes.
        centre: makes D of rows, in a dtype.
        reach: what no element of D exceeds.
        constants: of the op.
        zero_point: of the result.
        low: smallest result.
        high: largest result.
    """
    rows = x.reshape(-1, x.shape[-1])
    small = max(abs(low - zero_point), abs(high - zero_point)) < MOST and reach < _EXACT_FLOAT64
    if x.device.type != "cpu" or not x.numel() or not small or not constants.are_small():
        return _exact(centre(rows, torch.int64), constants, zero_point, low, high).reshape(x.shape)
    gain = constants.gain.to(torch.float64)
    squares = torch.float64 if reach * reach * x.shape[-1] < _EXACT_FLOAT64 else torch.int64
    offset = None if constants.offset is None else constants.offset.to(torch.float64) * 2.0**-constants.gain_bits
    results = [
        _in_float64(centre(part, torch.float64), squares, constants, gain, offset, zero_point, low, high)
        for part in rows.split(max(1, _PIECE // x.shape[-1]))
    ]
    return torch.cat(results).reshape(x.shape)


def _exact(centred: Tensor, constants: _Constants, zero_point: int, low: int, high: int) -> Tensor:
    root = constants.root((centred * centred).sum(dim=-1, keepdim=True))
    centred *= constants.gain
    if constants.offset is not None:
        centred += root * constants.offset
    root <<= constants.gain_bits
    quotient = rounded_division(centred, root)
    quotient += zero_point
    return quotient.clamp_(low, high).to(narrowest(low, high))


def _in_float64(
    centred: Tensor,
    squares: torch.dtype,
    constants: _Constants,
    gain: Tensor,
    offset: Tensor | None,
    zero_point: int,
    low: int,
    high: int,
) -> Tensor:
    # Squares and their sums are integers that this dtype holds.
    exactly = centred.to(squares)
    root = constants.root((exactly * exactly).sum(dim=-1, keepdim=True).to(torch.int64))
    quotients = centred * gain
    quotients *= (root.to(torch.float64) * 2.0**constants.gain_bits).reciprocal_()
    if offset is not None:
        quotients += offset

    def exact(places: tuple[Tensor, ...]) -> Tensor:
        row, column = places
        numerator = centred[row, column].to(torch.int64) * constants.gain[column]
        divisor = root[row, 0]
        if constants.offset is not None:
            numerator += divisor * constants.offset[column]
        return rounded_division(numerator, divisor << constants.gain_bits)

    return place_quotients(quotients, exact, zero_point, low, high)


def _limits(x: Tensor) -> tuple[int, int]:
    """Smallest and largest code; where finding them would wait for a device, what the dtype holds."""
    if x.device.type != "cpu" or not x.numel():
        return bounds(x)
    low, high = torch.aminmax(x)
    return int(low), int(high)
