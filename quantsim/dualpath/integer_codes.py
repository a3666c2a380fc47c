"""Integers of quantizers: their dtypes, their grids, and the integer weights of a layer."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from quantsim.dualpath.integer_graph import Grid
from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.quantization.affine import Quantize
from quantsim.quantization.base import QuantizerBase
from quantsim_encodings.encoding import AffineEncoding

__all__ = [
    "activation_codes",
    "activation_grid",
    "dequantize",
    "grid_dtype",
    "integer_dtype",
    "require_affine_encoding",
    "require_codes",
    "weight_codes",
]

_DTYPES: Final = (torch.uint8, torch.int8, torch.int16, torch.int32)


def integer_dtype(low: int, high: int) -> torch.dtype:
    """The narrowest integer type with arithmetic in torch that holds ``low`` to ``high``.

    Example:
        >>> integer_dtype(0, 255), integer_dtype(-8, 7), integer_dtype(0, 65535)
        (torch.uint8, torch.int8, torch.int32)
    """
    for dtype in _DTYPES:
        limits = torch.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return dtype
    return torch.int64


def grid_dtype(grid: Grid) -> torch.dtype:
    """The type of a grid's integers, see `integer_dtype`."""
    return integer_dtype(grid.low, grid.high)


def dequantize(codes: Tensor, grid: Grid) -> Tensor:
    """The real numbers, float32, that integers on a grid stand for.

    Example:
        >>> dequantize(torch.tensor([3, 4], dtype=torch.uint8), Grid(0.5, 3, 0, 255))
        tensor([0.0000, 0.5000])
    """
    scale = torch.as_tensor(grid.scale, dtype=torch.float64, device=codes.device)
    if grid.axis is not None:
        scale = scale.reshape([-1 if axis == grid.axis % codes.dim() else 1 for axis in range(codes.dim())])
    return ((codes.to(torch.float64) - grid.zero_point) * scale).float()


