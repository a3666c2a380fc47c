from __future__ import annotations

import csv
import io
import statistics

import pytest

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.results import RunResult, Stage, System
from quantsim.experiments.glue.table import AVERAGE, as_csv, as_markdown, result_tables


def result(system: str, stage: str, task: str, seed: int, value: float, **metrics: float) -> RunResult:
    return RunResult(
        system=System(system),
        stage=Stage(stage),
        task=task,
        seed=seed,
        metrics={"accuracy": value, **metrics},
        headline=value,
        train_steps=0,
        seconds=1.0,
    )


RESULTS = [
    *(
        result("original", "post_training", task, seed, 0.9 + 0.01 * seed)
        for task in ("cola", "mnli")
        for seed in (0, 1)
    ),
    *(result("random", "post_training", task, seed, 0.1) for task in ("cola", "mnli") for seed in (0, 1)),
    *(result("optical", "post_training", "cola", seed, value) for seed, value in enumerate((0.5, 0.7))),
    *(result("optical", "post_training", "mnli", seed, value) for seed, value in enumerate((0.4, 0.4))),
    *(result("optical", "fine_tuned", "cola", seed, 0.8) for seed in (0, 1)),
]


def test_cells_are_means_over_seeds() -> None:
    post_training, fine_tuned = result_tables(RESULTS)
    assert (post_training.stage, fine_tuned.stage) == (Stage.POST_TRAINING, Stage.FINE_TUNED)
    assert post_training.tasks == ("mnli", "cola")  # the order of the published table
    original, random, optical = post_training.rows
    assert [row.system for row in post_training.rows] == [System.ORIGINAL, System.RANDOM, System.OPTICAL]
    assert optical.cells["cola"].mean == pytest.approx(0.6)
    assert optical.cells["cola"].deviation == pytest.approx(statistics.stdev([0.5, 0.7]))
    assert optical.average is not None
    # Tasks first: the deviation is that of the seeds' averages 0.45 and 0.55.
    assert (optical.average.mean, optical.average.seeds) == (pytest.approx(0.5), 2)
    assert optical.average.deviation == pytest.approx(statistics.stdev([0.45, 0.55]))
    assert original.cells["mnli"].mean == pytest.approx(0.905)
    assert random.cells["cola"].deviation == 0.0


def test_what_is_not_transformed_is_in_both_tables() -> None:
    post_training, fine_tuned = result_tables(RESULTS)
    assert post_training.repeated == ()
    assert fine_tuned.repeated == ("Original", "Random")
    assert fine_tuned.rows[0].cells == post_training.rows[0].cells
    trained = result_tables([*RESULTS, result("original", "fine_tuned", "cola", 0, 0.95)])[1]
    assert trained.repeated == ("Random",)
    assert trained.rows[0].cells["cola"].mean == 0.95


def test_a_missing_task_is_a_dash_and_leaves_no_average() -> None:
    optical = result_tables(RESULTS)[1].rows[2]
    assert set(optical.cells) == {"cola"}
    assert optical.average is None
    line = next(line for line in as_markdown(result_tables(RESULTS)[1:]).splitlines() if "Optical" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "Optical Transformer",
        "—",
        "0.8000 ± 0.0000",
        "—",
    ]


def test_markdown_has_equal_columns_and_says_how_many_seeds() -> None:
    text = as_markdown(result_tables(RESULTS), digits=2)
    lines = text.splitlines()
    assert lines[0] == "**Post-training transform**"
    assert lines[2].split("|")[1:-1] == [
        " Model               ",
        " MNLI (Acc/mismatch) ",
        " CoLA (Matt) ",
        "         Avg ",
    ]
    assert len({len(line) for line in lines[2:7]}) == 1
    assert lines[3].count("-:") == 3
    assert "Mean ± standard deviation over 2 seeds." in text
    assert text.count("Original and Random are not transformed") == 1
    assert "One seed." in as_markdown(result_tables(RESULTS[:1]))


def test_csv_has_a_line_a_cell() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(result_tables(RESULTS)))))
    cell = next(
        line for line in lines if (line["stage"], line["system"], line["task"]) == ("post_training", "optical", "cola")
    )
    assert (float(cell["mean"]), cell["seeds"], cell["metric"]) == (pytest.approx(0.6), "2", "headline")
    averages = [line for line in lines if line["task"] == AVERAGE]
    assert len(averages) == 5  # three rows, and two in the second table
    one = list(csv.DictReader(io.StringIO(as_csv(result_tables(RESULTS[:1])))))
    assert one[0]["standard_deviation"] == ""


def test_the_last_of_several_results_of_one_run_counts() -> None:
    again = [*RESULTS, result("optical", "fine_tuned", "cola", 0, 0.6)]
    assert result_tables(again)[1].rows[2].cells["cola"].mean == pytest.approx(0.7)


def test_another_metric() -> None:
    results = [result("optical", "post_training", "cola", 0, 0.5, f1=0.25)]
    (table,) = result_tables(results, metric="f1")
    assert table.rows[0].cells["cola"].mean == 0.25
    assert table.heading("cola") == "CoLA (f1)"
    with pytest.raises(ConfigurationError, match=r"cola, seed 0.*'pearson'.*accuracy, f1, headline"):
        result_tables(results, metric="pearson")


def test_nothing_to_show() -> None:
    with pytest.raises(ConfigurationError, match="nothing to show"):
        result_tables([])
