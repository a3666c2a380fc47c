from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quantsim.dualpath.integer_graph import BatchMultiple, Grid, IntegerGraph, IntegerNode, IntegerOp, Value
from quantsim.dualpath.integer_onnx import OPSET, integer_onnx_model
from quantsim.errors import ConfigurationError

onnx = pytest.importorskip("onnx")


def layer(dtype: str = "int8", weight_type: type = np.int8) -> IntegerGraph:
    node = IntegerNode(
        "encoder.fc",
        IntegerOp.LINEAR,
        ("x",),
        "y",
        constants={
            "weight": np.array([[1, -128], [127, 4]], weight_type),
            "bias": np.array([3, -4], np.int32),
            "multiplier": np.array(1 << 30),
            "shift": np.array(35),
        },
        attributes={"zero_point": 0, "low": -128, "high": 127},
    )
    limits = np.iinfo(dtype)
    grid = Grid(0.5, 3, int(limits.min), int(limits.max))
    values = {name: Value(name, (BatchMultiple(2), 2), kind, grid) for name, kind in (("x", dtype), ("y", "int8"))}
    return IntegerGraph((node,), values, ("x",), ("y",), batch=1)


def test_the_model_is_valid_and_keeps_names_types_and_the_batch() -> None:
    model = integer_onnx_model(layer())
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == OPSET >= 21
    described = {item.name: item.type.tensor_type for item in (*model.graph.input, *model.graph.output)}
    assert list(described) == ["x", "y"]
    for tensor in described.values():
        assert tensor.elem_type == onnx.TensorProto.INT8
        assert [dimension.dim_param or dimension.dim_value for dimension in tensor.shape.dim] == ["2*batch", 2]
    assert all(node.name.startswith("encoder.fc/") for node in model.graph.node)


def test_products_are_of_unsigned_bytes() -> None:
    model = integer_onnx_model(layer())
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    product = next(node for node in model.graph.node if node.op_type == "MatMulInteger")
    weight, x_point, weight_point = (arrays[product.input[index]] for index in (1, 2, 3))
    assert weight.dtype == x_point.dtype == weight_point.dtype == np.uint8
    np.testing.assert_array_equal(weight, [[129, 255], [0, 132]])
    assert (x_point, weight_point) == (128, 128)


def test_inexact_operators_are_not_written_on_int64() -> None:
    inferred = onnx.shape_inference.infer_shapes(integer_onnx_model(layer()), strict_mode=True)
    types = {item.name: item.type.tensor_type.elem_type for item in inferred.graph.value_info}
    for node in inferred.graph.node:
        if node.op_type in ("Clip", "Sign", "Max", "Min", "ReduceMax"):
            assert types[node.input[0]] != onnx.TensorProto.INT64


def test_grids_are_in_the_metadata() -> None:
    metadata = {item.key: json.loads(item.value) for item in integer_onnx_model(layer()).metadata_props}
    assert metadata["quantsim.grid.y"] == {"scale": 0.5, "zero_point": 3, "low": -128, "high": 127, "axis": None}
    assert set(metadata) == {"quantsim.grid.x", "quantsim.grid.y"}


def test_equal_constants_are_stored_once() -> None:
    once = layer()
    node = once.nodes[0]
    twice = replace(
        once,
        nodes=(node, replace(node, name="again", inputs=("y",), output="z")),
        values={**once.values, "z": replace(once.values["y"], name="z")},
        outputs=("z",),
    )
    constants = [len(integer_onnx_model(graph).graph.initializer) for graph in (once, twice)]
    assert constants[0] == constants[1]


def test_what_onnx_cannot_hold_names_the_node() -> None:
    sizes: dict[str, Any] = {"stride": (1,), "padding": ((0, 0),), "dilation": (1,), "groups": 1}
    node = IntegerNode(
        "stem",
        IntegerOp.CONVOLUTION,
        ("x",),
        "y",
        constants={"weight": np.ones((1, 1, 1), np.int8), "bias": np.zeros(1, np.int32)},
        attributes=sizes,
    )
    values = {name: Value(name, (1, 1, 4), "int32") for name in ("x", "y")}
    with pytest.raises(ConfigurationError, match=r"node 'stem' \(convolution\) in ONNX: got a convolution of int32"):
        integer_onnx_model(IntegerGraph((node,), values, ("x",), ("y",)))


def test_a_padding_that_the_type_does_not_hold() -> None:
    runtime = pytest.importorskip("onnxruntime")
    widths: dict[str, Any] = {"widths": ((0, 0), (0, 1)), "value": -5}
    pad = IntegerNode("pad", IntegerOp.PAD, ("x",), "y", attributes=widths)
    values = {"x": Value("x", (1, 2), "uint8"), "y": Value("y", (1, 3), "int16")}
    session = runtime.InferenceSession(
        integer_onnx_model(IntegerGraph((pad,), values, ("x",), ("y",))).SerializeToString()
    )
    np.testing.assert_array_equal(session.run(None, {"x": np.array([[1, 255]], np.uint8)})[0], [[1, 255, -5]])
    sizes: dict[str, Any] = {"stride": (1,), "padding": ((1, 0),), "dilation": (1,), "zero_point_in": -5}
    constants = {"weight": np.ones((1, 1, 1), np.int8), "bias": np.zeros(1, np.int32)}
    stem = IntegerNode("stem", IntegerOp.CONVOLUTION, ("x",), "y", constants=constants, attributes=sizes)
    values = {"x": Value("x", (1, 1, 4), "uint8"), "y": Value("y", (1, 1, 5), "int32")}
    with pytest.raises(ConfigurationError, match=r"node 'stem'.*got zero_point_in -5, expected one that uint8 holds"):
        integer_onnx_model(IntegerGraph((stem,), values, ("x",), ("y",)))


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigurationError, match=r"onnx is not installed.*quantsim\[onnx\]"):
        integer_onnx_model(layer())


@pytest.mark.parametrize(("dtype", "weight_type"), [("int32", np.int8), ("int8", np.int16)])
def test_wide_products_are_exact_too(dtype: str, weight_type: type) -> None:
    runtime = pytest.importorskip("onnxruntime")
    graph = layer(dtype, weight_type)
    if weight_type is np.int16:
        constants = dict(graph.nodes[0].constants) | {"weight": np.array([[300, -9], [2, -400]], np.int16)}
        graph = replace(graph, nodes=(replace(graph.nodes[0], constants=constants),))
    weight, bias = (graph.nodes[0].constants[key].astype(np.int64) for key in ("weight", "bias"))
    x = np.array([[-100, 100], [7, -3]], dtype)
    session = runtime.InferenceSession(integer_onnx_model(graph).SerializeToString())
    total = x.astype(np.int64) @ weight.T + bias
    expected = np.clip(np.sign(total) * ((np.abs(total) + 16) // 32), -128, 127)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)
