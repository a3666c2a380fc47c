from __future__ import annotations

import pytest
import torch
from torch import nn

from quantsim import QuantizationSimModel
from quantsim.report.quantizer_switch import QuantizerSwitch, group_modules


def simulation() -> QuantizationSimModel:
    sim = QuantizationSimModel(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 4))
    sim.compute_encodings([torch.randn(8, 4, generator=torch.Generator().manual_seed(0))])
    return sim


def test_without_any_quantizer_the_model_computes_in_floating_point() -> None:
    sim, x = simulation(), torch.linspace(-1, 1, 8).reshape(2, 4)
    switch = QuantizerSwitch(sim)
    simulated = sim(x)
    with switch.without_any():
        exact = sim(x)
        assert not list(sim.quantizers())
    assert torch.equal(exact, sim.remove()(x))
    assert not torch.equal(exact, simulated)


def test_only_the_chosen_ones_are_there() -> None:
    sim = simulation()
    switch = QuantizerSwitch(sim)
    assert switch.modules == ("0", "2")
    assert [place.tensor_name for place in switch.places] == ["input 0", "weight", "input 0", "weight"]
    with switch.replaced(lambda place: place.quantizer if place.tensor.module == "2" else None):
        assert [name for name, _ in sim.quantizers()] == ["2.input_quantizers[0]", "2.param_quantizers['weight']"]


def test_all_are_back_after_an_error() -> None:
    sim = simulation()
    before = dict(sim.quantizers())
    with pytest.raises(RuntimeError, match="half way"), QuantizerSwitch(sim).without_any():
        raise RuntimeError("half way")
    assert dict(sim.quantizers()) == before


@pytest.mark.parametrize(
    ("limit", "names"),
    [
        (9, ["a.0.x", "a.0.y", "a.1.x", "b"]),
        (3, ["a.0", "a.1.x", "b"]),
        (2, ["a", "b"]),
        (1, ["a.0.x … b"]),
    ],
)
def test_modules_are_grouped_by_the_beginnings_of_their_paths(limit: int, names: list[str]) -> None:
    paths = ["a.0.x", "a.0.y", "a.1.x", "b"]
    groups = group_modules(paths, limit)
    assert [group.name for group in groups] == names
    assert [path for group in groups for path in group.modules] == paths


def test_no_modules_are_no_groups() -> None:
    assert group_modules([], 4) == ()
