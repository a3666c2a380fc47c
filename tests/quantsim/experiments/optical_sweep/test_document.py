from __future__ import annotations

from dataclasses import replace

from quantsim.experiments.optical_sweep import SweepResult, as_markdown


def test_tables_hold_what_was_measured(result: SweepResult) -> None:
    lines = as_markdown(result).splitlines()
    assert "| engine | 16 levels | 256 levels |" in lines
    assert "| engine a | 0.9876 (1.2) | 0.9876 (∞) |" in lines
    assert "| engine b | 0.9876 (3.0) |  |" in lines  # not measured there
    assert "| engine a | 50.00 | 50.00 |" in lines
    assert "| 0.5 | 50.00 | 25.00 | 0.9876 | 4.0 |" in lines
    assert "FP32 has an accuracy of 75.00 %, retrieval@1 50.00 %" in lines[-1]
    tables = [line for line in lines if line.startswith("|---")]
    assert tables == ["|---|---:|---:|", "|---|---:|---:|", "|---|---:|---:|---:|---:|"]


def test_what_was_not_measured_has_no_table(result: SweepResult) -> None:
    assert "photons" not in as_markdown(replace(result, photons=()))
    assert "engine" not in as_markdown(replace(result, levels=(), photons=()))
