from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from quantsim import QuantizationSimModel
from quantsim.report.quantizer_switch import ModuleGroup, group_modules
from quantsim.report.sensitivity import SimulationProbe, noise_share


class Attention(nn.Module):
    """Modules and functions that multiply, one module twice."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        scores = (self.q(x) @ self.k(x).transpose(-1, -2)).softmax(-1)
        return self.out(self.out(scores @ x))


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def sim(batch: Tensor) -> QuantizationSimModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Attention().eval()
    sim = QuantizationSimModel(model, batch, config="w4a8")
    sim.compute_encodings([batch])
    return sim


def probe_of(sim: QuantizationSimModel, batch: Tensor) -> SimulationProbe:
    probe = SimulationProbe(sim, lambda model: model(batch).double().reshape(-1, 8))
    probe.look()
    return probe


def sqnr(exact: Tensor, simulated: Tensor) -> float:
    exact, simulated = exact.double(), simulated.double()
    return 10 * math.log10(float(exact.square().sum() / (exact - simulated).square().sum()))


@torch.no_grad()
def test_floating_point_is_the_float_model(sim: QuantizationSimModel, batch: Tensor) -> None:
    probe = probe_of(sim, batch)
    simulated = sim(batch)
    exact = sim.remove()(batch)
    assert torch.allclose(probe.exact, exact.double().reshape(-1, 8), atol=1e-6)
    assert probe.error.sqnr_db == pytest.approx(sqnr(exact, simulated), abs=1e-3)


@torch.no_grad()
def test_modules_come_in_running_order_with_functions(sim: QuantizationSimModel, batch: Tensor) -> None:
    probe = probe_of(sim, batch)
    names = [path.rpartition(".")[2] for path in probe.order]
    assert names == ["q", "k", "matmul_0", "matmul_1", "out"]
    assert probe.built_up_db.keys() == set(probe.order)
    assert probe.statistics.keys() == set(probe.places)


@torch.no_grad()
def test_sensitivities_are_those_of_plain_runs(sim: QuantizationSimModel, batch: Tensor) -> None:
    probe = probe_of(sim, batch)
    measured = probe.sensitivities(group_modules(probe.order, 64))
    assert [found.group.name for found in measured] == list(probe.order)
    exact = probe.exact.reshape(batch.shape)
    for found in measured:
        inside = set(found.group.modules)
        for figure, kept in (
            (found.alone_db, lambda place: place.tensor.module in inside),  # noqa: B023
            (found.without_db, lambda place: place.tensor.module not in inside),  # noqa: B023
        ):
            with probe._switch.replaced(lambda place, kept=kept: place.quantizer if kept(place) else None):
                # No output is taken from another run here.
                assert figure == pytest.approx(sqnr(exact, sim.model(batch)), abs=1e-2)
        noise = probe.error.noise
        assert found.alone_share == pytest.approx(probe.error.signal / 10 ** (found.alone_db / 10) / noise)
        assert found.removed_share == pytest.approx(1 - probe.error.signal / 10 ** (found.without_db / 10) / noise)


@torch.no_grad()
def test_own_error_is_on_exact_inputs(sim: QuantizationSimModel, batch: Tensor) -> None:
    probe = probe_of(sim, batch)
    probe.sensitivities(group_modules(probe.order, 64))
    q = sim.module("q")
    exact = nn.functional.linear(batch, q.weight, q.bias)
    assert probe.own_db["q"] == pytest.approx(sqnr(exact, q(batch)), abs=1e-2)
    assert probe.built_up_db["q"] == pytest.approx(probe.own_db["q"])
    assert probe.own_db["out"] != pytest.approx(probe.built_up_db["out"])


@torch.no_grad()
def test_modules_of_a_group_have_no_error_of_their_own(sim: QuantizationSimModel, batch: Tensor) -> None:
    probe = probe_of(sim, batch)
    steps: list[None] = []
    probe.sensitivities([ModuleGroup("q, k", ("q", "k"))], lambda: steps.append(None))
    assert (probe.own_db, len(steps)) == ({}, 1)


@torch.no_grad()
def test_nothing_is_left_behind(sim: QuantizationSimModel, batch: Tensor) -> None:
    quantizers, before = dict(sim.quantizers()), sim(batch)
    probe = probe_of(sim, batch)
    probe.sensitivities(group_modules(probe.order, 64))
    assert dict(sim.quantizers()) == quantizers
    assert torch.equal(sim(batch), before)
    modules = list(sim.model.modules())
    assert not any(module._forward_hooks or "forward" in module.__dict__ for module in modules)
    assert not any(quantizer.is_observing for quantizer in quantizers.values())


@torch.no_grad()
def test_a_simulation_without_error_has_shares_of_zero(batch: Tensor) -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    e8m23 = {"kind": "float", "format": "e8m23", "scaled": False}
    sim = QuantizationSimModel(model, batch, config={"weights": e8m23, "activations": e8m23})
    probe = probe_of(sim, batch)
    assert probe.error.sqnr_db == math.inf
    found = probe.sensitivities(group_modules(probe.order, 4))[0]
    assert (found.alone_share, found.removed_share, found.alone_db) == (0.0, 0.0, math.inf)


def test_kernels_are_asked_about_the_inputs_that_come() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    sim = QuantizationSimModel(model, batch, config="w8a8")
    sim.compute_encodings([batch])
    probe = SimulationProbe(sim, lambda run: run(batch))
    with torch.no_grad():
        probe.look()
    assert {path: str(report.source) for path, report in probe.dispatch.items()} == {
        "0": "fake-quantization",
        "2": "fake-quantization",
    }
    assert all(not module._forward_pre_hooks for module in sim.model.modules())


def test_shares_are_finite() -> None:
    assert [noise_share(noise, 2.0) for noise in (1.0, math.inf, math.nan)] == [0.5, 1.0, 1.0]
    assert noise_share(1.0, 0.0) == noise_share(1.0, math.nan) == 0.0
