"""A simulation made from the record of a run is the one that the run gave."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.sim import QuantizationSimModel
from quantsim.sim.functional_routing import is_routed
from quantsim.sim.recorded_run import RecordedRun


class Mixer(nn.Module):
    """Calls of functions from several places, a loop over one of them, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x) + self.second(x)
        for _ in range(3):
            y = torch.tanh(y @ y.transpose(1, 2) @ y)
        mask = torch.full((x.shape[1],), -1e38) + torch.zeros(x.shape[1])
        return torch.cat([y, (x @ x.transpose(1, 2) + mask * 0).softmax(-1) @ x], dim=1) + 1


@pytest.mark.parametrize("preset", ["w8a8", "w4a16_g32", "fp8_e4m3"])
def test_same_places_operations_and_coverage_without_running(preset: str) -> None:
    torch.manual_seed(0)
    model, x = Mixer().eval(), torch.randn(2, 5, 8)
    sim = QuantizationSimModel(model, x, config=preset)
    plain = json.loads(json.dumps(RecordedRun.of(sim).to_plain()))

    def never(*_: object) -> None:
        raise AssertionError("the model was run")

    hook = model.register_forward_pre_hook(never)
    again = QuantizationSimModel(model, RecordedRun.from_plain(plain), config=preset)
    hook.remove()
    for module in (*again.model.modules(),):
        module._forward_pre_hooks.clear()
    assert [place for place, _ in again.quantizers()] == [place for place, _ in sim.quantizers()]
    assert again.coverage == sim.coverage
    assert RecordedRun.of(again) == RecordedRun.of(sim)
    for each in (sim, again):
        if each.uncalibrated():
            each.compute_encodings([x])
    other = torch.randn(3, 7, 8)
    assert torch.equal(again(other), sim(other))


def test_without_example_inputs_nothing_is_routed() -> None:
    sim = QuantizationSimModel(Mixer(), None, config="w8a8")
    again = QuantizationSimModel(Mixer(), RecordedRun.of(sim), config="w8a8")
    assert not is_routed(again.model)
    assert again.coverage == sim.coverage


def test_a_record_of_another_model_is_refused_and_changes_nothing() -> None:
    record = RecordedRun.of(QuantizationSimModel(nn.Sequential(Mixer()), torch.zeros(1, 2, 8)))
    model = Mixer()
    with pytest.raises(ConfigurationError, match="operations in '0', which the model does not have"):
        QuantizationSimModel(model, record, in_place=True)
    assert type(model.first) is nn.Linear
    assert not is_routed(model)


def test_broken_data_are_refused_with_the_field() -> None:
    with pytest.raises(ConfigurationError, match=r"file\.json.*operations"):
        RecordedRun.from_plain({"operations": {"a": 3}}, source="file.json")
