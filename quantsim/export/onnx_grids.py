"""What ONNX needs to know of a quantizer: number type, scales, zero points, and where they lie over a tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np

from quantsim.quantization.affine.base import AffineQuantizerBase
from quantsim.quantization.affine.quantizers import QuantizeDequantize
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.float import DynamicFloatQuantizeDequantize, FloatQuantizeDequantize
from quantsim_encodings.formats import FloatFormat, NanEncoding, RoundingMode, float_format

__all__ = [
    "FLOAT8_FORMATS",
    "Arithmetic",
    "OnnxGrid",
    "ScaleLayout",
    "at_least_bytes",
    "lay_out",
    "onnx_grid",
    "unsigned",
]


class Arithmetic(StrEnum):
    """How a grid is computed in ONNX."""

    INTEGER = "integer"
    """QuantizeLinear and DequantizeLinear with an integer type."""
    FLOAT8 = "float8"
    """QuantizeLinear and DequantizeLinear with an 8-bit float type."""
    CAST = "cast"
    """Cast to a float type and back."""


@dataclass(frozen=True)
class OnnxGrid:
    """A quantizer in ONNX's words.

    Attributes:
        arithmetic: Which operators.
        data_type: ONNX's name of the stored type, such as ``"UINT8"``.
        scale: In the quantizer's shape, float32; None where nothing is scaled.
        zero_point: In the same shape, int64: real number = (code - zero point) * scale. Zeros for floats.
        block_size: The quantizer's: elements of a block in each of the last dimensions, or None.
        codes: Smallest and largest code, where the type holds more; None if the type saturates where the grid ends.
        limit: Largest magnitude before a cast, or None.
        saturate: Whether too large values become the largest number of a float type.
    """

    arithmetic: Arithmetic
    data_type: str
    scale: np.ndarray | None = None
    zero_point: np.ndarray | None = None
    block_size: tuple[int, ...] | None = None
    codes: tuple[int, int] | None = None
    limit: float | None = None
    saturate: bool = True


@dataclass(frozen=True)
class ScaleLayout:
    """How scales lie over one tensor, as QuantizeLinear takes them.

    Attributes:
        scale: 0-d; 1-d along ``axis``; or, with blocks, of the tensor's rank.
        zero_point: Likewise.
        axis: Dimension that the scales vary along, or None.
        block_size: Elements of a block along ``axis``, or None.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None = None
    block_size: int | None = None


_INTEGERS: Final = {
    "INT4": (-8, 7),
    "UINT4": (0, 15),
    "INT8": (-128, 127),
    "UINT8": (0, 255),
    "INT16": (-(2**15), 2**15 - 1),
    "UINT16": (0, 2**16 - 1),
}
"""Integer types of QuantizeLinear, narrowest first."""


def _finite(exponent: int, mantissa: int, nan: NanEncoding, bias: int | None = None) -> FloatFormat:
    return FloatFormat(
        exponent, mantissa, bias, has_infinity=False, nan=nan, has_negative_zero=nan is not NanEncoding.NEGATIVE_ZERO
    )


FLOAT8_FORMATS: Final = {
    "FLOAT8E4M3FN": float_format("e4m3fn"),
    "FLOAT8E5M2": float_format("e5m2"),
    "FLOAT8E4M3FNUZ": _finite(4, 3, NanEncoding.NEGATIVE_ZERO, 8),
    "FLOAT8E5M2FNUZ": _finite(5, 2, NanEncoding.NEGATIVE_ZERO, 16),
}
"""Float types of QuantizeLinear."""

_CASTS: Final = {"FLOAT16": float_format("fp16"), "BFLOAT16": float_format("bf16")}
"""Float types that Cast rounds to as a quantizer without a scale does."""


