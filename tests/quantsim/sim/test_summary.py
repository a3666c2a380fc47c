from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from quantsim.sim import QuantizationSimModel, QuantizerState, SimulationConfig
from quantsim.sim.summary import StorageSize, _size_label, iterate_quantizers

INT8 = {"kind": "int", "bits": 8}


def simulation(config: Any) -> QuantizationSimModel:
    return QuantizationSimModel(nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(3, 64), config)


def test_rows_say_where_how_and_whether_ready() -> None:
    sim = simulation("w8a8")
    rows = {row.place: row for row in sim.summary().rows}
    assert list(rows) == [place for place, _ in sim.quantizers()]
    activation, weight = rows["0.input_quantizers[0]"], rows["0.param_quantizers['weight']"]
    assert (activation.format, activation.granularity, activation.module_type) == ("uint8", "tensor", "QuantizedLinear")
    assert (weight.format, weight.granularity) == ("int8", "channel")
    assert (activation.state, weight.state) == (QuantizerState.UNCALIBRATED, QuantizerState.LAZY)
    assert (activation.minimum, activation.maximum, activation.bits) == (None, None, 0)
    assert {row.place for row in sim.summary().uncalibrated} == set(sim.uncalibrated())


def test_calibrated_rows_show_the_range() -> None:
    sim = simulation({"weights": INT8, "activations": {**INT8, "symmetric": False}})
    x = torch.linspace(-1, 3, 640).reshape(10, 64)
    sim.compute_encodings([x])
    sim.module("0").input_quantizers[0].freeze()
    row = next(row for row in sim.summary().rows if row.place == "0.input_quantizers[0]")
    assert row.state is QuantizerState.CALIBRATED
    assert row.frozen
    assert row.minimum == pytest.approx(-1, abs=0.02)
    assert row.maximum == pytest.approx(3, abs=0.02)
    assert sim.summary().uncalibrated == ()


@pytest.mark.parametrize(
    ("setting", "label", "granularity"),
    [
        ({"kind": "int", "bits": 4, "symmetric": False}, "uint4", "tensor"),
        ({"kind": "int", "bits": 8, "granularity": "channel"}, "int8", "channel"),
        ({"kind": "int", "bits": 4, "granularity": "block", "block_size": 4}, "int4", "block of 4"),
        (
            {"kind": "int", "bits": 4, "granularity": "block", "block_size": 4, "decompressed_bits": 8},
            "int4",
            "block of 4",
        ),
        ({"kind": "float", "format": "e4m3fn", "granularity": "channel"}, "e4m3fn", "channel"),
        ({"kind": "float", "format": "e5m2"}, "e5m2", "tensor"),
        ({"kind": "float", "format": "e5m7", "scaled": False, "rounding": 5}, "e5m7 stochastic", "tensor"),
        (
            {"kind": "float", "format": "e2m1", "granularity": "block", "block_size": 4, "dynamic": True},
            "e2m1",
            "block of 4",
        ),
        ({"kind": "mx", "format": "mxfp4"}, "mxfp4", "block of 32"),
        ({"kind": "mx", "format": "mxint8", "scale_rule": "even", "block_size": 8}, "mxint8 (even)", "block of 8"),
        ({"kind": "mx", "format": "nvfp4", "rounding": "up"}, "nvfp4 up", "block of 16"),
        ({"kind": "mx", "format": "nvfp4_one_level"}, "nvfp4_one_level", "block of 16"),
    ],
    ids=str,
)
def test_labels(setting: dict[str, Any], label: str, granularity: str) -> None:
    rows = simulation({"weights": setting}).summary().rows
    assert {(row.format, row.granularity) for row in rows} == {(label, granularity)}


