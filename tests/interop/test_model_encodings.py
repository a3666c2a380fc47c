"""Encodings files that aimet-torch wrote for a calibrated network are loaded, and the network then computes what
aimet-torch computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle_model import ONNX_NAMES
from simulated import NAME_MAP, bare_simulation, float_model, laid_out_simulation, quantizer_at, run

from quantsim.sim import QuantizationSimModel
from quantsim_encodings import read

FOLDER = Path(__file__).parent / "vectors" / "model"
VERSIONS = ("0.6.1", "1.0.0", "2.0.0", "2.1.0")
FILES = ("torch.encodings", *(f"model_{version}.encodings" for version in VERSIONS))

# These versions store an LPBQ weight or its blocks without saying so: a simulation must know the layout already.
WITHOUT_LAYOUT = ("torch.encodings", "model_0.6.1.encodings")


def load(
    name: str, *, laid_out: bool, folder: Path = FOLDER
) -> tuple[QuantizationSimModel, torch.Tensor, dict[str, np.ndarray]]:
    model, images, arrays = float_model(folder)
    sim = (laid_out_simulation if laid_out else bare_simulation)(model, images)
    sim.load_encodings(folder / name, name_map=NAME_MAP, input_names=["images"], partial=True)
    return sim, images, arrays


def quantized_tensors(arrays: dict[str, np.ndarray]) -> list[tuple[str, str, str]]:
    """(module, role, key) of every quantizer that was recorded."""
    return sorted({tuple(name.split("/")[1:4]) for name in arrays if name.startswith("quantizers/")})  # type: ignore[misc]


def output_step(sim: QuantizationSimModel) -> float:
    """The distance of neighbouring values of the output."""
    return sim.model.tensor.output_quantizers[0].get_scale().item()


def check(sim: QuantizationSimModel, images: torch.Tensor, arrays: dict[str, np.ndarray], *, exact: bool) -> None:
    """Every quantizer bit for bit; the whole to two steps of the output (exactly, on the recorder's machine)."""
    tensors = quantized_tensors(arrays)
    assert len(tensors) == 11
    for path, role, key in tensors:
        quantizer = quantizer_at(sim, path, role, key)
        assert quantizer is not None, f"{path}.{role}[{key}] has no quantizer"
        before, after = (
            torch.from_numpy(arrays[f"quantizers/{path}/{role}/{key}/{when}"]) for when in ("before", "after")
        )
        with torch.no_grad():
            different = int((quantizer(before) != after).sum())
        assert different == 0, f"{path}.{role}[{key}]: {different} of {after.numel()} elements differ"
    scores = torch.from_numpy(arrays["scores"])
    if exact:
        assert torch.equal(run(sim, images), scores)
    else:
        torch.testing.assert_close(run(sim, images), scores, rtol=0, atol=2.01 * output_step(sim))


@pytest.mark.parametrize("name", FILES)
def test_a_file_sets_the_quantizers_that_are_there(name: str) -> None:
    check(*load(name, laid_out=True), exact=False)


@pytest.mark.parametrize("name", [name for name in FILES if name not in WITHOUT_LAYOUT])
def test_a_file_creates_the_quantizers(name: str) -> None:
    check(*load(name, laid_out=False), exact=False)


@pytest.mark.parametrize("name", ["model_2.0.0_bias.encodings", "model_2.1.0_bias.encodings"])
def test_a_file_with_derived_bias_encodings(name: str) -> None:
    """int32 biases on the grid of input times weight: below anything an 8-bit output shows."""
    sim, images, arrays = load(name, laid_out=False)
    for path in ("convolution", "channel", "tensor"):
        quantizer = quantizer_at(sim, path, "param", "bias")
        assert quantizer is not None
        bias = torch.from_numpy(arrays[f"state/{path}.bias"])
        with torch.no_grad():
            torch.testing.assert_close(quantizer(bias), bias, rtol=0, atol=float(quantizer.get_scale().max()))
    scores = torch.from_numpy(arrays["scores"])
    torch.testing.assert_close(run(sim, images), scores, rtol=0, atol=2.01 * output_step(sim))


@pytest.mark.parametrize("name", FILES)
def test_every_entry_is_read_under_its_own_name(name: str) -> None:
    entries = read(FOLDER / name).entries
    if name == "torch.encodings":
        assert {
            (entry.tensor.module, str(entry.tensor.role), entry.tensor.key) for entry in entries if entry.tensor
        } >= {place for place in ONNX_NAMES.values() if place[2] != "bias" and place[0] != "flatten"}
    else:
        assert {entry.name for entry in entries} == {place for place in ONNX_NAMES if not place.endswith("bias")}


@pytest.mark.parametrize("name", FILES)
def test_the_recorded_files_are_the_oracles(name: str) -> None:
    document = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    if name != "torch.encodings":
        assert document["producer"] == {"package": "aimet-torch", "version": "2.42.0"}
