"""Scale and offset of an affine grid, from a range or from the data: the one definition.

What is done with them is in :mod:`quantsim_kernels.reference.affine`, which names everything here too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "calibration_range",
    "dynamic_scale_and_offset",
    "minimum_scale",
    "range_from_scale_and_offset",
    "round_straight_through",
    "scale_and_offset",
    "symmetric_offset",
    "symmetric_range",
]

_FLOAT32_EPS = 2.0**-23
_SMALLEST_RANGE = 0.01


class _RoundStraightThrough(torch.autograd.Function):
    """``rint`` whose gradient is 1; ``x + (rint(x) - x)`` would lose the last bit and turn inf into NaN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def round_straight_through(x: Tensor) -> Tensor:
    """``x`` rounded to the nearest integer, ties to even; the gradient passes unchanged.

    Example:
        >>> round_straight_through(torch.tensor([0.5, 1.5, -0.5])).tolist()
        [0.0, 2.0, -0.0]
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _RoundStraightThrough.apply(x)  # type: ignore[no-any-return]
    return x.round()


def minimum_scale(qmin: int, qmax: int) -> float:
    """The smallest scale that is ever used, ``min(2**-23, 0.01 / n)``.

    It keeps a constant or all-zero tensor from a division by zero, and small enough not to be seen: the whole grid
    spans at most 0.01.

    Args:
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.

    Example:
        >>> minimum_scale(-128, 127) == 2.0**-23
        True
        >>> f"{minimum_scale(-(2**31), 2**31 - 1):.3e}"
        '2.328e-12'
    """
    return min(_FLOAT32_EPS, _SMALLEST_RANGE / (qmax - qmin))


def symmetric_offset(qmin: int, qmax: int) -> int:
    """Offset of a symmetric grid, ``-rint((qmin + qmax) / 2)``: 0 for signed integers, -128 for 0..255.

    Example:
        >>> symmetric_offset(-128, 127), symmetric_offset(-7, 7), symmetric_offset(0, 255)
        (0, 0, -128)
    """
    return -round((qmin + qmax) / 2)


def scale_and_offset(minimum: Tensor, maximum: Tensor, qmin: int, qmax: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and offset of a real range, in float32, differentiable in both ends.

    ``s = max(|max - min| / n, s_min)``. Symmetric: ``o`` is :func:`symmetric_offset`. Asymmetric: the range is first
    widened so that it includes 0, then ``o = clamp(rint(min / s) - qmin, -qmax, -qmin)``: 0 is always on the grid.
    The rounding in ``o`` passes gradients straight through.

    Args:
        minimum: lower ends, any shape.
        maximum: upper ends, same shape as ``minimum``.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        symmetric: whether the offset is fixed by the grid alone.

    Returns:
        ``(scale, offset)``, both float32 in the shape of ``minimum``.

    Example:
        >>> scale, offset = scale_and_offset(torch.tensor(-1.0), torch.tensor(3.0), 0, 255, symmetric=False)
        >>> round(float(scale), 6), float(offset)
        (0.015686, -64.0)
        >>> scale, offset = scale_and_offset(torch.tensor(1.0), torch.tensor(3.0), 0, 255, symmetric=False)
        >>> round(float(scale), 6), float(offset)
        (0.011765, 0.0)
    """
    minimum, maximum = minimum.to(torch.float32), maximum.to(torch.float32)
    if not symmetric:
        minimum, maximum = minimum.clamp(max=0.0), maximum.clamp(min=0.0)
    scale = ((maximum - minimum) / (qmax - qmin)).abs().clamp(min=minimum_scale(qmin, qmax))
    if symmetric:
        return scale, torch.full_like(scale, float(symmetric_offset(qmin, qmax)), requires_grad=False)
    offset = (round_straight_through(minimum / scale) - qmin).clamp(-qmax, -qmin)
    return scale, offset


