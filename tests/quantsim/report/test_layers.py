from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from quantsim import QuantizationSimModel
from quantsim.experiments.demo import SimulationRun
from quantsim.report.demo_layers import LayerCollector
from quantsim.report.layers import LayerProbe


class TwoBranches(nn.Module):
    """One module that runs twice, one that never runs, and modules listed in another order than they run in."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(8, 4)
        self.first = nn.Linear(8, 8)
        self.never = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.first(x)))


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TwoBranches().eval()


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(1))


def simulate(model: nn.Module, batch: Tensor, scheme: str) -> QuantizationSimModel:
    simulation = QuantizationSimModel(model, batch, config=scheme)
    with torch.no_grad(), simulation.compute_encodings():
        simulation(batch)
    return simulation


def test_modules_come_in_the_order_they_run(model: nn.Module, batch: Tensor) -> None:
    assert LayerProbe(model, lambda run: run(batch)).order == ("first", "second")


def test_the_probe_leaves_no_hooks(model: nn.Module, batch: Tensor) -> None:
    probe = LayerProbe(model, lambda run: run(batch))
    simulation = simulate(model, batch, "w8a8")
    probe.output_sqnr(simulation.model)
    assert not any(module._forward_hooks for module in (*model.modules(), *simulation.model.modules()))


def test_output_sqnr_is_that_of_the_same_call(model: nn.Module, batch: Tensor) -> None:
    simulation = simulate(model, batch, "w4a8")
    measured = LayerProbe(model, lambda run: run(batch)).output_sqnr(simulation.model)
    assert list(measured) == ["first", "second"]
    with torch.no_grad():
        exact, quantized = model.get_submodule("first")(batch), simulation.model.get_submodule("first")(batch)
    expected = 10 * math.log10(float(exact.square().sum() / (exact - quantized).square().sum()))
    assert measured["first"] == pytest.approx(expected, abs=1e-3)


def test_ranges_hold_what_was_seen_and_what_the_grid_holds(model: nn.Module, batch: Tensor) -> None:
    simulation = simulate(model, batch, "w8a8")
    rows = {(row.module, row.tensor): row for row in LayerProbe(model, lambda run: run(batch)).ranges(simulation.model)}
    assert {("first", "input 0"), ("first", "weight"), ("second", "weight")} <= rows.keys()
    row = rows["first", "input 0"]
    assert row.observed_low == pytest.approx(float(batch.min()))
    encoding = simulation.model.get_submodule("first").input_quantizers[0].get_encodings()
    assert row.grid_high == pytest.approx(float(encoding.max.max()))
    assert row.grid_low < row.grid_high


def test_the_collector_joins_schemes_with_different_coverage(model: nn.Module, batch: Tensor) -> None:
    collector = None
    for scheme in ("w8a8", "w8a8_dynamic", "w4a16_g32"):
        # As many inputs as here fill no group of 32, so the third scheme has a config of its own.
        config = {"weights": {"kind": "int", "bits": 4, "granularity": "channel"}} if scheme == "w4a16_g32" else scheme
        simulation = QuantizationSimModel(model, batch, config=config)
        with torch.no_grad(), simulation.compute_encodings():
            simulation(batch)
        run = SimulationRun(
            model="m", scheme=scheme, reference=model, simulation=simulation, forward=lambda run: run(batch)
        )
        collector = collector or LayerCollector(run)
        collector.add(run)
    assert collector is not None
    section = collector.layer_section("m")
    assert section.schemes == ("w8a8", "w8a8_dynamic", "w4a16_g32")
    assert [layer.module for layer in section.layers] == ["first", "second"]
    assert all(value is not None and value > 5 for layer in section.layers for value in layer.sqnr_db)
    assert {part.title for part in collector.range_sections("m")} == {"m, w8a8: activations", "m, w8a8: weights"}
    schemes = {histogram.scheme for part in collector.histogram_sections("m") for histogram in part.histograms}
    assert schemes == {"w8a8", "w8a8_dynamic", "w4a16_g32"}  # the dynamic scheme has its own grid for weights only
    coverage = collector.coverage_section("m").rows
    assert [(row.op, row.modules, row.weights, row.activations) for row in coverage] == [("Linear", 2, 2, 2)]
