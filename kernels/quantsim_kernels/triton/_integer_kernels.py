"""The Triton kernel of integer matrix products: int8 tiles, int32 sums, put on the grid of the result while it stores.

Zero points are taken out of the sums, as sums of the other operand's codes. What is added to a product may wrap around
int32: as what is left in the end fits, nothing is lost. The rescaling is that of the reference: a 64-bit product, half
of the last place added, less one where it is negative, an arithmetic shift.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["INTEGER_SIGNATURE", "integer_matmul_kernel"]

INTEGER_SIGNATURE = {
    "a_pointer": "*i8",
    "b_pointer": "*i8",
    "c_pointer": "*i8",
    "bias_pointer": "*i32",
    "multiplier_pointer": "*i32",
    "shift_pointer": "*i32",
    "row_sums_pointer": "*i32",
    "column_sums_pointer": "*i32",
    "rows": "i32",
    "columns": "i32",
    "depth": "i32",
    "a_batch_step": "i64",
    "a_row_step": "i64",
    "b_batch_step": "i64",
    "b_column_step": "i64",
    "scale_step": "i32",
    "zero_point_a": "i32",
    "zero_point_b": "i32",
    "zero_point": "i32",
    "low": "i32",
    "high": "i32",
    "HAS_BIAS": "constexpr",
    "HAS_ROW_SUMS": "constexpr",
    "HAS_COLUMN_SUMS": "constexpr",
    "RESCALED": "constexpr",
    "WHOLE": "constexpr",
    "ROWS": "constexpr",
    "COLUMNS": "constexpr",
    "DEPTH": "constexpr",
    "GROUP": "constexpr",
}
"""Argument types of :data:`integer_matmul_kernel`, for ahead-of-time compilation."""


@triton.jit(do_not_specialize=["scale_step", "zero_point_a", "zero_point_b", "zero_point", "low", "high"])
def integer_matmul_kernel(
    a_pointer,
    b_pointer,
    c_pointer,
    bias_pointer,
    multiplier_pointer,
    shift_pointer,
    row_sums_pointer,
    column_sums_pointer,
    rows,
    columns,
    depth,
    a_batch_step,
    a_row_step,
    b_batch_step,
    b_column_step,
    scale_step,
    zero_point_a,
    zero_point_b,
    zero_point,
    low,
    high,
    HAS_BIAS: tl.constexpr,
    HAS_ROW_SUMS: tl.constexpr,
    HAS_COLUMN_SUMS: tl.constexpr,
    RESCALED: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of ``(a - zero_point_a) @ (b - zero_point_b)``; both operands are rows along K.

    WHOLE says that DEPTH divides the depth. Tiles of GROUP rows of tiles follow one another, so that they share what
    they read of ``b``.
    """
    tile = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    row_tiles = tl.cdiv(rows, ROWS)
    column_tiles = tl.cdiv(columns, COLUMNS)
    in_group = GROUP * column_tiles
    first = (tile // in_group) * GROUP
    size = tl.minimum(row_tiles - first, GROUP)
    row_tile = first + (tile % in_group) % size
    column_tile = (tile % in_group) // size
    row = row_tile * ROWS + tl.arange(0, ROWS)
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    # Beyond the edge the first ones again: loads need no mask, and what they give is not stored.
    near_row = tl.where(row < rows, row, 0).to(tl.int64)
    near_column = tl.where(column < columns, column, 0).to(tl.int64)
    k = tl.arange(0, DEPTH)
    a_places = a_pointer + batch * a_batch_step + near_row[:, None] * a_row_step + k[None, :]
    b_places = b_pointer + batch * b_batch_step + near_column[None, :] * b_column_step + k[:, None]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
    for start in range(0, depth, DEPTH):
        if WHOLE:
            a = tl.load(a_places)
            b = tl.load(b_places)
        else:
            a = tl.load(a_places, mask=k[None, :] < depth - start, other=0)
            b = tl.load(b_places, mask=k[:, None] < depth - start, other=0)
        total = tl.dot(a, b, total, out_dtype=tl.int32)
        a_places += DEPTH
        b_places += DEPTH
    if HAS_BIAS:
        total += tl.load(bias_pointer + near_column)[None, :]
    if HAS_ROW_SUMS:
        row_sums = tl.load(row_sums_pointer + batch * rows + near_row)
        total -= zero_point_b * row_sums[:, None]
    if HAS_COLUMN_SUMS:
        # Of b less its zero point.
        column_sums = tl.load(column_sums_pointer + batch * columns + near_column)
        total -= zero_point_a * (column_sums - zero_point_b * depth)[None, :]
    if RESCALED:
        multiplier = tl.load(multiplier_pointer + near_column * scale_step).to(tl.int64)
        shift = tl.load(shift_pointer + near_column * scale_step).to(tl.int64)
        one = tl.full((COLUMNS,), 1, tl.int64)
        half = one << (shift - 1)
        product = total.to(tl.int64) * multiplier[None, :]
        product += half[None, :] - (product < 0).to(tl.int64)
        product = (product >> shift[None, :]) + zero_point
        # Compared in 64 bits: a product may be far beyond what the result's type holds.
        product = tl.minimum(tl.maximum(product, low.to(tl.int64)), high.to(tl.int64))
        total = product.to(tl.int32)
    places = c_pointer + batch * rows * columns + row[:, None].to(tl.int64) * columns + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(places, total.to(c_pointer.dtype.element_ty), mask=inside)
