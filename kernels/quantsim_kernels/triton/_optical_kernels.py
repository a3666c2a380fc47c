"""The Triton kernels that put tensors on optical levels, and the device functions that the products share with them.

The law is that of :mod:`quantsim_kernels.reference.optical`, in float32 and without fused multiplications, so that
levels equal the reference's bit for bit (shot noise up to the last bits of a logarithm and a cosine). Rounding to the
nearest integer, ties to even, adds and takes away ``2**23``.

A product reads *codes* instead of values. With ``step = (hi - lo) / (L - 1)`` and the level ``k0`` next to zero, level
``k`` is ``step (k - k0) + origin``, where ``origin``, the value of level ``k0``, is at most half a step wherever the
range has a zero. The codes ``k - k0`` are small around zero, and sums of them are exact. Int8 holds ``k - L // 2``
instead, float16 ``k - k0``, where levels that the smallest transmission raises lie between the integers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantsim_kernels.triton._float_kernels import (
    _FEISTEL_1,
    _FEISTEL_2,
    _FEISTEL_3,
    _HIGH_WORD_STEP,
    _MULTIPLIER_1,
    _MULTIPLIER_2,
    _MULTIPLIER_3,
    _SHIFT_1,
    _SHIFT_2,
    _SHIFT_3,
    _scrambled,
    _xor_shift_multiply,
    load_values,
    store_values,
)

__all__ = [
    "CODES_SIGNATURE",
    "QUANTIZE_SIGNATURE",
    "codes_kernel",
    "grid",
    "levels_kernel",
    "nearest_level",
    "seed_words",
    "to_level",
]

QUANTIZE_SIGNATURE = {
    "x_pointer": "*fp32",
    "low_pointer": "*fp32",
    "high_pointer": "*fp32",
    "seed_pointer": "*i64",
    "y_pointer": "*fp32",
    "count": "i32",
    "width": "i32",
    "top": "fp32",
    "lut": "fp32",
    "photons": "fp32",
    "RANGE_STEP": "constexpr",
    "HAS_LUT": "constexpr",
    "NOISE": "constexpr",
    "PRECISION": "constexpr",
    "WIDE_INDEX": "constexpr",
    "ELEMENTS": "constexpr",
}
"""Argument types of :data:`levels_kernel` for float32 tensors, for ahead-of-time compilation."""

CODES_SIGNATURE = {
    "x_pointer": "*fp32",
    "low_pointer": "*fp32",
    "high_pointer": "*fp32",
    "error_pointer": "*fp32",
    "codes_pointer": "*i8",
    "sums_pointer": "*fp32",
    "extremes_pointer": "*fp32",
    "lines": "i32",
    "length": "i32",
    "pitch": "i32",
    "inner_batch": "i32",
    "rows": "i32",
    "outer_step": "i64",
    "inner_step": "i64",
    "row_step": "i64",
    "step": "i64",
    "error_outer_step": "i64",
    "error_inner_step": "i64",
    "error_row_step": "i64",
    "error_step": "i64",
    "range_step": "i32",
    "top": "fp32",
    "lut": "fp32",
    "half": "i32",
    "HAS_LUT": "constexpr",
    "HAS_ERROR": "constexpr",
    "ERROR_PRECISION": "constexpr",
    "KIND": "constexpr",
    "PRECISION": "constexpr",
    "ROWS": "constexpr",
    "DEPTH": "constexpr",
}
"""Argument types of :data:`codes_kernel` for float32 tensors and int8 codes, for ahead-of-time compilation."""

# Added to the width of a range; reference.optical.RANGE_FLOOR.
_RANGE_FLOOR = tl.constexpr(1e-8)
_INTEGERS = tl.constexpr(8388608.0)
_NO_NOISE = tl.constexpr(0)
_NARROW = tl.constexpr(False)
_TWO_PI = tl.constexpr(6.283185307179586)


@triton.jit
def nearest_level(u):
    """The integer next to ``u``, ties to even, for ``u`` of 0 or more; a negative one gives 0 or less."""
    return tl.where(u < _INTEGERS, (u + _INTEGERS) - _INTEGERS, u)


@triton.jit
def divided(a, b):
    """``a / b``, correctly rounded; ``b`` broadcasts to ``a``."""
    return tl.div_rn(a, b + tl.zeros_like(a))


@triton.jit
def _reciprocal(b):
    """``1 / b``, correctly rounded."""
    return tl.div_rn(tl.zeros_like(b) + 1.0, b)


@triton.jit
def _quotient(a, b, reciprocal):
    """``a / b``, correctly rounded, for many ``a`` of the same ``b``: a product, corrected twice by its remainder.

    The first correction leaves an error below one unit in the last place, from where the second is exact (Markstein,
    "Computation of elementary functions on the IBM RISC System/6000 processor", 1990), as long as no remainder is lost
    to underflow: never where a level depends on it.
    """
    nothing = tl.zeros_like(a)
    b = b + nothing
    reciprocal = reciprocal + nothing
    q = a * reciprocal
    q = tl.fma(tl.fma(-q, b, a), reciprocal, q)
    return tl.fma(tl.fma(-q, b, a), reciprocal, q)


@triton.jit
def seed_words(seed_pointer):
    """The two words of a seed, see :func:`quantsim_kernels.reference.noise.noise_keys`."""
    seed = tl.load(seed_pointer)
    low = seed.to(tl.uint32)
    high = (seed >> 32).to(tl.uint32)
    high = high ^ _scrambled(low ^ _FEISTEL_1)
    low = low ^ _scrambled(high ^ _FEISTEL_2)
    high = high ^ _scrambled(low ^ _FEISTEL_3)
    return low, high


@triton.jit
def _bits(low, high, index, WIDE_INDEX: tl.constexpr):
    """24 random bits for each element number, an int32 below ``2**31`` unless WIDE_INDEX."""
    between = high
    if WIDE_INDEX:
        between = high + (index >> 32).to(tl.uint32) * _HIGH_WORD_STEP
    word = _xor_shift_multiply(index.to(tl.uint32) ^ low, _SHIFT_1, _MULTIPLIER_1) + between
    word = _xor_shift_multiply(word, _SHIFT_2, _MULTIPLIER_2)
    word = _xor_shift_multiply(word, _SHIFT_3, _MULTIPLIER_3)
    return (word >> 8).to(tl.int32)


@triton.jit
def _uniform(low, high, index, WIDE_INDEX: tl.constexpr):
    """Between 0 and 1, neither of them."""
    return (_bits(low, high, index, WIDE_INDEX).to(tl.float32) + 0.5) * 5.9604644775390625e-08


@triton.jit
def _noise(clipped, lo, hi, divisor, top, photons, low, high, index, NOISE: tl.constexpr, WIDE_INDEX: tl.constexpr):
    """In steps: dither (NOISE 1) or shot noise (2)."""
    if NOISE == 1:
        centred = _bits(low, high, index, WIDE_INDEX) - 8388608
        return (centred.to(tl.float32) + 0.5) * 5.9604644775390625e-08
    full = tl.maximum(tl.abs(lo), tl.abs(hi))
    variance = divided(tl.abs(clipped) * full, photons)
    deviation = divided(tl.sqrt_rn(variance), divisor) * top
    first = _uniform(low, high, 2 * index, WIDE_INDEX)
    second = _uniform(low, high, 2 * index + 1, WIDE_INDEX)
    return tl.sqrt_rn(-2.0 * tl.log(first)) * tl.cos(second * _TWO_PI) * deviation


@triton.jit
def to_level(value, lo, hi, top, photons, low, high, index, NOISE: tl.constexpr, WIDE_INDEX: tl.constexpr):
    """The number of the level of each value, a float from 0 to ``top``; NaN stays NaN."""
    clipped = tl.where(value < lo, lo, tl.where(value > hi, hi, value))
    divisor = (hi - lo) + _RANGE_FLOOR
    u = _quotient(clipped - lo, divisor, _reciprocal(divisor)) * top
    if NOISE != 0:
        u = u + _noise(clipped, lo, hi, divisor, top, photons, low, high, index, NOISE, WIDE_INDEX)
    k = nearest_level(u)
    if NOISE != 0:
        k = tl.where(k < 0.0, 0.0, tl.where(k > top, top, k))
    return k


@triton.jit
def level_value(k, lo, hi, top):
    """The value of level ``k``."""
    return _quotient(k, top, tl.div_rn(1.0, top)) * (hi - lo) + lo


@triton.jit
def _raised(y, lo, hi, lut):
    """Magnitudes below the smallest transmission raised to it."""
    above = lut * hi
    below = -(lut * tl.abs(lo))
    positive = tl.where(y < above, above, y)
    negative = tl.where(y > below, below, y)
    return tl.where(y > 0.0, positive, tl.where(y < 0.0, negative, y))


@triton.jit
def grid(lo, hi, top):
    """``(step, origin, k0)``: the distance of levels, the value of the level next to zero, and its number."""
    width = hi - lo
    step = divided(width, top)
    # Of an empty range all is on level 0, whose value is the range's.
    zero = nearest_level(tl.where(lo < 0.0, tl.where(step > 0.0, divided(-lo, step), 0.0), 0.0))
    zero = tl.where(zero > top, top, zero)
    return step, level_value(zero, lo, hi, top), zero


@triton.jit
def levels_kernel(
    x_pointer,
    low_pointer,
    high_pointer,
    seed_pointer,
    y_pointer,
    count,
    width,
    top,
    lut,
    photons,
    RANGE_STEP: tl.constexpr,
    HAS_LUT: tl.constexpr,
    NOISE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    ELEMENTS: tl.constexpr,
) -> None:
    """``y = quantize(x)`` for contiguous tensors; a range for each ``width`` elements, or one (RANGE_STEP 0)."""
    start = tl.program_id(0)
    if WIDE_INDEX:
        start = start.to(tl.int64)
    index = start * ELEMENTS + tl.arange(0, ELEMENTS)
    inside = index < count
    if RANGE_STEP == 0:
        lo = tl.load(low_pointer)
        hi = tl.load(high_pointer)
    else:
        lo = tl.load(low_pointer + index // width, mask=inside, other=0.0)
        hi = tl.load(high_pointer + index // width, mask=inside, other=1.0)
    low = tl.full((), 0, tl.uint32)
    high = low
    if NOISE != 0:
        low, high = seed_words(seed_pointer)
    x = load_values(x_pointer, index, inside, PRECISION)
    y = level_value(to_level(x, lo, hi, top, photons, low, high, index, NOISE, WIDE_INDEX), lo, hi, top)
    if HAS_LUT:
        y = _raised(y, lo, hi, lut)
    store_values(y_pointer, index, y, inside, PRECISION)


@triton.jit
def codes_kernel(
    x_pointer,
    low_pointer,
    high_pointer,
    error_pointer,
    codes_pointer,
    sums_pointer,
    extremes_pointer,
    lines,
    length,
    pitch,
    inner_batch,
    rows,
    outer_step,
    inner_step,
    row_step,
    step,
    error_outer_step,
    error_inner_step,
    error_row_step,
    error_step,
    range_step,
    top,
    lut,
    half,
    HAS_LUT: tl.constexpr,
    HAS_ERROR: tl.constexpr,
    ERROR_PRECISION: tl.constexpr,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """Codes of ``lines`` rows of ``length`` elements, in rows of ``pitch`` filled up with zeros, and each row's sum.

    KIND is int8 (0), float16 (1), or values in float32 (2), which alone may carry an error map. Rows are numbered
    through two batch dimensions. The sum is that of ``k - k0`` in float32: exact, and NaN if the row holds one. The
    first program sets the running extremes of the product to ``(inf, -inf)``.
    """
    program = tl.program_id(0)
    if program == 0:
        ends = tl.arange(0, 2)
        tl.store(extremes_pointer + ends, tl.where(ends == 0, float("inf"), float("-inf")))
    line = program * ROWS + tl.arange(0, ROWS)
    row_mask = line < lines
    row = (line % rows).to(tl.int64)[:, None]
    batch = line // rows
    inner = (batch % inner_batch).to(tl.int64)[:, None]
    outer = (batch // inner_batch).to(tl.int64)[:, None]
    source = outer * outer_step + inner * inner_step + row * row_step
    target = line.to(tl.int64)[:, None] * pitch
    lo = tl.load(low_pointer + line * range_step, mask=row_mask, other=0.0)[:, None]
    hi = tl.load(high_pointer + line * range_step, mask=row_mask, other=0.0)[:, None]
    unit, origin, zero = grid(lo, hi, top)
    total = tl.zeros((ROWS,), tl.float32)
    nothing = tl.full((), 0, tl.uint32)
    for start in range(0, pitch, DEPTH):
        along = start + tl.arange(0, DEPTH)[None, :]
        inside = row_mask[:, None] & (along < length)
        x = load_values(x_pointer, source + along.to(tl.int64) * step, inside, PRECISION)
        k = to_level(x, lo, hi, top, 1.0, nothing, nothing, along, _NO_NOISE, _NARROW)
        code = k - zero
        y = x
        if HAS_LUT or KIND == 2:
            y = level_value(k, lo, hi, top)
            if HAS_LUT:
                raised = _raised(y, lo, hi, lut)
                code = tl.where(raised == y, code, divided(raised - origin, unit))
                y = raised
            if HAS_ERROR:
                place = outer * error_outer_step + inner * error_inner_step + row * error_row_step
                place = place + along.to(tl.int64) * error_step
                y = y * load_values(error_pointer, place, inside, ERROR_PRECISION)
        code = tl.where(inside, code, 0.0)
        written = row_mask[:, None] & (along < pitch)
        if KIND == 0:
            centred = tl.where(inside & (k == k), k - half, 0.0)
            tl.store(codes_pointer + target + along, centred.to(tl.int8), mask=written)
        elif KIND == 1:
            tl.store(codes_pointer + target + along, code.to(tl.float16), mask=written)
        else:
            tl.store(codes_pointer + target + along, tl.where(inside, y, 0.0), mask=written)
        if KIND != 2:
            total += tl.sum(code, axis=1)
    if KIND != 2:
        tl.store(sums_pointer + line, total, mask=row_mask)
