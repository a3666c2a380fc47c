"""The Triton kernels of float casts, and the device functions that other kernels cast with.

All rounding is done on integers: a float32 is taken apart into a significand of 24 bits and an exponent, the bits below
the format's quantum decide whether the rest is raised by one, and an exact product with a power of two puts it together
again. There is no float8 cast (sm_80 has none, and the interpreter's are wrong) and no logarithm. The rounding laws are
those of :mod:`quantsim_kernels.reference.rounding`, the noise is that of :mod:`quantsim_kernels.reference.noise`; tests
hold both to the reference bit for bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantsim_kernels.reference.noise import FEISTEL_CONSTANTS, HIGH_WORD_STEP, MULTIPLIERS, SHIFTS

__all__ = [
    "CAST_SIGNATURE",
    "DYNAMIC_SIGNATURE",
    "cast_kernel",
    "cast_value",
    "dynamic_kernel",
    "load_values",
    "magnitude_bits",
    "noise_bits",
    "power_of_two",
    "store_values",
]

_INFINITY = tl.constexpr(0x7F800000)
_NAN = tl.constexpr(0x7FC00000)
_FRACTION = tl.constexpr(0x007FFFFF)
_HIDDEN = tl.constexpr(0x00800000)
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
# Rows of zeros take this scale, 2**-126, as in the reference.
_SMALLEST_SCALE = tl.constexpr(2.0**-126)

# The constants of the noise, as compile-time constants: kernels can read no other globals.
_SHIFT_1, _SHIFT_2, _SHIFT_3 = (tl.constexpr(shift) for shift in SHIFTS)
_MULTIPLIER_1, _MULTIPLIER_2, _MULTIPLIER_3 = (tl.constexpr(multiplier) for multiplier in MULTIPLIERS)
_FEISTEL_1, _FEISTEL_2, _FEISTEL_3 = (tl.constexpr(constant) for constant in FEISTEL_CONSTANTS)
_HIGH_WORD_STEP = tl.constexpr(HIGH_WORD_STEP)

_FORMAT_CONSTANTS = {
    "LOWEST": "constexpr",
    "HIGHEST": "constexpr",
    "MANTISSA": "constexpr",
    "LARGEST": "constexpr",
    "SIGNED": "constexpr",
    "ZERO": "constexpr",
    "SUBNORMALS": "constexpr",
    "NEGATIVE_ZERO": "constexpr",
    "BEYOND": "constexpr",
    "INFINITE": "constexpr",
    "ROUNDING": "constexpr",
}

CAST_SIGNATURE = {
    "x_pointer": "*fp32",
    "scale_pointer": "*fp32",
    "seed_pointer": "*i64",
    "y_pointer": "*fp32",
    "count": "i32",
    "width": "i32",
    "inner_first": "i32",
    "first": "i32",
    "inner_second": "i32",
    "second": "i32",
    "HAS_SCALE": "constexpr",
    **_FORMAT_CONSTANTS,
    "PRECISION": "constexpr",
    "WIDE_INDEX": "constexpr",
    "ELEMENTS": "constexpr",
}
"""Argument types of :data:`cast_kernel` for float32 tensors, for ahead-of-time compilation."""

DYNAMIC_SIGNATURE = {
    "x_pointer": "*fp32",
    "seed_pointer": "*i64",
    "y_pointer": "*fp32",
    "segments": "i32",
    "width": "i32",
    "per_row": "i32",
    "block": "i32",
    "largest_number": "fp32",
    **_FORMAT_CONSTANTS,
    "PRECISION": "constexpr",
    "WIDE_INDEX": "constexpr",
    "ROWS": "constexpr",
    "COLUMNS": "constexpr",
}
"""Argument types of :data:`dynamic_kernel` for float32 tensors, for ahead-of-time compilation."""


@triton.jit
def load_values(pointer, index, mask, PRECISION: tl.constexpr):
    """Values in float32; bfloat16 (2) arrives as int16, which the interpreter's bfloat16 is not needed for."""
    value = tl.load(pointer + index, mask=mask, other=0)
    if PRECISION == 2:
        return ((value.to(tl.int32) & 0xFFFF) << 16).to(tl.float32, bitcast=True)
    return value.to(tl.float32)


