"""Files of an export appear whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")

from quantsim.export import onnx_files  # noqa: E402
from quantsim.export.onnx_files import OnnxFiles, constant_bytes  # noqa: E402


def graph() -> Any:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[512] x) => (float[512] y) { y = Neg(x) }"""
    )
    name = "w"
    value = ir.Value(name=name, const_value=ir.tensor(np.arange(512, dtype=np.float32), name=name))
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([512])
    model.graph.register_initializer(value)
    node = ir.node("Add", [model.graph.inputs[0], value])
    model.graph.insert_before(next(iter(model.graph)), node)
    next(each for each in model.graph if each.op_type == "Neg").replace_input_with(0, node.outputs[0])
    return model


def test_nothing_is_there_before_commit(tmp_path: Path) -> None:
    files = OnnxFiles(tmp_path / "new" / "a.onnx")
    files.graph(graph(), "a.onnx")
    assert not files.target.exists()
    sizes = files.commit()
    files.discard()
    assert sizes == {"a.onnx": files.target.stat().st_size}
    assert [path.name for path in files.target.parent.iterdir()] == ["a.onnx"]


def test_large_constants_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "LARGEST_FILE", 1000)
    model = graph()
    assert constant_bytes(model) == 2048
    files = OnnxFiles(tmp_path / "a.onnx")
    files.graph(model, "a.onnx")
    files.commit()
    files.discard()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data"]
    loaded = onnx.load(str(tmp_path / "a.onnx"))
    assert np.array_equal(onnx.numpy_helper.to_array(loaded.graph.initializer[0]), np.arange(512, dtype=np.float32))


def test_graphs_are_checked(tmp_path: Path) -> None:
    model = graph()
    next(iter(model.graph)).op_type = "Unheard"
    files = OnnxFiles(tmp_path / "a.onnx")
    with pytest.raises(onnx.checker.ValidationError, match="Unheard"):
        files.graph(model, "a.onnx")
    files.discard()
    assert not list(tmp_path.iterdir())
