"""Requantization, sums, products, tables and means of integer graphs in ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from quantsim.dualpath.integer_graph import IntegerNode
from quantsim.dualpath.integer_onnx.writer import OnnxWriter, Term, along, code_bound, scaled_bound

__all__ = [
    "add",
    "average_pool",
    "clamp",
    "max_pool",
    "mean",
    "multiply",
    "negate",
    "requantize",
    "scale_shift",
    "table",
]


def requantize(
    writer: OnnxWriter, node: IntegerNode, x: Term, *, zero_point_in: int, axis: int | None = None, **grid: Any
) -> Term:
    """From one grid to another."""
    bound = code_bound(x, zero_point_in)
    codes = writer.centred(x, zero_point_in)
    return writer.finished(codes, bound=bound, **grid, axis=axis, rank=_rank(writer, node))


def add(
    writer: OnnxWriter,
    node: IntegerNode,
    a: Term,
    b: Term,
    *,
    multiplier_a: Any,
    multiplier_b: Any,
    shift: Any,
    zero_point_a: int,
    zero_point_b: int,
    zero_point: int,
    low: int,
    high: int,
) -> Term:
    """Sum of two grids, rounded once."""
    left = writer.multiplied(writer.centred(a, zero_point_a), along(multiplier_a, None, 0))
    right = writer.multiplied(writer.centred(b, zero_point_b), along(multiplier_b, None, 0))
    rounded = writer.rounded_shift(writer.emit("Add", left, right), along(shift, None, 0))
    largest = code_bound(a, zero_point_a) * abs(int(along(multiplier_a, None, 0)))
    bound = scaled_bound(code_bound(b, zero_point_b), multiplier_b, shift, largest)
    return writer.offset_and_clamped(rounded, zero_point, low, high, bound)


def multiply(
    writer: OnnxWriter, node: IntegerNode, a: Term, b: Term, *, zero_point_a: int, zero_point_b: int, **grid: Any
) -> Term:
    """Product of two grids."""
    product = writer.emit("Mul", writer.centred(a, zero_point_a), writer.centred(b, zero_point_b))
    return writer.finished(product, bound=code_bound(a, zero_point_a) * code_bound(b, zero_point_b), **grid)


def scale_shift(
    writer: OnnxWriter,
    node: IntegerNode,
    x: Term,
    *,
    multiplier: Any,
    offset: Any,
    shift: Any,
    axis: int,
    zero_point_in: int,
    zero_point: int,
    low: int,
    high: int,
) -> Term:
    """An affine map of each channel."""
    rank = _rank(writer, node)
    scaled = writer.multiplied(writer.centred(x, zero_point_in), along(multiplier, axis, rank))
    total = writer.add(scaled, along(offset, axis, rank))
    rounded = writer.rounded_shift(total, along(shift, axis, rank))
    bound = scaled_bound(code_bound(x, zero_point_in), multiplier, shift, offset)
    return writer.offset_and_clamped(rounded, zero_point, low, high, bound)


def table(writer: OnnxWriter, node: IntegerNode, x: Term, *, table: np.ndarray, first: int) -> Term:
    """Any function of one operand, tabulated."""
    index = writer.add(writer.cast(x, "int64" if x.dtype == "int64" else "int32"), -first)
    entries = writer.constant(table, writer.graph.values[node.output].dtype, "table")
    return writer.emit("Gather", entries, index, axis=0)


def clamp(writer: OnnxWriter, node: IntegerNode, x: Term, *, low: int, high: int) -> Term:
    """At least ``low`` and at most ``high``."""
    limits = np.iinfo(x.dtype)
    held = x.dtype in ("int8", "uint8", "int32") and limits.min <= low and high <= limits.max
    return writer.clamped(x if held else writer.wide(x), low, high)


def negate(writer: OnnxWriter, node: IntegerNode, x: Term, *, total: int) -> Term:
    """``total - x``."""
    return writer.emit("Sub", writer.constant(total), writer.wide(x))


def mean(
    writer: OnnxWriter,
    node: IntegerNode,
    x: Term,
    *,
    axes: Sequence[int],
    keepdim: bool,
    zero_point_in: int,
    **grid: Any,
) -> Term:
    """Mean over some dimensions; the division is in the multiplier."""
    codes = writer.centred(x, zero_point_in)
    total = writer.emit("ReduceSum", codes, writer.constant(list(axes)), keepdims=int(keepdim))
    lengths = [writer.graph.values[node.inputs[0]].shape[axis] for axis in axes]
    count = math.prod(length if isinstance(length, int) else 2**31 for length in lengths)
    return writer.finished(total, bound=count * code_bound(x, zero_point_in), **grid)


def average_pool(
    writer: OnnxWriter,
    node: IntegerNode,
    x: Term,
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    zero_point_in: int,
    **grid: Any,
) -> Term:
    """Average pooling: shifted copies are summed up, dimension after dimension; ONNX averages real numbers only."""
    total = writer.padded(writer.centred(x, zero_point_in), ((0, 0), (0, 0), *padding), 0)
    for axis, (size, step) in enumerate(zip(kernel, stride, strict=True), start=2):
        # The last window that fits begins `size - 1` before the end.
        parts = [
            writer.sliced(total, axis, start, start - size + 1 if start < size - 1 else None, step)
            for start in range(size)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = writer.emit("Add", total, part)
    return writer.finished(total, bound=math.prod(kernel) * code_bound(x, zero_point_in), **grid)


def max_pool(
    writer: OnnxWriter,
    node: IntegerNode,
    x: Term,
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    lowest: int,
) -> Term:
    """Max pooling; wider codes than bytes go through floating-point numbers that hold them exactly."""
    codes = writer.padded(x, ((0, 0), (0, 0), *padding), lowest)
    if x.dtype not in ("int8", "uint8"):
        codes = writer.cast(codes, "float32" if x.dtype in ("int16", "uint16") else "float64")
    return writer.emit("MaxPool", codes, kernel_shape=list(kernel), strides=list(stride), dilations=list(dilation))


def _rank(writer: OnnxWriter, node: IntegerNode) -> int:
    return len(writer.graph.values[node.output].shape)
