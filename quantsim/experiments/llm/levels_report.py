"""A sweep over levels as a table in Markdown and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantsim.experiments.llm.results import LanguageResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["levels_figure", "levels_table", "write_levels_report"]

_TITLES: Final = {
    "configured": "as configured",
    "no_noise": "no noise",
    "no_floor": "no floor on transmission",
    "row_range": "probabilities by row",
}
_COLOURS: Final = ("#0b6e99", "#d1662a", "#5b8c3a", "#8a4f9e")
_MARKERS: Final = ("o", "s", "^", "D")
_GREY: Final = "#5f6b76"


def levels_table(results: Sequence[LanguageResult]) -> str:
    """Perplexity per byte: a row for each number of levels, a column for each variant.

    Args:
        results: The float model, then the points of a sweep.

    Example:
        >>> common = {"loss": 1.5, "blocks": 4}
        >>> point = {"variant": "no_noise", "levels": 16}
        >>> print(
        ...     levels_table(
        ...         [
        ...             LanguageResult(system="original", stage="trained", perplexity=4.5, **common),
        ...             LanguageResult(
        ...                 system="optical",
        ...                 stage="post_training",
        ...                 perplexity=5,
        ...                 settings=point,
        ...                 **common,
        ...             ),
        ...         ]
        ...     )
        ... )
        | Levels | no noise |
        |-------:|-------:|
        | 16 | 5.000 |
        | float32 | 4.500 |
    """
    points, variants, levels = _by_point(results)
    lines = [
        "| Levels | " + " | ".join(_TITLES.get(name, name) for name in variants) + " |",
        "|-------:|" + "-------:|" * len(variants),
    ]
    for number in levels:
        cells = [_shown(points[name, number].perplexity) if (name, number) in points else "" for name in variants]
        lines.append(f"| {number} | " + " | ".join(cells) + " |")
    reference = _reference(results)
    if reference is not None:
        lines.append("| float32 | " + " | ".join([_shown(reference.perplexity)] * len(variants)) + " |")
    return "\n".join(lines)


def levels_figure(results: Sequence[LanguageResult]) -> Figure:
    """Perplexity per byte against levels, both on logarithmic axes, with a line for the float model.

    Args:
        results: The float model, then the points of a sweep.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    points, variants, levels = _by_point(results)
    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes: Any = figure.subplots()
    for number, name in enumerate(variants):
        there = [level for level in levels if (name, level) in points]
        axes.plot(
            there,
            [points[name, level].perplexity for level in there],
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linewidth=1.6,
            label=_TITLES.get(name, name),
        )
    values = [point.perplexity for point in points.values()]
    reference = _reference(results)
    if reference is not None:
        values.append(reference.perplexity)
        axes.axhline(reference.perplexity, color=_GREY, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"float32: {reference.perplexity:.2f}",
            (1.0, reference.perplexity),
            xycoords=("axes fraction", "data"),
            xytext=(-4, -5),
            textcoords="offset points",
            ha="right",
            va="top",
            color=_GREY,
            fontsize=9,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(levels, [str(level) for level in levels])
    axes.set_yticks(_ticks(min(values), max(values)))
    axes.set_ylim(min(values) / 1.12, max(values) * 1.08)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("levels of every quantizer")
    axes.set_ylabel("perplexity per byte")
    axes.set_title("A Llama on simulated optics, calibrated, not trained", loc="left", fontsize=11)
    axes.grid(True, color="#e3e7ea", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def write_levels_report(folder: str | Path, results: Sequence[LanguageResult]) -> list[Path]:
    """Writes ``levels.md``, ``levels.png`` and ``levels.svg``.

    Args:
        folder: There has to be one.
        results: The float model, then the points of a sweep.
    """
    folder = Path(folder)
    table = folder / "levels.md"
    table.write_text(levels_table(results) + "\n", encoding="utf-8")
    figure = levels_figure(results)
    pictures = [folder / "levels.png", folder / "levels.svg"]
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "quantsim"}):  # without it, identifiers in the file are random
        for path in pictures:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return [table, *pictures]


def _by_point(
    results: Sequence[LanguageResult],
) -> tuple[dict[tuple[str, int], LanguageResult], list[str], list[int]]:
    points = {
        (str(item.settings["variant"]), int(item.settings["levels"])): item
        for item in results
        if "levels" in item.settings
    }
    return points, list(dict.fromkeys(name for name, _ in points)), sorted({number for _, number in points})


def _reference(results: Sequence[LanguageResult]) -> LanguageResult | None:
    return next((item for item in results if "levels" not in item.settings), None)


def _ticks(least: float, most: float) -> list[float]:
    """Few round numbers on a logarithmic axis."""
    steps = (1, 1.5, 2, 3, 5, 7) if most / least > 3 else (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9)
    if most / least > 100:
        steps = (1, 3)
    return [
        tick for power in range(-1, 9) for step in steps if least / 1.12 <= (tick := step * 10.0**power) <= most * 1.08
    ]


def _shown(value: float) -> str:
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"