@triton.jit
def store_values(pointer, index, value, mask, PRECISION: tl.constexpr):
    """Float32 rounded to the tensor's precision, to nearest, ties to even; bfloat16 (2) leaves as int16."""
    if PRECISION == 2:
        bits = value.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        half = tl.where(value != value, (bits >> 16) | 0x40, rounded)
        tl.store(pointer + index, half.to(tl.int16), mask=mask)
    else:
        tl.store(pointer + index, value, mask=mask)


@triton.jit
def magnitude_bits(value):
    """The bits of ``|value|`` as int32: ordered as the magnitudes are, NaN above infinity."""
    return value.to(tl.int32, bitcast=True) & _MAGNITUDE


@triton.jit
def power_of_two(exponent):
    """``2**exponent`` as float32, exact from -149 to 127."""
    normal = (exponent + 127) << 23
    subnormal = 1 << tl.maximum(tl.minimum(exponent, -127) + 149, 0)
    return tl.where(exponent >= -126, normal, subnormal).to(tl.float32, bitcast=True)


@triton.jit
def _xor_shift_multiply(word, SHIFT: tl.constexpr, MULTIPLIER: tl.constexpr):
    """One round of the hash on uint32."""
    return (word ^ (word >> SHIFT)) * MULTIPLIER


@triton.jit
def _scrambled(word):
    """Three rounds of the hash on uint32."""
    word = _xor_shift_multiply(word, _SHIFT_1, _MULTIPLIER_1)
    word = _xor_shift_multiply(word, _SHIFT_2, _MULTIPLIER_2)
    return _xor_shift_multiply(word, _SHIFT_3, _MULTIPLIER_3)


@triton.jit
def _hash(seed_pointer, index):
    """24 random bits (int32) for each element number."""
    seed = tl.load(seed_pointer)
    low = seed.to(tl.uint32)
    high = (seed >> 32).to(tl.uint32)
    high = high ^ _scrambled(low ^ _FEISTEL_1)
    low = low ^ _scrambled(high ^ _FEISTEL_2)
    high = high ^ _scrambled(low ^ _FEISTEL_3)
    wide = index.to(tl.int64)
    word = wide.to(tl.uint32) ^ low
    word = _xor_shift_multiply(word, _SHIFT_1, _MULTIPLIER_1) + (high + (wide >> 32).to(tl.uint32) * _HIGH_WORD_STEP)
    word = _xor_shift_multiply(word, _SHIFT_2, _MULTIPLIER_2)
    word = _xor_shift_multiply(word, _SHIFT_3, _MULTIPLIER_3)
    return (word >> 8).to(tl.int32)


@triton.jit
def noise_bits(seed_pointer, index, ROUNDING: tl.constexpr):
    """:func:`_hash` under the stochastic modes, else 0; the seed is an int64."""
    noise = 0
    if ROUNDING == 5 or ROUNDING == 6:
        noise = _hash(seed_pointer, index)
    return noise


@triton.jit
def significand_and_exponent(magnitude):
    """``magnitude = significand * 2**(exponent - 23)`` with a 24-bit significand (0 for zero), also for subnormals."""
    code = magnitude >> 23
    fraction = magnitude & _FRACTION
    # A subnormal's fraction is an integer below 2**23, which float32 normalises exactly.
    normalised = fraction.to(tl.float32).to(tl.int32, bitcast=True)
    small = code == 0
    exponent = tl.where(small, (normalised >> 23) - 276, code - 127)
    significand = tl.where(small, normalised & _FRACTION, fraction) | _HIDDEN
    return tl.where(magnitude == 0, 0, significand), exponent


