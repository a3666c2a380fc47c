"""Rounded shifts and divisions of torch tensors, and the last step of most integer ops: onto the grid of the result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "Constant",
    "bounds",
    "constant",
    "finish",
    "narrowest",
    "number",
    "rounded_division",
    "rounded_shift",
    "square_root",
]

Constant = Tensor | npt.NDArray[Any] | int
"""A parameter of an op: an integer, or an array or tensor of integers."""

_PIECE = 1 << 18
# See `finish`.
_NUDGE = 1 + 2.0**-51
_NUDGE_BITS = 50


def narrowest(low: int, high: int) -> torch.dtype:
    """The narrowest dtype of codes from ``low`` to ``high`` that torch computes with.

    Example:
        >>> narrowest(0, 255), narrowest(-128, 127), narrowest(0, 256)
        (torch.uint8, torch.int8, torch.int16)
    """
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        limits = torch.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return dtype
    return torch.int64


def bounds(x: Tensor) -> tuple[int, int]:
    """Numbers that no element of ``x`` lies below or above: those of a narrow dtype, else the elements' own."""
    if x.dtype in (torch.uint8, torch.int8, torch.int16):
        limits = torch.iinfo(x.dtype)
        return limits.min, limits.max
    if not x.numel():
        return 0, 0
    low, high = torch.aminmax(x)
    return int(low), int(high)


def constant(value: Constant, device: torch.device) -> Tensor:
    """``value`` as an int64 tensor on ``device``."""
    return torch.as_tensor(value, dtype=torch.int64, device=device)


def number(value: Constant) -> int | None:
    """``value`` where it is one number that can be read without waiting for a device, else ``None``."""
    if isinstance(value, int):
        return value
    if isinstance(value, Tensor) and value.device.type != "cpu":
        return None
    return int(value.item()) if math.prod(value.shape) == 1 else None


def rounded_shift(values: Tensor, shift: Constant) -> Tensor:
    """``values / 2^shift``, rounded half away from zero.

    Args:
        values: int64 tensor.
        shift: 1 to 62; broadcasts.

    Example:
        >>> rounded_shift(torch.tensor([5, 6, 7, -5, -6, -7]), 2)
        tensor([ 1,  2,  2, -1, -2, -2])
    """
    return _shift_in_place(values.clone(), shift)


def _shift_in_place(values: Tensor, shift: Constant) -> Tensor:
    places = number(shift)
    if places is None:
        places = constant(shift, values.device)
        half = torch.ones_like(places) << (places - 1)
    else:
        half = 1 << (places - 1)
    negative = values >> 63
    values += half
    values += negative
    values >>= places
    return values


