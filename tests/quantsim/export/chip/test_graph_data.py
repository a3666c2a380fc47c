from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantsim.dualpath.integer_graph import BatchMultiple, Grid, IntegerGraph, IntegerNode, IntegerOp, Value
from quantsim.errors import ConfigurationError
from quantsim.export.chip import MemoryTiling, nn2chip
from quantsim.export.chip.graph_data import (
    constant_layout,
    graph_of,
    plain_attribute,
    stored_constant,
    value_layout,
)


def assert_same(left: IntegerGraph, right: IntegerGraph) -> None:
    assert (left.inputs, left.outputs) == (right.inputs, right.outputs)
    assert set(left.values) == set(right.values)
    for name, value in left.values.items():
        other = right.values[name]
        assert (value.shape, value.dtype) == (other.shape, other.dtype)
        if value.grid is None:
            assert other.grid is None
        else:
            assert other.grid is not None
            np.testing.assert_array_equal(value.grid.scale, other.grid.scale)
            assert replace(value.grid, scale=0.0) == replace(other.grid, scale=0.0)
    for node, other in zip(left.nodes, right.nodes, strict=True):
        assert replace(node, constants={}, attributes={}) == replace(other, constants={}, attributes={})
        assert tuples(node.attributes) == tuples(other.attributes)
        assert set(node.constants) == set(other.constants)
        for key, array in node.constants.items():
            assert (np.asarray(array).dtype, np.shape(array)) == (
                other.constants[key].dtype,
                other.constants[key].shape,
            )
            np.testing.assert_array_equal(array, other.constants[key])


def tuples(item: object) -> object:
    if isinstance(item, Mapping):
        return {key: tuples(value) for key, value in item.items()}
    return tuple(tuples(each) for each in item) if isinstance(item, list | tuple) else item


def test_graphs_of_every_op_come_back(
    graphs: dict[str, Callable[[], IntegerGraph]], random_inputs: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    for number, make in enumerate(graphs.values()):
        graph = make()
        chip = nn2chip(graph, tmp_path / str(number), random_inputs(graph), formats=(), onnx=False)
        assert_same(chip.graph, graph)
        assert chip.graph.batch in (graph.batch, 3)


def test_a_scale_for_each_channel_comes_back_exactly(tmp_path: Path) -> None:
    scale = np.array([0.1, np.float32(0.1), 1e-30, 3.0], np.float64)
    grid = Grid(scale, 3, -128, 127, axis=1)
    graph = IntegerGraph(
        (IntegerNode("relu", IntegerOp.CLAMP, ("x",), "y", attributes={"low": 0, "high": 127}),),
        {name: Value(name, (BatchMultiple(2), 4), "int8", grid) for name in ("x", "y")},
        ("x",),
        ("y",),
    )
    chip = nn2chip(graph, tmp_path / "chip", {"x": np.zeros((6, 4), np.int8)}, onnx=False)
    assert_same(chip.graph, graph)
    assert chip.manifest.batch == 3


def test_constants_take_the_narrowest_type() -> None:
    assert stored_constant(np.array([-(2**31)])).dtype == np.int32
    assert stored_constant(np.array([2**31])).dtype == np.int64
    assert stored_constant(np.zeros(3, np.int8)).dtype == np.int8
    assert stored_constant(np.array(5)).shape == ()
    assert stored_constant(np.zeros((4, 6), np.int8).T).flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    ("name", "array", "bits", "signed"),
    [
        ("weight", np.array([[-8, 7]], np.int8), 4, True),
        ("weight", np.array([[-9, 7]], np.int8), 8, True),
        ("weight", np.array([[-1, 1]], np.int8), 2, True),
        ("bias", np.array([1], np.int32), 32, True),
        ("multiplier", np.array([2**31 - 1]), 32, True),
        ("multiplier", np.array([0]), 8, True),
        ("shift", np.array([62]), 8, False),
        ("offset", np.array([2**40]), 64, True),
    ],
)
def test_bits_of_constants(name: str, array: np.ndarray, bits: int, signed: bool) -> None:
    node = IntegerNode("fc", IntegerOp.LINEAR, ("x",), "y", constants={name: array})
    layout = constant_layout(node, name, MemoryTiling())
    assert (layout.bits, layout.signed) == (bits, signed)


def test_bits_of_weights_can_be_chosen() -> None:
    node = IntegerNode("fc", IntegerOp.LINEAR, ("x",), "y", constants={"weight": np.array([[-9, 7]], np.int8)})
    assert constant_layout(node, "weight", MemoryTiling(weight_bits=16)).bits == 16
    with pytest.raises(ConfigurationError, match=r"node 'fc': weights do not fit .* got weights from -9 to 7"):
        constant_layout(node, "weight", MemoryTiling(weight_bits=4))


def test_bits_of_vectors() -> None:
    tiling = MemoryTiling()
    values = [
        (Value("m", (4,), "bool"), 1, False),
        (Value("i", (4,), "int64"), 64, True),
        (Value("a", (4,), "uint8", Grid(0.1, 0, 0, 15)), 4, False),
        (Value("b", (4,), "int8", Grid(0.1, 0, -128, 127)), 8, True),
        (Value("c", (4,), "int16", Grid(0.1, 0, -32768, 32767)), 16, True),
    ]
    for value, bits, signed in values:
        layout = value_layout(value, (4,), tiling)
        assert (layout.bits, layout.signed) == (bits, signed)


def test_attributes_that_are_no_integers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"got 0\.5"):
        plain_attribute((1, 0.5))


def test_a_manifest_without_its_constants(block: IntegerGraph, tmp_path: Path) -> None:
    x = {"image": np.zeros((1, 4, 6, 6), np.uint8)}
    manifest = nn2chip(block, tmp_path / "chip", x, formats=(), onnx=False).manifest
    with pytest.raises(ConfigurationError, match=r"node 'block.conv', weight: .*got none"):
        graph_of(manifest, {})
