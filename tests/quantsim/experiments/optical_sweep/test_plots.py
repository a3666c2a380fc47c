from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from quantsim.experiments.optical_sweep import SweepResult
from quantsim.experiments.optical_sweep.plots import plot_levels, plot_photons, save_plot


def test_each_engine_has_a_line_through_its_points(result: SweepResult) -> None:
    left, right = plot_levels(result).axes
    assert [line.get_xydata().tolist() for line in left.lines][1] == [[16.0, 3.0]]
    assert [text.get_text() for text in right.figure.legends[0].get_texts()] == ["a", "b"]
    assert len(plot_levels(result, ["b"]).axes[0].lines) == 1


def test_light_is_plotted_with_accuracy_and_retrieval(result: SweepResult) -> None:
    left, right = plot_photons(result).axes
    assert left.lines[0].get_xydata().tolist() == [[0.5, 4.0], [10.0, 5.0]]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["accuracy", "retrieval@1"]
    without = replace(result, photons=tuple(replace(point, retrieval_at_1=None) for point in result.photons))
    assert len(plot_photons(without).axes[1].get_legend().get_texts()) == 1


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plots_are_written_without_touching_pyplot(result: SweepResult, tmp_path: Path, suffix: str) -> None:
    loaded = "matplotlib.pyplot" in sys.modules
    path = tmp_path / "figures" / f"levels.{suffix}"
    save_plot(plot_levels(result), path)
    assert path.stat().st_size > 1000
    assert ("matplotlib.pyplot" in sys.modules) is loaded
