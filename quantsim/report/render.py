"""Fills the page: one HTML file with its style and its pictures inside, nothing loaded from anywhere."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from quantsim.report.axes import short_number
from quantsim.report.charts import histogram_chart, layer_chart, range_chart, size_chart
from quantsim.report.data import ReportData
from quantsim.report.sensitivity_chart import noise_chart, small_histogram
from quantsim.report.simulation_data import SimulationPage

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = [
    "render_report",
    "render_simulation_page",
    "require_template_engine",
    "write_report",
    "write_simulation_page",
]

_PART_END = re.compile(r"([._])(?=\w)")
_SERIES_COLOURS = 8  # the page defines --series-0 to --series-7, for light and for dark


def write_report(path: Path | str, data: ReportData) -> Path:
    """Writes the report; the file appears whole or not at all.

    Args:
        path: The HTML file; its folder is made.
        data: What to show.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 is not installed (``pip install 'quantsim[report]'``).
        OSError: The file cannot be written; an earlier one is left as it was.
    """
    return _write_whole(Path(path), render_report(data))


def _write_whole(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide a shared report
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def render_report(data: ReportData) -> str:
    """The report as one HTML document.

    Args:
        data: What to show.

    Raises:
        ImportError: jinja2 is not installed.
    """
    return _template("report.html.j2").render(data=data, colours=_scheme_colours(data))


def write_simulation_page(path: Path | str, data: SimulationPage) -> Path:
    """Writes the page of one simulation, as `write_report` does.

    Args:
        path: The HTML file; its folder is made.
        data: What to show.

    Returns:
        The path.
    """
    return _write_whole(Path(path), render_simulation_page(data))


def render_simulation_page(data: SimulationPage) -> str:
    """The page of one simulation as one HTML document.

    Args:
        data: What to show.

    Raises:
        ImportError: jinja2 is not installed.
    """
    names = () if data.layers is None else data.layers.schemes
    colours = {name: f"var(--series-{index % _SERIES_COLOURS})" for index, name in enumerate(names)}
    return _template("simulation.html.j2").render(data=data, colours=colours)


def require_template_engine() -> None:
    """Fails at once where a page could not be drawn later.

    Raises:
        ImportError: jinja2 is not installed.
    """
    _template("report.html.j2")


@cache
def _template(name: str) -> Template:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError(
            "reports are drawn with jinja2, which is not installed. Fix: pip install 'quantsim[report]'"
        ) from error
    environment = Environment(
        loader=PackageLoader("quantsim.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda share: f"{100 * share:.2f}",
        "points": _points,
        "decibels": _decibels,
        "bytes": _bytes,
        "number": short_number,
        "brief": lambda value: short_number(float(f"{value:.3g}")),
        "heat": _heat,
        "tone": _tone,
        "breakable": _breakable,
        "code_spans": _code_spans,
    }
    environment.globals |= {
        "size_chart": size_chart,
        "layer_chart": layer_chart,
        "range_chart": range_chart,
        "histogram_chart": histogram_chart,
        "cosine_floor": _cosine_floor,
        "sqnr_ceiling": _sqnr_ceiling,
        "noise_chart": noise_chart,
        "small_histogram": small_histogram,
    }
    return environment.get_template(name)


def _scheme_colours(data: ReportData) -> Mapping[str, str]:
    """Each scheme has one colour on the whole page."""
    names = [row.scheme for section in data.accuracy for row in section.schemes]
    names += [scheme for section in data.layers for scheme in section.schemes]
    names += [histogram.scheme for section in data.histograms for histogram in section.histograms]
    return {name: f"var(--series-{index % _SERIES_COLOURS})" for index, name in enumerate(dict.fromkeys(names))}


def _points(share: float, reference: float) -> str:
    points = 100 * (share - reference)
    return "±0.00" if abs(points) < 0.005 else f"{points:+.2f}".replace("-", "−")


def _decibels(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.1f}".replace("-", "−")


def _breakable(name: str) -> Markup:
    """A path that may be broken into lines after each of its parts."""
    return Markup(_PART_END.sub(r"\1<wbr>", str(escape(name))))


def _code_spans(sentence: str) -> Markup:
    """Text with what stands between backticks set as code."""
    parts = sentence.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(_breakable(part)) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def _tone(share: float, reference: float) -> str:
    points = round(100 * (share - reference), 6)  # 0.7525 - 0.7625 is a little below -0.01
    return "good" if points >= -1.0 else "fair" if points >= -3.0 else "poor"


def _bytes(size: int) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:.1f} {unit}"
    return f"{size} B"


def _heat(decibels: float | None) -> str:
    """Share of the accent colour behind a cell: none at 0 dB, full at 40 dB."""
    if decibels is None:
        return "0%"
    return f"{100 * min(max(decibels / 40.0, 0.0), 1.0):.0f}%"


def _cosine_floor(cosines: list[float]) -> float:
    """Where the cosine axis begins: a round number below the smallest, so that differences near 1 can be seen."""
    worst = 1.0 - min(cosines, default=1.0)
    for span in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        if worst <= span * 0.9:
            return 1.0 - span
    return -1.0


def _sqnr_ceiling(decibels: list[float]) -> float:
    finite = [value for value in decibels if math.isfinite(value)]
    return max([1.0, *finite]) * 1.02
