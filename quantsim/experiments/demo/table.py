"""The demo's result as a table for the terminal."""

from __future__ import annotations

import math

from rich.table import Table

from quantsim.experiments.demo.results import ExperimentResult, SchemeResult

__all__ = ["result_table"]


def result_table(experiment: ExperimentResult) -> Table:
    """One row a scheme: accuracy, retrieval@1 where there is one, cosine and SQNR to FP32, size of the parameters.

    Args:
        experiment: One model's results.
    """
    retrieves = experiment.reference.retrieval_at_1 is not None
    table = Table(
        title=f"{experiment.title} ({experiment.parameters:,} parameters)", title_justify="left", header_style="bold"
    )
    table.add_column("\nscheme", style="cyan", no_wrap=True)
    # Two lines of head and no outer frame: the table fits a terminal of 80 columns.
    scores = ("accuracy\n%", "retrieval@1\n%") if retrieves else ("accuracy\n%",)
    for name in (*scores, "cosine\nto FP32", "SQNR\ndB", "\nsize"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(*_cells(experiment.reference, experiment.reference), end_section=True)
    for scheme in experiment.schemes:
        table.add_row(*_cells(scheme, experiment.reference))
    return table


def _cells(result: SchemeResult, reference: SchemeResult) -> list[str]:
    cells = [result.scheme, _share(result.accuracy, reference.accuracy, result is reference)]
    if result.retrieval_at_1 is not None and reference.retrieval_at_1 is not None:
        cells.append(_share(result.retrieval_at_1, reference.retrieval_at_1, result is reference))
    cells.append(f"{result.cosine:.4f}")
    cells.append("∞" if math.isinf(result.sqnr_db) else f"{result.sqnr_db:.1f}")
    cells.append(_size(result.size_bytes))
    return cells


def _share(value: float, reference: float, is_reference: bool) -> str:
    if is_reference:
        return f"{100 * value:.2f}      "
    points = 100 * (value - reference)
    colour = "green" if points >= -0.5 else "yellow" if points >= -2 else "red"
    return f"{100 * value:.2f} [{colour}]{points:+.2f}[/]"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
