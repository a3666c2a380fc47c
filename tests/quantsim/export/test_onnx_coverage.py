"""Tensors of a graph are sorted by what is known of their numbers."""

from __future__ import annotations

import pytest

ir = pytest.importorskip("onnx_ir")

from quantsim.export.onnx_coverage import GraphTensor, graph_coverage  # noqa: E402

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
agraph (float[2,4] x, float[2,4] y) => (float[4,2] z, float[2,4] s)
<float[4,4] w = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}, float[4] b = {0,0,0,0}>
{
    m = MatMul(x, w)
    a = Add(m, b)
    t = Transpose(a)
    z = Relu(t)
    e = Identity(y)
    s = Sqrt(e)
}
"""


def test_groups() -> None:
    model = ir.from_onnx_text(TEXT)
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(
            ["", "fc", "op"] if node.op_type in ("MatMul", "Add") else ["", "op"]
        )
        for value in node.outputs:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    coverage = graph_coverage(model.graph, {"x", "w", "a", "e"}, {"fc"})
    assert coverage.encoded == ("x", "w", "a", "e")
    assert coverage.carried == ("y", "t")  # y goes nowhere but into e; t holds elements of a; m is inside of fc
    assert coverage.small == ("b",)
    assert coverage.missing == (GraphTensor("z", "Relu", ""), GraphTensor("s", "Sqrt", ""))
    assert "2 without" in str(coverage)