def require_codes(codes: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    """Returns integers that came from elsewhere, if they have the type of the grid that they are to be on.

    Raises:
        ConfigurationError: If they have another.
    """
    if codes.dtype == dtype:
        return codes
    raise ConfigurationError(
        "the integers are not on this grid",
        where=where,
        got=f"a tensor of {codes.dtype}",
        expected=f"{dtype} (or real numbers, which are quantized)",
        fix="give the layer before an output quantizer (yq) with this grid, or convert the whole model by to_integer",
    )


def require_affine_encoding(quantizer: QuantizerBase, where: str) -> AffineEncoding:
    """The encoding of a calibrated quantizer onto evenly spaced integers with a zero.

    Raises:
        NotCalibratedError: If it has no range yet.
        ConfigurationError: If its grid is another.
    """
    kind = type(quantizer).__name__
    try:
        encoding = quantizer.get_encodings()
    except NotImplementedError:
        encoding = None
    if encoding is None and not quantizer.is_initialized():
        raise NotCalibratedError(
            "there are no integers without a range",
            where=f"{where} ({kind})",
            got="a quantizer that is not calibrated",
            expected="scale and zero point",
            fix="run data through the model inside quantsim.nn.compute_encodings(model)",
        )
    if isinstance(encoding, AffineEncoding) and not encoding.zero_point_shift and encoding.block_size is None:
        return encoding
    raise ConfigurationError(
        "the quantizer has no integers",
        where=f"{where} ({kind})",
        got=f"{'no fixed grid' if encoding is None else encoding}",
        expected="an affine encoding per tensor or per channel, with 0 on the grid",
        fix="use QBase or affine.QuantizeDequantize",
    )


def activation_grid(quantizer: QuantizerBase, where: str) -> Grid:
    """The grid of an activation.

    Args:
        quantizer: Calibrated, with one scale.
        where: Its place, for errors.

    Raises:
        NotCalibratedError: If it has no range yet.
        ConfigurationError: If it has several scales, or no integers.

    Example:
        >>> from quantsim.quantization import affine
        >>> quantizer = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
        >>> quantizer.set_range(-64.0, 63.5)
        >>> activation_grid(quantizer, "here")
        Grid(scale=0.5, zero_point=128, low=0, high=255, axis=None)
    """
    encoding = require_affine_encoding(quantizer, where)
    if encoding.scale.size != 1:
        raise ConfigurationError(
            "integers that are summed over channels need one scale",
            where=where,
            got=f"{encoding.scale.size} scales",
            expected="a quantizer per tensor",
        )
    return Grid(
        scale=float(encoding.scale.reshape(())),
        zero_point=-round(float(encoding.offset.reshape(()))),
        low=encoding.format.qmin,
        high=encoding.format.qmax,
    )


@torch.no_grad()
def activation_codes(x: Tensor, quantizer: QuantizerBase, grid: Grid, where: str) -> Tensor:
    """The integers of an activation.

    Args:
        x: Real numbers, which the quantizer puts on its grid; or integers on it, which pass.
        quantizer: The quantizer.
        grid: Its grid.
        where: Its place, for errors.

    Raises:
        ConfigurationError: If integers of another type are given.
    """
    dtype = grid_dtype(grid)
    if not x.is_floating_point():
        return require_codes(x, dtype, where)
    values = _in_evaluation(quantizer, x)
    if not values.is_floating_point():
        return values
    if isinstance(quantizer, Quantize):
        return values.to(dtype)
    return ((values.to(torch.float64) / float(grid.scale)).round() + grid.zero_point).to(dtype)


@torch.no_grad()
def weight_codes(weight: Tensor, quantizer: QuantizerBase, where: str) -> tuple[Tensor, np.ndarray]:
    """Integer weights with zero point 0, and their scales.

    Codes are read off what the quantizer makes of the weight, so they hold whatever rounding it has learned.

    Args:
        weight: Real weights, output channels first.
        quantizer: Calibrated, with one scale or one for each output channel.
        where: Its place, for errors.

    Returns:
        int8 codes in the shape of ``weight``, and one or ``O`` scales in float64.

    Raises:
        NotCalibratedError: If the quantizer has no range yet.
        ConfigurationError: If the scales run along another dimension, or the codes need more than 8 bits.
    """
    encoding = require_affine_encoding(quantizer, where)
    scale = encoding.scale.astype(np.float64)
    by_channel = (weight.shape[0],) + (1,) * (weight.dim() - 1)
    if scale.size != 1 and scale.shape != by_channel:
        raise ConfigurationError(
            "weights need one scale, or one for each output channel",
            where=where,
            got=f"scales of shape {scale.shape} for a weight of shape {tuple(weight.shape)}",
            expected=f"shape () or {by_channel}",
        )
    values = _in_evaluation(quantizer, weight)
    columns, offset = (
        torch.tensor(each, dtype=torch.float64, device=weight.device).reshape(-1, *by_channel[1:])
        for each in (scale, encoding.offset)
    )
    if not values.is_floating_point() or isinstance(quantizer, Quantize):
        codes = values.to(torch.float64) + offset
    else:
        codes = (values.to(torch.float64) / columns).round()
    low, high = int(codes.min()), int(codes.max())
    if low < -128 or high > 127:
        raise ConfigurationError(
            "integer weights have 8 bits at most, around zero point 0",
            where=where,
            got=f"codes less zero point from {low} to {high}",
            expected="-128 to 127",
            fix="quantize weights symmetrically: QBase(nbit, unsigned=False), nbit <= 8",
        )
    return codes.to(torch.int8), scale.reshape(-1)


def _in_evaluation(quantizer: QuantizerBase, x: Tensor) -> Tensor:
    """What a quantizer gives when nothing is dropped or drawn at random for training."""
    training = quantizer.training
    quantizer.eval()
    try:
        return quantizer(x)
    finally:
        quantizer.train(training)
