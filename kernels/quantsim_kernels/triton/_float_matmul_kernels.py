"""The Triton kernel of matrix products that casts its operands' tiles while it loads them.

Both operands are read as rows along K, so that one device function casts either: to a float format, or to blocks along
K that share a power of two. Sums are float32's. Tiles that are on a narrow grid are multiplied in bfloat16 or TF32,
which hold them exactly; the scale of a row or of a tensor is applied to the sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantsim_kernels.triton._float_kernels import (
    _INFINITY,
    _NAN,
    cast_value,
    load_values,
    magnitude_bits,
    store_values,
)
from quantsim_kernels.triton._mx_kernels import _ONE, cast_mx_elements, shared_exponent

__all__ = ["MATMUL_SIGNATURE", "OPERAND_CONSTANTS", "matmul_kernel"]

OPERAND_CONSTANTS = (
    "CAST",
    "PRECISION",
    "BLOCK",
    "LOWEST",
    "HIGHEST",
    "MANTISSA",
    "LARGEST",
    "LARGEST_NEGATIVE",
    "TOP_EXPONENT",
    "TOP_SIGNIFICAND",
    "FRACTION_BITS",
    "INTEGER",
    "SUBNORMALS",
    "NEGATIVE_ZERO",
    "BEYOND",
    "INFINITE",
    "SCALE_RULE",
    "ROUNDING",
)
"""What the kernel knows of an operand when it is compiled; each name appears twice, after ``A_`` and ``B_``."""

MATMUL_SIGNATURE = {
    "a_pointer": "*fp32",
    "b_pointer": "*fp32",
    "a_scale_pointer": "*fp32",
    "b_scale_pointer": "*fp32",
    "bias_pointer": "*fp32",
    "c_pointer": "*fp32",
    "rows": "i32",
    "columns": "i32",
    "depth": "i32",
    "a_batch_step": "i64",
    "a_row_step": "i64",
    "a_depth_step": "i64",
    "b_batch_step": "i64",
    "b_row_step": "i64",
    "b_depth_step": "i64",
    "a_scale_step": "i32",
    "b_scale_step": "i32",
    **{f"{operand}_{name}": "constexpr" for operand in "AB" for name in OPERAND_CONSTANTS},
    "HAS_BIAS": "constexpr",
    "OUTPUT_PRECISION": "constexpr",
    "BIAS_PRECISION": "constexpr",
    "DOT": "constexpr",
    "ROWS": "constexpr",
    "COLUMNS": "constexpr",
    "DEPTH": "constexpr",
}
"""Argument types of :data:`matmul_kernel` for float32 tensors, for ahead-of-time compilation."""


@triton.jit
def _cast_tile(
    tile,
    scale,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    CAST: tl.constexpr,
    BLOCK: tl.constexpr,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    MANTISSA: tl.constexpr,
    LARGEST: tl.constexpr,
    LARGEST_NEGATIVE: tl.constexpr,
    TOP_EXPONENT: tl.constexpr,
    TOP_SIGNIFICAND: tl.constexpr,
    FRACTION_BITS: tl.constexpr,
    INTEGER: tl.constexpr,
    SUBNORMALS: tl.constexpr,
    NEGATIVE_ZERO: tl.constexpr,
    BEYOND: tl.constexpr,
    INFINITE: tl.constexpr,
    SCALE_RULE: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """A tile ``[ROWS, DEPTH]`` as it is (CAST 0), cast (1), divided by its rows' scales and cast (2), or in blocks (3).

    Quotients are not multiplied by their scales again: that is done to the sum.
    """
    if CAST == 3:
        blocks = tl.reshape(tile, (ROWS, DEPTH // BLOCK, BLOCK))
        largest = tl.max(magnitude_bits(blocks), axis=2, keep_dims=True)
        shift = shared_exponent(largest, TOP_EXPONENT, TOP_SIGNIFICAND, FRACTION_BITS, SCALE_RULE)
        cast = cast_mx_elements(
            blocks,
            0,
            shift,
            LOWEST,
            HIGHEST,
            MANTISSA,
            LARGEST,
            LARGEST_NEGATIVE,
            INTEGER,
            _ONE,
            SUBNORMALS,
            NEGATIVE_ZERO,
            ROUNDING,
        )
        nan = tl.full(cast.shape, _NAN, tl.int32).to(tl.float32, bitcast=True)
        return tl.reshape(tl.where(largest > _INFINITY, nan, cast), (ROWS, DEPTH))
    if CAST != 0:
        if CAST == 2:
            tile = tl.div_rn(tile, scale[:, None] + tl.zeros_like(tile))
        return cast_value(
            tile,
            0,
            0,
            LOWEST,
            HIGHEST,
            MANTISSA,
            LARGEST,
            _ONE,
            _ONE,
            SUBNORMALS,
            NEGATIVE_ZERO,
            BEYOND,
            INFINITE,
            ROUNDING,
        )
    return tile


@triton.jit
def matmul_kernel(
    a_pointer,
    b_pointer,
    a_scale_pointer,
    b_scale_pointer,
    bias_pointer,
    c_pointer,
    rows,
    columns,
    depth,
    a_batch_step,
    a_row_step,
    a_depth_step,
    b_batch_step,
    b_row_step,
    b_depth_step,
    a_scale_step,
    b_scale_step,
    A_CAST: tl.constexpr,
    A_PRECISION: tl.constexpr,
    A_BLOCK: tl.constexpr,
    A_LOWEST: tl.constexpr,
    A_HIGHEST: tl.constexpr,
    A_MANTISSA: tl.constexpr,
    A_LARGEST: tl.constexpr,
    A_LARGEST_NEGATIVE: tl.constexpr,
    A_TOP_EXPONENT: tl.constexpr,
    A_TOP_SIGNIFICAND: tl.constexpr,
    A_FRACTION_BITS: tl.constexpr,
    A_INTEGER: tl.constexpr,
    A_SUBNORMALS: tl.constexpr,
    A_NEGATIVE_ZERO: tl.constexpr,
    A_BEYOND: tl.constexpr,
    A_INFINITE: tl.constexpr,
    A_SCALE_RULE: tl.constexpr,
    A_ROUNDING: tl.constexpr,
    B_CAST: tl.constexpr,
    B_PRECISION: tl.constexpr,
    B_BLOCK: tl.constexpr,
    B_LOWEST: tl.constexpr,
    B_HIGHEST: tl.constexpr,
    B_MANTISSA: tl.constexpr,
    B_LARGEST: tl.constexpr,
    B_LARGEST_NEGATIVE: tl.constexpr,
    B_TOP_EXPONENT: tl.constexpr,
    B_TOP_SIGNIFICAND: tl.constexpr,
    B_FRACTION_BITS: tl.constexpr,
    B_INTEGER: tl.constexpr,
    B_SUBNORMALS: tl.constexpr,
    B_NEGATIVE_ZERO: tl.constexpr,
    B_BEYOND: tl.constexpr,
    B_INFINITE: tl.constexpr,
    B_SCALE_RULE: tl.constexpr,
    B_ROUNDING: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    OUTPUT_PRECISION: tl.constexpr,
    BIAS_PRECISION: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """``c = a @ b.T + bias`` with ``a`` of (batch, rows, depth) and ``b`` of (batch, columns, depth), tile by tile.

    DOT says in what tiles are multiplied: float32 (0), TF32 (1) or bfloat16 (2).
    """
    program = tl.program_id(0)
    row_tiles = tl.cdiv(rows, ROWS)
    column_tiles = tl.cdiv(columns, COLUMNS)
    batch = (program // (row_tiles * column_tiles)).to(tl.int64)
    tile = program % (row_tiles * column_tiles)
    row = (tile // column_tiles) * ROWS + tl.arange(0, ROWS)
    column = (tile % column_tiles) * COLUMNS + tl.arange(0, COLUMNS)
    row_mask = row < rows
    column_mask = column < columns
    a_scale = tl.full((ROWS,), 1.0, tl.float32)
    if A_CAST == 2:
        a_scale = tl.load(a_scale_pointer + row * a_scale_step, mask=row_mask, other=1.0)
    b_scale = tl.full((COLUMNS,), 1.0, tl.float32)
    if B_CAST == 2:
        b_scale = tl.load(b_scale_pointer + column * b_scale_step, mask=column_mask, other=1.0)
    a_start = batch * a_batch_step + row.to(tl.int64)[:, None] * a_row_step
    b_start = batch * b_batch_step + column.to(tl.int64)[:, None] * b_row_step
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, depth, DEPTH):
        along = start + tl.arange(0, DEPTH)
        inside = (along < depth)[None, :]
        step = along.to(tl.int64)[None, :]
        a = load_values(a_pointer, a_start + step * a_depth_step, row_mask[:, None] & inside, A_PRECISION)
        b = load_values(b_pointer, b_start + step * b_depth_step, column_mask[:, None] & inside, B_PRECISION)
        a = _cast_tile(
            a,
            a_scale,
            ROWS,
            DEPTH,
            A_CAST,
            A_BLOCK,
            A_LOWEST,
            A_HIGHEST,
            A_MANTISSA,
            A_LARGEST,
            A_LARGEST_NEGATIVE,
            A_TOP_EXPONENT,
            A_TOP_SIGNIFICAND,
            A_FRACTION_BITS,
            A_INTEGER,
            A_SUBNORMALS,
            A_NEGATIVE_ZERO,
            A_BEYOND,
            A_INFINITE,
            A_SCALE_RULE,
            A_ROUNDING,
        )
        b = _cast_tile(
            b,
            b_scale,
            COLUMNS,
            DEPTH,
            B_CAST,
            B_BLOCK,
            B_LOWEST,
            B_HIGHEST,
            B_MANTISSA,
            B_LARGEST,
            B_LARGEST_NEGATIVE,
            B_TOP_EXPONENT,
            B_TOP_SIGNIFICAND,
            B_FRACTION_BITS,
            B_INTEGER,
            B_SUBNORMALS,
            B_NEGATIVE_ZERO,
            B_BEYOND,
            B_INFINITE,
            B_SCALE_RULE,
            B_ROUNDING,
        )
        if DOT == 2:
            total = tl.dot(a.to(tl.bfloat16), tl.trans(b.to(tl.bfloat16)), total)
        elif DOT == 1:
            total = tl.dot(a, tl.trans(b), total, input_precision="tf32")
        else:
            total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
    if A_CAST == 2:
        total = total * a_scale[:, None]
    if B_CAST == 2:
        total = total * b_scale[None, :]
    if HAS_BIAS:
        total = total + load_values(bias_pointer, column, column_mask, BIAS_PRECISION)[None, :]
    target = (batch * rows + row.to(tl.int64)[:, None]) * columns + column[None, :]
    store_values(c_pointer, target, total, row_mask[:, None] & column_mask[None, :], OUTPUT_PRECISION)
