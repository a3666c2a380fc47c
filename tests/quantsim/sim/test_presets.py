"""Every preset calibrates and runs on every kind of small model, and gives the accuracy its name promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.nn import compute_encodings
from quantsim.optical import OtLinear
from quantsim.quantization import affine
from quantsim.quantization import float as float_quantization
from quantsim.quantization.optical import OpticalQuantizeDequantize
from quantsim.sim import (
    PRESETS,
    FloatSetting,
    IntegerSetting,
    ModulePattern,
    MXSetting,
    OpticalSetting,
    PlacementRule,
    QuantizationSimModel,
    SimulationConfig,
)
from quantsim.sim.presets import preset, preset_names

LEAST_SQNR = {
    "w8a8": 30.0,
    "w8a8_dynamic": 32.0,
    "w4a8": 15.0,
    "w4a8_dynamic": 15.0,
    "w4a16_g32": 15.0,
    "integer_w8a8": 25.0,
    "fp8_e4m3": 24.0,
    "fp8_e5m2": 18.0,
    "fp16": 60.0,
    "bf16": 40.0,
    "mxfp8": 23.0,
    "mxfp8_e5m2": 17.0,
    "mxfp6_e3m2": 17.0,
    "mxfp6_e2m3": 22.0,
    "mxfp4": 10.0,
    "mxint8": 30.0,
    "nvfp4": 12.0,
    "optical_256": 25.0,
}
NEED_DATA = {"w8a8", "w4a8", "integer_w8a8", "optical_256"}
MODELS = ("mlp", "cnn", "bert")


def test_the_presets_of_the_issue_are_there() -> None:
    assert preset_names() == tuple(PRESETS) == tuple(LEAST_SQNR)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_plain_data(name: str) -> None:
    config = preset(name)
    assert config.name == name
    assert config.description
    assert config == preset(name)
    assert SimulationConfig.parse(config.model_dump()) == config
    assert SimulationConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("name", "weight_bits", "activation_bits", "dynamic"),
    [("w8a8", 8, 8, False), ("w8a8_dynamic", 8, 8, True), ("w4a8", 4, 8, False), ("w4a8_dynamic", 4, 8, True)],
)
def test_an_integer_preset_is_what_its_name_says(
    name: str, weight_bits: int, activation_bits: int, dynamic: bool
) -> None:
    config = preset(name)
    assert isinstance(config.weights, IntegerSetting)
    assert isinstance(config.activations, IntegerSetting)
    assert (config.weights.bits, config.activations.bits, config.activations.dynamic) == (
        weight_bits,
        activation_bits,
        dynamic,
    )


def test_the_other_presets_are_what_their_names_say() -> None:
    weight_only = preset("w4a16_g32")
    assert isinstance(weight_only.weights, IntegerSetting)
    assert (weight_only.weights.bits, weight_only.weights.block_size, weight_only.activations) == (4, 32, None)
    for name, format in (("fp8_e4m3", "e4m3fn"), ("fp8_e5m2", "e5m2"), ("fp16", "fp16"), ("bf16", "bf16")):
        config = preset(name)
        assert isinstance(config.weights, FloatSetting) and isinstance(config.activations, FloatSetting)
        assert config.weights.format == config.activations.format == format
        assert config.weights.scaled == config.activations.scaled == name.startswith("fp8")


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("mxfp8", "mxfp8_e4m3"),
        ("mxfp8_e5m2", "mxfp8_e5m2"),
        ("mxfp6_e3m2", "mxfp6_e3m2"),
        ("mxfp6_e2m3", "mxfp6_e2m3"),
        ("mxfp4", "mxfp4"),
        ("mxint8", "mxint8"),
        ("nvfp4", "nvfp4"),
    ],
)
def test_a_block_preset_is_the_format_of_its_name(name: str, format: str) -> None:
    config = preset(name)
    assert config.weights == config.activations == MXSetting(format=format)


def test_the_optical_preset_is_that_of_optical_layers(mlp: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example, config="optical_256")
    sim.compute_encodings(mlp.batches)
    layer: Any = OtLinear.from_linear(mlp.model[0], noise="none").eval()
    with torch.no_grad(), compute_encodings(layer):
        for batch in mlp.batches:
            layer(batch)
    for ours, theirs in (
        (sim.module("0").input_quantizers[0], layer.input_quantizers[0]),
        (sim.module("0").param_quantizers["weight"], layer.param_quantizers["weight"]),
    ):
        assert isinstance(ours, OpticalQuantizeDequantize) and not ours.training
        assert ours.format == theirs.format and torch.equal(ours.range, theirs.range)


def test_optical_outputs_have_noise_of_their_own() -> None:
    noisy = OpticalSetting(noise="dither")  # pyright: ignore[reportArgumentType]
    config = SimulationConfig(
        name="detector",
        weights=OpticalSetting(lut=0.02),
        activations=OpticalSetting(),
        rules=(PlacementRule(match=ModulePattern(type="Linear"), outputs=noisy),),
    )
    assert SimulationConfig.model_validate_json(config.model_dump_json()) == config
    sim = QuantizationSimModel(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).eval(), torch.randn(2, 4), config=config)
    sim.compute_encodings(lambda model: model(torch.randn(64, 4)))
    x = torch.randn(50, 4)
    assert not torch.equal(sim(x), sim(x))
    seeds = {int(getattr(quantizer, "seed", 0)) for place, quantizer in sim.quantizers() if "output" in place}
    assert len(seeds) == 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"levels": 1}, "levels"),
        ({"lut": 1.0}, "lut"),
        ({"noise": "shot"}, "photons go with shot noise only"),
        ({"photons": 5.0}, "photons go with shot noise only"),
        ({"quantiles": (0.9, 0.1)}, "two rising numbers"),
        ({"smooth_factor": 2.0}, "smooth_factor"),
        ({"granularity": "channel"}, "granularity"),
    ],
)
def test_wrong_optical_settings_are_named(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        SimulationConfig.parse({"name": "x", "weights": {"kind": "optical", **wrong}})


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_plain_float_preset_is_torchs_cast(name: str, dtype: torch.dtype) -> None:
    module, x = nn.Linear(40, 8), torch.randn(16, 40)
    sim = QuantizationSimModel(module, x, config=name)
    with torch.no_grad():
        expected = nn.functional.linear(x.to(dtype).float(), module.weight.to(dtype).float(), module.bias)
        assert torch.equal(sim(x), expected)


@pytest.mark.parametrize(("wrong", "near"), [("w8a8_dynamics", "w8a8_dynamic"), ("w4a16_g64", "w4a16_g32")])
def test_an_unknown_preset_says_which_are_near(wrong: str, near: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        QuantizationSimModel(nn.Linear(2, 2), torch.zeros(1, 2), config=wrong)
    for words in (repr(wrong), f"did you mean '{near}'", "w4a8_dynamic", ".yaml"):
        assert words in str(caught.value)
    with pytest.raises(ConfigurationError, match="preset_names"):
        preset("zzzzzz")


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("subject", MODELS, indirect=True)
def test_every_preset_calibrates_and_runs(subject: Any, name: str, sqnr: Any) -> None:
    expected = subject.outputs(subject.model)
    sim = QuantizationSimModel(subject.model, subject.example, config=name)
    assert bool(sim.uncalibrated()) == preset(name).needs_data == (name in NEED_DATA)
    report = sim.compute_encodings(subject.batches)
    assert report.unobserved == [] or subject.model.__class__.__name__ == "BertModel"
    assert sim.uncalibrated() == ()
    actual = subject.outputs(sim)
    assert torch.isfinite(actual).all()
    assert not torch.equal(actual, expected)
    assert sqnr(expected, actual) > LEAST_SQNR[name]
    # Nothing but quantization: without quantizers the simulation is the model, bit for bit.
    for _, module in sim.quantized_modules():
        module._remove_all_quantizers()
    assert torch.equal(subject.outputs(sim), expected)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - NEED_DATA))
def test_a_preset_without_fixed_activation_ranges_needs_no_data(mlp: Any, name: str) -> None:
    calibrated, fresh = (QuantizationSimModel(mlp.model, mlp.example, config=name) for _ in range(2))
    calibrated.compute_encodings(mlp.batches)
    assert torch.equal(mlp.outputs(fresh), mlp.outputs(calibrated))


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_quantizes_both_operands_of_every_multiplication(mlp: Any, name: str) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example, config=name)
    places = [place for place, _ in sim.quantizers()]
    weights = [f"{path}.param_quantizers['weight']" for path in (0, 2)]
    inputs = [] if name == "w4a16_g32" else [f"{path}.input_quantizers[0]" for path in (0, 2)]
    if name == "integer_w8a8":  # at the outputs, but for the model's input
        inputs = ["0.input_quantizers[0]", "1.output_quantizers[0]", "2.output_quantizers[0]"]
    assert sorted(places) == sorted([*weights, *inputs])


@pytest.mark.parametrize("name", ["w4a8", "w4a8_dynamic", "w4a16_g32", "fp8_e4m3"])
def test_weights_in_groups_of_32_have_as_many_scales(name: str) -> None:
    sim = QuantizationSimModel(nn.Linear(96, 5), torch.zeros(1, 96), config=name)
    (weight,) = (quantizer for place, quantizer in sim.quantizers() if "weight" in place)
    assert isinstance(weight, affine.QuantizeDequantize | float_quantization.FloatQuantizeDequantize)
    assert (tuple(weight.shape), tuple(weight.block_size or ())) == ((5, 3), (1, 32))


def test_a_four_bit_weight_takes_at_most_sixteen_values_a_group() -> None:
    sim = QuantizationSimModel(nn.Linear(64, 3), torch.zeros(1, 64), config="w4a16_g32")
    sim.compute_param_encodings()
    module = sim.module("")
    with torch.no_grad():
        weight = module.param_quantizers["weight"](module.weight)
    for group in weight.reshape(6, 32):
        assert 8 <= group.unique().numel() <= 16


def test_the_integer_preset_has_wide_sums_and_narrow_factors(bert: Any) -> None:
    sim = QuantizationSimModel(bert.model, bert.example, config="integer_w8a8")
    widths = {place: quantizer.bitwidth for place, quantizer in sim.quantizers()}
    assert {bits for place, bits in widths.items() if "LayerNorm.output" in place or "add_" in place} == {16}
    assert {bits for place, bits in widths.items() if "qk_matmul.output" in place} == {16}
    assert {bits for place, bits in widths.items() if "pv_matmul.output" in place} == {8}
    assert {bits for place, bits in widths.items() if "output.dense.output" in place} == {16}  # only sums read it
    assert {bits for place, bits in widths.items() if "query.input" in place or "query.output" in place} == {8}
