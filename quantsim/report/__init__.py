"""Reports: one self-contained HTML file from plain values."""

from __future__ import annotations

from quantsim.report.data import (
    AccuracySection,
    CoverageRow,
    CoverageSection,
    EncodingsRow,
    Highlight,
    Histogram,
    HistogramSection,
    LayerRow,
    LayerSection,
    RangeRow,
    RangeSection,
    ReportData,
    SchemeRow,
    Tone,
    UnquantizedRow,
)
from quantsim.report.render import render_report, write_report
from quantsim.report.simulation import SimulationReport, write_simulation_report

__all__ = [
    "AccuracySection",
    "CoverageRow",
    "CoverageSection",
    "EncodingsRow",
    "Highlight",
    "Histogram",
    "HistogramSection",
    "LayerRow",
    "LayerSection",
    "RangeRow",
    "RangeSection",
    "ReportData",
    "SchemeRow",
    "SimulationReport",
    "Tone",
    "UnquantizedRow",
    "render_report",
    "write_report",
    "write_simulation_report",
]
