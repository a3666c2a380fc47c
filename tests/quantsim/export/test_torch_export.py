"""An exported program computes what the simulation computes, and its file holds the encodings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.export import export_program, load_program
from quantsim.sim import QuantizationSimModel


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 32)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.drop(self.first(x)) + x
        return {"scores": (y @ x.transpose(1, 2)).softmax(-1) * scale}


def simulated(preset: str) -> tuple[QuantizationSimModel, torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    x, keywords = torch.randn(2, 5, 32), {"scale": torch.ones(())}
    sim = QuantizationSimModel(Mixer(), ((x,), keywords), config=preset)
    if sim.config.needs_data:
        sim.compute_encodings([((x,), keywords)])
    return sim, x, keywords


@pytest.mark.parametrize("fold_weights", [False, True])
@pytest.mark.parametrize("preset", ["w8a8", "w8a8_dynamic", "w4a16_g32", "fp8_e4m3", "mxfp4"])
def test_round_trip(tmp_path: Path, preset: str, fold_weights: bool) -> None:
    sim, x, keywords = simulated(preset)
    sim.model.train()
    path = tmp_path / "new" / "program.pt2"
    program = export_program(sim, ((x,), keywords), path, fold_weights=fold_weights)
    assert sim.model.training
    assert os.listdir(path.parent) == ["program.pt2"]
    sim.model.eval()
    loaded = load_program(path)
    other = torch.randn(2, 5, 32)
    with torch.no_grad():
        expected = sim(other, **keywords)["scores"]
        for each in (program, loaded.program):
            assert torch.equal(each.module()(other, **keywords)["scores"], expected)
    assert loaded.encodings == sim.encodings()
    assert loaded.config == sim.config
    assert torch.equal(sim(other, **keywords)["scores"], expected)


def test_folded_program_holds_weights_on_the_grid_and_does_not_touch_the_simulation() -> None:
    sim, x, keywords = simulated("w4a16_g32")
    weight = sim.model.first.weight.clone()
    program = export_program(sim, ((x,), keywords), fold_weights=True)
    stored = program.state_dict["first.weight"]
    assert max(len(block.unique()) for block in stored.reshape(-1, 32)) <= 16
    assert torch.equal(sim.model.first.weight, weight)
    assert sim.module("first").param_quantizers["weight"] is not None


def test_sizes_may_vary() -> None:
    sim, x, keywords = simulated("w8a8")
    shapes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2)}, "scale": None}
    program = export_program(sim, ((x,), keywords), dynamic_shapes=shapes)
    other = torch.randn(3, 9, 32)
    sim.model.eval()
    with torch.no_grad():
        assert torch.equal(program.module()(other, **keywords)["scores"], sim(other, **keywords)["scores"])


def test_uncalibrated_quantizers_are_named(tmp_path: Path) -> None:
    sim = QuantizationSimModel(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2), config="w8a8")
    with pytest.raises(NotCalibratedError, match=r"0\.input_quantizers\[0\]"):
        export_program(sim, torch.zeros(1, 2), tmp_path / "program.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_decides_on_values_is_refused_with_torchs_reason() -> None:
    class Decides(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 0 else x

    sim = QuantizationSimModel(Decides(), torch.ones(2), config="w4a16_g32")
    with pytest.raises(ConfigurationError, match="cannot trace the model"):
        export_program(sim, torch.ones(2))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load_program(tmp_path / "nowhere.pt2")
    (tmp_path / "broken.pt2").write_text("this is no program")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_program(tmp_path / "broken.pt2")
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "plain.pt2")
    with pytest.raises(ConfigurationError, match="holds no encodings"):
        load_program(tmp_path / "plain.pt2")
