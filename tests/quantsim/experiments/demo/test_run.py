from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

import quantsim_encodings
from quantsim.experiments.demo import DemoSettings, SimulationRun, run_demo
from quantsim.experiments.demo import run as run_module
from quantsim.experiments.demo.workloads import Workload, digits_workload

PRESETS = ("w8a8", "w8a8_dynamic", "fp8_e4m3")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DemoSettings:
    """Digits twice in place of MiniLM and digits, so that the test needs neither weights nor minutes."""

    def named(name: str) -> Callable[[DemoSettings, Progress], Workload]:
        return lambda settings, progress: dataclasses.replace(digits_workload(settings, progress), model=name)

    monkeypatch.setattr(run_module, "minilm_workload", named("first"))
    monkeypatch.setattr(run_module, "digits_workload", named("second"))
    return DemoSettings(output=tmp_path / "out", presets=PRESETS, epochs=2)


def run(settings: DemoSettings, on_simulation: Callable[[SimulationRun], None] | None = None):
    return run_demo(settings, Console(file=io.StringIO()), on_simulation)


def test_every_preset_is_measured_against_fp32(settings: DemoSettings) -> None:
    result = run(settings)
    assert [experiment.model for experiment in result.experiments] == ["first", "second"]
    for experiment in result.experiments:
        assert experiment.parameters == 13_490
        assert math.isinf(experiment.reference.sqnr_db)
        assert experiment.reference.cosine == pytest.approx(1.0)
        assert experiment.reference.size_bytes == 4 * 13_490
        assert [scheme.scheme for scheme in experiment.schemes] == list(PRESETS)
        for scheme in experiment.schemes:
            assert 15 < scheme.sqnr_db < 60
            assert scheme.size_bytes < 0.4 * experiment.reference.size_bytes
            assert abs(scheme.accuracy - experiment.reference.accuracy) < 0.02


def test_encodings_are_written_in_each_version_that_can_hold_them(settings: DemoSettings) -> None:
    files = {(file.scheme, file.version): file for file in run(settings).experiments[0].files}
    assert files.keys() == {(scheme, version) for scheme in PRESETS for version in ("quantsim-1", "aimet-torch")}
    for file in files.values():
        assert (file.path is None) == (file.problem is not None)
        if file.path is not None:
            assert quantsim_encodings.validate(file.path) == []
            assert len(quantsim_encodings.read(file.path).entries) == file.entries > 0
    assert files["w8a8", "aimet-torch"].path is not None
    assert "Dynamic" in (files["w8a8_dynamic", "aimet-torch"].problem or "")


def test_an_earlier_runs_file_does_not_pass_for_this_runs(settings: DemoSettings) -> None:
    stale = settings.output / "encodings" / "first-w8a8_dynamic.aimet.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    run(settings)
    assert not stale.exists()


def test_results_are_written_as_they_are_returned(settings: DemoSettings) -> None:
    result = run(settings)
    assert json.loads((settings.output / "results.json").read_text()) == json.loads(json.dumps(result.as_json()))
    assert {entry.name for entry in settings.output.iterdir()} == {"encodings", "results.json"}


def test_each_simulation_is_shown_once_calibrated_and_the_float_model_stays_as_it_was(settings: DemoSettings) -> None:
    seen: list[tuple[str, str]] = []

    def look(simulated: SimulationRun) -> None:
        seen.append((simulated.model, simulated.scheme))
        assert not simulated.simulation.uncalibrated()
        assert not any(hasattr(module, "param_quantizers") for module in simulated.reference.modules())
        exact, quantized = simulated.forward(simulated.reference), simulated.forward(simulated.simulation.model)
        assert isinstance(exact, torch.Tensor)
        assert isinstance(quantized, torch.Tensor)
        assert not torch.equal(exact, quantized)

    run(settings, look)
    assert seen == [(model, scheme) for model in ("first", "second") for scheme in PRESETS]
