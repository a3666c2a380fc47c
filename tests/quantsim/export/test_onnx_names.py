"""Tensors are named after modules."""

from __future__ import annotations

import pytest

ir = pytest.importorskip("onnx_ir")

from quantsim.export.onnx_names import module_path, rename_tensors, unique_name  # noqa: E402


def test_names_follow_modules() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2] x) => (float[2] y) { a = Relu(x) b = Relu(a) c = Neg(b) y = Neg(c) }"""
    )
    scopes = ["", "encoder", "encoder.layer.0", "encoder.layer.0.dense", "op"]
    for node, depth in zip(model.graph, (5, 5, 3, 1), strict=True):
        node.metadata_props["pkg.torch.onnx.name_scopes"] = repr([*scopes[: depth - 1], "op"])
    rename_tensors(model.graph)
    assert [node.outputs[0].name for node in model.graph] == [
        "/encoder/layer.0/dense/Relu_output_0",
        "/encoder/layer.0/dense/Relu_1_output_0",
        "/encoder/Neg_output_0",
        "y",
    ]
    assert [module_path(node) for node in model.graph] == ["encoder.layer.0.dense"] * 2 + ["encoder", ""]


def test_unique_name() -> None:
    assert unique_name("a", set()) == "a"
    assert unique_name("a", {"a", "a_1"}) == "a_2"
