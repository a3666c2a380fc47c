"""Encodings go out and come back, in every version that can hold them; what does not fit changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.sim import PRESETS, QuantizationSimModel, SimulationConfig, preset
from quantsim.sim.encodings import model_fingerprint
from quantsim_encodings import (
    EncodingsDocument,
    EncodingsError,
    EncodingsVersion,
    TensorReference,
    TensorRole,
    read,
)

INT4 = {"kind": "int", "bits": 4, "granularity": "block", "block_size": 8}
CONFIGS: dict[str, Any] = {
    **{name: preset(name) for name in PRESETS},
    "outputs": preset("w8a8").model_copy(update={"activation_placement": "outputs"}),
    "blocks": SimulationConfig.parse({"weights": INT4}),
    "lpbq": SimulationConfig.parse({"weights": {**INT4, "decompressed_bits": 8}}),
    "fp8": SimulationConfig.parse({"weights": {"kind": "float", "format": "e4m3fn", "granularity": "channel"}}),
}
VERSIONS = list(EncodingsVersion)


class Network(nn.Module):
    """A convolution of one point, a transposed one and linears: every orientation of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8), nn.ReLU()
        self.up, self.flat = nn.ConvTranspose2d(8, 4, 2), nn.Flatten()
        self.fc, self.head = nn.Linear(64, 32), nn.Linear(32, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc(self.flat(self.up(self.act(self.norm(self.conv(image))))))))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(5)
    return Network().eval()