def onnx_grid(quantizer: QuantizerBase) -> OnnxGrid | str:
    """The grid of a calibrated quantizer in ONNX's words; or, in words, why ONNX has none.

    Example:
        >>> quantizer = QuantizeDequantize(shape=(), bitwidth=8, symmetric=False)
        >>> quantizer.set_range(-1.0, 1.55)
        >>> grid = onnx_grid(quantizer)
        >>> grid.data_type, int(grid.zero_point)
        ('UINT8', 100)
    """
    if quantizer.is_stochastic:
        return "rounds at random, and ONNX rounds to nearest"
    if not quantizer.rounds_to_nearest:
        kind = type(quantizer).__name__
        return f"has learned how to round ({kind}), which quantsim.recipes.bake_rounding writes into the weights"
    rounding = getattr(quantizer, "rounding", RoundingMode.NEAREST_EVEN)
    if rounding is not RoundingMode.NEAREST_EVEN:
        return f"rounds {rounding.value}, and ONNX rounds to nearest, ties to even"
    if isinstance(quantizer, AffineQuantizerBase):
        return _integer_grid(quantizer)
    if isinstance(quantizer, FloatQuantizeDequantize):
        return _float_grid(quantizer)
    if isinstance(quantizer, DynamicFloatQuantizeDequantize):
        return _named(FLOAT8_FORMATS, quantizer.format) or _no_type(quantizer.format)
    try:
        name = getattr(quantizer.format, "name", None) or type(quantizer.format).__name__
        what = f"the format {name}"
    except NotImplementedError:
        what = "a grid of its own"
    return f"has {what} ({type(quantizer).__name__}), for which ONNX has no operator"


def _integer_grid(quantizer: AffineQuantizerBase) -> OnnxGrid | str:
    if not isinstance(quantizer, QuantizeDequantize):
        return f"is a {type(quantizer).__name__}; ONNX holds pairs, which are what QuantizeDequantize is"
    if quantizer.zero_point_shift:
        return "has a grid without a zero (zero_point_shift), and zero points of ONNX are integers"
    scale, offset = quantizer.get_scale(), quantizer.get_offset()
    assert scale is not None
    assert offset is not None
    zero_point = -np.rint(offset.detach().cpu().numpy()).astype(np.int64)
    low, high = quantizer.qmin, quantizer.qmax
    for name, (least, most) in _INTEGERS.items():
        if (least < 0) is (low < 0) and least <= low and high <= most:
            if zero_point.min() < least or zero_point.max() > most:
                return f"has a zero point of {zero_point.min()} to {zero_point.max()}, outside of {name.lower()}"
            return OnnxGrid(
                Arithmetic.INTEGER,
                name,
                scale.detach().cpu().numpy().astype(np.float32),
                zero_point,
                quantizer.block_size,
                None if (low, high) == (least, most) else (low, high),
            )
    return f"has codes from {low} to {high}, and QuantizeLinear has no type beyond 16 bits"


def _float_grid(quantizer: FloatQuantizeDequantize) -> OnnxGrid | str:
    grid = _named(FLOAT8_FORMATS, quantizer.format)
    if grid is not None:
        scale = quantizer.get_scale()
        assert scale is not None
        values = scale.detach().cpu().numpy().astype(np.float32)
        return replace(
            grid,
            scale=values,
            zero_point=np.zeros(values.shape, np.int64),
            block_size=quantizer.block_size,
            saturate=quantizer.saturate,
        )
    if quantizer.is_scaled:
        return _no_type(quantizer.format)
    name = next((name for name, format in _CASTS.items() if format == quantizer.format), None)
    if name is None:
        return _no_type(quantizer.format)
    return OnnxGrid(Arithmetic.CAST, name, limit=quantizer.format.max if quantizer.saturate else None)


def _named(table: Mapping[str, FloatFormat], format: FloatFormat) -> OnnxGrid | None:
    name = next((name for name, known in table.items() if known == format), None)
    if name is None:
        return None
    return OnnxGrid(Arithmetic.FLOAT8, name, np.ones((), np.float32), np.zeros((), np.int64))


def _no_type(format: FloatFormat) -> str:
    known = ", ".join(known.label for known in (*list(FLOAT8_FORMATS.values())[:2], *_CASTS.values()))
    return f"has the float format {format.label} ({format.bits} bits), and QuantizeLinear and Cast know {known} only"