def test_run_time_scales_are_called_so() -> None:
    row = simulation("w8a8_dynamic").summary().rows[0]
    assert (row.state, row.granularity, row.minimum) == (QuantizerState.DYNAMIC, "token", None)
    assert {row.state for row in simulation("mxfp4").summary().rows} == {QuantizerState.DYNAMIC}
    assert {row.state for row in simulation("bf16").summary().rows} == {QuantizerState.FIXED}


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        # int8 symmetric per tensor: 64·8 + 8·4 bytes, two scales of 4 bytes
        ({"weights": INT8}, 512 + 32 + 2 * 4),
        # one float32 scale for each output channel
        ({"weights": {**INT8, "granularity": "channel"}}, 512 + 32 + (8 + 4) * 4),
        # half a byte each; 16 blocks of 32 and 4 channels of 8; 4-bit zero points
        ("w4a16_g32", 256 + 16 + (16 + 4) * 4 + (16 + 4) / 2),
        # without a scale
        ("fp16", (512 + 32) * 2),
        # blocks of 32 along the inputs, each with 8 bits: 2 for each of 8 channels, 1 (of 8 values) for each of 4
        ("mxfp8", 512 + 32 + 8 * 2 + 4),
        ("mxfp4", 256 + 16 + 8 * 2 + 4),
        ("mxfp6_e3m2", (512 + 32) * 6 / 8 + 8 * 2 + 4),
        # blocks of 16, and a float32 for each tensor
        ("nvfp4", 256 + 16 + 8 * 4 + 4 + 2 * 4),
        ({"weights": {"kind": "float", "granularity": "block", "block_size": 24, "dynamic": True}}, 544 + (24 + 4) * 4),
        (None, (512 + 32) * 4),
    ],
    ids=["tensor", "channel", "block", "fp16", "mxfp8", "mxfp4", "mxfp6", "nvfp4", "run-time blocks", "none"],
)
def test_storage_counts_codes_scales_and_zero_points(config: Any, weights: float) -> None:
    biases = (8 + 4) * 4
    assert simulation(config).summary().storage == StorageSize((512 + 32) * 4 + biases, int(weights + biases))


def test_shared_parameters_count_once() -> None:
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
    model[1].weight = model[0].weight
    sim = QuantizationSimModel(model, torch.randn(1, 16), SimulationConfig.parse({"weights": INT8}))
    assert sim.summary().storage == StorageSize(1024, 256 + 4)


def test_the_packed_weight_of_attention_counts_once() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, bias=False, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x)[0]

    sim = QuantizationSimModel(Attention(), torch.randn(1, 3, 16), SimulationConfig.parse({"weights": INT8}))
    assert sim.summary().storage == StorageSize(4 * 16 * 16 * 4, 4 * 16 * 16 + 4 * 4)


def test_storage_does_not_depend_on_calibration(mlp: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example)
    before = sim.summary().storage
    sim.compute_encodings(mlp.batches)
    assert sim.summary().storage == before


@pytest.mark.parametrize("colour", [False, True])
def test_the_text_is_plain(monkeypatch: pytest.MonkeyPatch, colour: bool) -> None:
    if colour:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
    text = str(simulation("w8a8").summary())
    assert "\x1b" not in text
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text) is None
    for words in ("Simulation w8a8", "QuantizedLinear", "uint8/tensor", "weight: int8/channel", "not calibrated"):
        assert words in text
    assert "parameters: 640 B quantized, 2.2 KiB in floating point" in text
    assert "2 modules quantized" in text


@pytest.mark.parametrize(
    ("size", "label"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (90 * 1024**2, "90.0 MiB"),
        (1024**3, "1.0 GiB"),
        (5 * 1024**4, "5120.0 GiB"),
    ],
)
def test_sizes_have_sensible_units(size: int, label: str) -> None:
    assert _size_label(size) == label


def test_quantizers_come_in_the_order_of_the_model(cnn: Any) -> None:
    sim = QuantizationSimModel(cnn.model, cnn.example)
    places = [tensor for tensor, _ in iterate_quantizers(dict(sim.quantized_modules()))]
    assert [tensor.module for tensor in places] == ["0", "0", "4", "4", "8", "8"]
