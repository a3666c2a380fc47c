"""Histograms of a tensor's values in the codes of its encoding, before they are rounded."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from quantsim.report.data import Histogram, grid_reach
from quantsim.report.wording import describe_encoding
from quantsim_encodings import AffineEncoding, Encoding, FloatEncoding, FloatFormat

__all__ = ["float_grid", "grid_histogram", "in_scales"]

_FEWEST_BINS, _MOST_BINS = 24, 128
_GREATEST_GRID = 1024


def float_grid(format: FloatFormat) -> tuple[float, ...]:
    """Every finite number of a small floating-point format, rising; empty for formats of more than 8 bits.

    Args:
        format: The format.

    Example:
        >>> from quantsim_encodings import float_format
        >>> float_grid(float_format("e2m1"))[8:]
        (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    """
    if format.bits > 8:
        return ()
    steps = 2**format.mantissa_bits  # numbers in each binade
    positive, index = [], 1
    while True:
        binade, fraction = divmod(index, steps)
        value = (fraction + (steps if binade else 0)) * format.tiny * 2.0 ** max(binade - 1, 0)
        if value > format.max:
            break
        positive.append(value)
        index += 1
    return (*(-value for value in reversed(positive)), 0.0, *positive)


def grid_histogram(
    values: Tensor, encoding: Encoding, *, title: str, scheme: str, logarithmic: bool = False
) -> Histogram | None:
    """Histogram of ``x / scale`` less the offset, in which all channels and blocks have one grid.

    Args:
        values: The float tensor.
        encoding: Its encoding, with fixed scales.
        title: Name of the tensor.
        scheme: Name of the scheme.
        logarithmic: Draw counts on a logarithmic axis; for activations, whose tails are thin and long.

    Returns:
        None for an encoding without fixed scales, whose grid moves with each tensor, and for an empty tensor.
    """
    if isinstance(encoding, AffineEncoding):
        if encoding.format.steps > _GREATEST_GRID:
            low_end, high_end = float(encoding.format.qmin), float(encoding.format.qmax)
            grid: tuple[float, ...] = (low_end, low_end + 1, high_end - 1, high_end)
        else:
            grid = tuple(float(code) for code in range(encoding.format.qmin, encoding.format.qmax + 1))
        codes = values / _spread(encoding.scale, values) - _spread(encoding.offset, values)
        unit = "code before rounding"
    elif isinstance(encoding, FloatEncoding) and encoding.scale is not None:
        grid = float_grid(encoding.format) or _ends_of(encoding.format)
        codes = values / _spread(encoding.scale, values)
        unit = "value in units of the scale"
    else:
        return None
    if codes.numel() == 0:
        return None
    codes = codes.flatten().double()
    lowest, highest = grid_reach(grid)
    beyond = int(((codes < lowest) | (codes > highest)).sum())
    low, high = min(float(codes.min()), lowest), max(float(codes.max()), highest)
    bins = min(max(codes.numel() // 8, _FEWEST_BINS), _MOST_BINS)
    counts = torch.histc(codes, bins=bins, min=low, max=high)
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    return Histogram(
        title=title,
        caption=f"{describe_encoding(encoding)}; {100 * beyond / codes.numel():.2g} % of {codes.numel():,} clipped",
        scheme=scheme,
        edges=tuple(edges.tolist()),
        counts=tuple(int(count) for count in counts.tolist()),
        grid=grid,
        unit=unit,
        logarithmic=logarithmic,
        clipped=beyond / codes.numel(),
    )


def _ends_of(format: FloatFormat) -> tuple[float, ...]:
    """The two largest numbers of each sign, which tell how far a grid reaches that is too fine to list."""
    step = 2.0 ** (math.frexp(format.max)[1] - 1 - format.mantissa_bits)
    return -format.max, step - format.max, format.max - step, format.max


def in_scales(values: Tensor, encoding: Encoding | None) -> Tensor:
    """A tensor divided by the scales of its encoding, in which all channels and blocks are alike.

    Args:
        values: The float tensor.
        encoding: Its encoding; without fixed scales the tensor stays as it is.
    """
    scale = getattr(encoding, "scale", None)
    if scale is None or not isinstance(encoding, AffineEncoding | FloatEncoding):
        return values
    # In half precision small scales would become zero.
    return values.float() / _spread(scale, values).to(values.device, torch.float32)


def _spread(parameters: object, like: Tensor) -> Tensor:
    """Repeats parameters over their blocks, so that they broadcast against the tensor."""
    spread = torch.tensor(np.asarray(parameters), dtype=torch.float64)
    spread = spread.reshape((1,) * (like.dim() - spread.dim()) + tuple(spread.shape))
    for dimension, length in enumerate(like.shape):
        count = spread.shape[dimension]
        if count not in (1, length):
            spread = spread.repeat_interleave(length // count, dim=dimension)
    return spread
