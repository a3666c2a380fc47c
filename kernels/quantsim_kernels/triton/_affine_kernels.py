"""The Triton kernels of affine quantization: one forward, one backward that recomputes.

What exactness asks for: ``tl.div_rn`` (Triton's ``/`` is approximate), rounding by the sum with ``1.5 * 2**23`` (there
is no portable ``rint``; exact up to 2**22, and the ratio is clamped to that first, far outside every grid), no fusion
of products into sums (``enable_fp_fusion=False`` at launch), and bfloat16 rounded on the bits (hardware rounds as the
bits do; the interpreter's own casts truncate).
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["BACKWARD_SIGNATURE", "FORWARD_SIGNATURE", "backward_kernel", "forward_kernel"]

# Ratios are exact integers from here on, and outside of every grid that is computed in float32.
_LARGEST_RATIO = tl.constexpr(4194304.0)
_ROUNDING = tl.constexpr(12582912.0)

FORWARD_SIGNATURE = {
    "x_pointer": "*fp32",
    "scale_pointer": "*fp32",
    "offset_pointer": "*fp32",
    "y_pointer": "*fp32",
    "count": "i32",
    "width": "i32",
    "inner_first": "i32",
    "first": "i32",
    "inner_second": "i32",
    "second": "i32",
    "qmin": "fp32",
    "qmax": "fp32",
    "OPERATION": "constexpr",
    "HAS_OFFSET": "constexpr",
    "PRECISION": "constexpr",
    "RATIO_PRECISION": "constexpr",
    "WIDE_INDEX": "constexpr",
    "ELEMENTS": "constexpr",
}
"""Argument types of :data:`forward_kernel` for float32 tensors, for ahead-of-time compilation."""

BACKWARD_SIGNATURE = {
    "grad_pointer": "*fp32",
    "x_pointer": "*fp32",
    "scale_pointer": "*fp32",
    "offset_pointer": "*fp32",
    "dx_pointer": "*fp32",
    "dscale_pointer": "*fp32",
    "doffset_pointer": "*fp32",
    "rows": "i32",
    "width": "i32",
    "parts": "i32",
    "inner_first": "i32",
    "first": "i32",
    "inner_second": "i32",
    "second": "i32",
    "qmin": "fp32",
    "qmax": "fp32",
    "HAS_OFFSET": "constexpr",
    "PRECISION": "constexpr",
    "RATIO_PRECISION": "constexpr",
    "WIDE_INDEX": "constexpr",
    "ROWS": "constexpr",
    "COLUMNS": "constexpr",
}
"""Argument types of :data:`backward_kernel` for float32 tensors, for ahead-of-time compilation."""


@triton.jit
def _bfloat16_bits(value):
    """The upper half of a float32's bits, rounded to nearest, ties to even; NaN stays NaN."""
    bits = value.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(value != value, (bits >> 16) | 0x40, rounded)


@triton.jit
def _load(pointer, index, mask, PRECISION: tl.constexpr):
    """Values in float32; bfloat16 arrives as int16."""
    value = tl.load(pointer + index, mask=mask, other=0)
    if PRECISION == 2:
        return ((value.to(tl.uint32, bitcast=False) & 0xFFFF) << 16).to(tl.float32, bitcast=True)
    return value.to(tl.float32)


@triton.jit
def _store(pointer, index, value, mask, PRECISION: tl.constexpr):
    """Float32 rounded to the tensor's precision; bfloat16 leaves as int16."""
    if PRECISION == 2:
        tl.store(pointer + index, _bfloat16_bits(value).to(tl.int16), mask=mask)
    else:
        tl.store(pointer + index, value, mask=mask)


@triton.jit
def _round_precision(value, PRECISION: tl.constexpr):
    """``value`` rounded to the tensor's precision, still float32."""
    if PRECISION == 1:
        return value.to(tl.float16).to(tl.float32)
    if PRECISION == 2:
        return (_bfloat16_bits(value) << 16).to(tl.float32, bitcast=True)
    return value


