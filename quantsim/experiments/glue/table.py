"""Results of many runs as two tables, post-training and fine-tuned: a row a system, a column a task, and the average.

A cell is the mean over seeds, with the standard deviation (of a sample: divided by n − 1) where there is more than one
seed. The average of a row is taken over tasks first, for each seed that has all of them, and then over seeds. Original
and Random are not transformed: where they were not trained further, they are the same in both tables.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.results import RunResult, Stage, System

__all__ = ["AVERAGE", "HEADLINE", "Cell", "ResultRow", "ResultTable", "as_csv", "as_markdown", "result_tables"]

AVERAGE: Final = "average"
"""Column of the average in CSV."""
HEADLINE: Final = "headline"
"""The number that a task is known by: Matthews for CoLA, the mean of both correlations for STS-B, else accuracy."""

_HEADINGS: Final = {
    "mnli": "MNLI (Acc/mismatch)",
    "qnli": "QNLI (Acc)",
    "rte": "RTE (Acc)",
    "sst2": "SST (Acc)",
    "mrpc": "MRPC (Acc)",
    "cola": "CoLA (Matt)",
    "qqp": "QQP (Acc)",
    "stsb": "STSB (P/S corr)",
    "wnli": "WNLI (Acc)",
}
"""Tasks in the order of the columns."""
_LABELS: Final = {
    System.ORIGINAL: "Original",
    System.RANDOM: "Random",
    System.OPTICAL: "Optical Transformer",
    System.SQUEEZELIGHT_AVERAGE: "SqueezeLight (average)",
    System.SQUEEZELIGHT_LEAST_SQUARES: "SqueezeLight (least squares)",
}
_TITLES: Final = {
    Stage.POST_TRAINING: "Post-training transform",
    Stage.FINE_TUNED: "Fine-tuned through the transform",
}
_NOT_TRANSFORMED: Final = (System.ORIGINAL, System.RANDOM)


@dataclass(frozen=True)
class Cell:
    """Mean over seeds.

    Attributes:
        mean: The mean.
        deviation: Standard deviation of the sample; None for one seed.
        seeds: Number of seeds.

    Example:
        >>> Cell.of([0.5, 0.7])
        Cell(mean=0.6, deviation=0.1414..., seeds=2)
        >>> Cell.of([]) is None
        True
    """

    mean: float
    deviation: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Cell | None:
        """The cell of one value a seed; None without values."""
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class ResultRow:
    """One system.

    Attributes:
        system: Which.
        label: Its name for people.
        cells: A cell for each task that was run.
        average: Over all tasks of the table; None where one is missing.
    """

    system: System
    label: str
    cells: Mapping[str, Cell]
    average: Cell | None


@dataclass(frozen=True)
class ResultTable:
    """All systems at one stage.

    Attributes:
        stage: Post-training or fine-tuned.
        title: Its name for people.
        metric: What is shown.
        tasks: Columns, in order.
        rows: Rows, in order.
        repeated: Labels of rows taken over from the table of the other stage.
    """

    stage: Stage
    title: str
    metric: str
    tasks: tuple[str, ...]
    rows: tuple[ResultRow, ...]
    repeated: tuple[str, ...] = ()

    def heading(self, task: str) -> str:
        """Heading of a task's column."""
        known = _HEADINGS.get(task, task)
        return known if self.metric == HEADLINE else f"{known.split(' (')[0]} ({self.metric})"


def result_tables(results: Iterable[RunResult], *, metric: str = HEADLINE) -> tuple[ResultTable, ...]:
    """One table for each stage that there are results of.

    Args:
        results: Runs, in any order. Of several with the same system, stage, task and seed the last counts.
        metric: ``"headline"``, or a name in `RunResult.metrics` that every run has, such as ``"accuracy"``.

    Raises:
        ConfigurationError: There are no results, or a run does not have the metric.
    """
    values: dict[tuple[Stage, System], dict[str, dict[int, float]]] = {}
    for result in results:
        by_task = values.setdefault((result.stage, result.system), {})
        by_task.setdefault(result.task, {})[result.seed] = _value(result, metric)
    if not values:
        raise ConfigurationError("there is nothing to show", where="results", got="no result", expected="at least one")
    present = {task for by_task in values.values() for task in by_task}
    tasks = tuple(task for task in _HEADINGS if task in present) + tuple(sorted(present - set(_HEADINGS)))
    transformed = {stage for stage, system in values if system not in _NOT_TRANSFORMED}
    shown = [stage for stage in Stage if stage in (transformed or {stage for stage, _ in values})]
    return tuple(_table(stage, metric, tasks, values) for stage in shown)


