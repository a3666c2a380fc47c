"""Block formats (MX, NVFP4): elements of a block share a scale that the block itself determines.

A block is a run of ``block_size`` neighbours along one axis; the last one may be shorter. It is cast in two steps: a
scale from the largest magnitude, then every element over that scale, saturating. Both are exact: MX scales come from
the bits of the largest magnitude, never from a logarithm, and division by a power of two loses nothing in float64.

**MX** (OCP Microscaling v1.0). The scale is ``2**E``, E from -127 to 127, see :func:`shared_exponent`.

* A block with a NaN is NaN throughout: its scale is e8m0's NaN (v1.0 leaves the conversion open and lets a NaN scale
  make all elements NaN).
* An infinity counts as ``2**128`` when the scale is chosen, and its element saturates. Read as float32, float16 or
  bfloat16 it is infinite again; its finite neighbours shrink to nearly nothing.
* A block of zeros takes the smallest scale, ``2**-127``, and stays zero, with its signs where the element has them.
* Small blocks take that scale too and read back exactly.

**NVFP4** (NVIDIA; the form of its Model Optimizer). e2m1 elements over a scale in e4m3, which with two levels is
itself relative to one float32 for the whole tensor::

    tensor_scale = amax(finite x) / (448 * 6)               1 if there is nothing but zeros; not below 2**-126
    block_scale  = e4m3(amax(block) / 6 / tensor_scale)     to nearest even, saturating; not below 2**-9
    result       = e2m1(x / (block_scale * tensor_scale)) * (block_scale * tensor_scale)

each operation rounded to float32 (float64 for float64 tensors). Without the second level ``tensor_scale`` is 1.

* A NaN makes its block NaN; the scale of the tensor does not see it.
* An infinity takes the largest block scale and saturates.
* A block whose scale would round to zero takes e4m3's smallest positive number, so no block is divided by zero.

Differences from torchao 0.18: it never lets an MX scale fall below ``2**-126`` when it divides, though it writes the
code of ``2**-127``; it takes rceil from a rounded quotient and a float logarithm; NVFP4 block scales stop there at
``2**-6``, e4m3's smallest normal number, elements are multiplied by a rounded reciprocal, and a NaN or a tensor of
zeros makes all of a two-level tensor NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quantsim_encodings.formats import (
    BlockFormat,
    FloatFormat,
    IntFormat,
    MXFormat,
    MXScaleRule,
    NanEncoding,
    NVFP4Format,
    RoundingMode,
)
from quantsim_kernels.reference.float_cast import float_cast

__all__ = [
    "E8M0_BIAS",
    "E8M0_NAN",
    "SMALLEST_TENSOR_SCALE",
    "BlockCast",
    "ElementGrid",
    "block_maximum",
    "check_block_format",
    "dequantize",
    "element_grid",
    "nvfp4_block_scale",
    "nvfp4_tensor_scale",
    "quantize",
    "quantize_dequantize",
    "shared_exponent",
    "spread_over_blocks",
]

E8M0_BIAS = 127
E8M0_NAN = 255
SMALLEST_TENSOR_SCALE = 2.0**-126
"""Smallest normal float32: below it a tensor scale would lose bits."""

_LARGEST_TENSOR_SCALE = torch.finfo(torch.float32).max
_LARGEST_EXPONENT = 127
_INFINITY_EXPONENT = 128
_FRACTION_BITS = 52
_FRACTION = (1 << _FRACTION_BITS) - 1
_MAX_INTEGER_BITS = 24


@dataclass(frozen=True)
class ElementGrid:
    """The numbers that an element of a block takes, before the scale.

    Attributes:
        format: a float format whose numbers between ``low`` and ``high`` are the element's.
        low: smallest number.
        high: largest number.
        exponent: ``floor(log2(high))``.
        bits: width of a code.
        is_integer: whether codes are integers, ``number * 2**fraction_bits``.
        fraction_bits: bits behind the point of an integer element; fraction bits of a float element.
    """

    format: FloatFormat
    low: float
    high: float
    exponent: int
    bits: int
    is_integer: bool
    fraction_bits: int


def element_grid(element: FloatFormat | IntFormat) -> ElementGrid:
    """The grid of an element format.

    Integers are fixed-point numbers ``code * 2**-(bits - 2)``. Those are the subnormals and the first binade of a float
    format with that many fraction bits, so that one cast, with all its laws of rounding, serves both kinds.

    Raises:
        ValueError: a float element without zero, integers wider than 24 bits, or no positive integer.

    Example:
        >>> grid = element_grid(IntFormat(-128, 127))
        >>> grid.low, grid.high, grid.exponent
        (-2.0, 1.984375, 0)
    """
    if isinstance(element, FloatFormat):
        if not element.has_zero:
            raise ValueError(f"element: got {element.label}, which has no zero, expected a format that has one")
        low = -element.max if element.signed else 0.0
        fraction = element.mantissa_bits
        return ElementGrid(element, low, element.max, element.max_exponent, element.bits, False, fraction)
    if element.qmax < 1 or element.bits > _MAX_INTEGER_BITS:
        raise ValueError(
            f"element: got integers from {element.qmin} to {element.qmax}, expected a positive qmax and at most "
            f"{_MAX_INTEGER_BITS} bits"
        )
    point = element.bits - 2
    # Signed integers end below 2, unsigned ones below 4; the binade that holds the largest must be the first.
    first = 0 if element.signed else 1
    fixed_point = FloatFormat(
        2,
        point + first,
        bias=1 - first,
        has_infinity=False,
        nan=NanEncoding.NONE,
        has_negative_zero=False,
        name=f"int{element.bits}",
    )
    low, high = element.qmin * 2.0**-point, element.qmax * 2.0**-point
    return ElementGrid(fixed_point, low, high, element.qmax.bit_length() - 1 - point, element.bits, True, point)


def check_block_format(format: BlockFormat, dtype: torch.dtype) -> None:
    """Raise where blocks of ``format`` cannot be simulated on tensors of ``dtype``.

    Raises:
        TypeError: ``format`` is no block format, or ``dtype`` is not floating-point.
        ValueError: the element is not usable, see :func:`element_grid`.
    """
    if not isinstance(format, (MXFormat, NVFP4Format)):
        raise TypeError(
            f"format: got {type(format).__name__}, expected an MXFormat, an NVFP4Format or a name, for instance 'mxfp4'"
        )
    if not dtype.is_floating_point:
        raise TypeError(f"x: got {dtype}, expected a floating-point tensor; convert it with x.float()")
    element_grid(format.element)


def _power_of_two(exponent: Tensor) -> Tensor:
    """``2**exponent`` as float64, exact (exp2 and ldexp are not, on every backend)."""
    return ((exponent + 1023) << _FRACTION_BITS).view(torch.float64)


def shared_exponent(maximum: Tensor, format: MXFormat) -> Tensor:
    """E of the scale ``2**E`` of blocks with these largest magnitudes.

    With ``emax`` and ``max`` those of the element, before clamping to -127..127::

        floor   floor(log2(maximum)) - emax                         OCP Microscaling v1.0, section 6.3
        ceil    ceil(log2(maximum)) - emax
        even    floor(log2(maximum rounded to the element's fraction bits)) - emax
        rceil   ceil(log2(maximum / max))                           NVIDIA, cuBLAS' block scaling

    Args:
        maximum: largest magnitudes, floating-point; NaN counts as infinity.
        format: the format.

    Returns:
        int64, in the shape of ``maximum``.

    Example:
        >>> from quantsim_encodings.formats import mx_format
        >>> shared_exponent(torch.tensor([6.0, 7.5, 0.0]), mx_format("mxfp4")).tolist()
        [0, 0, -127]
    """
    grid = element_grid(format.element)
    bits = maximum.detach().to(torch.float64).view(torch.int64)
    exponent = (bits >> _FRACTION_BITS) - 1023
    fraction = bits & _FRACTION
    match format.scale_rule:
        case MXScaleRule.FLOOR:
            pass
        case MXScaleRule.CEIL:
            exponent = exponent + (fraction > 0)
        case MXScaleRule.EVEN:
            # Only a carry changes the exponent; all ones and a half carries whichever way ties go.
            exponent = exponent + (fraction >= (1 << _FRACTION_BITS) - (1 << (_FRACTION_BITS - 1 - grid.fraction_bits)))
        case MXScaleRule.RCEIL:
            exponent = exponent + (fraction > int((grid.high / 2.0**grid.exponent - 1.0) * 2.0**_FRACTION_BITS))
    # In float64 the exponent of infinity is another one.
    exponent = torch.where(maximum.isfinite(), exponent, torch.full_like(exponent, _INFINITY_EXPONENT))
    return (exponent - grid.exponent).clamp(-E8M0_BIAS, _LARGEST_EXPONENT)


def nvfp4_tensor_scale(x: Tensor, format: NVFP4Format) -> Tensor:
    """The scale of a whole tensor: what makes its largest finite magnitude the largest that a block can hold.

    Args:
        x: the tensor.
        format: the format, with two levels.

    Returns:
        float32, shape ``()``.

    Example:
        >>> nvfp4_tensor_scale(torch.tensor([5376.0, float("inf")]), NVFP4Format())
        tensor(2.)
    """
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if wide.numel() == 0:
        return torch.ones((), dtype=torch.float32, device=x.device)
    largest = torch.where(wide.isfinite(), wide.abs(), torch.zeros_like(wide)).amax()
    scale = (largest / (format.scale_format.max * format.element.max)).clamp(
        SMALLEST_TENSOR_SCALE, _LARGEST_TENSOR_SCALE
    )
    return torch.where(largest > 0, scale, torch.ones_like(scale)).to(torch.float32)


def nvfp4_block_scale(maximum: Tensor, format: NVFP4Format, tensor_scale: Tensor | None) -> Tensor:
    """The scales of blocks with these largest magnitudes, relative to the tensor's.

    Args:
        maximum: largest magnitudes, float32 or float64.
        format: the format.
        tensor_scale: float32, or ``None`` for one level.

    Returns:
        Positive numbers of e4m3, or NaN, in the shape and dtype of ``maximum``.

    Example:
        >>> nvfp4_block_scale(
        ...     torch.tensor([6.0, 0.0, float("inf")]), NVFP4Format(two_level=False), None
        ... ).tolist()
        [1.0, 0.001953125, 448.0]
    """
    scale = maximum / format.element.max
    if tensor_scale is not None:
        scale = scale / tensor_scale
    numbers = format.scale_format
    return float_cast(scale, numbers, RoundingMode.NEAREST_EVEN, True, True, None).clamp(min=numbers.tiny)


def block_maximum(x: Tensor, block_size: int, axis: int) -> Tensor:
    """The largest magnitude of each block, NaN where there is one.

    Args:
        x: floating-point tensor of at least one dimension.
        block_size: elements of a block; the last block may be shorter.
        axis: along which blocks lie, not negative.

    Returns:
        Like ``x``, with one entry for each block along ``axis``.

    Example:
        >>> block_maximum(torch.tensor([1.0, -3.0, 2.0]), 2, 0)
        tensor([3., 2.])
    """
    length = x.shape[axis]
    magnitude = x.detach().abs().movedim(axis, -1)
    ragged = -length % block_size
    if ragged:
        magnitude = torch.nn.functional.pad(magnitude, (0, ragged))
    return magnitude.unflatten(-1, (-1, block_size)).amax(-1).movedim(-1, axis)


def spread_over_blocks(scale: Tensor, block_size: int, axis: int, length: int) -> Tensor:
    """One entry for each element from one entry for each block; undoes :func:`block_maximum`'s shape.

    Example:
        >>> spread_over_blocks(torch.tensor([3.0, 2.0]), 2, 0, 3)
        tensor([3., 3., 2.])
    """
    return scale.repeat_interleave(block_size, dim=axis).narrow(axis, 0, length)


@dataclass(frozen=True, eq=False)
class BlockCast:
    """A tensor in a block format, as real numbers.

    Attributes:
        elements: numbers of the element format in the shape of the tensor, float64 for MX, else float32 or float64.
        scale: scale of each block: powers of two (float64) or numbers of e4m3; NaN for blocks that are NaN.
        tensor_scale: float32 scale of the tensor (two-level NVFP4), else ``None``.
    """

    elements: Tensor
    scale: Tensor
    tensor_scale: Tensor | None


def quantize(
    x: Tensor,
    format: BlockFormat,
    axis: int = -1,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
) -> BlockCast:
    """Scales and elements of ``x``.

    Args:
        x: floating-point tensor of at least one dimension and element.
        format: the block format.
        axis: along which blocks lie.
        rounding: how elements are rounded; scales always follow the format's own rule.
        seed: 0-d int64 tensor for the stochastic modes, else ``None``. An element's noise is that of its row-major
            number in ``x``.

    Raises:
        TypeError, ValueError: see :func:`check_block_format`.
    """
    check_block_format(format, x.dtype)
    axis = axis % x.dim()
    length, size = x.shape[axis], format.block_size
    grid = element_grid(format.element)
    tensor_scale = None
    if isinstance(format, MXFormat):
        # float64, so that neither the division nor what it makes of the smallest numbers is rounded.
        maximum = block_maximum(x, size, axis)
        exponent = shared_exponent(maximum, format)
        scale = torch.where(maximum.isnan(), math.nan, _power_of_two(exponent))
        ratio = x.detach().to(torch.float64) * spread_over_blocks(_power_of_two(-exponent), size, axis, length)
    else:
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        tensor_scale = nvfp4_tensor_scale(wide, format) if format.two_level else None
        scale = nvfp4_block_scale(block_maximum(wide, size, axis), format, tensor_scale)
        total = scale if tensor_scale is None else scale * tensor_scale
        ratio = wide / spread_over_blocks(total, size, axis, length)
    elements = float_cast(ratio, grid.format, rounding, True, True, seed).clamp(grid.low, grid.high)
    return BlockCast(elements, scale, tensor_scale)


def dequantize(cast: BlockCast, format: BlockFormat, axis: int, dtype: torch.dtype) -> Tensor:
    """The numbers that scales and elements stand for, in ``dtype``; too large ones become infinite."""
    total = cast.scale if cast.tensor_scale is None else cast.scale * cast.tensor_scale
    axis = axis % cast.elements.dim()
    return (cast.elements * spread_over_blocks(total, format.block_size, axis, cast.elements.shape[axis])).to(dtype)


def quantize_dequantize(
    x: Tensor,
    format: BlockFormat,
    axis: int = -1,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
) -> Tensor:
    """``x`` cast to a block format and back, without a gradient of its own; arguments as :func:`quantize`.

    Returns:
        Numbers of the format, in the shape and dtype of ``x``.

    Example:
        >>> from quantsim_encodings.formats import mx_format
        >>> quantize_dequantize(torch.tensor([1.1, -7.0, 0.2]), mx_format("mxfp4")).tolist()
        [1.0, -6.0, 0.0]
    """
    check_block_format(format, x.dtype)
    if x.numel() == 0:
        return x.detach().clone()
    if x.dim() == 0:
        return quantize_dequantize(x.reshape(1), format, axis, rounding, seed).reshape(())
    return dequantize(quantize(x, format, axis, rounding, seed), format, axis, x.dtype)
