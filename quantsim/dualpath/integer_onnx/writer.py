"""Writes the operators of an integer ONNX graph: typed terms, constants that are stored once, exact arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quantsim.dualpath.integer_graph import BatchMultiple, Dimension, IntegerGraph

__all__ = ["OnnxWriter", "Term", "along", "code_bound", "scaled_bound"]


@dataclass(frozen=True)
class Term:
    """A tensor in the ONNX graph.

    Attributes:
        name: Its name.
        dtype: NumPy's name of its type.
    """

    name: str
    dtype: str


class OnnxWriter:
    """Collects operators and constants, and knows integer arithmetic that ONNX lacks.

    All arithmetic is in int64 unless a method says otherwise. What is written is exact as long as no number leaves
    int64, which `quantsim_kernels.reference.integer` checks and ONNX does not.

    Some operators of ONNX Runtime (1.31 on x86) are not exact on int64, so they are never written: Sign, Min, Max, Clip
    and ReduceMax compare numbers wrongly whose upper 32 bits are equal, when only one has bit 31 set (the sign of 2^31
    comes out as -1), and ReduceSum adds in float64. Less, Greater, Where, TopK and MatMul are exact.

    Args:
        graph: The integer graph; tells how long the dimensions are.
    """

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph = graph
        self.scope = ""
        """Prefix of the names that are given from now on: the integer node's name."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._names: set[str] = set(graph.values)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Term] = {}
        self._casts: dict[tuple[str, str], Term] = {}
        self._unsigned: dict[str, tuple[Term, int]] = {}

    def emit(self, operator: str, *inputs: Term | None, dtype: str | None = None, **attributes: Any) -> Term:
        """Adds an operator.

        Args:
            operator: Name in ONNX's default domain.
            *inputs: Its operands; None leaves an optional one out.
            dtype: Type of the result, that of the first operand by default.
            **attributes: Its attributes.

        Returns:
            Its only output.
        """
        if dtype is None:
            first = next(term for term in inputs if term is not None)
            dtype = first.dtype
        output = Term(self._new_name(operator), dtype)
        names = [term.name if term is not None else "" for term in inputs]
        self.nodes.append(helper.make_node(operator, names, [output.name], name=output.name, **attributes))
        return output

    def constant(self, values: Any, dtype: str = "int64", name: str = "constant") -> Term:
        """A constant; equal ones are stored once.

        Args:
            values: Integers of any shape.
            dtype: Type that it is stored in.
            name: What it is called, after the scope.

        Raises:
            ValueError: The type does not hold them.
        """
        given = np.asarray(values)
        array = given.astype(dtype, order="C")
        if not np.array_equal(array.astype(given.dtype), given):
            raise ValueError(f"got numbers from {given.min()} to {given.max()}, expected ones that {dtype} holds")
        key = (dtype, array.shape, array.tobytes())
        if key not in self._constants:
            term = Term(self._new_name(name), dtype)
            self._constants[key] = term
            self.initializers[term.name] = numpy_helper.from_array(array, term.name)
        return self._constants[key]

    def cast(self, x: Term, dtype: str) -> Term:
        """``x`` in another type; its integers must fit."""
        if x.dtype == dtype:
            return x
        key = (x.name, dtype)
        if key not in self._casts:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            self._casts[key] = self.emit("Cast", x, dtype=dtype, to=kind)
        return self._casts[key]

    def wide(self, x: Term) -> Term:
        """``x`` in int64."""
        return self.cast(x, "int64")

    def add(self, x: Term, values: Any) -> Term:
        """``x`` plus integers; nothing is written where all are 0."""
        return self.emit("Add", x, self.constant(values, x.dtype)) if np.any(values) else x

    def centred(self, x: Term, zero_point: int) -> Term:
        """``x - zero_point`` in int64."""
        return self.add(self.wide(x), -zero_point)

    def multiplied(self, x: Term, values: Any) -> Term:
        """``x`` times integers."""
        return self.emit("Mul", x, self.constant(values, x.dtype))

    def clamped(self, x: Term, low: int, high: int) -> Term:
        """``x``, at least ``low`` and at most ``high``; limits beyond the type of ``x`` change nothing."""
        limits = np.iinfo(x.dtype)
        least, most = (self.constant(min(max(limit, limits.min), limits.max), x.dtype) for limit in (low, high))
        if x.dtype != "int64":
            return self.emit("Clip", x, least, most)
        raised = self.emit("Where", self.emit("Less", x, least, dtype="bool"), least, x, dtype=x.dtype)
        return self.emit("Where", self.emit("Greater", raised, most, dtype="bool"), most, raised, dtype=x.dtype)

    def at_least_one(self, x: Term) -> Term:
        """``x``, or 1 where it is 0; ``x`` is not negative."""
        return self.emit("Add", x, self.wide(self.emit("Equal", x, self.constant(0), dtype="bool")))

    def row_sum(self, x: Term, length: int) -> Term:
        """Exact sum over the last dimension, which stays with length 1."""
        return self.emit("MatMul", x, self.constant(np.ones((length, 1)), name="ones"))

    def row_maximum(self, x: Term) -> Term:
        """Largest number of the last dimension, which stays with length 1."""
        if x.dtype != "int64":
            return self.emit("ReduceMax", x, self.constant([-1]), keepdims=1)
        largest = self.emit("TopK", x, self.constant([1]), sorted=0)
        self.nodes[-1].output.append(self._new_name("TopK/indices"))
        return largest

    def rounded_shift(self, x: Term, shift: Any) -> Term:
        """``x / 2^shift``, rounded half away from zero, in int64: ``(x + 2^(shift-1) - (x < 0)) >> shift``.

        ONNX shifts unsigned integers only: numbers are moved up by 2^63 in uint64 and back after the shift.
        """
        places = np.asarray(shift, np.uint64)
        one = np.uint64(1)
        bits = self.cast(self.wide(x), "uint64")
        below_zero = self.emit("BitShift", bits, self.constant(63, "uint64"), direction="RIGHT")
        moved = self.emit("Add", bits, self.constant((one << np.uint64(63)) + (one << (places - one)), "uint64"))
        moved = self.emit("Sub", moved, below_zero)
        shifted = self.emit("BitShift", moved, self.constant(places, "uint64"), direction="RIGHT")
        return self.add(self.cast(shifted, "int64"), -np.left_shift(np.int64(1), 63 - np.asarray(shift, np.int64)))

    def rounded_division(self, numerator: Term, denominator: Term, *, signed: bool = True) -> Term:
        """``numerator / denominator``, rounded half away from zero.

        Args:
            numerator: Integers; not negative ones unless ``signed``.
            denominator: Positive integers.
            signed: Whether the numerator may be negative.
        """
        half = self.emit("Div", denominator, self.constant(2))
        if signed:  # Division truncates, so half of the divisor is added away from zero first.
            negative = self.emit("Less", numerator, self.constant(0), dtype="bool")
            half = self.emit("Where", negative, self.multiplied(half, -1), half, dtype="int64")
        return self.emit("Div", self.emit("Add", numerator, half), denominator)

    def square_root(self, x: Term) -> Term:
        """Floor of the square root, exactly: float64's root is at most 1 off."""
        root = self.wide(self.emit("Floor", self.emit("Sqrt", self.cast(x, "float64"))))
        too_large = self.emit("Greater", self.emit("Mul", root, root), x, dtype="bool")
        root = self.emit("Sub", root, self.wide(too_large))
        # (root + 1)^2 <= x, written so that it stays in int64.
        rest = self.emit("Sub", x, self.emit("Mul", root, root))
        too_small = self.emit("Greater", rest, self.multiplied(root, 2), dtype="bool")
        return self.emit("Add", root, self.wide(too_small))

    def finished(
        self,
        x: Term,
        *,
        bound: int,
        multiplier: Any,
        shift: Any,
        zero_point: int,
        low: int,
        high: int,
        axis: int | None = None,
        rank: int = 0,
    ) -> Term:
        """``clamp(round(x * multiplier / 2^shift) + zero_point)``: the end of most ops.

        Args:
            x: What was summed up.
            bound: No magnitude in ``x`` is larger.
            multiplier: One number, or one for each index of ``axis``.
            shift: Likewise.
            zero_point: Integer that stands for 0.
            low: Smallest result.
            high: Largest result.
            axis: Dimension of the channels.
            rank: Number of dimensions of ``x``, needed with an axis.
        """
        scaled = self.multiplied(self.wide(x), along(multiplier, axis, rank))
        rounded = self.rounded_shift(scaled, along(shift, axis, rank))
        return self.offset_and_clamped(rounded, zero_point, low, high, scaled_bound(bound, multiplier, shift))

    def offset_and_clamped(self, x: Term, zero_point: int, low: int, high: int, bound: int = 2**63) -> Term:
        """``clamp(x + zero_point, low, high)``, in int32 where ``bound``, the largest magnitude in ``x``, allows it."""
        return self.clamped(self.add(self.narrowed(x, bound + abs(zero_point)), zero_point), low, high)

    def narrowed(self, x: Term, bound: int) -> Term:
        """``x`` in int32 if no magnitude is larger than a ``bound`` that int32 holds, as it is otherwise."""
        return self.cast(x, "int32") if bound < 2**31 else x

    def unsigned(self, x: Term) -> tuple[Term, int]:
        """8-bit integers as uint8, and what was added: ONNX Runtime multiplies these exactly on every processor."""
        if x.dtype == "uint8":
            return x, 0
        if x.name not in self._unsigned:
            self._unsigned[x.name] = self.cast(self.add(self.cast(x, "int32"), 128), "uint8"), 128
        return self._unsigned[x.name]

    def sliced(self, x: Term, axis: int, start: int, stop: int | None, step: int = 1) -> Term:
        """``x[start:stop:step]`` along one dimension, as Python slices."""
        limits = np.iinfo(np.int64)
        end = (limits.max if step > 0 else limits.min) if stop is None else stop
        return self.emit("Slice", x, *(self.constant([number]) for number in (start, end, axis, step)))

    def padded(self, x: Term, widths: Sequence[Sequence[int]], value: int) -> Term:
        """``value`` added ``(before, after)`` each dimension; 16-bit integers come out as int32.

        So do narrower ones that do not hold ``value``.
        """
        if not np.any(widths):
            return x
        # ONNX Runtime pads no 16-bit tensors.
        if x.dtype in ("int16", "uint16") or (x.dtype in ("int8", "uint8") and not _holds(x.dtype, value)):
            x = self.cast(x, "int32")
        amounts = [before for before, _ in widths] + [after for _, after in widths]
        return self.emit("Pad", x, self.constant(amounts), self.constant(value, x.dtype))

    def length(self, dimension: Dimension) -> Term:
        """A dimension as a tensor of one number, read off the graph's inputs where it grows with the batch."""
        if not isinstance(dimension, BatchMultiple):
            return self.constant([dimension])
        for name in self.graph.inputs:
            value = self.graph.values[name]
            for axis, own in enumerate(value.shape):
                if isinstance(own, BatchMultiple):
                    shape = self.emit("Shape", Term(name, value.dtype), dtype="int64", start=axis, end=axis + 1)
                    batch = shape if own.factor == 1 else self.emit("Div", shape, self.constant([own.factor]))
                    return batch if dimension.factor == 1 else self.multiplied(batch, [dimension.factor])
        return self.constant([dimension.factor * self.graph.batch])

    def name_output(self, x: Term, name: str) -> None:
        """Calls the last result ``name``; a result that is an operand too is copied."""
        last = self.nodes[-1] if self.nodes else None
        fresh = last is not None and last.output[0] == x.name and x.name not in self.graph.values
        if last is None or not fresh:
            self.emit("Identity", x)
            last = self.nodes[-1]
        old = last.output[0]
        last.output[0] = name
        self._casts = {key: term for key, term in self._casts.items() if old not in (key[0], term.name)}

    def _new_name(self, name: str) -> str:
        base = f"{self.scope}/{name}" if self.scope else name
        new, number = base, 1
        while new in self._names:
            number += 1
            new = f"{base}_{number}"
        self._names.add(new)
        return new


