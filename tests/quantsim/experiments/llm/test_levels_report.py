from __future__ import annotations

from pathlib import Path

from quantsim.experiments.llm.levels_report import levels_figure, levels_table, write_levels_report
from quantsim.experiments.llm.results import LanguageResult, LanguageStage


def point(perplexity: float, variant: str = "", levels: int = 0) -> LanguageResult:
    return LanguageResult(
        system="optical" if levels else "original",
        stage=LanguageStage.POST_TRAINING if levels else LanguageStage.TRAINED,
        loss=1.0,
        perplexity=perplexity,
        blocks=4,
        settings={"variant": variant, "levels": levels} if levels else {},
    )


RESULTS = [
    point(5.0),
    point(123.0, "configured", 16),
    point(5.5, "configured", 64),
    point(5.01, "configured", 256),
    point(5.2, "no_noise", 64),
]


def test_the_table_has_a_cell_for_each_point() -> None:
    assert levels_table(RESULTS).splitlines() == [
        "| Levels | as configured | no noise |",
        "|-------:|-------:|-------:|",
        "| 16 | 123.0 |  |",
        "| 64 | 5.500 | 5.200 |",
        "| 256 | 5.010 |  |",
        "| float32 | 5.000 | 5.000 |",
    ]


def test_the_chart_shows_the_points_and_the_float_model() -> None:
    figure = levels_figure(RESULTS)
    (axes,) = figure.axes
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    assert list(lines["as configured"].get_xdata()) == [16, 64, 256]
    assert list(lines["as configured"].get_ydata()) == [123.0, 5.5, 5.01]
    assert list(lines["no noise"].get_xdata()) == [64]
    assert any(list(line.get_ydata()) == [5.0, 5.0] for line in axes.get_lines())
    assert axes.get_ylim()[0] < 5.0 < 123.0 < axes.get_ylim()[1]
    assert len(axes.get_yticks()) >= 3


def test_one_result_gives_the_same_files_each_time(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = write_levels_report(tmp_path / "a", RESULTS), write_levels_report(tmp_path / "b", RESULTS)
    assert [path.name for path in first] == ["levels.md", "levels.png", "levels.svg"]
    assert first[0].read_bytes() == second[0].read_bytes()
    assert first[2].read_bytes() == second[2].read_bytes()
