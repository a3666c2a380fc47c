from __future__ import annotations

from pathlib import Path

import pytest

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.plots import plot_tables, result_figure
from quantsim.experiments.glue.results import RunResult, Stage, System
from quantsim.experiments.glue.table import ResultTable, result_tables

pytest.importorskip("matplotlib")


@pytest.fixture
def tables() -> tuple[ResultTable, ...]:
    values = {
        (System.ORIGINAL, Stage.POST_TRAINING): 0.9,
        (System.OPTICAL, Stage.POST_TRAINING): 0.8,
        (System.OPTICAL, Stage.FINE_TUNED): 0.85,
    }
    return result_tables(
        RunResult(
            system=system,
            stage=stage,
            task=task,
            seed=seed,
            metrics={},
            headline=value + 0.01 * seed,
            train_steps=0,
            seconds=0.0,
        )
        for (system, stage), value in values.items()
        for task in ("cola", "mrpc")
        for seed in (0, 2)
    )


def test_a_panel_a_task_and_one_for_the_average(tables: tuple[ResultTable, ...]) -> None:
    figure = result_figure(tables)
    panels = figure.get_axes()
    assert [panel.get_title(loc="left") for panel in panels] == ["MRPC (Acc)", "CoLA (Matt)", "average"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["Original", "Optical Transformer"]
    dots = sorted(
        (float(line.get_ydata()[0]), float(line.get_xdata()[0]))  # pyright: ignore[reportIndexIssue]
        for line in panels[0].get_lines()
        if line.get_marker() == "o"
    )
    assert dots == [(0.0, pytest.approx(0.91)), (1.0, pytest.approx(0.81)), (1.0, pytest.approx(0.86))]
    words = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert sorted(words) == ["Original", "fine-tuned", "not transformed", "post-training"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_file_is_of_the_kind_its_name_says(tables: tuple[ResultTable, ...], tmp_path: Path, suffix: str) -> None:
    path = plot_tables(tables[:1], tmp_path / "new" / f"figure.{suffix}")
    assert {"png": b"\x89PNG", "svg": b"<?xml"}[suffix] in path.read_bytes()[:10]
    with pytest.raises(ConfigurationError, match=r"got \.txt; expected \.png or \.svg or \.pdf"):
        plot_tables(tables, tmp_path / "figure.txt")