def range_from_scale_and_offset(scale: Tensor, offset: Tensor | None, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """The real range that a grid covers: ``s * (o + qmin)`` and ``s * (o + qmax)``.

    Args:
        scale: scales, any shape.
        offset: offsets that broadcast with ``scale``; ``None`` means 0.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.

    Example:
        >>> [
        ...     round(float(end), 4)
        ...     for end in range_from_scale_and_offset(torch.tensor(2 / 255), None, -128, 127)
        ... ]
        [-1.0039, 0.9961]
    """
    if offset is None:
        return scale * qmin, scale * qmax
    return scale * (offset + qmin), scale * (offset + qmax)


def calibration_range(minimum: Tensor, maximum: Tensor, qmin: int, qmax: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The range that a quantizer takes when values from ``minimum`` to ``maximum`` were observed.

    The range is made to include 0, then widened where its step would fall below :func:`minimum_scale`. For a symmetric
    grid it is then centred so that nothing observed is clipped: with ``h = floor(n/2)`` steps above zero and
    ``l = ceil(n/2)`` below, ``delta = max(max / h, -min / l)`` and the range is ``-l * delta .. h * delta``.
    Two-bit grids (``n = 3``) take ``max / (h + 1)``: clipping the largest value by half a step uses all four codes.

    Args:
        minimum: smallest values observed, any shape.
        maximum: largest values observed, same shape.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        symmetric: whether the grid is symmetric.

    Returns:
        ``(minimum, maximum)`` of the range, in the observed dtype.

    Example:
        >>> low, high = calibration_range(torch.tensor(-0.5), torch.tensor(1.0), -128, 127, symmetric=True)
        >>> round(float(low), 4), round(float(high), 4)
        (-1.0079, 1.0)
    """
    steps = qmax - qmin
    above, below = steps // 2, math.ceil(steps / 2)
    smallest = minimum_scale(qmin, qmax)
    dtype = minimum.dtype
    minimum, maximum = minimum.clamp(max=0.0), maximum.clamp(min=0.0)
    widening = smallest * ((maximum - minimum) / steps < smallest)
    if symmetric:
        maximum, minimum = maximum + above * widening, minimum - below * widening
        # One-bit grids have no step above zero; there delta covers the largest magnitude.
        delta = torch.maximum(maximum / (above + 1 if steps == 3 else max(above, 1)), -minimum / below)
        minimum, maximum = -below * delta, above * delta
    else:
        maximum = maximum + steps * widening
    limits = torch.finfo(dtype)
    return minimum.clamp(min=limits.min).to(dtype), maximum.clamp(max=limits.max).to(dtype)


def symmetric_range(minimum: Tensor, maximum: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """The symmetric case of :func:`calibration_range`.

    Example:
        >>> low, high = symmetric_range(torch.tensor(-2.0), torch.tensor(1.0), -7, 7)
        >>> float(low), float(high)
        (-2.0, 2.0)
    """
    return calibration_range(minimum, maximum, qmin, qmax, symmetric=True)


def dynamic_scale_and_offset(x: Tensor, qmin: int, qmax: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and offset of each row of the last dimension, from the row's own smallest and largest value.

    Args:
        x: floating-point tensor, shape ``(..., n)`` with ``n >= 1``.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        symmetric: whether the grid is symmetric.

    Returns:
        ``(scale, offset)``, float32, shape ``(..., 1)``.

    Example:
        >>> scale, offset = dynamic_scale_and_offset(torch.tensor([[0.0, 2.55], [-2.55, 0.0]]), 0, 255, False)
        >>> offset.tolist()
        [[0.0], [-255.0]]
    """
    minimum = x.amin(dim=-1, keepdim=True).to(torch.float32)
    maximum = x.amax(dim=-1, keepdim=True).to(torch.float32)
    if symmetric:
        minimum, maximum = symmetric_range(minimum, maximum, qmin, qmax)
    return scale_and_offset(minimum, maximum, qmin, qmax, symmetric)
