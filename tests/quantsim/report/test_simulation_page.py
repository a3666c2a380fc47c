from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quantsim import QuantizationSimModel
from quantsim.report import simulation_page as page_module
from quantsim.report.data import Tone
from quantsim.report.model_outputs import OutputError
from quantsim.report.quantizer_switch import group_modules
from quantsim.report.render import render_simulation_page
from quantsim.report.sensitivity import SimulationProbe
from quantsim.report.simulation_page import Measured, Scores, simulation_page


def measured_of(
    model: nn.Module, batch: Tensor, scheme: str, **changes: object
) -> tuple[QuantizationSimModel, Measured]:
    sim = QuantizationSimModel(model.eval(), batch, config=scheme)
    with torch.no_grad():
        sim.compute_encodings([batch])
        probe = SimulationProbe(sim, lambda model: model(batch).double().reshape(len(batch), -1))
        probe.look()
        values = {
            "probe": probe,
            "error": probe.error,
            "scores": None,
            "sensitivities": probe.sensitivities(group_modules(probe.order, 64)),
            "kinds": (),
            "output": "logits",
            "samples": "8 × 4 values",
            "batches": 1,
            "seconds": 1.5,
        }
    return sim, Measured(**{**values, **changes})


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


def test_what_was_measured_is_on_the_page(model: nn.Module, batch: Tensor) -> None:
    sim, measured = measured_of(model, batch, "w8a8")
    page = simulation_page(sim, measured, None)
    assert page.title == "Sequential in w8a8"
    assert "4 quantizers in 2 modules" in page.subtitle
    values = {item.label: item.value for item in page.highlights}
    assert values["SQNR of the output"] == f"{measured.error.sqnr_db:.1f} dB"
    assert values["Multiplications quantized"] == "2 of 2"
    assert [(row.module, row.tensor) for row in page.tensors] == [
        ("0", "input 0"),
        ("0", "weight"),
        ("2", "input 0"),
        ("2", "weight"),
    ]
    assert page.layers is not None and page.layers.schemes == ("all quantizers", "its own alone")
    assert page.sensitivity is not None and len(page.sensitivity.rows) == 2
    assert {section.title for section in page.histograms} == {"0", "2"}
    assert ("Duration", "1.5 s") in page.environment


def test_without_sensitivities_the_rest_stays(model: nn.Module, batch: Tensor) -> None:
    sim, measured = measured_of(model, batch, "w8a8", sensitivities=())
    measured.probe.own_db.clear()
    page = simulation_page(sim, measured, "Mine")
    assert (page.title, page.sensitivity) == ("Mine", None)
    assert page.layers is not None and page.layers.schemes == ("all quantizers",)
    assert page.histograms
    assert 'id="sensitivity"' not in render_simulation_page(page)


@pytest.mark.parametrize(
    ("scores", "value", "note", "tone"),
    [
        (Scores(name="accuracy", exact=0.8, simulated=0.795, is_share=True), "79.50 %", "−0.50 points", Tone.GOOD),
        (Scores(name="accuracy", exact=0.8, simulated=0.7, is_share=True), "70.00 %", "−10.00 points", Tone.WARNING),
        (Scores(name="accuracy", exact=0.8, simulated=0.8, is_share=True), "80.00 %", "±0.00 points", Tone.GOOD),
        (Scores(name="perplexity", exact=4.66, simulated=4.7, is_share=False), "4.7", "4.66 in floating", Tone.NEUTRAL),
    ],
)
def test_the_metric_comes_first(
    model: nn.Module, batch: Tensor, scores: Scores, value: str, note: str, tone: Tone
) -> None:
    sim, measured = measured_of(model, batch, "w8a8", scores=scores)
    first = simulation_page(sim, measured, None).highlights[0]
    assert (first.label, first.value, first.tone) == (scores.name.capitalize(), value, tone)
    assert first.note.startswith(note)


def test_run_time_scales_have_no_grid(model: nn.Module, batch: Tensor) -> None:
    sim, measured = measured_of(model, batch, "mxfp4")
    page = simulation_page(sim, measured, None)
    assert all(row.grid_low is None and row.histogram is None for row in page.tensors)
    assert all(row.sqnr_db is not None for row in page.tensors)
    assert "the grid moves with the data" in render_simulation_page(page)


def test_modules_that_did_not_run_are_shown_without_figures(batch: Tensor) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    sim, measured = measured_of(Net(), batch, "w8a8_dynamic")
    page = simulation_page(sim, measured, None)
    rows = {(row.module, row.tensor): row for row in page.tensors}
    assert rows["unused", "input 0"].sqnr_db is None
    assert page.tensors[0].module == "used"
    assert any("did not run" in finding.text for finding in page.findings)
    render_simulation_page(page)


def test_a_large_model_keeps_the_page_small(model: nn.Module, batch: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "_MOST_TENSORS", 2)
    sim, measured = measured_of(model, batch, "w8a8")
    page = simulation_page(sim, measured, None)
    assert (len(page.tensors), page.left_out) == (2, 2)
    assert "2 more are left out" in render_simulation_page(page)


def test_no_error_at_all(model: nn.Module, batch: Tensor) -> None:
    sim, measured = measured_of(model, batch, "w8a8", error=OutputError(signal=1.0, rows=1, cosines=1.0))
    assert measured.error.sqnr_db == math.inf
    assert "no error" in {item.value for item in simulation_page(sim, measured, None).highlights}


def test_names_are_escaped_and_may_be_broken(model: nn.Module, batch: Tensor, tmp_path: Path) -> None:
    sim, measured = measured_of(model, batch, "w8a8")
    text = render_simulation_page(simulation_page(sim, measured, "<script>alert(1)</script> a_b.c"))
    assert "<script" not in text
    assert "a_<wbr>b.<wbr>c" in text
    assert "http" not in text.replace("http-equiv", "")
