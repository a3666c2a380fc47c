"""The Triton kernel of optical products: one product of codes, and all that follows it while the sums are at hand.

With codes ``u`` of :mod:`quantsim_kernels.triton._optical_kernels`, level values are ``step u + origin``, so that

    sum of a b = step_a step_b sum(u_a u_b) + step_a origin_b sum(u_a) + step_b origin_a sum(u_b) + K origin_a origin_b

where the sums over one operand are known from its codes. Int8 codes are ``u`` plus a constant of the range, which
leaves the sum by the same law in int32, exactly. Rows of codes are filled up with zeros, which add nothing: ``K`` may
be anything, and the loop needs no mask.

Then come, tile by tile: the range of the sums, their levels with noise, the bias. Tiles of different programs meet in
the range alone, through atomic operations on the bits of floats: those of one sign are ordered as integers are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantsim_kernels.triton._float_kernels import load_values, store_values
from quantsim_kernels.triton._optical_kernels import grid, level_value, seed_words, to_level

__all__ = ["PRODUCT_SIGNATURE", "product_kernel"]

PRODUCT_SIGNATURE = {
    "a_pointer": "*i8",
    "b_pointer": "*i8",
    "a_sums_pointer": "*fp32",
    "b_sums_pointer": "*fp32",
    "a_low_pointer": "*fp32",
    "a_high_pointer": "*fp32",
    "b_low_pointer": "*fp32",
    "b_high_pointer": "*fp32",
    "output_range_pointer": "*fp32",
    "bias_pointer": "*fp32",
    "seed_pointer": "*i64",
    "c_pointer": "*fp32",
    "signed_pointer": "*i32",
    "unsigned_pointer": "*u32",
    "rows": "i32",
    "columns": "i32",
    "terms": "i32",
    "pitch": "i32",
    "a_repeat": "i32",
    "a_count": "i32",
    "b_repeat": "i32",
    "b_count": "i32",
    "top": "fp32",
    "half": "i32",
    "photons": "fp32",
    "terms_value": "fp32",
    "row_bucket": "i32",
    "KIND": "constexpr",
    "A_RANGE_STEP": "constexpr",
    "B_RANGE_STEP": "constexpr",
    "QUANTIZED": "constexpr",
    "NOISE": "constexpr",
    "HAS_BIAS": "constexpr",
    "BIAS_PRECISION": "constexpr",
    "OUTPUT_PRECISION": "constexpr",
    "WIDE_INDEX": "constexpr",
    "ROWS": "constexpr",
    "COLUMNS": "constexpr",
    "DEPTH": "constexpr",
    "GROUP": "constexpr",
}
"""Argument types of :data:`product_kernel` for int8 codes and a float32 result, for ahead-of-time compilation."""

_POSITIVE_NAN = tl.constexpr(0x7FC00000)
_NEGATIVE_NAN = tl.constexpr(-0x400000)


@triton.jit
def _lower(signed_pointer, unsigned_pointer, value):
    """Lowers the float at the pointers to ``value``. A NaN of negative sign wins for good."""
    bits = value.to(tl.int32, bitcast=True)
    tl.atomic_min(signed_pointer, bits, mask=bits >= 0)
    tl.atomic_max(unsigned_pointer, bits.to(tl.uint32, bitcast=True), mask=bits < 0)


@triton.jit
def _raise(signed_pointer, unsigned_pointer, value):
    """Raises the float at the pointers to ``value``. A NaN of positive sign wins for good."""
    bits = value.to(tl.int32, bitcast=True)
    tl.atomic_max(signed_pointer, bits, mask=bits >= 0)
    tl.atomic_min(unsigned_pointer, bits.to(tl.uint32, bitcast=True), mask=bits < 0)


@triton.jit
def _record_extremes(total, inside, signed_pointer, unsigned_pointer):
    """Widens the running range of the product by this tile."""
    nan = tl.max(tl.max((inside & (total != total)).to(tl.int32), axis=1), axis=0) != 0
    smallest = tl.min(tl.min(tl.where(inside, total, float("inf")), axis=1), axis=0)
    largest = tl.max(tl.max(tl.where(inside, total, float("-inf")), axis=1), axis=0)
    low_bits = tl.where(nan, _NEGATIVE_NAN, tl.cast(smallest, tl.int32, bitcast=True))
    high_bits = tl.where(nan, _POSITIVE_NAN, tl.cast(largest, tl.int32, bitcast=True))
    _lower(signed_pointer, unsigned_pointer, low_bits.to(tl.float32, bitcast=True))
    _raise(signed_pointer + 1, unsigned_pointer + 1, high_bits.to(tl.float32, bitcast=True))


@triton.jit
def _integer(value):
    """A float that holds an integer, as one; NaN, which nothing is computed from, as 0."""
    return tl.where(value == value, value, 0.0).to(tl.int32)


@triton.jit(do_not_specialize=["row_bucket"])
def product_kernel(
    a_pointer,
    b_pointer,
    a_sums_pointer,
    b_sums_pointer,
    a_low_pointer,
    a_high_pointer,
    b_low_pointer,
    b_high_pointer,
    output_range_pointer,
    bias_pointer,
    seed_pointer,
    c_pointer,
    signed_pointer,
    unsigned_pointer,
    rows,
    columns,
    terms,
    pitch,
    a_repeat,
    a_count,
    b_repeat,
    b_count,
    top,
    half,
    photons,
    terms_value,
    row_bucket,
    KIND: tl.constexpr,
    A_RANGE_STEP: tl.constexpr,
    B_RANGE_STEP: tl.constexpr,
    QUANTIZED: tl.constexpr,
    NOISE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BIAS_PRECISION: tl.constexpr,
    OUTPUT_PRECISION: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """``c = detect(a b^T) + bias`` for codes of (batch, rows, pitch) and (batch, columns, pitch).

    Matrix ``i`` of the batch is ``i // a_repeat % a_count`` of ``a``, and so for ``b``. KIND says what codes are: int8
    (0), float16 (1), or values in float32 (2). ``terms_value`` is
    ``terms``, which may be a constant, as a float; ``row_bucket`` is only a key for tuning.
    """
    program = tl.program_id(0)
    row_tiles = tl.cdiv(rows, ROWS)
    column_tiles = tl.cdiv(columns, COLUMNS)
    batch = program // (row_tiles * column_tiles)
    tile = program % (row_tiles * column_tiles)
    # Programs that run together share rows of ``a`` and columns of ``b``, which then stay in the L2 cache.
    first = tile // (GROUP * column_tiles) * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    within = tile % (GROUP * column_tiles)
    row = (first + within % height) * ROWS + tl.arange(0, ROWS)
    column = (within // height) * COLUMNS + tl.arange(0, COLUMNS)
    # What lies beyond the last row is read from it, and not stored.
    a_row = batch // a_repeat % a_count * rows + tl.minimum(row, rows - 1)
    b_row = batch // b_repeat % b_count * columns + tl.minimum(column, columns - 1)
    along = tl.arange(0, DEPTH)
    a_place = a_pointer + a_row.to(tl.int64)[:, None] * pitch + along[None, :]
    b_place = b_pointer + b_row.to(tl.int64)[None, :] * pitch + along[:, None]
    counts = tl.zeros((ROWS, COLUMNS), tl.int32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    if KIND == 0:
        for _ in range(0, pitch, DEPTH):
            counts = tl.dot(tl.load(a_place), tl.load(b_place), counts, out_dtype=tl.int32)
            a_place += DEPTH
            b_place += DEPTH
    else:
        for _ in range(0, pitch, DEPTH):
            if KIND == 1:
                total = tl.dot(tl.load(a_place), tl.load(b_place), total)
            else:
                total = tl.dot(tl.load(a_place), tl.load(b_place), total, input_precision="tf32x3")
            a_place += DEPTH
            b_place += DEPTH
    if KIND != 2:
        if A_RANGE_STEP == 0:
            a_lo = tl.load(a_low_pointer)
            a_hi = tl.load(a_high_pointer)
        else:
            a_lo = tl.load(a_low_pointer + a_row)[:, None]
            a_hi = tl.load(a_high_pointer + a_row)[:, None]
        if B_RANGE_STEP == 0:
            b_lo = tl.load(b_low_pointer)
            b_hi = tl.load(b_high_pointer)
        else:
            b_lo = tl.load(b_low_pointer + b_row)[None, :]
            b_hi = tl.load(b_high_pointer + b_row)[None, :]
        a_step, a_origin, a_zero = grid(a_lo, a_hi, top)
        b_step, b_origin, b_zero = grid(b_lo, b_hi, top)
        a_sums = tl.load(a_sums_pointer + a_row)[:, None]
        b_sums = tl.load(b_sums_pointer + b_row)[None, :]
        if KIND == 0:
            # u = code + shift, and the known sums are those of u.
            a_shift = half - _integer(a_zero)
            b_shift = half - _integer(b_zero)
            counts = counts + a_shift * _integer(b_sums)
            counts = counts + (b_shift * _integer(a_sums) - terms * a_shift * b_shift)
            total = counts.to(tl.float32)
        total = (a_step * b_step) * total + (a_step * b_origin) * a_sums
        total = total + ((b_step * a_origin) * b_sums + terms_value * (a_origin * b_origin))
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    _record_extremes(total, inside, signed_pointer, unsigned_pointer)
    if WIDE_INDEX:
        line = batch.to(tl.int64) * rows + row
    else:
        line = batch * rows + row
    index = line[:, None] * columns + column[None, :]
    if QUANTIZED:
        lo = tl.load(output_range_pointer)
        hi = tl.load(output_range_pointer + 1)
        low = tl.full((), 0, tl.uint32)
        high = low
        if NOISE != 0:
            low, high = seed_words(seed_pointer)
        k = to_level(total, lo, hi, top, photons, low, high, index, NOISE, WIDE_INDEX)
        total = level_value(k, lo, hi, top)
    if HAS_BIAS:
        total = total + load_values(bias_pointer, column, column < columns, BIAS_PRECISION)[None, :]
    store_values(c_pointer, index, total, inside, OUTPUT_PRECISION)
