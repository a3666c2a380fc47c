"""Results of many runs as a figure: a panel a task, a line a system, post-training and fine-tuned as two dots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.results import Stage, System
from quantsim.experiments.glue.table import Cell, ResultRow, ResultTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_tables", "result_figure"]

_INK: Final = "#14181f"
_SOFT: Final = "#5b6472"
_LINE: Final = "#d5dae1"
_COLOURS: Final = {Stage.POST_TRAINING: "#d9730d", Stage.FINE_TUNED: "#3b5bdb"}
_WORDS: Final = {Stage.POST_TRAINING: "post-training", Stage.FINE_TUNED: "fine-tuned"}
_SUFFIXES: Final = (".png", ".svg", ".pdf")


def result_figure(tables: Sequence[ResultTable]) -> Figure:
    """Draws the tables. Bars of a dot are the standard deviation over seeds; the dashed line is Original.

    Args:
        tables: What `quantsim.experiments.glue.table.result_tables` gave; at least one.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            "a figure needs matplotlib", got=str(error), fix="run `pip install 'quantsim[report]'`"
        ) from error
    tasks: list[str | None] = [*tables[0].tasks]
    if len(tasks) > 1:
        tasks.append(None)
    labels = {row.system: row.label for table in tables for row in table.rows}
    systems = [system for system in System if system in labels]
    figure = Figure(figsize=(2.6 + 2.9 * len(tasks), 1.5 + 0.42 * len(systems)), layout="constrained")
    panels: Any = figure.subplots(1, len(tasks), sharey=True, squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        _draw_panel(panel, tables, systems, task)
    panels[0][0].set_yticks(range(len(systems)), [labels[system] for system in systems], color=_INK)
    panels[0][0].set_ylim(len(systems) - 0.5, -0.5)
    handles = dict(zip(*panels[0][0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False, labelcolor=_SOFT
    )
    return figure


def _draw_panel(panel: Axes, tables: Sequence[ResultTable], systems: Sequence[System], task: str | None) -> None:
    panel.set_title("average" if task is None else tables[0].heading(task), loc="left", fontsize=10, color=_INK)
    original = _cell(tables[0], System.ORIGINAL, task)
    if original is not None:
        panel.axvline(original.mean, color=_SOFT, linewidth=1, linestyle=(0, (3, 3)), zorder=1, label="Original")
    once = {label for table in tables for label in table.repeated}
    for height, system in enumerate(systems):
        drawn: list[float] = []
        for table in tables:
            row, cell = _row(table, system), _cell(table, system, task)
            if row is None or cell is None or row.label in table.repeated:
                continue
            # Two dots on one height: the first is hollow, so that both are seen where they are equal.
            hollow = table is tables[0] and len(tables) > 1 and row.label not in once
            colour = _SOFT if row.label in once else _COLOURS[table.stage]
            panel.errorbar(
                cell.mean,
                height,
                xerr=cell.deviation,
                fmt="o",
                markersize=9 if hollow else 5,
                markerfacecolor="white" if hollow else colour,
                color=colour,
                capsize=2,
                linewidth=1.3,
                label="not transformed" if row.label in once else _WORDS[table.stage],
                zorder=3 if hollow else 4,
            )
            drawn.append(cell.mean)
        if len(drawn) > 1:
            panel.plot(drawn, [height] * len(drawn), color=_LINE, linewidth=2.5, zorder=2)
    panel.grid(axis="x", color=_LINE, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(length=0, labelcolor=_SOFT)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color(_LINE)


def _cell(table: ResultTable, system: System, task: str | None) -> Cell | None:
    row = _row(table, system)
    if row is None:
        return None
    return row.average if task is None else row.cells.get(task)


def _row(table: ResultTable, system: System) -> ResultRow | None:
    return next((row for row in table.rows if row.system is system), None)


def plot_tables(tables: Sequence[ResultTable], path: Path) -> Path:
    """Draws the tables into a file.

    Args:
        tables: What `quantsim.experiments.glue.table.result_tables` gave.
        path: PNG, SVG or PDF, by its suffix. Its folder is made.

    Returns:
        The file.

    Raises:
        ConfigurationError: Another suffix, or matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigurationError(where=str(path), got=path.suffix or "no suffix", expected=" or ".join(_SUFFIXES))
    figure = result_figure(tables)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    return path
