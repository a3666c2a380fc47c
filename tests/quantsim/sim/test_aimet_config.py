"""What the fields of a hardware config become; whole placements are compared in ``tests/interop/test_placement.py``."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.sim import QuantizationSimModel, load_config
from quantsim.sim.aimet_config import is_hardware_config, read_hardware_config
from quantsim.sim.config import IntegerSetting

HARDWARE: dict[str, Any] = {
    "defaults": {
        "ops": {"is_output_quantized": "True"},
        "params": {"is_quantized": "True", "is_symmetric": "True"},
        "strict_symmetric": "False",
        "per_channel_quantization": "False",
    },
    "params": {"bias": {"is_quantized": "False"}},
    "op_type": {"Conv": {"per_channel_quantization": "True"}},
    "supergroups": [{"op_list": ["Conv", "Relu"]}, {"op_list": ["Gemm", "Clip"]}],
    "supergroup_pass_list": ["MatmulAdd"],
    "model_input": {"is_input_quantized": "True"},
    "model_output": {},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    hardware = copy.deepcopy(HARDWARE)
    *sections, field = path.split(".")
    target = hardware
    for section in sections:
        target = target.setdefault(section, {})
    target[field] = value
    return hardware


def test_a_file_stands_for_a_config(tmp_path: Path) -> None:
    path = tmp_path / "accelerator.json"
    path.write_text(json.dumps(HARDWARE))
    config = load_config(path)
    assert config == load_config(str(path))
    assert (config.name, config.activation_placement.value) == ("accelerator", "outputs")
    assert not config.fuse_depthwise
    assert config.fused_groups == (
        *(("conv", "relu"), ("linear", "relu6"), ("linear", "hardtanh"), ("linear", "clamp")),
    )
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    sim = QuantizationSimModel(model, torch.randn(1, 1, 2, 2), config=str(path))
    assert [(row.place, row.format, row.granularity) for row in sim.summary().rows] == [
        ("0.input_quantizers[0]", "uint8", "tensor"),
        ("0.param_quantizers['weight']", "int8", "channel"),
        ("2.output_quantizers[0]", "uint8", "tensor"),
        ("4.param_quantizers['weight']", "int8", "tensor"),
        ("4.output_quantizers[0]", "uint8", "tensor"),
    ]


def test_it_is_not_mistaken_for_a_config_of_ours() -> None:
    assert is_hardware_config(HARDWARE)
    assert not is_hardware_config(load_config("w8a8").model_dump())
    assert not is_hardware_config({})


def test_the_result_is_plain_data_again() -> None:
    config = read_hardware_config(HARDWARE, weight_bits=4, activation_bits=16)
    assert load_config(json.loads(config.model_dump_json())) == config


def test_widths_are_the_callers() -> None:
    config = read_hardware_config(HARDWARE, weight_bits=4, activation_bits=16)
    assert isinstance(config.weights, IntegerSetting)
    assert isinstance(config.activations, IntegerSetting)
    assert (config.weights.bits, config.activations.bits) == (4, 16)


def test_limits_of_values() -> None:
    config = read_hardware_config(changed("op_type.Tanh", {"encoding_constraints": {"min": -1.0, "max": 1.0}}))
    assert config.operations["tanh"].outputs == IntegerSetting(bits=8, symmetric=True, fixed_range=(-1.0, 1.0))
    with pytest.warns(UserWarning, match="Tanh has a lower limit of -1 only"):
        read_hardware_config(changed("op_type.Tanh", {"encoding_constraints": {"min": -1.0}}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_hardware_config(changed("op_type.Relu", {"encoding_constraints": {"min": 0.0}}))


@pytest.mark.parametrize(
    ("version", "bits", "expected"), [(None, 16, None), ("V69", 16, 8), ("V73", 16, 16), ("V73", 8, None)]
)
def test_second_factors_are_symmetric_where_the_engine_wants_it(
    version: str | None, bits: int, expected: int | None
) -> None:
    hardware = HARDWARE if version is None else changed("defaults.hw_version", version)
    setting = read_hardware_config(hardware, activation_bits=bits).second_factors
    assert (None if setting is None else setting.bits) == expected  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("defaults.ops", {"is_output_quantized": "False"}, "defaults.ops.is_output_quantized"),
        ("defaults.strict_symmetric", "True", "strict_symmetric"),
        ("defaults.unsigned_symmetric", "True", "unsigned_symmetric"),
        ("model_input.is_input_quantized", "False", "model_input.is_input_quantized"),
        ("op_type.Add", {"is_input_quantized": "False"}, "op_type.Add.is_input_quantized"),
        ("op_type.Add", {"is_quantised": "True"}, r"op_type\.Add\.is_quantised: Extra inputs"),
        ("params.bias", {"is_quantized": "maybe"}, r"params\.bias\.is_quantized"),
        ("supergroups", [{"op_list": ["Conv"]}], r"supergroups\.0\.op_list"),
        ("extra", {}, "extra"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_config(changed(path, value))


def test_what_is_not_used_is_said() -> None:
    with pytest.warns(UserWarning, match="without a counterpart in PyTorch: Konv"):
        read_hardware_config(changed("op_type.Konv", {"is_output_quantized": "False"}))
    kernels = [{"activation": {"bitwidth": 16, "dtype": "int"}, "param": {"bitwidth": 8, "dtype": "int"}}]
    with pytest.warns(UserWarning, match="defaults has no kernel for 8-bit weights"):
        read_hardware_config(changed("defaults.supported_kernels", kernels))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_hardware_config(changed("defaults.supported_kernels", kernels), activation_bits=16)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_hardware_config(tmp_path / "missing.json")
    path = tmp_path / "list.json"
    path.write_text("[]")
    with pytest.raises(ConfigurationError, match="holds no hardware config"):
        read_hardware_config(path)