def rounded_division(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator`` of int64 tensors, rounded half away from zero; denominators are positive.

    Example:
        >>> rounded_division(torch.tensor([5, -5, 4, -7]), torch.tensor([2, 2, 3, 3]))
        tensor([ 3, -3,  1, -2])
    """
    negative = numerator >> 63
    # Half of the denominator, with the numerator's sign.
    half = (denominator >> 1) ^ negative
    half -= negative
    half += numerator
    return torch.div(half, denominator, rounding_mode="trunc")


def square_root(values: Tensor) -> Tensor:
    """Floor of the square root of int64 tensors of at least 0, exactly.

    Example:
        >>> square_root(torch.tensor([0, 1, 3, 4, 2**62 - 1])).tolist()
        [0, 1, 1, 2, 2147483647]
    """
    root = values.to(torch.float64).sqrt_().to(torch.int64).clamp_(max=math.isqrt(2**63 - 1))
    root -= (root * root > values).to(torch.int64)
    return root + (values - root * root > 2 * root).to(torch.int64)


def finish(
    accumulator: Tensor,
    bias: Constant,
    multiplier: Constant,
    shift: Constant,
    zero_point: int,
    low: int,
    high: int,
    axis: int | None = None,
    *,
    held_by_float64: bool = True,
) -> Tensor:
    """``clamp(round((accumulator + bias) * multiplier / 2^shift) + zero_point, low, high)``, in the narrowest dtype.

    In float64 where that is exact, which takes few passes: a product ``v`` is a multiple of ``2^-shift``, and is to be
    rounded half away from zero. The multiplier is made larger by about 2^-51 of itself (at least 2^-52, at most 2^-50.4
    with the rounding of the product): this takes halves away from zero and leaves every other ``v`` of up to
    ``50 - shift`` bits on its side. Larger ones are beyond ``low`` or ``high``.

    Args:
        accumulator: integers, in any dtype that holds them exactly.
        bias: one number or one for each index of ``axis``, as the next two.
        multiplier: magnitude below 2^31.
        shift: 1 to 62.
        zero_point: added after rounding.
        low: smallest result.
        high: largest result.
        axis: dimension of the channels; ``None``: all parameters are single numbers.
        held_by_float64: whether ``accumulator + bias`` is certain to stay below 2^53.

    Returns:
        A new tensor in the shape of ``accumulator``.
    """
    device = accumulator.device
    parameters = _Parameters(bias, multiplier, shift, device)
    magnitude = max(abs(low - zero_point), abs(high - zero_point)) + 1
    in_float = held_by_float64 and device.type == "cpu" and parameters.in_float64(magnitude)
    factor = parameters.float_multiplier() if in_float else parameters.multiplier
    result = torch.empty(accumulator.shape, dtype=narrowest(low, high), device=device)
    for piece, target, channels in _pieces(accumulator, result, None if parameters.is_single else axis):
        add, scale = _channels(parameters.bias, channels), _channels(factor, channels)
        if in_float:
            values = piece.to(torch.float64, copy=True)
            if parameters.has_bias:
                values += add
            values *= scale
            values.round_()
        else:
            values = piece.to(torch.int64, copy=True)
            if parameters.has_bias:
                values += add
            values *= scale
            _shift_in_place(values, _channels(parameters.shift, channels))
        if zero_point:
            values += zero_point
        target.copy_(values.clamp_(low, high))
    return result


class _Parameters:
    """Bias, multiplier and shift, each a number or a 1-d tensor."""

    def __init__(self, bias: Constant, multiplier: Constant, shift: Constant, device: torch.device) -> None:
        values = [number(value) for value in (bias, multiplier, shift)]
        bias_, multiplier_, shift_ = (
            constant(value, device).reshape(-1) if single is None else single
            for value, single in zip((bias, multiplier, shift), values, strict=True)
        )
        self.bias: int | Tensor = bias_
        self.multiplier: int | Tensor = multiplier_
        self.shift: int | Tensor = shift_
        self.has_bias = not (isinstance(bias_, int) and bias_ == 0)

    @property
    def is_single(self) -> bool:
        return all(isinstance(value, int) or value.numel() == 1 for value in (self.bias, self.multiplier, self.shift))

    def in_float64(self, magnitude: int) -> bool:
        """Whether results of up to ``magnitude`` may be computed as `finish` says."""
        largest_shift = self.shift if isinstance(self.shift, int) else int(self.shift.max())
        return largest_shift + (magnitude - 1).bit_length() <= _NUDGE_BITS

    def float_multiplier(self) -> float | Tensor:
        if isinstance(self.multiplier, int) and isinstance(self.shift, int):
            return math.ldexp(float(self.multiplier), -self.shift) * _NUDGE
        places = torch.as_tensor(self.shift, dtype=torch.int64)
        return torch.ldexp(torch.as_tensor(self.multiplier, dtype=torch.float64), -places) * _NUDGE


def _channels(value: Any, channels: tuple[int, int, int] | None) -> Any:
    """The part of a parameter that belongs to some channels, shaped to broadcast: start, stop, dimensions after."""
    if channels is None or not isinstance(value, Tensor) or value.numel() == 1:
        return value
    start, stop, after = channels
    return value[start:stop].reshape(-1, *(1,) * after)


def _pieces(
    source: Tensor, target: Tensor, axis: int | None
) -> Iterator[tuple[Tensor, Tensor, tuple[int, int, int] | None]]:
    """Pieces of both tensors that fit into the cache, with the range of channels that they hold."""
    if not source.numel():
        return
    shape = source.shape
    if axis is None:
        rows, wide = source.reshape(-1), target.view(-1)
        size = _PIECE if source.device.type == "cpu" else rows.numel()
        for start in range(0, rows.numel(), size):
            yield rows[start : start + size], wide[start : start + size], None
        return
    axis %= len(shape)
    outer, channels, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    if inner == 1:
        source, target, after = source.reshape(outer, channels), target.view(outer, channels), 0
    else:
        source, target, after = source.reshape(outer, channels, inner), target.view(outer, channels, inner), 1
    if source.device.type != "cpu":
        yield source, target, (0, channels, after)
        return
    rows = max(1, _PIECE // (channels * inner))
    width = max(1, _PIECE // inner) if rows == 1 and after else channels
    for start in range(0, outer, rows):
        for first in range(0, channels, width):
            last = min(first + width, channels)
            index = (slice(start, start + rows), slice(first, last))
            yield source[index], target[index], (first, last, after)
