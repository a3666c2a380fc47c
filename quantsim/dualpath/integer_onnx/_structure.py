"""Ops of integer graphs that move integers and change none, in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantsim.dualpath.integer_graph import BatchMultiple, Dimension, IntegerNode
from quantsim.dualpath.integer_onnx.writer import OnnxWriter, Term

__all__ = ["concatenate", "embedding", "expand", "pad", "reshape", "roll", "slice", "take", "transpose"]


def embedding(writer: OnnxWriter, node: IntegerNode, ids: Term, *, table: np.ndarray) -> Term:
    """Rows of a table."""
    entries = writer.constant(table, writer.graph.values[node.output].dtype, "table")
    rows = writer.wide(ids)
    if ids.dtype.startswith("int"):  # Gather would count negative ids from the end; one beyond the end is refused.
        negative = writer.emit("Less", rows, writer.constant(0), dtype="bool")
        rows = writer.emit("Where", negative, writer.constant(len(table)), rows, dtype="int64")
    return writer.emit("Gather", entries, rows, axis=0)


def reshape(writer: OnnxWriter, node: IntegerNode, x: Term, *, shape: Sequence[Dimension]) -> Term:
    """The same elements in another shape."""
    lengths = [-1 if isinstance(length, BatchMultiple) else length for length in shape]
    target = writer.constant(lengths) if lengths.count(-1) <= 1 else _lengths(writer, shape)
    return writer.emit("Reshape", x, target)


def transpose(writer: OnnxWriter, node: IntegerNode, x: Term, *, order: Sequence[int]) -> Term:
    """Dimensions in another order."""
    rank = len(order)
    return writer.emit("Transpose", x, perm=[axis % rank for axis in order])


def slice(
    writer: OnnxWriter, node: IntegerNode, x: Term, *, axis: int, start: int, stop: int | None, step: int = 1
) -> Term:
    """Every ``step``-th index from ``start`` up to ``stop``."""
    return writer.sliced(x, axis, start, stop, step)


def take(writer: OnnxWriter, node: IntegerNode, x: Term, *, axis: int, indices: np.ndarray | int) -> Term:
    """Chosen indices of a dimension; a single number removes the dimension."""
    return writer.emit("Gather", x, writer.constant(np.asarray(indices), name="indices"), axis=axis)


def concatenate(writer: OnnxWriter, node: IntegerNode, *xs: Term, axis: int) -> Term:
    """Tensors one after another, in the result's type."""
    dtype = writer.graph.values[node.output].dtype
    return writer.emit("Concat", *(writer.cast(x, dtype) for x in xs), axis=axis)


def expand(writer: OnnxWriter, node: IntegerNode, x: Term, *, shape: Sequence[Dimension]) -> Term:
    """Dimensions of length 1 repeated; ONNX keeps a dimension where 1 is asked for."""
    kept = [1 if length == -1 else length for length in shape]
    if any(isinstance(length, BatchMultiple) for length in kept):
        return writer.emit("Expand", x, _lengths(writer, kept))
    return writer.emit("Expand", x, writer.constant(kept))


def pad(writer: OnnxWriter, node: IntegerNode, x: Term, *, widths: Sequence[Sequence[int]], value: int) -> Term:
    """A number added on both sides of each dimension."""
    return writer.padded(x, widths, value)


def roll(writer: OnnxWriter, node: IntegerNode, x: Term, *, shifts: Sequence[int], axes: Sequence[int]) -> Term:
    """Elements moved along dimensions; what leaves at the end comes back at the start."""
    shape = writer.graph.values[node.output].shape
    for shift, axis in zip(shifts, axes, strict=True):
        length = shape[axis]
        if isinstance(length, BatchMultiple):
            x = _rolled_batch(writer, x, shift, axis, length)
        elif offset := shift % max(length, 1):
            parts = writer.sliced(x, axis, -offset, None), writer.sliced(x, axis, 0, -offset)
            x = writer.emit("Concat", *parts, axis=axis)
    return x


def _rolled_batch(writer: OnnxWriter, x: Term, shift: int, axis: int, length: BatchMultiple) -> Term:
    """A roll of a dimension whose length, which the shift may exceed, is known when the graph runs."""
    count = writer.length(length)
    offset = writer.emit("Mod", writer.constant([shift]), writer.at_least_one(count))
    split, along = writer.emit("Sub", count, offset), writer.constant([axis])
    end = writer.emit("Slice", x, split, count, along)
    return writer.emit("Concat", end, writer.emit("Slice", x, writer.constant([0]), split, along), axis=axis)


def _lengths(writer: OnnxWriter, shape: Sequence[Dimension]) -> Term:
    return writer.emit("Concat", *(writer.length(length) for length in shape), axis=0)
