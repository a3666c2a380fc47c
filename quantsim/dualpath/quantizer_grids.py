"""The grids of quantizers, as integer graphs know them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from quantsim.dualpath.integer_graph import Grid
from quantsim.dualpath.lowered_values import StaysFloatError
from quantsim.quantization.base import QuantizerBase
from quantsim_encodings.encoding import AffineEncoding, GroupedBlockEncoding

__all__ = ["codes_on_grid", "grid_of", "to_codes"]

_WIDEST = 16


def grid_of(quantizer: QuantizerBase, shape: tuple[int, ...]) -> Grid:
    """The grid of a calibrated quantizer over a tensor.

    Args:
        quantizer: Any quantizer.
        shape: Of the tensor; only the lengths of dimensions with several scales are read.

    Raises:
        StaysFloatError: It has no integer grid with one zero point, or one of blocks, or scales that the data give.

    Example:
        >>> from quantsim.quantization import affine
        >>> quantizer = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
        >>> quantizer.set_range(-1.0, 1.55)
        >>> grid = grid_of(quantizer, (2, 3))
        >>> round(grid.scale, 6), grid.zero_point, grid.low, grid.high
        (0.01, 100, 0, 255)
    """
    name = type(quantizer).__name__
    try:
        encoding = quantizer.get_encodings()
    except NotImplementedError:
        raise StaysFloatError(f"{name} has no encoding") from None
    if not isinstance(encoding, AffineEncoding) or isinstance(encoding, GroupedBlockEncoding):
        kind = "no range" if encoding is None else type(encoding).__name__
        raise StaysFloatError(f"{name} ({kind}) has no fixed integer grid")
    if encoding.block_size is not None or encoding.zero_point_shift:
        raise StaysFloatError(f"{name} has blocks or a grid without zero, which integer sums cannot take")
    if encoding.format.bits > _WIDEST:
        raise StaysFloatError(f"{name} has {encoding.format.bits} bits; integer nodes read at most {_WIDEST}")
    scale = np.asarray(encoding.scale, np.float64)
    zero_points = np.unique(np.rint(-np.asarray(encoding.offset, np.float64)).astype(np.int64))
    if zero_points.size != 1:
        raise StaysFloatError(f"{name} has a zero point for each channel")
    limits = (int(zero_points[0]), encoding.format.qmin, encoding.format.qmax)
    if scale.size == 1:
        return Grid(float(scale.reshape(())), *limits)
    axis = _channel_axis(scale.shape, shape)
    if axis is None:
        raise StaysFloatError(f"{name} has scales of shape {scale.shape} over a tensor of shape {shape}")
    return Grid(scale.reshape(-1), *limits, axis)


def codes_on_grid(values: Tensor, grid: Grid) -> np.ndarray:
    """The integers of real numbers that lie on a grid, int64.

    Example:
        >>> codes_on_grid(torch.tensor([-0.5, 1.0]), Grid(0.5, 3, 0, 7))
        array([2, 5])
    """
    real = values.detach().cpu().double().numpy()
    scale = np.asarray(grid.scale)
    if grid.axis is not None:
        scale = scale.reshape([-1 if axis == grid.axis else 1 for axis in range(real.ndim)])
    return np.clip(np.rint(real / scale) + grid.zero_point, grid.low, grid.high).astype(np.int64)


def to_codes(x: Tensor, scale: float, zero_point: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """The codes of real numbers, as quantizers of the simulation round: ``clamp(rint(x / scale) + zero_point)``.

    Half-precision numbers are divided in float32: their own type holds no 16-bit codes, bfloat16 not even 9-bit ones.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return (torch.round(x / scale) + zero_point).clamp_(low, high).to(dtype)


def _channel_axis(scales: tuple[int, ...], shape: tuple[int, ...]) -> int | None:
    """The only dimension along which scales vary, counted in the tensor; None if there are several."""
    aligned = (1,) * (len(shape) - len(scales)) + scales
    varying = [axis for axis, size in enumerate(aligned) if size > 1]
    if len(varying) != 1 or len(aligned) != len(shape) or shape[varying[0]] != aligned[varying[0]]:
        return None
    return varying[0]