@pytest.fixture
def images() -> list[Tensor]:
    return [torch.randn(4, 16, 3, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def calibrated(model: nn.Module, images: list[Tensor], config: Any) -> QuantizationSimModel:
    sim = QuantizationSimModel(model, images[0], config=config)
    sim.compute_encodings(images)
    return sim


@torch.no_grad()
def output(sim: QuantizationSimModel, images: list[Tensor]) -> Tensor:
    return sim(images[1])


def holds(config: str, version: EncodingsVersion) -> bool:
    """Only quantsim's own version knows run-time scales, blocks with a shared scale, bfloat16 and optics.

    LPBQ came with 1.0.0, scaled floats with 2.0.0, which does not list plain float16.
    """
    if version is EncodingsVersion.QUANTSIM:
        return True
    if config.startswith(("fp8_", "mx", "nvfp4", "optical_")) or config in ("w8a8_dynamic", "w4a8_dynamic", "bf16"):
        return False
    if config == "fp16":
        return version not in (EncodingsVersion.AIMET_2_0_0, EncodingsVersion.AIMET_2_1_0)
    legacy = version in (EncodingsVersion.AIMET_TORCH, EncodingsVersion.AIMET_0_6_1)
    return not (config == "lpbq" and legacy) and not (config == "fp8" and (legacy or version == "1.0.0"))


# --- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_saved_comes_back(
    network: Network, images: list[Tensor], tmp_path: Path, config: str, version: EncodingsVersion
) -> None:
    sim = calibrated(network, images, CONFIGS[config])
    path = tmp_path / "model.encodings"
    if not holds(config, version):
        with pytest.raises(EncodingsError, match=f"version {version} cannot hold"):
            sim.save_encodings(path, version)
        assert list(tmp_path.iterdir()) == []
        return
    sim.save_encodings(path, version)
    places = [place for place, _ in sim.quantizers()]
    for target in (CONFIGS[config], None, "w8a8_dynamic"):
        other = QuantizationSimModel(network, images[0], config=target)
        before = {place for place, _ in other.quantizers()}
        report = other.load_encodings(path, partial=target == "w8a8_dynamic")
        assert sorted(report.loaded) == sorted(places)
        assert set(report.created) == set(places) - before
        assert report.ignored == ()
        if set(places) >= before:  # else quantizers with run-time scales stay, that the file knows nothing of
            assert torch.equal(output(other, images), output(sim, images)), target
    assert report.fingerprint_matches is (True if version is EncodingsVersion.QUANTSIM else None)


def test_saving_again_what_was_loaded_gives_the_same_file(
    network: Network, images: list[Tensor], tmp_path: Path
) -> None:
    sim = calibrated(network, images, "w4a8")
    sim.save_encodings(tmp_path / "first.json")
    other = QuantizationSimModel(network, images[0], config=None)
    other.load_encodings(tmp_path / "first.json")
    other.save_encodings(tmp_path / "second.json")
    first, second = (read(tmp_path / f"{name}.json") for name in ("first", "second"))
    assert [entry.encoding for entry in first] == [entry.encoding for entry in second]
    assert [entry.tensor for entry in first] == [entry.tensor for entry in second]
    assert first.model_fingerprint == second.model_fingerprint


def test_a_transformer_comes_back(bert: Any, tmp_path: Path) -> None:
    sim = QuantizationSimModel(bert.model, bert.example)
    sim.compute_encodings(bert.batches)
    sim.save_encodings(tmp_path / "e.json")
    other = QuantizationSimModel(bert.model, bert.example, config=None)
    other.load_encodings(tmp_path / "e.json")
    assert torch.equal(bert.outputs(other), bert.outputs(sim))


def test_documents_and_parsed_json_are_taken_too(network: Network, images: list[Tensor], tmp_path: Path) -> None:
    sim = calibrated(network, images, "w8a8")
    sim.save_encodings(tmp_path / "e.json")
    for source in (sim.encodings(), json.loads((tmp_path / "e.json").read_text()), str(tmp_path / "e.json")):
        other = QuantizationSimModel(network, images[0], config=None)
        other.load_encodings(source)
        assert torch.equal(output(other, images), output(sim, images))


def test_a_model_on_meta_takes_encodings(network: Network, images: list[Tensor]) -> None:
    sim = calibrated(network, images, "w4a8")
    hollow = QuantizationSimModel(Network().eval().to("meta"), images[0].to("meta"), config=None)
    report = hollow.load_encodings(sim.encodings())
    assert report.fingerprint_matches is True
    assert hollow.uncalibrated() == ()
    filled = hollow.model.to_empty(device="cpu")
    filled.load_state_dict(sim.state_dict())
    with torch.no_grad():
        assert torch.equal(filled(images[1]), output(sim, images))


def test_settings_beside_the_numbers_come_back(network: Network, images: list[Tensor]) -> None:
    sim = calibrated(network, images, "w8a8")
    quantizer = sim.module("fc").input_quantizers[0]
    quantizer.freeze()
    sim.module("head").param_quantizers["weight"].requires_grad_(False)
    other = QuantizationSimModel(network, images[0], config="w8a8")
    other.load_encodings(sim.encodings())
    found = dict(other.quantizers())
    assert not found["fc.input_quantizers[0]"].is_overwrite_allowed
    assert found["conv.input_quantizers[0]"].is_overwrite_allowed
    assert found["fc.input_quantizers[0]"].samples_seen == quantizer.samples_seen > 0
    assert not any(values.requires_grad for values in found["head.param_quantizers['weight']"].parameters())
    assert all(values.requires_grad for values in found["fc.param_quantizers['weight']"].parameters())
    # A later calibration chooses ranges by the analyzer of the simulation, not by a default.
    analyzer = found["conv.input_quantizers[0]"].encoding_analyzer
    assert type(analyzer) is type(dict(sim.quantizers())["conv.input_quantizers[0]"].encoding_analyzer)


def test_an_uncalibrated_simulation_is_not_exported(network: Network, images: list[Tensor], tmp_path: Path) -> None:
    sim = QuantizationSimModel(network, images[0])
    with pytest.raises(EncodingsError) as caught:
        sim.save_encodings(tmp_path / "e.json")
    for place, _ in sim.quantizers():
        assert place in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_exclusions_are_noted(network: Network, images: list[Tensor]) -> None:
    config = preset("w4a16_g32").model_copy(update={"exclude": SimulationConfig(exclude=("head",)).exclude})
    assert calibrated(network, images, config).encodings().excluded_layers == ("head",)


# --- strict, partial, and what goes wrong ----------------------------------------------------------------------------


def without(document: EncodingsDocument, *places: str) -> EncodingsDocument:
    kept = tuple(entry for entry in document if str(entry.tensor) not in places)
    assert len(kept) == len(document) - len(places)
    return replace(document, entries=kept)


def renamed(document: EncodingsDocument, old: str, new: str) -> EncodingsDocument:
    entries = tuple(
        replace(entry, tensor=replace(entry.tensor, module=new))
        if entry.tensor is not None and entry.tensor.module == old
        else entry
        for entry in document
    )
    return replace(document, entries=entries)


def test_entries_without_a_place(
    network: Network, images: list[Tensor], frozen_copy: Any, assert_same_state: Any
) -> None:
    document = renamed(calibrated(network, images, "w8a8").encodings(), "head", "haed")
    sim = calibrated(network, [2 * image for image in images], "w8a8")
    before = frozen_copy(sim)
    with pytest.raises(EncodingsError, match="no quantized module 'haed'; near: head") as caught:
        sim.load_encodings(document)
    assert "head.input_quantizers[0]" in str(caught.value)  # missing now: listed at once
    assert_same_state(sim.state_dict(), before)
    with pytest.raises(EncodingsError, match="partial=True"):
        sim.load_encodings(document, strict=False)
    assert_same_state(sim.state_dict(), before)
    report = sim.load_encodings(document, strict=False, partial=True)
    assert sorted(report.unaffected) == ["head.input_quantizers[0]", "head.param_quantizers['weight']"]
    assert len(report.ignored) == 2
    changed = {name for name, values in sim.state_dict().items() if not _same(values, before[name])}
    assert any(name.startswith("conv.") for name in changed)
    assert not any(name.startswith("head.") for name in changed)


def _same(left: Any, right: Any) -> bool:
    return torch.equal(left, right) if isinstance(left, Tensor) else left == right


def test_quantizers_without_an_entry(
    network: Network, images: list[Tensor], frozen_copy: Any, assert_same_state: Any
) -> None:
    document = without(calibrated(network, images, "w8a8").encodings(), "fc.input[0]", "conv.weight")
    sim = QuantizationSimModel(network, images[0])
    before = frozen_copy(sim)
    with pytest.raises(EncodingsError, match="2 problems") as caught:
        sim.load_encodings(document)
    for words in ("fc.input_quantizers[0]", "conv.param_quantizers['weight']", "partial=True", "unchanged"):
        assert words in str(caught.value)
    assert_same_state(sim.state_dict(), before)
    report = sim.load_encodings(document, partial=True)
    assert sorted(report.unaffected) == ["conv.param_quantizers['weight']", "fc.input_quantizers[0]"]
    assert sim.uncalibrated() == ("fc.input_quantizers[0]",)


def test_run_time_scales_need_no_entry(network: Network, images: list[Tensor]) -> None:
    document = calibrated(network, images, "w8a8_dynamic").encodings()
    weights = without(document, *(str(entry.tensor) for entry in document if "input" in str(entry.tensor)))
    sim = QuantizationSimModel(network, images[0], config="w8a8_dynamic")
    sim.load_encodings(weights)
    assert torch.equal(output(sim, images), output(calibrated(network, images, "w8a8_dynamic"), images))


def test_encodings_of_another_shape(
    network: Network, images: list[Tensor], frozen_copy: Any, assert_same_state: Any
) -> None:
    document = calibrated(network, images, "w8a8").encodings()
    other = Network()
    other.head, other.fc = nn.Linear(32, 4), nn.Linear(64, 32)
    sim = QuantizationSimModel(other.eval(), images[0])
    before, quantizers = frozen_copy(sim), dict(sim.quantizers())
    with pytest.raises(EncodingsError) as caught:
        sim.load_encodings(document)
    for words in ("does not fit head.param_quantizers['weight']", "got 3 scales", "expected 4"):
        assert words in str(caught.value)
    assert_same_state(sim.state_dict(), before)
    assert all(quantizers[place] is quantizer for place, quantizer in sim.quantizers())


def test_a_file_for_another_model_is_noticed(network: Network, images: list[Tensor]) -> None:
    document = calibrated(network, images, "w8a8").encodings()
    other = Network()
    other.norm = nn.Identity()  # other parameters, same quantizers
    sim = QuantizationSimModel(other.eval(), images[0])
    assert sim.load_encodings(document).fingerprint_matches is False


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": "9"}', "{" * 5000])
def test_a_broken_file_changes_nothing(
    network: Network, images: list[Tensor], tmp_path: Path, text: str, frozen_copy: Any, assert_same_state: Any
) -> None:
    sim = calibrated(network, images, "w8a8")
    before = frozen_copy(sim)
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(EncodingsError):
        sim.load_encodings(path)
    assert_same_state(sim.state_dict(), before)


def test_the_fingerprint_is_of_the_structure() -> None:
    model = Network()
    fingerprint = model_fingerprint(model)
    with torch.no_grad():
        model.fc.weight.zero_()
    assert model_fingerprint(model) == fingerprint
    assert model_fingerprint(QuantizationSimModel(model).model) == fingerprint
    assert model_fingerprint(model.half()) != fingerprint
    model = Network()
    model.head = nn.Linear(32, 4)
    assert model_fingerprint(model) != fingerprint


def test_two_entries_for_one_place_must_agree(network: Network, images: list[Tensor], tmp_path: Path) -> None:
    calibrated(network, images, "w8a8").save_encodings(tmp_path / "e.json", "2.0.0")
    sim = QuantizationSimModel(network, images[0])
    with pytest.raises(EncodingsError) as caught:
        sim.load_encodings(tmp_path / "e.json", name_map={"conv.input[0]": "fc.input[0]"})
    for words in ("means fc.input_quantizers[0], as does", "conv.input[0]", "use name_map"):
        assert words in str(caught.value)
    assert len(sim.uncalibrated()) == 4


@pytest.mark.parametrize("version", [EncodingsVersion.AIMET_TORCH, EncodingsVersion.AIMET_0_6_1])
def test_products_of_lpbq_scales_are_taken_apart_where_lpbq_is_simulated(
    network: Network, images: list[Tensor], tmp_path: Path, version: EncodingsVersion
) -> None:
    sim = calibrated(network, images, CONFIGS["lpbq"])
    sim.save_encodings(tmp_path / "e.json", version, allow={"grouping"})
    other = QuantizationSimModel(network, images[0], config=CONFIGS["lpbq"])
    other.load_encodings(tmp_path / "e.json")
    assert [type(quantizer) for _, quantizer in other.quantizers()] == [type(q) for _, q in sim.quantizers()]
    torch.testing.assert_close(output(other, images), output(sim, images), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "setting",
    [
        {"kind": "float", "format": "e5m7", "scaled": False, "rounding": "up", "saturate": False, "subnormal": False},
        {"kind": "float", "format": "e3m4", "granularity": "channel", "rounding": "odd"},
        {
            "kind": "float",
            "format": "e2m1",
            "granularity": "block",
            "block_size": 6,
            "dynamic": True,
            "rounding": "down",
        },
        {"kind": "mx", "format": "mxfp6_e2m3", "block_size": 5, "scale_rule": "rceil", "rounding": "toward_zero"},
        {"kind": "mx", "format": "nvfp4_one_level", "rounding": "nearest_away"},
    ],
    ids=lambda setting: f"{setting['kind']} {setting['format']}",
)
def test_float_and_block_settings_come_back(
    network: Network, images: list[Tensor], tmp_path: Path, setting: dict[str, Any]
) -> None:
    sim = calibrated(network, images, {"weights": setting})
    sim.save_encodings(tmp_path / "file.json")
    other = QuantizationSimModel(network, images[0], config=None)
    other.load_encodings(tmp_path / "file.json")
    assert torch.equal(output(other, images), output(sim, images))
    assert [entry.encoding for entry in other.encodings()] == [entry.encoding for entry in sim.encodings()]
    assert [str(row.format) for row in other.summary().rows] == [str(row.format) for row in sim.summary().rows]


@pytest.mark.parametrize(
    "kind", [{"kind": "float", "scaled": False, "format": "e4m3fn"}, {"kind": "mx"}], ids=["float", "mx"]
)
def test_loading_does_not_disturb_the_noise(network: Network, images: list[Tensor], kind: dict[str, Any]) -> None:
    """The file says how numbers are rounded; which noise a simulation has is its own affair."""
    sim = calibrated(network, images, {"weights": {**kind, "rounding": "stochastic"}})
    twin = QuantizationSimModel(network, images[0], config={"weights": {**kind, "rounding": "stochastic"}})
    twin.model.load_state_dict(sim.model.state_dict())
    sim.load_encodings(sim.encodings())
    assert torch.equal(output(sim, images), output(twin, images))
    assert not torch.equal(output(sim, images), output(sim, images))


class Joined(nn.Module):
    """Two layers whose results are joined, and two that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(torch.cat([self.left(x), self.right(x)], dim=-1)))


def _joined(config: Any = "outputs") -> tuple[QuantizationSimModel, Tensor]:
    torch.manual_seed(0)
    model, x = Joined().eval(), torch.randn(16, 4)
    if config == "outputs":
        config = preset("w8a8").model_copy(update={"activation_placement": "outputs"})
    return QuantizationSimModel(model, x, config=config), x


def _together(sim: QuantizationSimModel) -> tuple[bool, bool]:
    """Whether the joined results have one quantizer, and the shared weight."""
    modules = dict(sim.quantized_modules())
    left, right = (modules[path].output_quantizers[0] for path in ("left", "right"))
    first, second = (modules[path].param_quantizers["weight"] for path in ("first", "second"))
    return left is right is not None, first is second is not None


@pytest.mark.parametrize("version", list(EncodingsVersion))
def test_what_shares_a_grid_shares_it_after_loading(version: EncodingsVersion, tmp_path: Path) -> None:
    sim, x = _joined()
    sim.compute_encodings([x])
    assert _together(sim) == (True, True)
    sim.save_encodings(tmp_path / "e.json", version=version, allow={"annotation"})
    again, _ = _joined()
    report = again.load_encodings(tmp_path / "e.json")
    assert _together(again) == (True, True)
    assert sorted(report.loaded) == sorted(place for place, _ in sim.quantizers())
    assert torch.equal(again(x), sim(x))
    again.compute_encodings([3 * x])  # both places see, and move, the one range
    assert _together(again) == (True, True)


def test_a_shared_weight_gets_one_quantizer_on_a_bare_simulation() -> None:
    sim, x = _joined()
    sim.compute_encodings([x])
    bare, _ = _joined(None)
    report = bare.load_encodings(sim.encodings())
    assert _together(bare) == (False, True)  # that results are joined, the file does not say
    assert set(report.created) == {place for place, _ in sim.quantizers()}
    assert torch.equal(bare(x), sim(x))


def test_one_entry_is_enough_for_a_shared_grid() -> None:
    sim, x = _joined()
    sim.compute_encodings([x])
    some = without(sim.encodings(), "left.output[0]", "second.weight")
    again, _ = _joined()
    report = again.load_encodings(some)
    assert _together(again) == (True, True)
    assert {"left.output_quantizers[0]", "second.param_quantizers['weight']"} <= set(report.loaded)
    assert torch.equal(again(x), sim(x))


def test_different_encodings_for_a_shared_grid_are_taken_as_the_file_says() -> None:
    sim, x = _joined()
    sim.compute_encodings([x])
    other, _ = _joined()
    other.compute_encodings([2 * x])
    mixed = sim.encodings()
    left = TensorReference("left", TensorRole.OUTPUT, "0")
    of_other = {entry.tensor: entry for entry in other.encodings().entries}
    mixed = replace(mixed, entries=tuple(of_other[left] if entry.tensor == left else entry for entry in mixed.entries))
    again, _ = _joined()
    again.load_encodings(mixed)
    assert _together(again) == (False, True)
    assert again.encodings().entries == mixed.entries
