"""The exported graph computes what the simulation computes, stores what it should, and says what it lacks."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.export import export_onnx, read_name_map
from quantsim.quantization.affine import QuantizeDequantize
from quantsim.sim import QuantizationSimModel, preset
from quantsim_encodings import read
from quantsim_encodings.document import EncodingsVersion

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from quantsim.integrations.onnxruntime import run_onnx, session_options  # noqa: E402


def result_of(path: Path, inputs: Tensor) -> Tensor:
    return torch.from_numpy(next(iter(run_onnx(path, inputs).values())))


def initializer_types(path: Path) -> dict[str, str]:
    graph = onnx.load(str(path)).graph
    return {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def calibrated(model: nn.Module, inputs: Tensor, config: Any) -> QuantizationSimModel:
    sim = QuantizationSimModel(model, inputs, config=config)
    sim.compute_encodings([inputs])
    return sim


@pytest.mark.parametrize(
    ("config", "stored"),
    [
        ("w8a8", "INT8"),
        ("w4a16_g32", "UINT4"),
        ("fp8_e4m3", "FLOAT8E4M3FN"),
        ("fp8_e5m2", "FLOAT8E5M2"),
        ("fp16", "FLOAT16"),
        ("bf16", "BFLOAT16"),
        ("w8a8_dynamic", "UINT8"),
    ],
)
def test_graph_agrees_with_the_simulation(config: str, stored: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, inputs = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)).eval(), torch.randn(16, 64)
    sim = calibrated(model, inputs, config)
    report = export_onnx(sim, tmp_path, inputs)
    with torch.no_grad():
        expected = sim(inputs)
        floating = model(inputs)
    torch.testing.assert_close(result_of(report.path, inputs), expected, rtol=1e-5, atol=1e-5)
    assert (expected - floating).abs().max() > 1e-4  # or the test would not see quantizers
    types = initializer_types(report.path)
    assert types["0.weight_q"] == types["2.weight_q"] == stored
    assert "0.weight" not in types  # no float copy is left
    assert report.size < report.float_size or config == "w8a8_dynamic"


def test_convolutions_and_attention(tmp_path: Path, block: Any) -> None:
    report = export_onnx(block.sim, tmp_path / "block.onnx", block.inputs)
    torch.testing.assert_close(result_of(report.path, block.inputs), block.output, rtol=1e-4, atol=1e-5)
    reached = {each.place for each in report.quantizers}
    assert reached == {place for place, _ in block.sim.quantizers()}
    assert not report.unreached
    # Queries, keys and values read one tensor with one encoding: one pair in the graph.
    assert operators(report.path).count("QuantizeLinear") == len(
        {tensor for each in report.quantizers if not each.is_constant for tensor in each.tensors}
    )

    torch.manual_seed(2)
    images = torch.rand(4, 3, 8, 8)
    cnn = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 1), nn.Flatten(), nn.Linear(288, 5)).eval()
    sim = calibrated(cnn, images, "w8a8")
    report = export_onnx(sim, tmp_path / "cnn.onnx", images)
    with torch.no_grad():
        torch.testing.assert_close(result_of(report.path, images), sim(images), rtol=1e-4, atol=1e-5)


def test_quantized_outputs_of_the_model(tmp_path: Path) -> None:
    inputs = torch.randn(8, 64)
    config = preset("w8a8").model_copy(update={"activation_placement": "outputs"})
    sim = calibrated(nn.Sequential(nn.Linear(64, 10)).eval(), inputs, config)
    report = export_onnx(sim, tmp_path, inputs, output_names=["scores"], float_graph=True)
    assert [value.name for value in onnx.load(str(report.path)).graph.output] == ["scores"]
    with torch.no_grad():
        torch.testing.assert_close(result_of(report.path, inputs), sim(inputs), rtol=1e-5, atol=1e-5)


def test_torchs_exporter_says_nothing_of_its_own(tmp_path: Path, mlp: Any, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(mlp.sim, tmp_path, mlp.inputs)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_simulation_is_unchanged(tmp_path: Path, mlp: Any) -> None:
    before, state = mlp.output, {name: value.clone() for name, value in mlp.sim.state_dict().items()}
    export_onnx(mlp.sim, tmp_path, mlp.inputs)
    assert torch.equal(mlp.output, before)
    assert all(torch.equal(value, state[name]) for name, value in mlp.sim.state_dict().items())
    assert not any("forward" in module.__dict__ for module in mlp.sim.model.modules())


def test_a_failing_export_leaves_everything_as_it_was(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if float(x.sum()) > 0 else x

    inputs = torch.ones(2, 4)
    sim = calibrated(Branching().eval(), inputs, "w8a8")
    (tmp_path / "model.onnx").write_text("before")
    with pytest.raises(ConfigurationError, match="torch cannot export"):
        export_onnx(sim, tmp_path, inputs)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "before"
    assert not any("forward" in module.__dict__ for module in sim.model.modules())


def test_float_graph_computes_the_float_model(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, inputs = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)).eval(), torch.randn(16, 64)
    for config in ("w8a8", "w8a8_dynamic", "fp8_e4m3"):
        sim = calibrated(model, inputs, config)
        report = export_onnx(sim, tmp_path / f"{config}.onnx", inputs, float_graph=True)
        assert report.float_path is not None
        with torch.no_grad():
            torch.testing.assert_close(result_of(report.float_path, inputs), model(inputs), rtol=1e-5, atol=1e-6)
        assert not {"QuantizeLinear", "DequantizeLinear", "Round", "Cast"} & set(operators(report.float_path))


def test_encodings_name_the_tensors_of_the_graph_and_can_be_loaded_again(tmp_path: Path, block: Any) -> None:
    versions = [version for version in EncodingsVersion if version is not EncodingsVersion.AIMET_TORCH]
    report = export_onnx(block.sim, tmp_path, block.inputs, encodings_version=versions, float_graph=True)
    expected, model = block.output, block.sim.remove()
    assert list(report.encodings) == [version.value for version in versions]
    for path in report.encodings.values():
        named = {entry.name for entry in read(path).entries if entry.name}
        assert named == set(report.name_map)
        for graph_path in (report.path, report.float_path):
            graph = onnx.load(str(graph_path)).graph
            assert named <= {name for node in graph.node for name in (*node.input, *node.output)}
        fresh = QuantizationSimModel(model, block.inputs, config="w8a8")
        fresh.load_encodings(path, name_map=read_name_map(report.path))
        with torch.no_grad():
            torch.testing.assert_close(fresh(block.inputs), expected, rtol=1e-5, atol=1e-6)


def test_several_encodings_of_one_tensor_have_names_of_their_own(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) - self.right(x)

    inputs = torch.randn(4, 8)
    sim = calibrated(Twice().eval(), inputs, "w8a8")
    quantizer = sim.module("right").input_quantizers[0]
    assert isinstance(quantizer, QuantizeDequantize)
    quantizer.set_range(-0.5, 0.5)
    report = export_onnx(sim, tmp_path, inputs, encodings_version="1.0.0", float_graph=True)
    names = {each.place: each.tensors for each in report.quantizers}
    assert names["left.input_quantizers[0]"] == ("x",)
    assert names["right.input_quantizers[0]"] == ("x_again",)
    with torch.no_grad():
        torch.testing.assert_close(result_of(report.path, inputs), sim(inputs), rtol=1e-5, atol=1e-6)


def test_grids_narrower_than_their_type(tmp_path: Path) -> None:
    inputs = torch.randn(32, 16) * 3
    grids = ((0, 31, False), (-127, 127, True), (0, 2, False), (-512, 511, True))
    sim = calibrated(nn.Sequential(*(nn.Linear(16, 16) for _ in grids)).eval(), inputs, "w8a8")
    for index, (qmin, qmax, symmetric) in enumerate(grids):
        quantizer = QuantizeDequantize((), qmin, qmax, symmetric)
        quantizer.set_range(-0.5, 0.5)
        sim.module(str(index)).input_quantizers[0] = quantizer
    report = export_onnx(sim, tmp_path, inputs)
    assert operators(report.path).count("Clip") == 4
    with torch.no_grad():
        torch.testing.assert_close(result_of(report.path, inputs), sim(inputs), rtol=1e-5, atol=1e-5)


def test_four_bit_activations_after_relu(tmp_path: Path) -> None:
    inputs = torch.randn(8, 16)
    sim = calibrated(nn.Sequential(nn.ReLU(), nn.Linear(16, 4)).eval(), inputs, "w8a8")
    quantizer = QuantizeDequantize((), 4, False)
    quantizer.set_range(0.0, 1.0)
    sim.module("1").input_quantizers[0] = quantizer
    report = export_onnx(sim, tmp_path, inputs)
    with torch.no_grad():
        expected = sim(inputs)
    for options in (session_options(), session_options(fuse=True)):
        result = torch.from_numpy(next(iter(run_onnx(report.path, inputs, options).values())))
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_batch_may_be_left_open(tmp_path: Path, mlp: Any) -> None:
    batch = torch.export.Dim("batch")
    report = export_onnx(mlp.sim, tmp_path, mlp.inputs, dynamic_shapes=({0: batch},))
    assert result_of(report.path, mlp.inputs[:3]).shape == (3, 10)


def test_unsigned_weights_are_the_same_numbers(tmp_path: Path, mlp: Any) -> None:
    report = export_onnx(mlp.sim, tmp_path, mlp.inputs, unsigned_weights=True)
    assert initializer_types(report.path)["0.weight_q"] == "UINT8"
    torch.testing.assert_close(result_of(report.path, mlp.inputs), mlp.output, rtol=1e-5, atol=1e-6)


def test_half_precision_models(tmp_path: Path) -> None:
    inputs = torch.randn(8, 64).half()
    sim = calibrated(nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)).eval().half(), inputs, "w8a8")
    report = export_onnx(sim, tmp_path, inputs)
    with torch.no_grad():
        torch.testing.assert_close(result_of(report.path, inputs), sim(inputs), rtol=2e-2, atol=2e-2)
    assert initializer_types(report.path)["0.weight_q"] == "INT8"


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.again = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            self.again.weight = self.fc.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.again(torch.relu(self.fc(x)))

    inputs = torch.randn(4, 8)
    sim = calibrated(Tied().eval(), inputs, "w8a8")
    report = export_onnx(sim, tmp_path, inputs)
    assert sum(name.endswith("weight_q") for name in initializer_types(report.path)) == 1
    with torch.no_grad():
        torch.testing.assert_close(result_of(report.path, inputs), sim(inputs), rtol=1e-5, atol=1e-6)


def test_metadata(tmp_path: Path, mlp: Any) -> None:
    report = mlp.sim.export_onnx(tmp_path, mlp.inputs)
    model = onnx.load(str(report.path))
    properties = {item.key: item.value for item in model.metadata_props}
    assert model.producer_name == "quantsim"
    assert properties["quantsim.config"] == "w8a8"
    assert json.loads(properties["quantsim.name_map"]) == {name: list(each) for name, each in report.name_map.items()}
    assert read_name_map(report.path) == report.name_map
    assert {entry.domain for entry in model.opset_import} == {""}
    assert report.size == report.path.stat().st_size
    assert "2 int8 constants" in str(report)


# ---------------------------------------------------------------- what is refused


def test_strict_lists_tensors_without_an_encoding(tmp_path: Path, mlp: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"have no encoding.*/0/Gemm_output_0"):
        export_onnx(mlp.sim, tmp_path, mlp.inputs, strict=True)
    assert not list(tmp_path.iterdir())


def test_strict_passes_where_every_tensor_has_one(tmp_path: Path) -> None:
    inputs = torch.randn(8, 64)
    config = preset("w8a8").model_copy(update={"activation_placement": "outputs"})
    sim = calibrated(
        nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10)).eval(), inputs, config
    )
    for path in ("0", "1", "3"):
        if sim.module(path).output_quantizers[0] is None:
            quantizer = QuantizeDequantize((), 8, False)
            quantizer.set_range(-4.0, 4.0)
            sim.module(path).output_quantizers[0] = quantizer
    report = export_onnx(sim, tmp_path, inputs, strict=True)
    assert not report.coverage.missing


def test_formats_without_an_onnx_type_are_listed_and_can_be_written_out(tmp_path: Path) -> None:
    inputs = torch.randn(8, 64)
    sim = calibrated(nn.Sequential(nn.Linear(64, 10)).eval(), inputs, "mxfp8")
    with pytest.raises(ConfigurationError, match=r"(?s)2 quantizers: .*input_quantizers\[0\].*mxfp8.*param_quantizers"):
        export_onnx(sim, tmp_path, inputs)
    assert not list(tmp_path.iterdir())

    sim = calibrated(nn.Sequential(nn.Linear(64, 10)).eval(), inputs, "w8a8")
    quantizer = QuantizeDequantize((), 18, True)
    quantizer.set_range(-4.0, 4.0)
    sim.module("0").input_quantizers[0] = quantizer
    with pytest.raises(ConfigurationError, match="beyond 16 bits"):
        export_onnx(sim, tmp_path, inputs)
    report = export_onnx(sim, tmp_path, inputs, decompose=True)
    assert report.decomposed == ("0.input_quantizers[0]",)
    with torch.no_grad():
        torch.testing.assert_close(result_of(report.path, inputs), sim(inputs), rtol=1e-5, atol=1e-5)


def test_uncalibrated_simulations_are_refused(tmp_path: Path) -> None:
    inputs = torch.randn(8, 64)
    sim = QuantizationSimModel(nn.Sequential(nn.Linear(64, 10)).eval(), inputs, config="w8a8")
    with pytest.raises(NotCalibratedError, match=r"0\.input_quantizers\[0\]"):
        export_onnx(sim, tmp_path, inputs)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"opset": 17}, "opset"), ({"encodings_version": "9.9"}, "encodings_version")],
)
def test_bad_arguments(options: dict[str, Any], text: str, tmp_path: Path, mlp: Any) -> None:
    with pytest.raises(ConfigurationError, match=text):
        export_onnx(mlp.sim, tmp_path, mlp.inputs, **options)
    with pytest.raises(ConfigurationError, match="example_inputs"):
        export_onnx(mlp.sim, tmp_path, None)


def test_integers_in_the_file_are_those_of_the_simulation(tmp_path: Path, mlp: Any) -> None:
    report = export_onnx(mlp.sim, tmp_path, mlp.inputs)
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(str(report.path)).graph.initializer}
    module = mlp.sim.module("0")
    quantizer = module.param_quantizers["weight"]
    scale = quantizer.get_scale().detach().numpy()
    weight = module.weight.detach().numpy()
    expected = np.clip(np.rint(weight / scale), -128, 127)
    assert np.array_equal(stored["0.weight_q"], expected)
    assert np.array_equal(stored["0.weight_scale"], scale.reshape(-1))
    assert stored["0.weight_zero_point"].shape == stored["0.weight_scale"].shape
