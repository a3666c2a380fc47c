"""The Triton kernel of block formats: shared scales and element casts in one pass over memory.

The scale of an MX block is a power of two, so elements are not divided by it: the element format's exponents are moved
instead, which is exact for every float32, subnormal ones included. NVFP4 divides, in float32, as its law says.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantsim_kernels.triton._float_kernels import (
    _HIDDEN,
    _INFINITY,
    _MAGNITUDE,
    _NAN,
    cast_value,
    load_values,
    magnitude_bits,
    noise_bits,
    power_of_two,
    round_steps,
    significand_and_exponent,
    store_values,
)

__all__ = ["MX_SIGNATURE", "cast_mx_elements", "mx_kernel", "shared_exponent"]

_ZERO, _ONE, _NEAREST_EVEN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(1)
# The format of NVFP4's block scales.
_E4M3_LOWEST, _E4M3_HIGHEST, _E4M3_MANTISSA = tl.constexpr(-6), tl.constexpr(8), tl.constexpr(3)
_E4M3_LARGEST, _E4M3_TINY = tl.constexpr(14), tl.constexpr(2.0**-9)

MX_SIGNATURE = {
    "x_pointer": "*fp32",
    "seed_pointer": "*i64",
    "tensor_scale_pointer": "*fp32",
    "y_pointer": "*fp32",
    "lines": "i32",
    "length": "i32",
    "inner": "i32",
    "per_line": "i32",
    "block": "i32",
    "LOWEST": "constexpr",
    "HIGHEST": "constexpr",
    "MANTISSA": "constexpr",
    "LARGEST": "constexpr",
    "LARGEST_NEGATIVE": "constexpr",
    "TOP_EXPONENT": "constexpr",
    "TOP_SIGNIFICAND": "constexpr",
    "FRACTION_BITS": "constexpr",
    "INTEGER": "constexpr",
    "SIGNED": "constexpr",
    "SUBNORMALS": "constexpr",
    "NEGATIVE_ZERO": "constexpr",
    "SCALE_RULE": "constexpr",
    "ROUNDING": "constexpr",
    "PRECISION": "constexpr",
    "LAST": "constexpr",
    "WIDE_INDEX": "constexpr",
    "LINES": "constexpr",
    "COLUMNS": "constexpr",
}
"""Argument types of :data:`mx_kernel` for float32 tensors, for ahead-of-time compilation."""


@triton.jit
def shared_exponent(
    largest,
    TOP_EXPONENT: tl.constexpr,
    TOP_SIGNIFICAND: tl.constexpr,
    FRACTION_BITS: tl.constexpr,
    SCALE_RULE: tl.constexpr,
):
    """Exponent of a block's scale from the bits of its largest magnitude: floor (0), ceil (1), even (2), rceil (3).

    TOP_EXPONENT and TOP_SIGNIFICAND (24 bits) are those of the element's largest number.
    """
    significand, exponent = significand_and_exponent(largest)
    if SCALE_RULE == 1:
        exponent += (significand > _HIDDEN).to(tl.int32)
    elif (SCALE_RULE == 2) & (FRACTION_BITS <= 22):
        # Rounding to the element's fraction carries from all ones and a half on, whichever way ties go.
        exponent += (significand >= 2 * _HIDDEN - (_HIDDEN >> (FRACTION_BITS + 1))).to(tl.int32)
    elif SCALE_RULE == 3:
        exponent += (significand > TOP_SIGNIFICAND).to(tl.int32)
    exponent = tl.where(largest >= _INFINITY, 128, exponent)
    # Zero has no exponent of its own and takes the smallest scale.
    exponent = tl.where(largest == 0, -2048, exponent)
    return tl.minimum(tl.maximum(exponent - TOP_EXPONENT, -127), 127)


@triton.jit
def cast_mx_elements(
    value,
    noise,
    shift,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    MANTISSA: tl.constexpr,
    LARGEST: tl.constexpr,
    LARGEST_NEGATIVE: tl.constexpr,
    INTEGER: tl.constexpr,
    SIGNED: tl.constexpr,
    SUBNORMALS: tl.constexpr,
    NEGATIVE_ZERO: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """``value`` cast to the element format times ``2**shift``, saturating; NaN stays.

    An integer element counts LARGEST (or LARGEST_NEGATIVE) steps of ``2**(LOWEST - MANTISSA)`` at most.
    """
    if INTEGER:
        bits = value.to(tl.int32, bitcast=True)
        negative = bits < 0
        significand, exponent = significand_and_exponent(bits & _MAGNITUDE)
        lowest = LOWEST + shift
        steps, quantum = round_steps(
            significand, exponent, negative, noise, lowest, lowest, 1 - lowest, MANTISSA, ROUNDING
        )
        steps = tl.minimum(steps, tl.where(negative, LARGEST_NEGATIVE, LARGEST))
        steps = tl.where(negative, -steps, steps)
        result = steps.to(tl.float32) * power_of_two(quantum)
        return tl.where(value != value, value, result)
    return cast_value(
        value,
        noise,
        shift,
        LOWEST,
        HIGHEST,
        MANTISSA,
        LARGEST,
        SIGNED,
        _ONE,
        SUBNORMALS,
        NEGATIVE_ZERO,
        _ZERO,
        _ZERO,
        ROUNDING,
    )


@triton.jit
def nvfp4_scale(largest, tensor_scale, TOP: tl.constexpr):
    """The scale of blocks from their largest magnitudes' bits: a number of e4m3 times the scale of the tensor."""
    largest = largest.to(tl.float32, bitcast=True)
    scale = tl.div_rn(largest, tl.full(largest.shape, TOP, tl.float32))
    scale = tl.div_rn(scale, tensor_scale + tl.zeros_like(largest))
    scale = cast_value(
        scale,
        0,
        0,
        _E4M3_LOWEST,
        _E4M3_HIGHEST,
        _E4M3_MANTISSA,
        _E4M3_LARGEST,
        _ONE,
        _ONE,
        _ONE,
        _ONE,
        _ZERO,
        _ZERO,
        _NEAREST_EVEN,
    )
    return tl.where(scale < _E4M3_TINY, _E4M3_TINY, scale) * tensor_scale


