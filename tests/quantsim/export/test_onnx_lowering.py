"""Stand-ins become operators, or go away without a trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

ir = pytest.importorskip("onnx_ir")

from quantsim.export.onnx_grids import Arithmetic, OnnxGrid  # noqa: E402
from quantsim.export.onnx_lowering import find_stand_ins, give_names, lower, take_out  # noqa: E402
from quantsim.export.onnx_placeholders import stand_ins  # noqa: E402
from quantsim.sim import QuantizationSimModel  # noqa: E402

TEXT = """
<ir_version: 10, opset_import: ["" : 21, "quantsim" : 1]>
g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}> {
    a = quantsim.QuantizeDequantize<quantizer = 0>(x)
    b = quantsim.QuantizeDequantize<quantizer = 1>(a)
    c = quantsim.QuantizeDequantize<quantizer = 2>(w)
    d = quantsim.Enter<quantizer = 3>(b)
    e = Neg(d)
    f = quantsim.Leave<quantizer = 3>(e)
    h = quantsim.QuantizeDequantize<quantizer = 4>(x)
    i = Add(f, c)
    y = Add(i, h)
}
"""


def model_of(text: str) -> Any:
    model = ir.from_onnx_text(text)
    for node in model.graph:
        for value in node.outputs:
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([4])
    return model


def grid(scale: float, data_type: str = "INT8") -> OnnxGrid:
    return OnnxGrid(Arithmetic.INTEGER, data_type, np.array(scale, np.float32), np.array(0, np.int64))


def test_sources_and_names() -> None:
    graph = model_of(TEXT).graph
    found = find_stand_ins(graph)
    assert [(each.key, each.source.name, each.is_constant) for each in found] == [
        (0, "x", False),
        (1, "x", False),
        (2, "w", True),
        (3, "x", False),
        (4, "x", False),
    ]
    assert found[3].leave is not None
    give_names(graph, found, {0: "first", 1: "second", 2: "weight", 3: "third", 4: "first"})
    assert [each.name for each in found] == ["x", "x_again", "w", "x_again_1", "x"]


def test_take_out_leaves_the_float_graph() -> None:
    model = model_of(TEXT)
    take_out(model)
    assert [(node.op_type, [value.name for value in node.inputs]) for node in model.graph] == [
        ("Add", ["x", "w"]),
        ("Add", ["i", "x"]),
    ]
    assert "quantsim" not in model.graph.opset_imports


def test_lower_merges_equal_quantizers_and_stores_constants() -> None:
    graph = model_of(TEXT).graph
    found = find_stand_ins(graph)
    encodings = {0: "first", 1: "second", 2: "weight", 3: "third", 4: "first"}
    give_names(graph, found, encodings)
    places = {number: f"place {number}" for number in range(5)}
    grids = {0: grid(0.5), 1: grid(0.25), 2: grid(1.0, "INT4"), 4: grid(0.5)}
    lower(graph, found, grids, encodings, places, unsigned_weights=False)
    operators = [node.op_type for node in graph]
    assert operators.count("QuantizeLinear") == 2  # keys 0 and 4 are one
    assert operators.count("DequantizeLinear") == 3
    assert "w" not in graph.initializers
    codes = graph.initializers["w_q"].const_value
    assert codes.dtype is ir.DataType.INT4
    assert codes.numpy().astype(int).tolist() == [1, 2, 3, 4]


def test_stand_ins_are_taken_back_after_an_error() -> None:
    sim = QuantizationSimModel(nn.Sequential(nn.Linear(4, 4)).eval(), torch.zeros(1, 4), config="w8a8")
    keys = {quantizer: number for number, (_, quantizer) in enumerate(sim.quantizers())}
    with pytest.raises(KeyError), stand_ins(sim.model, keys, ()):
        assert all("forward" in quantizer.__dict__ for quantizer in keys)
        raise KeyError
    assert not any("forward" in module.__dict__ for module in sim.model.modules())