def unsigned(grid: OnnxGrid) -> OnnxGrid:
    """The same real numbers with unsigned codes: codes and zero points moved up by half the type.

    Example:
        >>> signed = QuantizeDequantize(shape=(), bitwidth=8, symmetric=True)
        >>> signed.set_range(-1.0, 1.0)
        >>> moved = unsigned(onnx_grid(signed))
        >>> moved.data_type, int(moved.zero_point)
        ('UINT8', 128)
    """
    if grid.arithmetic is not Arithmetic.INTEGER or grid.data_type.startswith("U"):
        return grid
    assert grid.zero_point is not None
    step = -_INTEGERS[grid.data_type][0]
    codes = None if grid.codes is None else (grid.codes[0] + step, grid.codes[1] + step)
    return replace(grid, data_type=f"U{grid.data_type}", zero_point=grid.zero_point + step, codes=codes)


def at_least_bytes(grid: OnnxGrid) -> OnnxGrid:
    """The same grid in a type of 8 bits if it is one of 4, as part of that type.

    For what is quantized at run time: ONNX Runtime (1.31) fails to load a graph where a Relu or Clip comes before
    a QuantizeLinear of 4 bits.

    Example:
        >>> quantizer = QuantizeDequantize(shape=(), bitwidth=4, symmetric=False)
        >>> quantizer.set_range(0.0, 1.5)
        >>> wide = at_least_bytes(onnx_grid(quantizer))
        >>> wide.data_type, wide.codes
        ('UINT8', (0, 15))
    """
    if grid.arithmetic is not Arithmetic.INTEGER or not grid.data_type.endswith("4"):
        return grid
    return replace(grid, data_type=f"{grid.data_type[:-1]}8", codes=grid.codes or _INTEGERS[grid.data_type])


def lay_out(grid: OnnxGrid, shape: Sequence[int | None]) -> ScaleLayout | str:
    """Lays a grid's scales over a tensor; or says in words why ONNX cannot.

    ONNX cuts one dimension into blocks; in all others there is one scale an element. So scales of blocks in several
    dimensions are repeated.

    Args:
        grid: With scales.
        shape: Of the tensor; None for dimensions known at run time only.

    Example:
        >>> grid = OnnxGrid(Arithmetic.INTEGER, "INT4", np.ones((6, 2)), np.zeros((6, 2), np.int64), (1, 32))
        >>> layout = lay_out(grid, (6, 64))
        >>> layout.scale.shape, layout.axis, layout.block_size
        ((6, 2), 1, 32)
    """
    assert grid.scale is not None
    assert grid.zero_point is not None
    scale, zero_point = grid.scale, grid.zero_point
    if scale.size == 1:
        return ScaleLayout(scale.reshape(()), zero_point.reshape(()))
    missing = len(shape) - scale.ndim
    if missing < 0:
        return f"has scales of shape {scale.shape} for a tensor of rank {len(shape)}"
    counts = (1,) * missing + scale.shape
    scale, zero_point = scale.reshape(counts), zero_point.reshape(counts)
    several = [axis for axis, count in enumerate(counts) if count > 1]
    sizes = None if grid.block_size is None else (-1,) * missing + tuple(grid.block_size)
    if len(several) == 1 and (sizes is None or sizes[several[0]] == 1 or counts[several[0]] == shape[several[0]]):
        return ScaleLayout(scale.reshape(-1), zero_point.reshape(-1), several[0])
    lengths = [length for length in shape if length is not None]
    if len(lengths) < len(shape):
        return "has blocks on a tensor whose shape is known at run time only"
    extents = [
        math.ceil(length / count) if sizes is None or sizes[axis] == -1 else sizes[axis]
        for axis, (length, count) in enumerate(zip(lengths, counts, strict=True))
    ]
    cut = [axis for axis in several if extents[axis] > 1]
    axis = max(cut or several, key=lambda each: extents[each])
    for other, length in enumerate(lengths):
        if other != axis:
            scale, zero_point = (
                values.repeat(extents[other], other).take(range(length), other)
                if values.shape[other] > 1
                else values.repeat(length, other)
                for values in (scale, zero_point)
            )
    return ScaleLayout(scale, zero_point, axis, extents[axis])
