"""Linear layers, convolutions and matrix products in ONNX: MatMulInteger and ConvInteger on unsigned bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from quantsim.dualpath.integer_graph import IntegerNode
from quantsim.dualpath.integer_onnx.writer import OnnxWriter, Term, along

__all__ = ["convolution", "linear", "matmul", "product"]

_BYTE = 256
# Sums of products stay in int32: whoever makes a graph sees to that.
_ACCUMULATOR = 2**31 - 1


def linear(
    writer: OnnxWriter,
    node: IntegerNode,
    x: Term,
    *,
    weight: np.ndarray,
    bias: np.ndarray,
    multiplier: np.ndarray | None = None,
    shift: np.ndarray | None = None,
    zero_point: int = 0,
    low: int = -(2**31),
    high: int = 2**31 - 1,
) -> Term:
    """``x @ weight.T + bias``, requantized."""
    factors = np.asarray(weight, np.int64)
    addend = np.asarray(bias, np.int64)
    pieces, offset = _bytes(writer, x)
    if pieces is None or not _fits_a_byte(factors):
        total = writer.emit("MatMul", writer.wide(x), writer.constant(factors.T, name="weight"))
    else:
        matrix, point = _unsigned_constant(writer, factors.T)
        total = _sum_of_pieces(
            writer,
            [
                (writer.emit("MatMulInteger", piece, matrix, writer.constant(own, "uint8"), point, dtype="int32"), step)
                for piece, own, step in pieces
            ],
        )
        addend = addend - offset * factors.sum(1)
    total = writer.add(writer.wide(total), addend)
    return _requantized(writer, node, total, multiplier, shift, zero_point, low, high, -1)


def convolution(
    writer: OnnxWriter,
    node: IntegerNode,
    x: Term,
    *,
    weight: np.ndarray,
    bias: np.ndarray,
    multiplier: np.ndarray | None = None,
    shift: np.ndarray | None = None,
    zero_point_in: int = 0,
    zero_point: int = 0,
    low: int = -(2**31),
    high: int = 2**31 - 1,
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    groups: int = 1,
) -> Term:
    """A convolution; what is padded holds the zero point and is written as an operator of its own."""
    factors = np.asarray(weight, np.int64)
    limits = np.iinfo(x.dtype)
    if np.any(padding) and not limits.min <= zero_point_in <= limits.max:
        raise ValueError(f"got zero_point_in {zero_point_in}, expected one that {x.dtype} holds")
    pieces, offset = _bytes(writer, writer.padded(x, ((0, 0), (0, 0), *padding), zero_point_in), x.dtype)
    if pieces is None or not _fits_a_byte(factors):
        raise ValueError(
            f"got a convolution of {x.dtype} by weights from {factors.min()} to {factors.max()}, expected codes of at "
            "most 16 bits and weights of 8: ONNX has no wider ConvInteger; quantize its input"
        )
    matrix, point = _unsigned_constant(writer, factors)
    sizes = {"strides": list(stride), "dilations": list(dilation), "group": groups, "kernel_shape": factors.shape[2:]}
    total = _sum_of_pieces(
        writer,
        [
            (
                writer.emit("ConvInteger", piece, matrix, writer.constant(own, "uint8"), point, dtype="int32", **sizes),
                step,
            )
            for piece, own, step in pieces
        ],
    )
    addend = np.asarray(bias, np.int64) - offset * factors.reshape(len(factors), -1).sum(1)
    rank = factors.ndim
    total = writer.add(writer.wide(total), along(addend, 1, rank))
    return _requantized(writer, node, total, multiplier, shift, zero_point, low, high, 1)


def matmul(
    writer: OnnxWriter,
    node: IntegerNode,
    a: Term,
    b: Term,
    *,
    zero_point_a: int,
    zero_point_b: int,
    multiplier: np.ndarray,
    shift: np.ndarray,
    zero_point: int,
    low: int,
    high: int,
) -> Term:
    """``(a - zero_point_a) @ (b - zero_point_b)``, requantized."""
    total = product(writer, a, b, zero_point_a, zero_point_b)
    return _requantized(writer, node, total, multiplier, shift, zero_point, low, high, None)


def product(writer: OnnxWriter, a: Term, b: Term, zero_point_a: int, zero_point_b: int) -> Term:
    """``(a - zero_point_a) @ (b - zero_point_b)``: int32 where both have 8 bits, else int64."""
    if a.dtype in ("int8", "uint8") and b.dtype in ("int8", "uint8"):
        (left, moved_a), (right, moved_b) = writer.unsigned(a), writer.unsigned(b)
        points = zero_point_a + moved_a, zero_point_b + moved_b
        if all(0 <= point < _BYTE for point in points):
            operands = [writer.constant(point, "uint8") for point in points]
            return writer.emit("MatMulInteger", left, right, *operands, dtype="int32")
    return writer.emit("MatMul", writer.centred(a, zero_point_a), writer.centred(b, zero_point_b))


def _bytes(writer: OnnxWriter, x: Term, dtype: str | None = None) -> tuple[list[tuple[Term, int, int]] | None, int]:
    """Codes as unsigned bytes: ``x = sum of (byte - zero point) * step``, less an offset that is returned.

    Args:
        writer: Where to write.
        x: Codes.
        dtype: Type that they fit into, where ``x`` is a wider copy.

    Returns:
        Terms with zero points and steps, or None for types of more than 16 bits; and the offset.
    """
    dtype = dtype or x.dtype
    if dtype in ("uint8", "int8"):
        term, moved = writer.unsigned(x)
        return [(term, moved, 1)], 0
    if dtype not in ("uint16", "int16"):
        return None, 0
    offset = 2**15 if dtype == "int16" else 0
    codes = writer.add(writer.cast(x, "int32"), offset)
    high = writer.cast(writer.emit("Div", codes, writer.constant(_BYTE, "int32")), "uint8")
    low = writer.cast(writer.emit("Mod", codes, writer.constant(_BYTE, "int32")), "uint8")
    return [(high, 0, _BYTE), (low, 0, 1)], offset


def _sum_of_pieces(writer: OnnxWriter, products: Sequence[tuple[Term, int]]) -> Term:
    total = None
    for term, step in products:
        scaled = term if step == 1 else writer.multiplied(writer.wide(term), step)
        total = scaled if total is None else writer.emit("Add", total, writer.wide(scaled))
    assert total is not None
    return total


def _fits_a_byte(weight: np.ndarray) -> bool:
    return not weight.size or (int(weight.min()) >= -128 and int(weight.max()) <= 127)


def _unsigned_constant(writer: OnnxWriter, weight: np.ndarray) -> tuple[Term, Term]:
    """Signed weights moved up to uint8, and their zero point."""
    return writer.constant(weight + 128, "uint8", "weight"), writer.constant(128, "uint8")


def _requantized(
    writer: OnnxWriter,
    node: IntegerNode,
    total: Term,
    multiplier: Any,
    shift: Any,
    zero_point: int,
    low: int,
    high: int,
    axis: int | None,
) -> Term:
    if multiplier is None or shift is None:
        return total
    rank = len(writer.graph.values[node.output].shape)
    grid = {"zero_point": zero_point, "low": low, "high": high}
    return writer.finished(total, bound=_ACCUMULATOR, multiplier=multiplier, shift=shift, **grid, axis=axis, rank=rank)
