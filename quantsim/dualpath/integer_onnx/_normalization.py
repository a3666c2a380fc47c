"""Normalizations and softmax of integer graphs in ONNX."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from quantsim.dualpath.integer_graph import IntegerNode
from quantsim.dualpath.integer_onnx._products import product
from quantsim.dualpath.integer_onnx.writer import OnnxWriter, Term, code_bound, scaled_bound
from quantsim_kernels.reference.integer import rounded_shift

__all__ = ["layer_norm", "rms_norm", "softmax", "softmax_matmul"]

_DISTANCES = 2**16
_TABLE = 256


class _Grid(NamedTuple):
    zero_point: int
    low: int
    high: int


def layer_norm(
    writer: OnnxWriter,
    node: IntegerNode,
    x: Term,
    *,
    gain: np.ndarray,
    offset: np.ndarray | None = None,
    epsilon: int,
    mean_bits: int,
    root_bits: int,
    gain_bits: int,
    zero_point: int,
    low: int,
    high: int,
) -> Term:
    """LayerNorm over the last dimension."""
    codes = writer.multiplied(writer.wide(x), 1 << mean_bits)
    length = _row_length(writer, node.output)
    mean = writer.rounded_division(writer.row_sum(codes, length), writer.constant(length))
    centred = writer.emit("Sub", codes, mean)
    return _normalized(writer, node, centred, gain, offset, epsilon, root_bits, gain_bits, _Grid(zero_point, low, high))


def rms_norm(
    writer: OnnxWriter,
    node: IntegerNode,
    x: Term,
    *,
    zero_point_in: int,
    gain: np.ndarray,
    offset: np.ndarray | None = None,
    epsilon: int,
    root_bits: int,
    gain_bits: int,
    zero_point: int,
    low: int,
    high: int,
) -> Term:
    """RMSNorm over the last dimension."""
    centred = writer.centred(x, zero_point_in)
    return _normalized(writer, node, centred, gain, offset, epsilon, root_bits, gain_bits, _Grid(zero_point, low, high))


def softmax(
    writer: OnnxWriter,
    node: IntegerNode,
    x: Term,
    mask: Term | None = None,
    *,
    result_multiplier: Any,
    result_shift: int,
    zero_point: int,
    low: int,
    high: int,
    **exponentials: Any,
) -> Term:
    """Softmax over the last dimension."""
    e = _exponential(writer, x, mask, **exponentials)
    grid = _Grid(zero_point, low, high)
    return _divided(writer, e, writer.wide(e), 1, result_multiplier, result_shift, grid, signed=False)


def softmax_matmul(
    writer: OnnxWriter,
    node: IntegerNode,
    x: Term,
    values: Term,
    mask: Term | None = None,
    *,
    zero_point_values: int,
    result_multiplier: Any,
    result_shift: int,
    zero_point: int,
    low: int,
    high: int,
    **exponentials: Any,
) -> Term:
    """Softmax times values, divided after the product."""
    e = _exponential(writer, x, mask, **exponentials)
    products = writer.wide(product(writer, e, values, 0, zero_point_values))
    bound = code_bound(values, zero_point_values)
    return _divided(writer, e, products, bound, result_multiplier, result_shift, _Grid(zero_point, low, high))


def _normalized(
    writer: OnnxWriter,
    node: IntegerNode,
    centred: Term,
    gain: np.ndarray,
    offset: np.ndarray | None,
    epsilon: int,
    root_bits: int,
    gain_bits: int,
    grid: _Grid,
) -> Term:
    squares = writer.row_sum(writer.emit("Mul", centred, centred), _row_length(writer, node.output))
    power = writer.multiplied(writer.add(squares, epsilon), 1 << (2 * root_bits))
    root = writer.at_least_one(writer.square_root(power))
    numerator = writer.multiplied(centred, gain)
    if offset is not None:
        numerator = writer.emit("Add", numerator, writer.multiplied(root, offset))
    quotient = writer.rounded_division(numerator, writer.multiplied(root, 1 << gain_bits))
    return writer.offset_and_clamped(quotient, *grid)


def _row_length(writer: OnnxWriter, name: str) -> int:
    length = writer.graph.values[name].shape[-1]
    if not isinstance(length, int):
        raise ValueError(f"got a last dimension of {length}, expected a fixed length")
    return length


def _exponential(
    writer: OnnxWriter,
    x: Term,
    mask: Term | None,
    *,
    multiplier: Any,
    shift: Any,
    exponential_high: np.ndarray,
    exponential_low: np.ndarray,
    exponential_shift: int,
    bias: np.ndarray | None = None,
) -> Term:
    """``exp(x - max)`` over the last dimension: one table for all distances, of bytes where they suffice."""
    scaled = writer.multiplied(writer.wide(x), np.asarray(multiplier).reshape(()))
    scores = writer.rounded_shift(scaled, np.asarray(shift).reshape(()))
    largest = 0 if bias is None else int(np.abs(bias).max())
    scores = writer.narrowed(scores, 2 * (scaled_bound(code_bound(x), multiplier, shift) + largest))
    if bias is not None:
        scores = writer.emit("Add", scores, writer.constant(bias, scores.dtype, "bias"))
    visible = scores
    if mask is not None:
        lowest = writer.constant(np.iinfo(scores.dtype).min // 2, scores.dtype)
        visible = writer.emit("Where", mask, scores, lowest, dtype=scores.dtype)
    difference = writer.emit("Sub", writer.row_maximum(visible), scores)
    distance = writer.clamped(difference, 0, _DISTANCES - 1)
    coarse, fine = np.divmod(np.arange(_DISTANCES), _TABLE)
    entries = rounded_shift(np.asarray(exponential_high)[coarse] * exponential_low[fine], exponential_shift)
    kind = "uint8" if entries.max() < _TABLE else "int64"
    e = writer.emit("Gather", writer.constant(entries, kind, "exponential"), distance, axis=0)
    return e if mask is None else writer.emit("Where", mask, e, writer.constant(0, kind), dtype=kind)


def _divided(
    writer: OnnxWriter,
    e: Term,
    numerator: Term,
    bound: int,
    multiplier: Any,
    shift: int,
    grid: _Grid,
    *,
    signed: bool = True,
) -> Term:
    """``numerator * multiplier / (sum of e * 2^shift)``; ``bound``: largest magnitude of numerator over that sum."""
    total = writer.emit("ReduceSum", writer.wide(e), writer.constant([-1]), keepdims=1)
    # Rows of which nothing takes part have a numerator of 0 too.
    total = writer.at_least_one(writer.multiplied(total, 1 << shift))
    scaled = writer.multiplied(numerator, np.asarray(multiplier).reshape(()))
    quotient = writer.rounded_division(scaled, total, signed=signed or bool(np.any(np.asarray(multiplier) < 0)))
    return writer.offset_and_clamped(quotient, *grid, bound=scaled_bound(bound, multiplier, shift))