def along(values: Any, axis: int | None, rank: int) -> np.ndarray:
    """Numbers for each index of an axis, shaped so that they broadcast; a single number as it is.

    Example:
        >>> along([1, 2, 3], 1, 4).shape, along([7], None, 4).shape
        ((3, 1, 1), ())
    """
    array = np.asarray(values, np.int64)
    if array.size == 1:
        return array.reshape(())
    if axis is None:
        raise ValueError(f"got shape {array.shape} without an axis, expected one number")
    return array.reshape(-1, *(1,) * (rank - 1 - axis % rank))


def _holds(dtype: str, number: int) -> bool:
    limits = np.iinfo(dtype)
    return int(limits.min) <= number <= int(limits.max)


def code_bound(x: Term, zero_point: int = 0) -> int:
    """The largest magnitude that ``x - zero_point`` can have.

    Example:
        >>> code_bound(Term("x", "uint8"), 100)
        155
    """
    limits = np.iinfo(x.dtype)
    return max(abs(int(limits.min) - zero_point), abs(int(limits.max) - zero_point))


def scaled_bound(bound: int, multiplier: Any, shift: Any, offset: Any = 0) -> int:
    """The largest magnitude of ``round((x * multiplier + offset) / 2^shift)`` for ``x`` up to ``bound``.

    Example:
        >>> scaled_bound(100, [1 << 30, -(1 << 31)], [31, 31])
        101
    """
    arrays = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(values, np.int64)) for values in (multiplier, shift, offset))
    )
    channels = zip(*(array.tolist() for array in arrays), strict=True)
    return max(((bound * abs(factor) + abs(addend)) >> places) + 1 for factor, places, addend in channels)
