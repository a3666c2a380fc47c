"""Encodings go out and come back, in every version that can hold them, and real AIMET files mean what they meant there.

Whether aimet-torch computes the same is the business of tests/interop.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantsim.quantization.base import QuantizerBase
from quantsim.sim import PRESETS, QuantizationSimModel, SimulationConfig, preset
from quantsim.sim.encodings import model_fingerprint
from quantsim_encodings import AffineEncoding, EncodingsDocument, EncodingsError, EncodingsVersion, read
from quantsim_encodings.encoding import FloatEncoding

DATA = Path(__file__).parents[2] / "quantsim_encodings" / "data"
INT4 = {"kind": "int", "bits": 4, "granularity": "block", "block_size": 8}
CONFIGS: dict[str, Any] = {
    **{name: preset(name) for name in PRESETS},
    "outputs": preset("w8a8").model_copy(update={"activation_placement": "outputs"}),
    "blocks": SimulationConfig.parse({"weights": INT4}),
    "lpbq": SimulationConfig.parse({"weights": {**INT4, "decompressed_bits": 8}}),
    "fp8": SimulationConfig.parse({"weights": {"kind": "float", "format": "e4m3fn", "granularity": "channel"}}),
}
VERSIONS = list(EncodingsVersion)
BY_NAME = [version for version in VERSIONS if version[0] in "012"]


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
    """Only quantsim's own version knows run-time scales; LPBQ came with 1.0.0, scaled floats with 2.0.0."""
    if version is EncodingsVersion.QUANTSIM:
        return True
    if config in ("w8a8_dynamic", "w4a8_dynamic", "fp8_e4m3"):
        return False
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
        if target != "w8a8_dynamic" or config != "w4a16_g32":  # there its own run-time quantizers stay
            if set(places) >= before:
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
    from dataclasses import replace

    kept = tuple(entry for entry in document if str(entry.tensor) not in places)
    assert len(kept) == len(document) - len(places)
    return replace(document, entries=kept)


def renamed(document: EncodingsDocument, old: str, new: str) -> EncodingsDocument:
    from dataclasses import replace

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


