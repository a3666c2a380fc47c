"""Pictures of the page of one simulation: noise by module, and small histograms that fit a row of text."""

from __future__ import annotations

import math

from markupsafe import Markup

from quantsim.report.axes import linear_axis
from quantsim.report.data import Histogram, grid_reach
from quantsim.report.simulation_data import SensitivitySection, stages_of
from quantsim.report.svg import line, picture, rectangle, text

__all__ = ["noise_chart", "small_histogram"]


def noise_chart(section: SensitivitySection, width: float) -> Markup:
    """Noise of each group alone, as columns in running order, on bands that show which belong together.

    Args:
        section: What was measured.
        width: Of the picture; labels keep their size.
    """
    height, left, right, top, base = 250.0, 40.0, width - 4.0, 14.0, 208.0
    rows = section.rows
    axis = linear_axis(0.0, 104 * section.largest_share, base, top, 4)
    step = (right - left) / max(len(rows), 1)
    parts: list[str] = []
    stages = stages_of([row.name for row in rows])
    for number, stage in enumerate(stages):
        x, wide = left + stage.first * step, (stage.last - stage.first + 1) * step
        if number % 2 == 0 and len(stages) > 1:
            parts.append(rectangle(x, top, wide, base - top, "band"))
        label = _fitting(stage.name, wide)
        if label and len(stages) > 1:
            parts.append(text(x + wide / 2, base + 18, label, "tick", "middle"))
    for tick in axis.ticks:
        parts.append(line(left, axis(tick), right, axis(tick), "gridline"))
        parts.append(text(left - 7, axis(tick) + 4, f"{tick:g} %", "tick", "end"))
    bar = max(min(step * 0.72, 26.0), 1.0)
    for index, row in enumerate(rows):
        middle = left + (index + 0.5) * step
        tip = (
            f"{row.name}\nalone: {_decibels(row.alone_db)}, {100 * row.alone_share:.1f} % of the noise\n"
            f"all but these: {_decibels(row.without_db)}"
        )
        y = axis(100 * max(row.alone_share, 0.0))
        parts.append(rectangle(middle - bar / 2, y, bar, base - y, "alone", tip=tip))
        y = axis(100 * max(row.removed_share, 0.0))
        parts.append(line(middle - bar / 2 - 1, y, middle + bar / 2 + 1, y, "removed"))
    parts.append(line(left, base + 0.5, right, base + 0.5, "baseline"))
    parts.append(text(left, height - 6, "modules in the order they run", "axis-name"))
    return picture(width, height, "Share of the output's noise by module", parts)


def small_histogram(histogram: Histogram, width: float = 200.0, height: float = 40.0) -> Markup:
    """A histogram as one shape, what lies beyond the grid shaded.

    Args:
        histogram: Values and grid.
        width: Of the picture.
        height: Of the picture.
    """
    axis = linear_axis(histogram.edges[0], histogram.edges[-1], 0.0, width)
    scale = math.log1p if histogram.logarithmic else float
    tallest = scale(max(histogram.counts)) or 1.0
    path = f"M0 {height:g}"
    for count, start, stop in zip(histogram.counts, histogram.edges, histogram.edges[1:], strict=False):
        y = height - (height - 2) * scale(count) / tallest
        path += f"L{axis(start):.1f} {y:.1f}H{axis(stop):.1f}"
    parts = []
    if histogram.grid:
        reach_low, reach_high = grid_reach(histogram.grid)
        for start, stop in ((0.0, axis(reach_low)), (axis(reach_high), width)):
            if stop - start > 1.0:
                parts.append(rectangle(start, 0, stop - start, height, "clipped"))
    parts.append(f'<path d="{path}V{height:g}Z" class="shape"/>')
    parts.append(line(0, height - 0.5, width, height - 0.5, "baseline"))
    return picture(width, height, f"Histogram of {histogram.title}", parts, stretches=True)


def _fitting(name: str, room: float) -> str:
    """As many of the last parts of a path as there is room for; nothing if there is none for one."""
    parts = name.split(".")
    for count in range(min(len(parts), 2), 0, -1):
        label = ".".join(parts[-count:])
        if len(label) * 6.4 <= room:
            return label
    return ""


def _decibels(value: float) -> str:
    return "no error" if value == math.inf else f"{value:.1f} dB".replace("-", "−").replace("inf", "∞")