@triton.jit
def _ratio(x, scale, PRECISION: tl.constexpr):
    """``x / scale``, bounded so that rounding it by a sum is exact. Bounds pass NaN on."""
    ratio = _round_precision(tl.div_rn(x, scale), PRECISION)
    ratio = tl.where(ratio > _LARGEST_RATIO, _LARGEST_RATIO, ratio)
    return tl.where(ratio < -_LARGEST_RATIO, -_LARGEST_RATIO, ratio)


@triton.jit
def _clamp(value, low, high):
    """Clamp that passes NaN on."""
    value = tl.where(value < low, low, value)
    return tl.where(value > high, high, value)


@triton.jit
def forward_kernel(
    x_pointer,
    scale_pointer,
    offset_pointer,
    y_pointer,
    count,
    width,
    inner_first,
    first,
    inner_second,
    second,
    qmin,
    qmax,
    OPERATION: tl.constexpr,
    HAS_OFFSET: tl.constexpr,
    PRECISION: tl.constexpr,
    RATIO_PRECISION: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    ELEMENTS: tl.constexpr,
) -> None:
    """Quantize (0), dequantize (1) or both (2), element by element."""
    program = tl.program_id(0)
    if WIDE_INDEX:
        program = program.to(tl.int64)
    index = program * ELEMENTS + tl.arange(0, ELEMENTS)
    mask = index < count
    row = index // width
    parameter = ((row // inner_first) % first) * second + (row // inner_second) % second
    scale = tl.load(scale_pointer + parameter, mask=mask, other=1.0)
    offset = 0.0
    if HAS_OFFSET:
        offset = tl.load(offset_pointer + parameter, mask=mask, other=0.0)
    value = _load(x_pointer, index, mask, PRECISION)
    if OPERATION != 1:
        value = (_ratio(value, scale, RATIO_PRECISION) + _ROUNDING) - _ROUNDING
        value = _clamp(value - offset, qmin, qmax)
    if OPERATION != 0:
        value = (value + offset) * scale
    _store(y_pointer, index, value, mask, PRECISION)


@triton.jit
def backward_kernel(
    grad_pointer,
    x_pointer,
    scale_pointer,
    offset_pointer,
    dx_pointer,
    dscale_pointer,
    doffset_pointer,
    rows,
    width,
    parts,
    inner_first,
    first,
    inner_second,
    second,
    qmin,
    qmax,
    HAS_OFFSET: tl.constexpr,
    PRECISION: tl.constexpr,
    RATIO_PRECISION: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Gradient of x, and each row's share of the gradients of its scale and offset, one number for each part."""
    program = tl.program_id(0)
    part = tl.program_id(1)
    if WIDE_INDEX:
        program = program.to(tl.int64)
        part = part.to(tl.int64)
    row = program * ROWS + tl.arange(0, ROWS)
    column = part * COLUMNS + tl.arange(0, COLUMNS)
    row_mask = row < rows
    mask = row_mask[:, None] & (column < width)[None, :]
    index = row[:, None] * width + column[None, :]
    parameter = ((row // inner_first) % first) * second + (row // inner_second) % second
    scale = tl.load(scale_pointer + parameter, mask=row_mask, other=1.0)[:, None]
    offset = tl.zeros((ROWS, 1), tl.float32)
    if HAS_OFFSET:
        offset = tl.load(offset_pointer + parameter, mask=row_mask, other=0.0)[:, None]
    x = _load(x_pointer, index, mask, PRECISION)
    grad = _load(grad_pointer, index, mask, PRECISION)
    ratio = _ratio(x, scale, RATIO_PRECISION)
    rounded = (ratio + _ROUNDING) - _ROUNDING
    codes = rounded - offset
    clamped = _clamp(codes, qmin, qmax) + offset
    inside = (codes >= qmin) & (codes <= qmax)
    _store(dx_pointer, index, tl.where(inside, grad, 0.0), mask, PRECISION)
    factor = tl.where(inside, _round_precision(rounded - ratio, RATIO_PRECISION), clamped)
    target = row * parts + part
    tl.store(dscale_pointer + target, tl.sum(grad * factor, axis=1), mask=row_mask)
    if HAS_OFFSET:
        tl.store(doffset_pointer + target, tl.sum(tl.where(inside, 0.0, grad) * scale, axis=1), mask=row_mask)