# --- files of aimet-torch --------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Fits the files m_*: their weights have these shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.pc, self.relu, self.bq = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)
        self.up, self.lpbq = nn.Linear(2, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.fp = nn.Linear(2, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fp(self.lpbq(self.up(self.bq(self.relu(self.pc(x))))))


class Wide(nn.Module):
    """Fits the files wide_* and shift_*."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lin, self.gemm = nn.Conv2d(8, 6, 1), nn.Linear(6, 10, bias=False), nn.Linear(10, 4)
        self.f8, self.f8c = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.tc = nn.ConvTranspose1d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.gemm(self.lin(self.conv(x).flatten(2).transpose(1, 2)))
        return self.tc(self.f8c(self.f8(tokens)).transpose(1, 2))


FILES = {
    **{f"m_{version}.encodings": "m" for version in ("0.6.1", "1.0.0", "2.0.0", "2.1.0")},
    "torch_side.json": "m",
    **{f"wide_{version}.encodings": "wide" for version in ("0.6.1", "1.0.0", "2.0.0", "2.1.0")},
    "wide_torch_side.json": "wide",
    "shift_1.0.0.encodings": "shift",
    "shift_2.0.0.encodings": "shift",
    "shift_torch_side.json": "shift",
}
GRAPH_ONLY = {"/Squeeze_output_0", "/Unsqueeze_1_output_0", "/Transpose_output_0"}
"""Tensors of the exporter's own, that no module gives."""


def bare(family: str) -> QuantizationSimModel:
    torch.manual_seed(7)
    model, x = (Small(), torch.randn(3, 4)) if family == "m" else (Wide(), torch.randn(2, 8, 3, 3))
    return QuantizationSimModel(model.eval(), x, config=None)


def loaded(name: str) -> QuantizationSimModel:
    sim = bare(FILES[name])
    report = sim.load_encodings(DATA / name, strict=False, input_names=["in"], output_names=["out"])
    assert {text.split(":")[0] for text in report.ignored} <= GRAPH_ONLY
    assert set(report.loaded) == set(report.created)
    return sim


def round_trip(values: Tensor, encoding: AffineEncoding) -> np.ndarray:
    """Quantization by the definition, in float32, with one scale a block; blocks are the file's."""
    array = values.numpy()
    scale, offset = (np.asarray(part, np.float32) for part in (encoding.scale, encoding.offset))
    if encoding.block_size is not None or scale.ndim == array.ndim:
        for axis in range(array.ndim):
            repeats = array.shape[axis] // scale.shape[axis]
            scale, offset = np.repeat(scale, repeats, axis), np.repeat(offset, repeats, axis)
    shift = np.float32(encoding.zero_point_shift)
    codes = np.clip(np.rint(array / scale - shift) - offset, encoding.format.qmin, encoding.format.qmax)
    return ((codes + offset + shift) * scale).astype(np.float32)


def expected_of(entry: Any, values: Tensor, is_transposed: bool, channel_axis: int) -> Iterator[np.ndarray]:
    """What the quantizer must give; nothing for encodings whose layout the file does not say."""
    encoding = entry.encoding
    if not isinstance(encoding, AffineEncoding) or type(encoding.granularity).__name__ == "Flattened":
        return
    oriented = values.T if is_transposed else values
    if encoding.scale.ndim == 1 and encoding.scale.size > 1:
        from dataclasses import replace

        axis = encoding.granularity.axis % oriented.dim()
        shape = [-1 if index == axis else 1 for index in range(oriented.dim())]
        encoding = replace(encoding, scale=encoding.scale.reshape(shape), offset=encoding.offset.reshape(shape))
    result = round_trip(oriented.contiguous(), encoding)
    yield result.T if is_transposed else result


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_quantizes_as_the_definition_says(name: str) -> None:
    sim = loaded(name)
    quantizers = dict(sim.quantizers())
    checked = 0
    for entry in read(DATA / name):
        label = entry.label
        if label in GRAPH_ONLY:
            continue
        if ".weight" in label or ".bias" in label:
            path, key = label.rsplit(".", 1)
            is_transposed = key.endswith("_0")
            key = key.removesuffix("_0")
            values = sim.module(path)._own_parameter(key)
            assert values is not None
            values = values.detach() * 3
            for expected in expected_of(entry, values, is_transposed, 0):
                with torch.no_grad():
                    actual = quantizers[f"{path}.param_quantizers['{key}']"](values)
                np.testing.assert_array_equal(actual.numpy(), expected, err_msg=label)
                checked += 1
        elif isinstance(entry.encoding, AffineEncoding):
            place = _activation_place(entry, FILES[name])
            values = torch.randn(50, generator=torch.Generator().manual_seed(checked))
            (expected,) = expected_of(entry, values, False, 0)
            with torch.no_grad():
                actual = quantizers[place](values)
            np.testing.assert_array_equal(actual.numpy(), expected, err_msg=label)
            checked += 1
    assert checked >= 6


def _activation_place(entry: Any, family: str) -> str:
    if entry.tensor is not None:
        return f"{entry.tensor.module}.{entry.tensor.role}_quantizers[{entry.tensor.key}]"
    if entry.name == "in":
        return "pc.input_quantizers[0]" if family == "m" else "conv.input_quantizers[0]"
    if entry.name == "out":
        return "tc.output_quantizers[0]"
    return f"{entry.name.split('/')[1]}.output_quantizers[0]"


@pytest.mark.parametrize("family", ["m", "wide", "shift"])
def test_files_of_one_simulation_give_the_same_quantizers(family: str) -> None:
    """LPBQ included, although two of the versions store only the products of its scales; these then belong to plain
    blocks, whose scale is derived from a range of float32 numbers: to one unit in the last place."""
    names = [name for name, of in FILES.items() if of == family]
    reference = dict(loaded(f"{family}_2.0.0.encodings").quantizers())
    compared = 0
    for name in names:
        for place, quantizer in loaded(name).quantizers():
            other: QuantizerBase | None = reference.get(place)
            # Only 2.x holds float8, for which the older files have integers; only the torch side has float16.
            if other is None or isinstance(other.get_encodings(), FloatEncoding):
                continue
            if "param" in place:
                path, key = place.split(".param_quantizers")[0], place.split("'")[1]
                values = bare(family).module(path)._own_parameter(key)
                assert values is not None
            else:
                values = torch.randn(64)
            with torch.no_grad():
                actual, expected = quantizer(values.detach() * 3), other(values.detach() * 3)
            if type(quantizer) is type(other):
                assert torch.equal(actual, expected), (name, place)
            else:
                torch.testing.assert_close(actual, expected, rtol=2**-22, atol=0)
            compared += 1
    assert compared > 8 * len(names)


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_runs_and_is_saved_again(name: str, tmp_path: Path) -> None:
    sim = loaded(name)
    x = torch.randn(3, 4) if FILES[name] == "m" else torch.randn(2, 8, 3, 3)
    sim.save_encodings(tmp_path / "own.json")
    other = bare(FILES[name])
    other.load_encodings(tmp_path / "own.json")
    with torch.no_grad():
        expected = sim(x)
        assert torch.isfinite(expected).all()
        assert torch.equal(other(x), expected)


def test_names_that_nothing_explains_need_a_map() -> None:
    sim = bare("m")
    with pytest.raises(EncodingsError, match=r"^.*unchanged: 1 problem\s+in: no tensor of the simulation"):
        sim.load_encodings(DATA / "m_2.0.0.encodings")
    assert list(sim.quantizers()) == []
    for place in ("pc.input_quantizers[0]", "pc.input[0]", ["pc.input[0]"]):
        sim.load_encodings(DATA / "m_2.0.0.encodings", name_map={"in": place})
        assert sim.module("pc").input_quantizers[0] is not None
    with pytest.raises(EncodingsError, match="name_map sends it to 'nowhere'"):
        sim.load_encodings(DATA / "m_2.0.0.encodings", name_map={"in": "nowhere"})