@triton.jit
def mx_kernel(
    x_pointer,
    seed_pointer,
    tensor_scale_pointer,
    y_pointer,
    lines,
    length,
    inner,
    per_line,
    block,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    MANTISSA: tl.constexpr,
    LARGEST: tl.constexpr,
    LARGEST_NEGATIVE: tl.constexpr,
    TOP_EXPONENT: tl.constexpr,
    TOP_SIGNIFICAND: tl.constexpr,
    FRACTION_BITS: tl.constexpr,
    INTEGER: tl.constexpr,
    SIGNED: tl.constexpr,
    SUBNORMALS: tl.constexpr,
    NEGATIVE_ZERO: tl.constexpr,
    SCALE_RULE: tl.constexpr,
    ROUNDING: tl.constexpr,
    PRECISION: tl.constexpr,
    LAST: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Blocks of ``block`` elements along the middle one of ``outer x length x inner``, one each in a line of the tile.

    ``lines`` counts all blocks. With LAST, ``inner`` is 1 and neighbouring lines are neighbouring blocks; else they
    are neighbours along ``inner``, so that either way neighbouring threads read neighbouring elements. SCALE_RULE 4 is
    NVFP4.
    """
    program = tl.program_id(0)
    if WIDE_INDEX:
        program = program.to(tl.int64)
    line = program * LINES + tl.arange(0, LINES)
    if LAST:
        line = line[:, None]
        offset = tl.arange(0, COLUMNS)[None, :]
    else:
        line = line[None, :]
        offset = tl.arange(0, COLUMNS)[:, None]
    along = ((line // inner) % per_line) * block + offset
    mask = (line < lines) & (offset < block) & (along < length)
    index = ((line // (inner * per_line)) * length + along) * inner + line % inner
    value = load_values(x_pointer, index, mask, PRECISION)
    # Magnitudes are compared as integers, so that NaN wins, and with it infinity over all numbers.
    largest = tl.max(magnitude_bits(value), axis=1 if LAST else 0, keep_dims=True)
    noise = noise_bits(seed_pointer, index, ROUNDING)
    scale = 1.0
    if SCALE_RULE == 4:
        tensor_scale = tl.load(tensor_scale_pointer)
        scale = nvfp4_scale(largest, tensor_scale, LARGEST * 2.0 ** (HIGHEST - MANTISSA))
        scale = scale + tl.zeros_like(value)
        value = tl.div_rn(value, scale)
        shift = 0
    else:
        shift = shared_exponent(largest, TOP_EXPONENT, TOP_SIGNIFICAND, FRACTION_BITS, SCALE_RULE)
    value = cast_mx_elements(
        value,
        noise,
        shift,
        LOWEST,
        HIGHEST,
        MANTISSA,
        LARGEST,
        LARGEST_NEGATIVE,
        INTEGER,
        SIGNED,
        SUBNORMALS,
        NEGATIVE_ZERO,
        ROUNDING,
    )
    if SCALE_RULE == 4:
        value = value * scale
    nan = tl.full(value.shape, _NAN, tl.int32).to(tl.float32, bitcast=True)
    value = tl.where(largest > _INFINITY, nan, value)
    store_values(y_pointer, index, value, mask, PRECISION)
