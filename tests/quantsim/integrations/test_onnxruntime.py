"""ONNX Runtime runs exported graphs; quantizer by quantizer it computes what the simulation computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.quantization.affine import QuantizeDequantize
from quantsim.sim import QuantizationSimModel

pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")

from quantsim.export import export_onnx  # noqa: E402
from quantsim.integrations.onnxruntime import compare_quantizers, run_onnx, session_options  # noqa: E402


def simulation(config: str, inputs: Tensor) -> QuantizationSimModel:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32), nn.LayerNorm(32), nn.Linear(32, 8)).eval()
    sim = QuantizationSimModel(model, inputs, config=config)
    sim.compute_encodings([inputs])
    return sim


@pytest.mark.parametrize("config", ["w8a8", "w4a16_g32", "fp8_e4m3", "w8a8_dynamic", "bf16"])
def test_quantizers_agree(config: str, tmp_path: Path) -> None:
    inputs = torch.randn(64, 64)
    sim = simulation(config, inputs)
    report = export_onnx(sim, tmp_path, inputs)
    comparisons = compare_quantizers(sim, report.path, inputs)
    assert {each.place for each in comparisons} == {place for place, _ in sim.quantizers()}
    assert max(each.steps for each in comparisons) <= 1.0 + 1e-3
    assert sum(each.differing for each in comparisons) <= 1e-4 * sum(each.elements for each in comparisons)


def test_a_difference_is_found(tmp_path: Path) -> None:
    inputs = torch.randn(64, 64)
    sim = simulation("w8a8", inputs)
    report = export_onnx(sim, tmp_path, inputs)
    quantizer = sim.module("2").input_quantizers[0]
    assert isinstance(quantizer, QuantizeDequantize)
    quantizer.set_range(-0.1, 0.1)
    worst = max(compare_quantizers(sim, report.path, inputs), key=lambda each: each.steps)
    assert worst.place == "2.input_quantizers[0]"
    assert worst.steps > 1.5


def test_inputs_by_name_and_by_position(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return first - second

    first, second = torch.ones(2, 2), torch.full((2, 2), 3.0)
    sim = QuantizationSimModel(Sum(), (first, second), config=None)
    report = export_onnx(sim, tmp_path, (first, second), encodings_version=None)
    assert not report.encodings
    for inputs in ((first, second), {"second": second, "first": first}):
        assert next(iter(run_onnx(report.path, inputs).values())).tolist() == [[-2.0, -2.0], [-2.0, -2.0]]
    with pytest.raises(ConfigurationError, match="2: first, second"):
        run_onnx(report.path, first)


def test_session_options() -> None:
    assert session_options().get_session_config_entry("session.disable_quant_qdq") == "1"
    options = session_options(fuse=True, threads=1)
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
    assert options.intra_op_num_threads == 1