@triton.jit
def round_steps(
    significand,
    exponent,
    negative,
    noise,
    lowest,
    highest,
    code_offset,
    MANTISSA: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """``(steps, quantum)``: the rounded number is ``steps * 2**quantum``, were there no largest number.

    ``code_offset`` is what is added to an exponent for its code; without fraction bits its last bit is the code's.
    """
    quantum = tl.minimum(tl.maximum(exponent, lowest), highest) - MANTISSA
    dropped = tl.maximum(quantum - exponent + 23, 0)
    # Beyond 25 bits all of a significand lies below half a quantum.
    shift = tl.minimum(dropped, 26)
    kept = significand >> shift
    one = tl.full(shift.shape, 1, tl.int32)
    half = (one << shift) >> 1
    rest = significand & ((one << shift) - 1)
    inexact = rest != 0
    odd = (kept & 1) != 0
    if MANTISSA == 0:
        odd = odd & (((quantum + code_offset) & 1) != 0)
    tie = inexact & (rest == half)
    raised = inexact & False
    if ROUNDING == 0:
        raised = (rest > half) | (tie & (odd == 0))
    elif ROUNDING == 1:
        raised = (rest > half) | (tie & odd)
    elif ROUNDING == 2:
        raised = inexact & (negative == 0)
    elif ROUNDING == 3:
        raised = inexact & negative
    elif ROUNDING == 5:
        # (noise + 1/2) / 2**24 < rest / 2**dropped, in integers: a < b / 2**n  <=>  a <= (b - 1) >> n.
        left = tl.maximum(25 - dropped, 0)
        right = tl.minimum(tl.maximum(dropped - 25, 0), 31)
        raised = inexact & (2 * noise + 1 <= (((rest << left) - 1) >> right))
    elif ROUNDING == 6:
        raised = inexact & ((noise >> 23) != 0)
    elif ROUNDING == 7:
        raised = rest > half
    elif ROUNDING == 8:
        raised = inexact & (rest >= half)
    elif ROUNDING == 9:
        raised = inexact & (odd == 0)
    return kept + raised.to(tl.int32), quantum


@triton.jit
def cast_value(
    value,
    noise,
    shift,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    MANTISSA: tl.constexpr,
    LARGEST: tl.constexpr,
    SIGNED: tl.constexpr,
    ZERO: tl.constexpr,
    SUBNORMALS: tl.constexpr,
    NEGATIVE_ZERO: tl.constexpr,
    BEYOND: tl.constexpr,
    INFINITE: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """``value`` (float32) rounded to the format times ``2**shift``; ``noise`` has 24 random bits.

    LOWEST and HIGHEST are the exponents of the smallest normal and of the largest number, LARGEST is the significand of
    the latter (MANTISSA + 1 bits). BEYOND says what replaces what is too large: the largest number (0), infinity (1) or
    NaN (2), as far as the rounding mode goes beyond it at all; INFINITE says the same of infinities.
    """
    bits = value.to(tl.int32, bitcast=True)
    magnitude = bits & _MAGNITUDE
    negative = bits < 0
    significand, exponent = significand_and_exponent(magnitude)
    lowest = LOWEST + shift
    highest = HIGHEST + shift
    steps, quantum = round_steps(
        significand, exponent, negative, noise, lowest, highest, ZERO - lowest, MANTISSA, ROUNDING
    )
    result = steps.to(tl.float32) * power_of_two(quantum)
    smallest = 0.0
    if ZERO == 0:
        smallest = power_of_two(lowest + tl.zeros_like(exponent))
    nan = tl.full(bits.shape, _NAN, tl.int32).to(tl.float32, bitcast=True)
    if SUBNORMALS == 0:
        below = steps < (_HIDDEN >> (23 - MANTISSA))
        if (ZERO == 1) | (BEYOND == 0):
            result = tl.where(below, smallest, result)
        else:
            result = tl.where(below, nan, result)
    too_large = (exponent > highest) | ((exponent == highest) & (steps > LARGEST))
    largest = LARGEST * power_of_two(highest - MANTISSA + tl.zeros_like(exponent))
    infinity = tl.full(bits.shape, _INFINITY, tl.int32).to(tl.float32, bitcast=True)
    beyond = largest
    if BEYOND != 0:
        replacement = infinity if BEYOND == 1 else nan
        if ROUNDING == 2:
            beyond = tl.where(negative, largest, replacement)
        elif ROUNDING == 3:
            beyond = tl.where(negative, replacement, largest)
        elif (ROUNDING != 4) & (ROUNDING != 9):
            beyond = replacement
    result = tl.where(too_large, beyond, result)
    infinite = largest
    if INFINITE == 1:
        infinite = infinity
    elif INFINITE == 2:
        infinite = nan
    result = tl.where(magnitude == _INFINITY, infinite, result)
    if SIGNED:
        sign = bits & (-_MAGNITUDE - 1)
        result = (result.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
        if not NEGATIVE_ZERO:
            result = tl.where(result == 0.0, 0.0, result)
    elif BEYOND == 0:
        result = tl.where(value < 0.0, smallest, result)
    else:
        result = tl.where(value < 0.0, nan, result)
    return tl.where(value != value, value, result)


@triton.jit
def cast_kernel(
    x_pointer,
    scale_pointer,
    seed_pointer,
    y_pointer,
    count,
    width,
    inner_first,
    first,
    inner_second,
    second,
    HAS_SCALE: tl.constexpr,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    MANTISSA: tl.constexpr,
    LARGEST: tl.constexpr,
    SIGNED: tl.constexpr,
    ZERO: tl.constexpr,
    SUBNORMALS: tl.constexpr,
    NEGATIVE_ZERO: tl.constexpr,
    BEYOND: tl.constexpr,
    INFINITE: tl.constexpr,
    ROUNDING: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    ELEMENTS: tl.constexpr,
) -> None:
    """``cast(x)``, or ``cast(x / scale) * scale``, element by element."""
    program = tl.program_id(0)
    if WIDE_INDEX:
        program = program.to(tl.int64)
    index = program * ELEMENTS + tl.arange(0, ELEMENTS)
    mask = index < count
    value = load_values(x_pointer, index, mask, PRECISION)
    scale = 1.0
    if HAS_SCALE:
        row = index // width
        parameter = ((row // inner_first) % first) * second + (row // inner_second) % second
        scale = tl.load(scale_pointer + parameter, mask=mask, other=1.0)
        value = tl.div_rn(value, scale)
    noise = noise_bits(seed_pointer, index, ROUNDING)
    value = cast_value(
        value,
        noise,
        0,
        LOWEST,
        HIGHEST,
        MANTISSA,
        LARGEST,
        SIGNED,
        ZERO,
        SUBNORMALS,
        NEGATIVE_ZERO,
        BEYOND,
        INFINITE,
        ROUNDING,
    )
    if HAS_SCALE:
        value = value * scale
    store_values(y_pointer, index, value, mask, PRECISION)


@triton.jit
def dynamic_kernel(
    x_pointer,
    seed_pointer,
    y_pointer,
    segments,
    width,
    per_row,
    block,
    largest_number,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    MANTISSA: tl.constexpr,
    LARGEST: tl.constexpr,
    SIGNED: tl.constexpr,
    ZERO: tl.constexpr,
    SUBNORMALS: tl.constexpr,
    NEGATIVE_ZERO: tl.constexpr,
    BEYOND: tl.constexpr,
    INFINITE: tl.constexpr,
    ROUNDING: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Each segment (``per_row`` of them in a row of ``width``, the last perhaps shorter) with a scale of its own."""
    program = tl.program_id(0)
    if WIDE_INDEX:
        program = program.to(tl.int64)
    segment = program * ROWS + tl.arange(0, ROWS)
    row = segment // per_row
    start = (segment % per_row) * block
    stop = tl.where(segment < segments, tl.minimum(start + block, width), start)
    largest = tl.zeros((ROWS,), tl.int32)
    for offset in range(0, block, COLUMNS):
        column = start[:, None] + (offset + tl.arange(0, COLUMNS))[None, :]
        mask = column < stop[:, None]
        value = load_values(x_pointer, row[:, None] * width + column, mask, PRECISION)
        # Magnitudes are compared as integers, so that NaN wins, and with it infinity over all numbers.
        largest = tl.maximum(largest, tl.max(magnitude_bits(value), axis=1))
    scale = tl.div_rn(largest.to(tl.float32, bitcast=True), largest_number)
    scale = tl.where(scale < _SMALLEST_SCALE, _SMALLEST_SCALE, scale)[:, None]
    for offset in range(0, block, COLUMNS):
        column = start[:, None] + (offset + tl.arange(0, COLUMNS))[None, :]
        mask = column < stop[:, None]
        index = row[:, None] * width + column
        value = tl.div_rn(load_values(x_pointer, index, mask, PRECISION), scale + tl.zeros_like(column).to(tl.float32))
        value = cast_value(
            value,
            noise_bits(seed_pointer, index, ROUNDING),
            0,
            LOWEST,
            HIGHEST,
            MANTISSA,
            LARGEST,
            SIGNED,
            ZERO,
            SUBNORMALS,
            NEGATIVE_ZERO,
            BEYOND,
            INFINITE,
            ROUNDING,
        )
        store_values(y_pointer, index, value * scale, mask, PRECISION)