def _value(result: RunResult, metric: str) -> float:
    if metric == HEADLINE:
        return result.headline
    if metric not in result.metrics:
        raise ConfigurationError(
            "the run does not have this metric",
            where=f"{result.system.value}, {result.stage.value}, {result.task}, seed {result.seed}",
            got=repr(metric),
            expected=", ".join(sorted((HEADLINE, *result.metrics))),
        )
    return result.metrics[metric]


def _table(
    stage: Stage,
    metric: str,
    tasks: tuple[str, ...],
    values: Mapping[tuple[Stage, System], Mapping[str, Mapping[int, float]]],
) -> ResultTable:
    rows: list[ResultRow] = []
    repeated: list[str] = []
    for system in _LABELS:
        by_task = values.get((stage, system))
        if by_task is None and system in _NOT_TRANSFORMED:
            by_task = next((values[other, system] for other in Stage if (other, system) in values), None)
            if by_task is not None:
                repeated.append(_LABELS[system])
        if by_task is None:
            continue
        cells = {task: cell for task in tasks if (cell := Cell.of(list(by_task.get(task, {}).values()))) is not None}
        common = set.intersection(*(set(by_task.get(task, {})) for task in tasks))
        averages = [statistics.fmean(by_task[task][seed] for task in tasks) for seed in sorted(common)]
        rows.append(ResultRow(system, _LABELS[system], cells, Cell.of(averages)))
    return ResultTable(stage, _TITLES[stage], metric, tasks, tuple(rows), tuple(repeated))


def as_markdown(tables: Sequence[ResultTable], *, digits: int = 4) -> str:
    """Tables in Markdown, each under its title.

    Args:
        tables: What `result_tables` gave.
        digits: Digits after the point.
    """
    return "\n".join(_markdown_table(table, digits) for table in tables)


def _markdown_table(table: ResultTable, digits: int) -> str:
    head = ["Model", *map(table.heading, table.tasks), "Avg"]
    body = [
        [row.label, *(_text(row.cells.get(task), digits) for task in table.tasks), _text(row.average, digits)]
        for row in table.rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(["-" * (widths[0] + 2), *(f"{'-' * (width + 1)}:" for width in widths[1:])])
    lines = [
        f"**{table.title}**",
        "",
        line(head),
        f"|{rule}|",
        *map(line, body),
        "",
        f"{_seeds(table)}{_note(table)}",
        "",
    ]
    return "\n".join(lines)


def _text(cell: Cell | None, digits: int) -> str:
    if cell is None:
        return "—"
    deviation = "" if cell.deviation is None else f" ± {cell.deviation:.{digits}f}"
    return f"{cell.mean:.{digits}f}{deviation}"


def _seeds(table: ResultTable) -> str:
    counts = sorted({cell.seeds for row in table.rows for cell in row.cells.values()})
    if counts == [1]:
        return "One seed."
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Mean ± standard deviation over {number} seeds."


def _note(table: ResultTable) -> str:
    if not table.repeated:
        return ""
    does = "is" if len(table.repeated) == 1 else "are"
    return f" {' and '.join(table.repeated)} {does} not transformed and not trained further: as in the other table."


def as_csv(tables: Sequence[ResultTable]) -> str:
    """Tables as one list, a line a cell: stage, system, task, metric, mean, standard_deviation, seeds.

    The average's task is ``average``; an unknown deviation is empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("stage", "system", "task", "metric", "mean", "standard_deviation", "seeds"))
    for table in tables:
        for row in table.rows:
            cells = [(task, row.cells.get(task)) for task in table.tasks] + [(AVERAGE, row.average)]
            writer.writerows(
                (table.stage, row.system, task, table.metric, cell.mean, cell.deviation, cell.seeds)
                for task, cell in cells
                if cell is not None
            )
    return text.getvalue()
