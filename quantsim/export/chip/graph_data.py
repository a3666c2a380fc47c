"""Integer graphs as plain data and arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from quantsim.dualpath.integer_graph import (
    BatchMultiple,
    Dimension,
    Grid,
    IntegerGraph,
    IntegerNode,
    IntegerOp,
    Value,
)
from quantsim.errors import ConfigurationError
from quantsim.export.chip.manifest import BatchLength, ChipGrid, ChipManifest, Length
from quantsim.export.chip.memory_layout import MemoryLayout, MemoryTiling, narrowest_bits

__all__ = [
    "constant_layout",
    "graph_of",
    "plain_attribute",
    "plain_grid",
    "plain_shape",
    "stored_constant",
    "value_layout",
]

_UNSIGNED: Final = frozenset({"shift", "indices", "table", "exponential_high", "exponential_low"})
"""Constants that are unsigned in memory where none of their numbers is negative."""


def stored_constant(array: np.ndarray) -> np.ndarray:
    """A constant in the type of its file: int64 becomes int32 where that holds it.

    Example:
        >>> stored_constant(np.array([1 << 30])).dtype, stored_constant(np.array([1 << 40])).dtype
        (dtype('int32'), dtype('int64'))
    """
    array = np.asarray(array)
    if array.dtype == np.int64 and array.size:
        limits = np.iinfo(np.int32)
        if limits.min <= int(array.min()) and int(array.max()) <= limits.max:
            array = array.astype(np.int32)
    return np.array(array, order="C")


def constant_layout(node: IntegerNode, name: str, tiling: MemoryTiling) -> MemoryLayout:
    """How a constant of a node lies in memory.

    Weights of layers take as few bits as hold them; biases and all else that has a narrow type keep its width; numbers
    of 64 bits take as few of 8, 16, 32 as hold them.
    """
    array = np.asarray(node.constants[name])
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if name == "weight" and node.op in (IntegerOp.LINEAR, IntegerOp.CONVOLUTION):
        bits = narrowest_bits(low, high, signed=True, at_least=2)
        if tiling.weight_bits is not None:
            if bits > tiling.weight_bits:
                raise ConfigurationError(
                    "weights do not fit the memory's bits",
                    where=f"node '{node.name}'",
                    got=f"weights from {low} to {high}",
                    expected=f"{tiling.weight_bits} bits",
                    fix="leave weight_bits out, or quantize the weights to fewer bits",
                )
            bits = tiling.weight_bits
        return tiling.of_weights(array.shape, bits)
    if array.dtype == np.int64:
        signed = low < 0 or name not in _UNSIGNED
        return tiling.of_rows(array.shape, narrowest_bits(low, high, signed=signed, at_least=8), signed=signed)
    return tiling.of_rows(array.shape, 8 * array.dtype.itemsize, signed=array.dtype.kind == "i")


def value_layout(value: Value, shape: Sequence[int], tiling: MemoryTiling) -> MemoryLayout:
    """How the test vector of a value lies in memory: in as few bits as hold its grid."""
    if value.dtype == "bool":
        return tiling.of_rows(shape, 1, signed=False)
    limits = np.iinfo(value.dtype)
    signed = limits.min < 0
    low, high = int(limits.min), int(limits.max)
    if value.grid is not None:
        low, high = max(low, value.grid.low), min(high, value.grid.high)
    return tiling.of_rows(shape, narrowest_bits(low, high, signed=signed), signed=signed)


# ---------------------------------------------------------------- to plain data


def plain_shape(shape: Sequence[Dimension]) -> tuple[Length, ...]:
    """The lengths of a value as the manifest writes them."""
    return tuple(BatchLength(batch=item.factor) if isinstance(item, BatchMultiple) else int(item) for item in shape)


def plain_attribute(attribute: Any) -> Any:
    """An attribute of a node as JSON writes it; lengths that grow with the batch are ``{"batch": factor}``.

    Example:
        >>> plain_attribute((BatchMultiple(2), np.int64(3), None))
        [{'batch': 2}, 3, None]
    """
    if isinstance(attribute, BatchMultiple):
        return {"batch": attribute.factor}
    if attribute is None or isinstance(attribute, bool | str):
        return attribute
    if isinstance(attribute, np.bool_):
        return bool(attribute)
    if isinstance(attribute, int | np.integer):
        return int(attribute)
    if isinstance(attribute, Sequence | np.ndarray):
        return [plain_attribute(item) for item in attribute]
    raise ConfigurationError(
        "an attribute is no integer", where="nn2chip", got=f"{attribute!r}", expected="integers, names, lengths"
    )


def plain_grid(grid: Grid | None) -> ChipGrid | None:
    """A grid as the manifest writes it."""
    if grid is None:
        return None
    scale = np.asarray(grid.scale, np.float64)
    return ChipGrid(
        scale=scale.item() if grid.axis is None else tuple(scale.reshape(-1).tolist()),
        zero_point=int(grid.zero_point),
        low=int(grid.low),
        high=int(grid.high),
        axis=grid.axis,
    )


# ---------------------------------------------------------------- and back


def graph_of(manifest: ChipManifest, tensors: Mapping[str, np.ndarray]) -> IntegerGraph:
    """The graph that a manifest describes.

    Args:
        manifest: Of the folder.
        tensors: Constants by the names that the manifest gives them.

    Raises:
        ConfigurationError: A constant is missing, or is another one.
    """
    nodes = tuple(
        IntegerNode(
            name=node.name,
            op=node.op,
            inputs=node.inputs,
            output=node.output,
            constants={
                key: _constant(node.name, key, constant.tensor, constant.dtype, constant.memory.layout.shape, tensors)
                for key, constant in node.constants.items()
            },
            attributes={key: _attribute(value) for key, value in node.attributes.items()},
            module=node.module,
        )
        for node in manifest.nodes
    )
    values = {
        value.name: Value(value.name, tuple(_length(item) for item in value.shape), value.dtype, _grid(value.grid))
        for value in manifest.values
    }
    return IntegerGraph(nodes, values, manifest.inputs, manifest.outputs, manifest.batch)


def _constant(
    node: str, key: str, tensor: str, dtype: str, shape: tuple[int, ...], tensors: Mapping[str, np.ndarray]
) -> np.ndarray:
    found = tensors.get(tensor)
    if found is None or found.shape != shape:
        raise ConfigurationError(
            "a constant is not the one that the manifest describes",
            where=f"node '{node}', {key}",
            got="none" if found is None else f"shape {found.shape}",
            expected=f"shape {shape}",
        )
    return found.astype(dtype)


def _grid(grid: ChipGrid | None) -> Grid | None:
    if grid is None:
        return None
    scale = grid.scale if isinstance(grid.scale, float) else np.array(grid.scale, np.float64)
    return Grid(scale, grid.zero_point, grid.low, grid.high, grid.axis)


def _length(item: Length) -> Dimension:
    return item if isinstance(item, int) else BatchMultiple(item.batch)


def _attribute(attribute: Any) -> Any:
    if isinstance(attribute, dict):
        return BatchMultiple(attribute["batch"])
    if isinstance(attribute, list):
        return tuple(_attribute(item) for item in attribute)
    return attribute
